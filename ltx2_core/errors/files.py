"""Files as systems have them: names that they refuse, what else lies in folders, and who has a file open."""

import errno
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from uuid import uuid4

from . import LTX2Error, SettingError, UnreadableFileError

_PAUSE = 0.05  # seconds between two attempts
_LONGEST = 255  # bytes of a name; Windows and macOS count characters instead, which are never more
_LONGEST_PATH = 247  # letters of a folder on Windows, with all that it is in; a file may have 12 more
# Devices, whatever stands behind the point, and what the system cuts off or takes for something else.
_REFUSED = re.compile(
    r"(?:con|conin\$|conout\$|prn|aux|nul|(?:com|lpt)[1-9\u00b9\u00b2\u00b3])(?: *\..*)?|.*[<>:\"|?*\0-\x1f].*|.*[. ]",
    re.IGNORECASE | re.DOTALL,
)
NOT_ON_WINDOWS = (  # ends the sentence about such a name
    'which is no name on Windows: choose one without < > : " | ? *, that is no device such as CON or NUL, and ends '
    "with no point or blank."
)

_WAYS_OUT = {
    errno.ENOSPC: "Make room there, or choose another folder.",
    errno.ENOENT: "Choose another folder.",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to."),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "Choose another name."),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL), "Choose another name, short and without : or ?."),
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is written into the error of ``not_written``."""
    try:
        yield
    except LTX2Error:
        raise
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: str | Path, error: OSError) -> UnreadableFileError:
    """Return the error that says why ``path`` was not written, and what to do about that."""
    reason = error.strerror or error
    way_out = _WAYS_OUT.get(error.errno or 0, "Make room there, or choose a folder that you may write to.")
    letters = len(os.path.abspath(error.filename or path))
    if sys.platform == "win32" and error.errno == errno.ENOENT and letters > _LONGEST_PATH:
        way_out = (
            f"With its folders the name has {letters} letters, and Windows takes {_LONGEST_PATH} unless it is told to "
            "take long paths: choose a shorter name or folder."
        )
    return UnreadableFileError(f"{path} cannot be written: {reason}. {way_out}")


def check_place(path: Path) -> None:
    """Raise UnreadableFileError if nothing can be written at ``path``, a folder if it has no suffix.

    An empty file is made there and removed again: what a system says of rights is not all that it asks for.
    """
    place = next((each for each in path.absolute().parents if each.exists()), None)
    refused = 0
    if path.exists() and path.is_dir() != (not path.suffix):
        refused = errno.EISDIR if path.is_dir() else errno.EEXIST
    elif place is None:  # on a drive that is not there
        refused = errno.ENOENT
    elif not place.is_dir():
        refused = errno.ENOTDIR
    if refused or place is None:
        raise not_written(path, OSError(refused, os.strerror(refused)))
    with writing(path):
        (empty := place / named_beside(path, f".{path.stem}", f".{uuid4().hex[:8]}").name).touch(exist_ok=False)
        remove_unfinished(empty)
        empty.unlink(missing_ok=True)  # in the words of the system, if that is refused


def not_read(path: str | Path, error: OSError) -> UnreadableFileError:
    """Return our error for a system's that happened while ``path`` was read."""
    check = "Check the disk and who may read it"
    if sys.platform == "win32" and isinstance(error, PermissionError):  # which has one word for both
        check = "Check who may read it, and whether another program has it open"
    return UnreadableFileError(f"{path} cannot be read: {error.strerror or error}. {check}.")


def is_refused(name: str) -> bool:
    """Return whether this system has no file of such a name: Windows keeps many names and letters for itself."""
    return sys.platform == "win32" and name not in (".", "..") and _REFUSED.fullmatch(name) is not None


def check_names(path: Path) -> None:
    """Raise SettingError if this system has no file of such a name, or no folder that it would lie in."""
    if refused := next(filter(is_refused, path.parts[bool(path.anchor) :]), None):
        raise SettingError(f"{path} has {refused[:50]!r}, {NOT_ON_WINDOWS}")


def has_controls(name: str) -> bool:
    """Return whether a name has letters that no list shows as they are: control characters, or bytes that are no text.

    Blanks of all widths and joined emoji are letters as others.
    """
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def leads_out(name: PureWindowsPath) -> bool:
    """Return whether a name is none of anything below a folder; one of Windows knows both kinds of slashes."""
    return bool(name.anchor) or ".." in name.parts or not name.name.strip()


def named_path(path: Path) -> Path:
    """Return ``path`` so that sentences can call it by its name, which "." and ".." lack."""
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def visible_files(folder: Path, *ends: str) -> list[Path]:
    """List the files in ``folder`` whose names end so, large and small letters alike, in their order.

    Hidden ones are left out: macOS puts one beside each file that it writes on a foreign disk. So are folders of such a
    name, as downloads make them; links to nothing are not, so that they can be told.
    """
    found = (each for each in folder.glob("*") if each.name.lower().endswith(ends))
    return sorted(each for each in found if not each.name.startswith(".") and not os.path.isdir(each))


def named_beside(path: Path, begin: str, end: str) -> Path:
    """Return the path of a file beside ``path`` that belongs to it, whose name is ``begin`` and ``end``.

    The end of ``begin`` is left out as far as the name would be too long for a file, unless that of ``path`` is.
    """
    kept = os.fsencode(begin)
    if len(os.fsencode(path.name)) <= _LONGEST:
        kept = kept[: _LONGEST - len(os.fsencode(end))]
    return path.with_name(kept.decode(sys.getfilesystemencoding(), "ignore") + end)


def replace_file(source: Path, target: Path, patience: float = 1.0) -> None:
    """Give ``source`` the name ``target``, which may be that of a file that goes away.

    Windows refuses as long as another program has either of them open. A scanner, which looks at whatever was written
    last, lets go soon, so there this tries again for ``patience`` seconds.

    Raises:
        UnreadableFileError: It still refuses to give up ``target``.
        OSError: The system refuses for another reason.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if sys.platform != "win32":
                raise
            if time.monotonic() >= deadline:
                if not target.is_file():
                    raise
                reason = "cannot be replaced while this or another program has it open; close it there"
                if not os.access(target, os.W_OK):
                    reason = "is read-only; let it be written"
                raise UnreadableFileError(f"{target} {reason}, or choose another name.") from error
        time.sleep(_PAUSE)


def remove_unfinished(path: Path, patience: float = 1.0) -> None:
    """Remove a file or folder that is not to be finished, unless the system refuses: why it is not is what matters.

    Windows refuses as long as a scanner looks at it; so there this tries again for ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while os.path.lexists(path):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        if sys.platform != "win32" or time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE)
