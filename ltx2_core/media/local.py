"""Regular files of this machine, and nothing else that a name can mean: no addresses, pipes, devices or folders."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader, FileIO, TextIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import MediaError, MissingFileError, SettingError, UnreadableFileError
from ..errors.files import has_controls, not_read
from ..errors.foreign import BACKSLASHES

T = TypeVar("T")

Source = str | os.PathLike | BinaryIO

# What FFmpeg would take for a way to reach something; a drive of Windows is one letter.
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]+:[/\\]{2}|(async|cache|concatf?|crypto|data|fd|file|ftp|gopher|hls|http|https|ipfs|md5|mmsh|mmst|"
    r"pipe|prompeg|rtmpt?s?|rtp|rtsp|sctp|smb|srt|srtp|subfile|tcp|tee|tls|udp|udplite|unix|zmq):",
    re.IGNORECASE,
)
_NO_NAME = 123  # what Windows says of what can be no file, as of addresses
# Whatever a file that is read names inside (playlists do), FFmpeg opens nothing for it.
READ_ALONE = {"protocol_whitelist": "none"}


class _Local(FileIO):
    """A file that errors of a disk which fails, or of a share that is gone, name; those of the system do not."""

    def readinto(self, buffer: Any) -> int | None:
        """Fill ``buffer``. Raises UnreadableFileError."""
        return self._named(super().readinto, buffer)

    def readall(self) -> bytes:
        """Read the rest. Raises UnreadableFileError."""
        return self._named(super().readall)

    def _named(self, read: Callable[..., T], *given: Any) -> T:
        try:
            return read(*given)
        except OSError as error:
            raise not_read(str(self.name), error) from error


def open_local(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file of this machine for reading.

    Raises:
        MissingFileError: there is none of that name, or the name is an address.
        MediaError: it is a folder, a pipe or a device.
        UnreadableFileError: it may not be read.
    """
    name = Path(path).name or os.fspath(path)
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        if not is_missing and getattr(error, "winerror", 0) != _NO_NAME:  # such as one too long, or with a zero in it
            reason = getattr(error, "strerror", None) or error
            raise UnreadableFileError(
                f"{name[:80]} cannot be read: {reason}. Check its name and who may read it."
            ) from error
        if _ADDRESS.match(os.fspath(path)):
            raise MissingFileError(
                f"{os.fspath(path)} is an address; only files of this machine are read: download it, and give its file."
            ) from error
        said = name if os.path.isabs(path) else os.fspath(path)  # with all that was taken for a part of the name
        more = BACKSLASHES if has_controls(os.fspath(path)) else ""  # C:\new is C:, a new line, and ew
        raise MissingFileError(f"There is no file {said}; check its name and folder{more}.") from error
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
        raise MediaError(f"{name} is {what}, and cannot be read as a file: choose a regular file.")
    try:
        return BufferedReader(_Local(path))
    except OSError as error:
        raise not_read(name, error) from error


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """A file that is closed again, or from its beginning on one that was open before.

    Raises as ``open_local``, and SettingError for what is neither a path nor such a file.
    """
    with ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            yield stack.enter_context(open_local(source))
        else:
            if not hasattr(source, "seek") or isinstance(source, TextIOBase) or getattr(source, "closed", False):
                raise SettingError(
                    f"{type(source).__name__} is given to be read: give a path, or a file that is open for bytes."
                )
            source.seek(0)
            yield source


def name_of(source: object) -> str:
    """Return what people call a file, a path to one, or a container that was opened of one."""
    name = getattr(source, "name", source)
    return Path(name).name if isinstance(name, (str, os.PathLike)) and name != "<none>" else "This file"


def check_no_address(path: str | os.PathLike) -> None:
    """Raise SettingError for a name to be written that reads as an address, such as file:clip.mp4."""
    if _ADDRESS.match(text := os.fspath(path)):
        raise SettingError(
            f"{text} is an address; only files of this machine are written: give a path such as out/x.mp4."
        )
