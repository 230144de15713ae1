"""Files that are made once of another one and kept in the cache on disk: those used last, up to a size for a kind."""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from ..disk_cache import cache_folder, fingerprint
from ..errors import CheckpointError, SettingError, UnreadableFileError

Opened = TypeVar("Opened")

LIMIT_BYTES = 20 * 2**30  # of all files of a kind

_OURS = re.compile(r"[0-9a-f]{64}")  # a folder for each file: nothing else is ours to remove

_log = logging.getLogger(__name__)


def open_kept(
    kind: str,
    name: str,
    identity: object,
    make: Callable[[Path], object],
    opened: Callable[[Path], Opened],
    limit_bytes: int = LIMIT_BYTES,
) -> Opened:
    """Open a file that was made before, or make it; others of its kind that were not used for longest make room.

    Args:
        kind: the folder in the cache, such as "loras".
        name: of the file, which stays its name.
        identity: all that its content depends on, for ``fingerprint``.
        make: writes it to a path, whole or not at all.
        opened: opens it.
        limit_bytes: of all files of the kind; this one stays, however large it is.

    Raises:
        SettingError: nothing may be kept on this machine.
        UnreadableFileError: the file cannot be written.
    """
    cache = cache_folder()
    if cache is None:
        raise SettingError(
            f"{name} is made once and kept on disk, where there is no folder for it: name one in LTX2_CACHE, or leave "
            "the file as it is."
        )
    folder = cache / kind / fingerprint(name, identity)
    path = folder / name
    if os.path.isfile(path):
        try:
            found = opened(path)
        except (CheckpointError, FileNotFoundError) as error:  # which another program may have removed just now
            _log.warning("What was kept of %s cannot be used and is made anew: %s", name, error)
        else:
            with suppress(OSError):  # of a cache that may only be read
                os.utime(folder)
            return found
    try:
        make(path)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{error} LTX2_CACHE names another one for what is kept.") from error
    made = opened(path)
    with suppress(OSError):  # of what others remove just now
        _make_room(folder, limit_bytes)
    return made


def _make_room(newest: Path, limit_bytes: int) -> None:
    """Remove the folders beside ``newest`` that were not used for longest, until ``limit_bytes`` are left."""
    others = [each for each in newest.parent.iterdir() if each != newest and _OURS.fullmatch(each.name)]
    total = _nbytes(newest)
    for folder in sorted(others, key=lambda each: each.stat().st_mtime_ns, reverse=True):
        total += _nbytes(folder)
        if total > limit_bytes:
            rmtree(folder, ignore_errors=True)  # Windows keeps what is in use


def _nbytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
