"""Files as systems have them: names that they refuse, what else lies in folders, and who has a file open."""

import errno
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from . import LTX2Error, SettingError, UnreadableFileError
from .foreign import shown

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


def not_read(path: str | Path, error: OSError) -> UnreadableFileError:
    """Return our error for a system's that happened while ``path`` was read."""
    check = "Check the disk and who may read it"
    if sys.platform == "win32" and isinstance(error, PermissionError):  # which has one word for both
        check = "Check who may read it, and whether another program has it open"
    if error.errno == errno.ENAMETOOLONG:
        check = "Check its name"
    return UnreadableFileError(f"{path} cannot be read: {error.strerror or error}. {check}.")


def is_refused(name: str) -> bool:
    """Return whether this system has no file of such a name: Windows keeps many names and letters for itself."""
    return sys.platform == "win32" and name not in (".", "..") and _REFUSED.fullmatch(name) is not None


def check_names(path: Path) -> None:
    """Raise SettingError if this system has no file of such a name, or no folder that it would lie in."""
    if refused := next(filter(is_refused, path.parts[bool(path.anchor) :]), None):
        raise SettingError(f"{path} has {refused[:50]!r}, {NOT_ON_WINDOWS}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # of JSON with half of a letter, or a terminal of another encoding
        raise SettingError(
            f"{os.fspath(path)[:50]!r} has letters that no file can have: choose another name."
        ) from None


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


def as_path(given: object, what: str) -> Path:
    """Return ``given`` as a path that has a name and stays the same in other folders.

    Raises as ``plain_path``, and UnreadableFileError for a name that no file has because it is too long.
    """
    path = named_path(plain_path(given, what)).absolute()
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise not_read(shown(str(given)), error) from error
    except UnicodeEncodeError:  # of half a letter, which whoever opens it tells
        pass
    return path


def kept_path(path: str | os.PathLike) -> str | os.PathLike:
    """Return the path of what is there so that it stays the same in other folders; any other as it was written."""
    return Path(path).absolute() if os.path.exists(path) else path


def plain_path(given: object, what: str) -> Path:
    """Return ``given`` as a path; SettingError, which ``what`` begins, if it is none, is empty, or has a zero in it."""
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise SettingError(f"{what} is {shown(given)}; the path of a file or of a folder was expected.")
    return Path(text)


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
