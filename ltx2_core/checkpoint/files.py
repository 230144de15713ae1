"""A safetensors file: its header at once, its tensors when asked for."""

import json
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

_LFS = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file."""

    dtype: str  # in the words of safetensors
    shape: tuple[int, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file, opened lazily: tensors are memory-mapped and read from disk when they are used."""

    def __init__(self, path: str | Path):
        """Reads the header only. Raises FileNotFoundError or CheckpointError."""
        self.path = Path(path)
        header = _read_header(self.path)
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.entries = {
            key: Entry(info["dtype"], tuple(info["shape"]), info["data_offsets"][1] - info["data_offsets"][0])
            for key, info in header.items()
        }

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells this file from another one, wherever it lies: its size, time of writing and header."""
        return *file_stamp(self.path), self.metadata, self.entries

    @cached_property
    def _handle(self):
        return safe_open(str(self.path), framework="pt", device="cpu")

    def keys(self) -> list[str]:
        return list(self.entries)

    def shape(self, key: str) -> tuple[int, ...]:
        return self.entries[key].shape

    def dtype(self, key: str) -> torch.dtype:
        name = self.entries[key].dtype
        if name not in DTYPES:
            raise CheckpointError(
                f"{self.path.name} stores {key} as {name}, which this version of the pack cannot read."
            )
        return DTYPES[name]

    def get(self, key: str) -> Tensor:
        """The tensor ``key``, backed by the file."""
        self.dtype(key)
        return self._handle.get_tensor(key)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config`` entry of the metadata, parsed; empty if there is none."""
        try:
            return json.loads(self.metadata.get("config", "{}")) or {}
        except json.JSONDecodeError as error:
            raise CheckpointError(f"The config in the header of {self.path.name} is not valid JSON: {error}.") from None


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of writing in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is what git leaves behind when large files were not downloaded."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; check the name, or download it first.")
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
