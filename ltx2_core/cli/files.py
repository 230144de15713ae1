"""Which files do the settings of a clip name, and what is in them?"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from ..checkpoint.files import file_stamp
from ..errors import MissingFileError, plain_text
from ..errors.files import not_read
from ..media.write import check_not_given
from .flags import Command
from .syntax import read_timeline
from .values import Value, lasting

LARGE = 2**24  # bytes; for what is in a larger file stand its size and when it was written
MOST_COLONS = 8  # around the name of a file


def digest_of(values: Mapping[str, Value], command: Command) -> str:
    """Return a text that differs where the settings of two clips do, or what is in the files that these name.

    Args:
        values: of the command line; what makes no other clip does not count.
        command: knows which flags name files.

    Raises:
        LTX2Error: a timeline that is none.
    """
    made = {name: value for name, value in lasting(values).items() if (name, value) != ("seed", "0")}  # as without it
    content = {name: _content(Path(name)) for name in dict.fromkeys(_named(made, command))}
    return hashlib.sha256(json.dumps([made, content] if content else made).encode()).hexdigest()


def check_not_read(targets: Iterable[Path], values: Mapping[str, Value], command: Command) -> None:
    """Raise TargetExistsError if one of ``targets`` is a file that settings name; arguments as for ``digest_of``."""
    named = [*_named(lasting(values), command)]
    for target in targets:
        check_not_given(target, named)


def check_still_there(made: Path, values: Mapping[str, Value], command: Command) -> None:
    """Raise MissingFileError if settings that were read from the file ``made`` name files that are not there."""
    for flag in sorted(command.files & values.keys()):
        value = values[flag]
        for text in value if isinstance(value, list) else [str(value)]:
            if not any(_inside(text)):
                there = f"--{flag} with its new place, or start in the folder in which {made.name} was made"
                if moved := _beside(made, text):
                    there = f"--{flag} {plain_text(moved)}, if that file beside {made.name} is the one"
                raise MissingFileError(
                    f"{made.name} was made with --{flag} {plain_text(text)}, and there is no such file here: give "
                    f"{there}."
                )


def _beside(made: Path, text: str) -> str:
    """A text such as 0:cat.png:0.8 with the file of that name beside ``made``; empty if there is none."""
    parts = text.split(":", MOST_COLONS)
    spans = combinations(range(len(parts) + 1), 2)
    for start, stop in sorted(spans, key=lambda span: span[0] - span[1]):  # the longest name first
        name = Path(":".join(parts[start:stop]).replace("\\", "/")).name  # also of a path of Windows
        if name and (moved := made.parent / name).is_file():
            return ":".join([*parts[:start], str(moved), *parts[stop:]])
    return ""


def _named(values: Mapping[str, Value], command: Command) -> Iterator[str]:
    """The files and folders, as they were written, in the order of their flags, which is the same in each process."""
    for flag in sorted(command.files & values.keys()):
        value = values[flag]
        for text in value if isinstance(value, list) else [str(value)]:
            yield from _inside(text)
            if flag == "timeline" and os.path.isfile(file := os.path.expanduser(text)):
                yield from (str(Path(file).parent / name) for name in read_timeline(Path(file)).files)


def _inside(text: str) -> Iterator[str]:
    """The files in a text such as 0:cat.png:0.8, whatever stands before and behind them."""
    parts = text.split(":", MOST_COLONS)
    for start, stop in combinations(range(len(parts) + 1), 2):
        if os.path.exists(name := os.path.expanduser(":".join(parts[start:stop]))):
            yield name


def _content(path: Path) -> Any:
    """What tells the content of a file, or of a folder with all below it, from another one; None for neither."""
    if path.is_dir():
        below = (each for each in sorted(path.rglob("*")) if each.is_file())
        return [[each.relative_to(path).as_posix(), *file_stamp(each)] for each in below]
    if not path.is_file():
        return None
    size, written = file_stamp(path)
    return [size, written] if size > LARGE else _read(path, size, written)


@cache  # many clips of a batch have the same files
def _read(path: Path, size: int, written: int) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:  # of a disk that fails, which does not say of which file
        raise not_read(path, error) from error
