"""The header of a GGUF file: its fields, and where its tensors lie (see README.md, "GGUF").

The format is that of llama.cpp, by the specification of ggml. Arrays, such as a vocabulary of 262,144 words, are walked
over, and read when they are asked for.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from ..errors.foreign import shown
from ..quantization import BLOCKS
from .entries import MOST_NUMBERS, check_count

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_ALIGNMENT = 32  # of tensors, unless the file says otherwise
_LONGEST_NAME, _MOST_AXES, _LONGEST_SHAPE = 1024, 8, 16

_SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")  # by the number of their kind
_TEXT, _ARRAY = 8, 9

# The types of tensors by number. Of a type that is in BLOCKS some bytes are a block of numbers.
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
TYPE_NUMBERS = {name: number for number, name in _TYPES.items()}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}  # of one number


@dataclass(frozen=True)
class Array:
    """Where the items of a list lie in a file."""

    kind: int
    count: int
    start: int


class StoredTensor(NamedTuple):
    """Where a tensor lies, and how it is stored."""

    type: str  # as in BLOCKS, or a plain one such as F16
    shape: tuple[int, ...]  # of the numbers, the innermost axis last
    nbytes: int
    start: int  # the first byte, from the beginning of the file


class GGUFHeader(NamedTuple):
    """What a GGUF file says before its tensors begin."""

    size: int  # of the file, in bytes
    fields: dict[str, Any]  # numbers, texts and Arrays, by key
    tensors: dict[str, StoredTensor]

    def text(self, key: str) -> str:
        """Return the text ``key``; empty if there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""


def is_gguf(path: Path) -> bool:
    """Return whether the file begins as one of GGUF does, whatever its name says."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file.

    Raises:
        CheckpointError: The file is of a version or byte order that is not read, is cut short, or contradicts itself.
        OSError: The system cannot read it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(content, path.name)
        tensor_count, field_count = _read_start(cursor)
        fields: dict[str, Any] = {}
        for key in _names(cursor, field_count, "field"):
            cursor.place = f"the field {shown(key)}"
            fields[key] = cursor.value(cursor.number("<I"))
        tensors = _read_tensors(cursor, tensor_count, fields)
        end = max((each.start + each.nbytes for each in tensors.values()), default=0)
        if end > len(content):
            name = min((name for name, each in tensors.items() if each.start + each.nbytes > len(content)))
            raise cursor.cut_short(f"in the tensor {shown(name)}", f" and should have {end:,}")
        return GGUFHeader(len(content), fields, tensors)


def texts_in(path: Path, array: Array) -> Iterator[bytes]:
    """Yield the texts of an Array of a file's fields, in UTF-8; none if it holds something else."""
    if array.kind != _TEXT:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(content, path.name, array.start)
        for _ in range(array.count):
            yield cursor.text()


def numbers_in(path: Path, array: Array) -> np.ndarray:
    """Return the numbers of an Array of a file's fields; none if it holds something else."""
    if array.kind in (_TEXT, _ARRAY):
        return np.empty(0)
    dtype = np.dtype(_SCALARS[array.kind])
    return np.fromfile(path, dtype, array.count, offset=array.start)


class _Cursor:
    """Reads one value after the other; what is not there is told with the place at which it was looked for."""

    def __init__(self, content: mmap.mmap, file: str, start: int = 0):
        self._content, self.file, self.place = content, file, "its first bytes"
        self.at = start  # the byte that comes next

    @property
    def rest(self) -> int:
        """Bytes that are left."""
        return len(self._content) - self.at

    def number(self, format: str) -> Any:
        """Read what ``struct`` calls ``format``."""
        start = self.at
        self.skip(struct.calcsize(format))
        return struct.unpack_from(format, self._content, start)[0]

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        if count > self.rest:
            raise self.cut_short(f"in {self.place}")
        self.at += count

    def text(self) -> bytes:
        """Read the bytes of a text."""
        length = self.number("<Q")
        start = self.at
        self.skip(length)
        return self._content[start : start + length]

    def name(self) -> str:
        """Read a key, or the name of a tensor."""
        content = self.text()
        if not content or len(content) > _LONGEST_NAME:
            raise self.contradiction(f"has a name of {len(content):,} bytes in {self.place}")
        return self._decoded(content)

    def value(self, kind: int) -> Any:
        """Read the value of a field; that of a list is where it lies."""
        if kind == _TEXT:
            return self._decoded(self.text())
        if kind == _ARRAY:
            return self._array()
        return self.number(self._format_of(kind))

    def _array(self) -> Array:
        kind, count = self.number("<I"), self.number("<Q")
        found = Array(kind, count, self.at)
        if kind == _TEXT:
            self._pass_texts(count)
        else:
            self.skip(count * struct.calcsize(self._format_of(kind)))
        return found

    def _pass_texts(self, count: int) -> None:
        """Pass over so many texts; a loop without calls, since a vocabulary has hundreds of thousands."""
        content, at, unpack, most = self._content, self.at, struct.Struct("<Q").unpack_from, len(self._content) - 8
        for _ in range(count):
            if at > most:
                break
            at += 8 + unpack(content, at)[0]
        else:
            self.skip(at - self.at)
            return
        raise self.cut_short(f"in {self.place}")

    def _format_of(self, kind: int) -> str:
        if kind >= len(_SCALARS) or not _SCALARS[kind]:
            raise self.contradiction(f"has {self.place} of kind {kind}")
        return _SCALARS[kind]

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise self.contradiction(f"has a text in {self.place} that is not UTF-8") from None

    def contradiction(self, how: str) -> CheckpointError:
        """Return the error for a header that cannot be."""
        return CheckpointError(f"The header of {self.file} {how}, which cannot be; download the file again.")

    def cut_short(self, where: str, more: str = "") -> CheckpointError:
        """Return the error for a file that ends too early."""
        return CheckpointError(
            f"{self.file} is incomplete: it ends {where}; it has {len(self._content):,} bytes{more}. Download it again."
        )

    def refusal(self, what: str) -> CheckpointError:
        """Return the error for a file that is whole, but not read."""
        return CheckpointError(f"{self.file} {what}.")


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """How many tensors and fields a file has."""
    cursor.skip(len(MAGIC))
    version = cursor.number("<I")
    if version and not version & 0xFFFF:
        raise cursor.refusal(
            "is in big-endian byte order; GGUF files are read in little-endian order: download the usual file"
        )
    if version not in _VERSIONS:
        read = " and ".join(map(str, _VERSIONS))
        raise cursor.refusal(f"is GGUF of version {version}, and versions {read} are read: download a newer file")
    tensors, fields = cursor.number("<Q"), cursor.number("<Q")
    # The shortest tensor is a name of one letter without axes, the shortest field one with a byte.
    for count, least, what in ((tensors, 25, "tensors"), (fields, 14, "fields")):
        if count * least > cursor.rest:
            raise cursor.contradiction(f"counts {count:,} {what} in {cursor.rest:,} bytes")
        check_count(count, what, cursor.file)
    return tensors, fields


