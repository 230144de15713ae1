"""Files that are mapped into memory, to be read only: the one place where weights are mapped, and where they lie."""

import bisect
import mmap
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class MappedFile(NamedTuple):
    """A file that is mapped into memory, from address ``start`` to ``stop``."""

    start: int
    stop: int
    path: str
    identity: tuple[int, int]  # what tells the file from one that took its place: its disk, and its number there


class FilePart(NamedTuple):
    """Where bytes begin in a file that is mapped."""

    path: str
    offset: int
    identity: tuple[int, int]  # of the file

    def behind(self, nbytes: int) -> "FilePart":
        """Return where the bytes behind the first ``nbytes`` begin."""
        return self._replace(offset=self.offset + nbytes)


class FileSpan(NamedTuple):
    """Bytes of a file that lie behind one another."""

    path: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """How many they are."""
        return self.stop - self.start


_MAPPED: dict[int, MappedFile] = {}  # by where they begin, as long as something uses them


def map_file(path: Path, nbytes: int) -> torch.UntypedStorage:
    """Map the first ``nbytes`` of a file into memory.

    Nothing is read before it is used, and nothing is set aside for it: systems refuse a mapping that may be written
    when its file is larger than RAM and swap together, and Windows counts it as memory in use. Writing into this one
    ends the program.

    Raises:
        OSError: The system refuses.
        ValueError: The file is shorter, or empty.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
        identity = _identity(os.fstat(file.fileno()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        storage = torch.frombuffer(mapped, dtype=torch.uint8).untyped_storage()
    start = storage.data_ptr()
    _MAPPED[start] = MappedFile(start, start + nbytes, str(path.absolute()), identity)
    weakref.finalize(mapped, _MAPPED.pop, start, None)
    return storage


def stamp_of_mapped(storage: torch.UntypedStorage) -> tuple[int, int] | None:
    """Return size and time of writing of the file that ``map_file`` mapped; None if it no longer lies at its path."""
    stat = _stat(_MAPPED[storage.data_ptr()])
    return None if stat is None else (stat.st_size, stat.st_mtime_ns)


def mapped_files() -> list[MappedFile]:
    """List the files that are mapped and still lie at their path, by address."""
    return sorted(file for file in list(_MAPPED.values()) if _stat(file) is not None)


def file_part(tensor: Tensor, files: Sequence[MappedFile]) -> FilePart | None:
    """Return where in ``files``, sorted by address, the bytes of a tensor lie; None if they do not."""
    if tensor.is_cpu and tensor.is_contiguous():
        address = tensor.data_ptr()
        index = bisect.bisect_right(files, address, key=lambda file: file.start) - 1
        if index >= 0 and address + tensor.nbytes <= files[index].stop:
            return FilePart(files[index].path, address - files[index].start, files[index].identity)
    return None


@contextmanager
def read_parts() -> Iterator[Callable[[FilePart, Tensor], bool]]:
    """Give a function that reads as many bytes of a part as a tensor (uint8) takes, through one handle for each file.

    The handles are its own, so that threads may read at once. The function returns False, and reads nothing, if the
    file no longer lies at its path: then the mapping alone has its bytes. It raises OSError where a file cannot be
    read, or became shorter.
    """
    with ExitStack() as stack:

        @cache
        def handle(path: str, identity: tuple[int, int]) -> FileIO | None:
            with suppress(FileNotFoundError):
                file = stack.enter_context(FileIO(path))
                return file if _identity(os.fstat(file.fileno())) == identity else None
            return None

        yield lambda part, into: _read(handle(part.path, part.identity), part, into)


def _read(file: FileIO | None, part: FilePart, into: Tensor) -> bool:
    if file is None:
        return False
    wanted = memoryview(into.numpy().data)
    file.seek(part.offset)
    while wanted:
        count = file.readinto(wanted)
        if not count:
            raise OSError(f"{part.path} became shorter while it was in use; put the complete file back and try again.")
        wanted = wanted[count:]
    return True


def _stat(file: MappedFile) -> os.stat_result | None:
    """What the system says of a file that still lies at its path; None of one that does not."""
    try:
        stat = os.stat(file.path)
    except OSError:
        return None
    return stat if _identity(stat) == file.identity else None


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
