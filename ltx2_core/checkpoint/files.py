"""A safetensors file: its header at once, its tensors when asked for."""

import json
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, MissingFileError, UnreadableFileError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

_LFS_START = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file."""

    dtype: str  # in the words of safetensors
    shape: tuple[int, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file, opened lazily: tensors are memory-mapped and read from disk when they are used."""

    def __init__(self, path: str | Path):
        """Read the header only.

        Raises MissingFileError, UnreadableFileError, or CheckpointError if it is not a whole safetensors file.
        """
        self.path = Path(path)
        try:
            header = _read_header(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.entries = {
            key: Entry(info["dtype"], tuple(info["shape"]), info["data_offsets"][1] - info["data_offsets"][0])
            for key, info in header.items()
        }

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells this file from another one, wherever it lies: its size, time of writing and header."""
        return *file_stamp(self.path), self.metadata, self.entries

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def keys(self) -> list[str]:
        """List the names of all tensors."""
        return list(self.entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of the tensor ``key``."""
        return self.entries[key].shape

    def dtype(self, key: str) -> torch.dtype:
        """Return the dtype of the tensor ``key``. Raises CheckpointError for one that torch has no word for."""
        name = self.entries[key].dtype
        if name not in DTYPES:
            raise CheckpointError(
                f"{self.path.name} stores {key} as {name}, which this version of the pack cannot read."
            )
        return DTYPES[name]

    def get(self, key: str) -> Tensor:
        """Return the tensor ``key``, backed by the file.

        Raises CheckpointError for a dtype that cannot be read, or if the file is no longer what its header said.
        """
        self.dtype(key)
        try:
            return self._handle.get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"{key} in {self.path.name} cannot be read: {error}; download it again.") from error
        except OSError as error:
            raise _unreadable(self.path, error) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config`` entry of the metadata, parsed; empty if there is none. CheckpointError if it is not JSON."""
        try:
            return json.loads(self.metadata.get("config", "{}")) or {}
        except json.JSONDecodeError as error:
            raise CheckpointError(f"The config in the header of {self.path.name} is not valid JSON: {error}.") from None

    @cached_property
    def _handle(self) -> Any:
        return safe_open(str(self.path), framework="pt", device="cpu")


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of writing in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def read_file(path: Path) -> bytes:
    """Return what a small file holds.

    Raises UnreadableFileError, or CheckpointError if it is only a pointer that git left behind.
    """
    try:
        if path.exists() and not path.is_file():
            raise UnreadableFileError(f"{path} is a folder, a pipe or a device; a regular file was expected.")
        if is_lfs_pointer(path):
            raise CheckpointError(
                f"{path} is a git-LFS pointer, not the file itself; run `git lfs pull` in its folder, or download the "
                "real file with the browser."
            )
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file says, which is an object.

    Raises:
        CheckpointError: if it is not valid, and as ``read_file`` does.
    """
    content = read_file(path)
    try:
        return json.loads(content)
    except ValueError:
        raise CheckpointError(f"{path} is not valid JSON; download it again.") from None


def is_lfs_pointer(path: Path) -> bool:
    """Return whether the file is what git leaves behind when large files were not downloaded."""
    with path.open("rb") as file:
        return file.read(len(_LFS_START)) == _LFS_START


def _unreadable(path: Path, error: OSError) -> OSError:
    """Our error for one of the system; one of ours stays what it is."""
    if isinstance(error, MissingFileError | UnreadableFileError):
        return error
    return UnreadableFileError(f"{path} cannot be read: {error.strerror or error}. Check the disk and who may read it.")


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}; check the name, or download it first.")
    if is_lfs_pointer(path):
        raise CheckpointError(
            f"{path.name} is a git-LFS pointer, not the model itself; run `git lfs pull` in its folder, or download "
            "the file with the browser."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST_HEADER + 1
        if length > _LONGEST_HEADER:
            raise CheckpointError(
                f"{path.name} is not a safetensors file; LTX-2 weights are read from .safetensors files only."
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        end = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        if len(text) == length:
            raise CheckpointError(
                f"{path.name} is not a safetensors file, or its header is damaged; download it again."
            ) from None
        end = 8 + length
    if size < end:
        raise CheckpointError(
            f"{path.name} is incomplete: it has {size:,} bytes and should have {end:,}; download it again."
        )
    return header