def _names(cursor: _Cursor, count: int, what: str) -> Iterator[str]:
    """The names of so many entries, each of which whoever asks reads before the next one."""
    seen = set[str]()
    for number in range(count):
        cursor.place = f"{what} {number + 1:,} of {count:,}"
        name = cursor.name()
        if name in seen:
            raise cursor.contradiction(f"has the {what} {shown(name)} twice")
        seen.add(name)
        yield name


def _read_tensors(cursor: _Cursor, count: int, fields: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The table of tensors, which ends where their bytes begin."""
    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise cursor.contradiction(f"has general.alignment = {shown(alignment)}")
    found: dict[str, StoredTensor] = {}
    for name in _names(cursor, count, "tensor"):
        cursor.place = f"the entry of the tensor {shown(name)}"
        found[name] = _read_tensor(cursor, name, alignment)
    data = -(-cursor.at // alignment) * alignment
    return {name: each._replace(start=data + each.start) for name, each in found.items()}


def _read_tensor(cursor: _Cursor, name: str, alignment: int) -> StoredTensor:
    """One tensor, which begins at a byte of the data."""
    axes = cursor.number("<I")
    if axes > _MOST_AXES:
        raise cursor.contradiction(f"describes {shown(name)} with {axes:,} axes")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(axes)]))
    type, start = cursor.number("<I"), cursor.number("<Q")
    if type not in _TYPES:
        raise cursor.refusal(
            f"stores {shown(name)} as type {type} of GGUF, which is not known here: choose a file of another type, "
            "such as Q4_K or Q8_0"
        )
    if math.prod(max(1, each) for each in shape) > MOST_NUMBERS or start % alignment or start > MOST_NUMBERS:
        raise cursor.contradiction(f"describes {shown(name)} as {_TYPES[type]} of shape {shape} at byte {start:,}")
    return StoredTensor(_TYPES[type], shape, _nbytes(cursor, name, _TYPES[type], shape), start)


def _nbytes(cursor: _Cursor, name: str, type: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor, whose rows are whole blocks."""
    count = math.prod(shape)
    if type not in BLOCKS:
        return count * _BYTES[type]
    block = BLOCKS[type]
    if not shape or shape[-1] % block.numbers:
        raise cursor.contradiction(
            f"describes {shown(name)} as {type} of shape {shape}, with rows that are no whole blocks of "
            f"{block.numbers} numbers"
        )
    return count // block.numbers * block.nbytes


def original_shape(path: Path, header: GGUFHeader, name: str) -> tuple[int, ...] | None:
    """Return the shape that ComfyUI's converter notes for a tensor with more axes than others read; None without one.

    Raises CheckpointError if the tensor holds another count of numbers.
    """
    noted = header.fields.get(f"comfy.gguf.orig_shape.{name}")
    if noted is None:
        return None
    is_short = isinstance(noted, Array) and noted.count <= _LONGEST_SHAPE
    shape = tuple(int(each) for each in numbers_in(path, noted)) if is_short else ()
    found = header.tensors[name].shape
    if any(each < 0 for each in shape) or math.prod(shape) != math.prod(found):
        raise CheckpointError(
            f"The header of {path.name} notes for {shown(name)} the shape {shown(shape)}, which its shape {found} "
            "cannot be; download the file again."
        )
    return shape
