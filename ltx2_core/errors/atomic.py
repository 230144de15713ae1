"""Files and folders that appear when they are complete, or not at all."""

import errno
import itertools
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from . import TargetExistsError, UnreadableFileError
from .files import named_beside, not_written, writing

_log = logging.getLogger(__name__)

_PATIENCE, _PAUSE = 1.0, 0.05  # seconds of attempts on Windows, and between two of them
_ANY, _MARK = 8 * "*", re.compile(r"(?<=\.)[0-9a-f]{8}(?=(?:\.[^.]*)?$)")  # of an unfinished name, before its ending
_ABANDONED = 3600.0  # seconds after which nobody writes on: the next frames of a clip can take many minutes


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


def check_free(path: Path) -> None:
    """Raise TargetExistsError if something of this name is there."""
    if os.path.exists(path):  # unlike that of a Path, it lets the write say that a name is too long
        raise TargetExistsError(f"{path} is there already, and is not overwritten: choose another name.")


class Naming:
    """How what is complete gets its name.

    Attributes:
        path: the name that it got; that of the target before.
    """

    def __init__(self, target: Path, overwrite: bool = True):
        """Prepare for ``target``; without ``overwrite`` what another program wrote there meanwhile stays.

        Then the first free name of clip_2.mp4, clip_3.mp4 and so on is taken, so that neither is lost.
        """
        self.path, self._overwrite = target, overwrite

    def __call__(self, finished: Path) -> None:
        """Give ``finished`` its name."""
        target, numbers = self.path, itertools.count(2)
        while not self._overwrite and not _claim(self.path, finished):
            self.path = target.with_name(f"{target.stem}_{next(numbers)}{target.suffix}")
        try:
            replace_file(finished, self.path)
        except OSError:
            if not self._overwrite and self.path.is_file():
                remove_unfinished(self.path)  # which was only claimed
            raise
        if self.path != target:
            _log.warning("%s was written by another program meanwhile, so this is %s.", target.name, self.path.name)


def _claim(name: Path, finished: Path) -> bool:
    """Return whether nothing has this name, which is taken at once: a folder is renamed over none that has files."""
    if finished.is_dir():
        return not os.path.lexists(name)
    try:
        name.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def whole_or_nothing(target: Path, *, listed: bool = False, naming: Naming | None = None) -> Iterator[Path]:
    """Give an unfinished name beside ``target``, which becomes ``target`` at the end, or goes away on any failure.

    Whoever reads meanwhile sees what was there before. Missing folders are made. What programs that were killed have
    left of the same target goes, if nobody has written into it for an hour.

    Args:
        target: a file or folder.
        listed: give a name that people see, which ends with ``.partial`` so that no program takes it for complete; else
            it is hidden, and ends as ``target`` does for programs that know kinds by that.
        naming: gives the name at the end; None writes over what is there.

    Raises:
        UnreadableFileError: The system refuses; errors of this kind are not those of reading.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished([target], idle=_ABANDONED, listed=listed)
        unfinished = _beside(target, uuid4().hex[:8], listed)
        try:
            yield unfinished
            (naming or Naming(target))(unfinished)
        finally:
            remove_unfinished(unfinished)


@contextmanager
def complete_file(path: Path, naming: Naming | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to that gets the name ``path`` when all is written, as ``whole_or_nothing``."""
    with whole_or_nothing(path, listed=True, naming=naming) as partial, partial.open("wb") as file:
        yield file


def write_atomically(path: Path, content: bytes, naming: Naming | None = None) -> None:
    """Write the whole file or none of it, as ``complete_file``."""
    with complete_file(path, naming) as file:
        file.write(content)


def clear_unfinished(targets: Iterable[Path], idle: float = 0.0, *, listed: bool = False) -> None:
    """Remove what programs that were killed have left of ``targets`` and nobody has written to for ``idle`` seconds.

    Each folder is listed once, whatever lies in it and however many targets do.
    """
    wanted: dict[Path, set[str]] = {}
    for target in targets:
        wanted.setdefault(target.parent, set()).add(_beside(target, _ANY, listed).name)
    for folder, names in wanted.items():
        found = []
        with suppress(OSError):  # of a folder that is not there, or not to be read
            found = [folder / name for name in os.listdir(folder) if _MARK.sub(_ANY, name) in names]
        for path in found:
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime >= idle:
                    remove_unfinished(path)


def _beside(target: Path, mark: str, listed: bool) -> Path:
    if listed:
        return named_beside(target, target.name, f".{mark}.partial")
    return named_beside(target, f".{target.stem}", f".{mark}{target.suffix}")


def replace_file(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, which may be that of a file that goes away.

    Windows refuses as long as another program has either of them open. A scanner, which looks at whatever was written
    last, lets go soon, so there this tries again for a second.

    Raises:
        UnreadableFileError: It still refuses to give up ``target``.
        OSError: The system refuses for another reason.
    """
    deadline = time.monotonic() + _PATIENCE
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


def remove_unfinished(path: Path) -> None:
    """Remove a file or folder that is not to be finished, unless the system refuses: why it is not is what matters.

    Windows refuses as long as a scanner looks at it; so there this tries again for a second.
    """
    deadline = time.monotonic() + _PATIENCE
    while os.path.lexists(path):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        if sys.platform != "win32" or time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE)
