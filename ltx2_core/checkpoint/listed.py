"""Files as lists of workflows name them: below some folders, and nowhere else."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from ..errors import LTX2Error, SettingError
from ..errors.files import has_controls, leads_out


def check_inside(name: str, *folders: str) -> None:
    """Refuse the name of a model file or folder that lies outside the model folders, wherever a workflow has it from.

    Args:
        name: as the workflow says it, below one of the folders.
        folders: their names, for the sentence.

    Raises:
        SettingError: the name leads out of the folders, or is none.
    """
    if not isinstance(name, str) or leads_out(PureWindowsPath(name)) or has_controls(name):
        raise SettingError(
            f"{name!r} is no name of a file in {' or '.join(folders)}; only files in there are opened: put "
            "it there under a plain name, and choose it from the list."
        )


def path_inside(folder: str | Path, name: str, *folders: str) -> Path:
    """Return the path of what ``check_inside`` lets pass, below ``folder``.

    Separators of Windows count on every system, since a name may come from one: unless there is a file of that name.
    """
    check_inside(name, *folders)
    path = Path(folder, name)
    return path if os.path.exists(path) else Path(folder, *PureWindowsPath(name).parts)


def paths_found(names: Iterable[str], path_of: Callable[..., Path], *folders: str) -> list[Path]:
    """Return the paths of files among which one is looked for.

    Args:
        names: of all files in some folders.
        path_of: returns the path of one in ``folders``. Those for which it raises LTX2Error, such as links that lead
            nowhere, are left out, because nobody has chosen them.
        folders: their names.
    """
    paths = []
    for name in names:
        with suppress(LTX2Error):
            paths.append(path_of(name, *folders))
    return paths


def files_below(roots: Mapping[str, str], suffix: str) -> list[str]:
    """Return the files below some folders whose names end so, such as output/clip_00001_x.json; ``roots`` by name."""
    found = ((kind, path.relative_to(root)) for kind, root in roots.items() for path in Path(root).rglob(f"*{suffix}"))
    return sorted(f"{kind}/{path.as_posix()}" for kind, path in found)


def file_below(roots: Mapping[str, str], name: str) -> Path:
    """Return the path of a file that ``files_below`` named. Raises SettingError for what lies outside these folders."""
    kind, _, rest = name.partition("/")
    if kind not in roots:
        folders = " nor in the ".join(roots)
        raise SettingError(f"{name!r} is neither in the {folders} folder: choose a file of the list.")
    return path_inside(roots[kind], rest, kind)
