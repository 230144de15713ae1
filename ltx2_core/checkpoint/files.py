"""A safetensors or GGUF file: its header at once, its tensors when asked for."""

import math
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..disk_cache import fingerprint
from ..disk_cache.mapped import FileSpan, map_file, stamp_of_mapped
from ..errors import CheckpointError, MissingFileError, UnreadableFileError
from ..errors.files import as_path, not_read, visible_files
from ..errors.foreign import Fields, parse_json, shown
from ..quantization import (
    BLOCKS,
    READABLE_BLOCKS,
    Format,
    StoredWeight,
    check_stored,
    expand_blocks,
    expand_stored,
    find_format,
    is_marker,
    matrix_shape,
    respell,
    split_companion,
    stored_weights,
)
from .contents import START_BYTES, describe_start
from .entries import MARKER, MOST_NUMBERS, Entry, check_count, check_places, contradiction, marker_entry
from .gguf import read_gguf
from .gguf_header import is_gguf
from .gguf_tokenizer import tokenizer_inside
from .keys.layouts import official_names
from .keys.table import IN_MODEL

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.uint8,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    **dict.fromkeys(BLOCKS, torch.uint8),
}  # fmt: skip

_NARROW = ("F8_E4M3", "F8_E5M2")  # which weights may be with nothing beside them

_LFS_START = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000  # as in the specification of safetensors
_MOST_AXES = 16
OF_DIFFUSERS = "diffusion_pytorch_model"  # as all files in the folders of diffusers begin
_SAMPLES, _SAMPLE = 8, 2**12  # pieces of a file that tell it from others, and bytes of each
_LARGE = 2**26  # bytes of a file that is hardly zeros where it ends
_LARGEST_FILE = 2**28  # of those that are read at once, such as a tokenizer


class TensorFile:
    """A safetensors or GGUF file, opened lazily: tensors are memory-mapped and read from disk when they are used."""

    def __init__(self, path: str | Path):
        """Read the header only.

        Raises MissingFileError, UnreadableFileError, CheckpointError if it is not a whole file of its kind, or
        SettingError for what is no path.
        """
        self.path = as_path(path, "The file")
        try:
            _check_regular(self.path)
            self._stamp = file_stamp(self.path)
            self.metadata, self.entries = _read_header(self.path)
            _check_end(self.path, self.entries)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        """What tells this file from another one, wherever it lies: its size, time of writing, header and some bytes.

        Raises UnreadableFileError, or CheckpointError if it is no longer what its header said.
        """
        size, content = self._stamp[0], torch.empty(0, dtype=torch.uint8, device="cpu").set_(self._mapped)
        step = (size - _SAMPLE) // (_SAMPLES - 1)  # some archives and disks give all files one time
        samples = content if step < _SAMPLE else content.as_strided((_SAMPLES, _SAMPLE), (step, 1))
        return *self._stamp, fingerprint(self.metadata, repr(self.entries), samples)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def keys(self) -> list[str]:
        """List the names of all tensors."""
        return list(self.entries)

    def shape(self, key: str, expected: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return the shape of the tensor ``key``: of a quantised weight that of the matrix, whatever its bytes have.

        A format may store a matrix with padding; where that is all that differs from ``expected``, which a network
        has there, the answer is ``expected``.
        """
        if key not in self._companions:
            return self.entries[key].shape
        return matrix_shape(self._stored(key), expected)

    def format(self, key: str) -> Format | None:
        """Return the format of the tensor ``key``, None if it is plain. Raises CheckpointError as ``find_format``."""
        return find_format(self._stored(key))

    def formats(self, keys: Iterable[str]) -> list[str]:
        """List how these tensors are stored, with most bytes first: by format, or in the words of safetensors or GGUF.

        What stands beside a weight counts as its format; a weight that cannot be read, by the kind of its bytes.
        """
        nbytes = Counter[str]()
        for key in keys:
            weight, suffix = split_companion(key)
            nbytes[self._format_name(weight if suffix and weight in self.entries else key)] += self.entries[key].nbytes
        return [name for name, _ in nbytes.most_common()]

    def _format_name(self, key: str) -> str:
        entry = self.entries[key]
        try:
            format = self.format(key) if key in self._companions or entry.dtype in _NARROW else None
        except CheckpointError:
            format = None
        return entry.dtype if format is None or entry.dtype in BLOCKS else format.name

    def parameters(self, keys: Iterable[str]) -> int:
        """Count the numbers that these tensors stand for; scales and markers are none."""
        return sum(math.prod(self.shape(key)) for key in keys if not split_companion(key)[1])

    def outlines(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return the ``outline`` of these tensors, by their names."""
        return {key: self.outline(key) for key in keys}

    @cached_property
    def _outlines(self) -> dict[str, Tensor]:
        """What ``outline`` has returned, by name."""
        return {}

    def outline(self, key: str) -> Tensor:
        """Return a tensor on the meta device; a marker, which says how others are stored, as it is.

        It is the same object each time: a network has thousands, and is checked, then planned. Raises CheckpointError
        for a dtype that cannot be read.
        """
        if (known := self._outlines.get(key)) is not None:
            return known
        if is_marker(key):
            return self.get(key)
        outline = torch.empty(self.entries[key].shape, dtype=self.dtype(key), device="meta")
        if not outline.is_inference():  # which would be of no use after the run
            self._outlines[key] = outline
        return outline

    def check_unknown(self, unknown: Iterable[str]) -> None:
        """Refuse, from the header alone, tensors that nobody knows because of the format of weights.

        Args:
            unknown: Their names; what they stand beside is looked at, too.

        Raises:
            CheckpointError: Names the first weight that is in a format that cannot be read.
        """
        keys = dict.fromkeys(unknown)
        weights = dict.fromkeys(weight for key in keys if (weight := weight_beside(key)) in self.entries)
        beside = (key for weight in weights for key in self.with_companions(weight))
        check_stored(self.outlines([*keys, *beside]))

    def _stored(self, key: str) -> StoredWeight:
        return stored_weights(self.outlines(self.with_companions(key)))[key]

    def with_companions(self, key: str) -> list[str]:
        """Return the name of a weight and those of the tensors that stand beside it."""
        return [key, *self._companions.get(key, ())]

    @cached_property
    def _companions(self) -> dict[str, list[str]]:
        """What stands beside each weight."""
        beside: dict[str, list[str]] = {}
        for key in self.entries:
            weight, suffix = split_companion(key)
            if suffix and weight in self.entries:
                beside.setdefault(weight, []).append(key)
        return beside

    def dtype(self, key: str) -> torch.dtype:
        """Return the dtype of the tensor ``key``. Raises CheckpointError for one that torch has no word for."""
        entry = self.entries[key]
        if entry.dtype not in (READABLE_BLOCKS if entry.expands else DTYPES):
            raise CheckpointError(
                f"{called(self.path)} stores {key} as {entry.dtype}, which this version of the pack cannot read; "
                "choose a file in another format."
            )
        return torch.float32 if entry.expands else DTYPES[entry.dtype]

    def get(self, key: str) -> Tensor:
        """Return the tensor ``key``, backed by the file.

        Raises CheckpointError for a dtype that cannot be read, or if the file is no longer what its header said.
        """
        dtype, entry = self.dtype(key), self.entries[key]
        if entry.content:
            return torch.frombuffer(bytearray(entry.content), dtype=dtype)
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=dtype, device="cpu")
        self._check_unchanged()
        # A storage of its own, since a view of bytes as numbers must begin where these do.
        content = self._mapped[entry.start : entry.start + entry.nbytes]
        if entry.expands:
            stored = torch.empty(0, dtype=torch.uint8, device="cpu").set_(content)  # which reads nothing
            return expand_blocks(entry.dtype, stored).view(entry.shape)
        tensor = torch.empty(0, dtype=dtype, device="cpu").set_(content).view(entry.shape)
        return tensor - entry.excess if entry.excess else tensor

    def numbers(self, key: str) -> Tensor:
        """Return the tensor ``key`` as ``get`` does, but what has a scale or a marker beside it as the numbers that it
        stands for, in bfloat16.

        Raises CheckpointError as ``get``, or if it is in a format that cannot be read.
        """
        if key not in self._companions:
            return self.get(key)
        return expand_stored(stored_weights({name: self.get(name) for name in self.with_companions(key)})[key])

    def spans(self, keys: Iterable[str]) -> list[FileSpan]:
        """Return where the bytes of these tensors lie in the file, in the order of the file."""
        path, spans = str(self.path.absolute()), list[FileSpan]()
        for entry in sorted((self.entries[key] for key in keys), key=lambda entry: entry.start):
            if spans and entry.start <= spans[-1].stop:
                spans[-1] = FileSpan(path, spans[-1].start, max(spans[-1].stop, entry.start + entry.nbytes))
            elif entry.nbytes:
                spans.append(FileSpan(path, entry.start, entry.start + entry.nbytes))
        return spans

    @property
    def tokenizer_inside(self) -> tuple[str, bytes] | None:
        """The tokenizer that the fields of a GGUF file describe: its kind, as packed files call it, and its content.

        Raises UnreadableFileError, or CheckpointError if they describe one that cannot be.
        """
        try:
            return tokenizer_inside(self.path) if is_gguf(self.path) else None
        except OSError as error:
            raise _unreadable(self.path, error) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config`` entry of the metadata, parsed; empty if there is none.

        Raises CheckpointError if it is not a JSON object.
        """
        stated = self.metadata.get("config", "{}")
        return {} if stated == "null" else parse_json(stated, f"The config in the header of {called(self.path)}")

    @cached_property
    def official_names(self) -> dict[str, str]:
        """What the official single file calls each tensor, and its key here."""
        return official_names(self.entries)

    @cached_property
    def official_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by their official names."""
        return {name: self.shape(key) for name, key in self.official_names.items()}

    @cached_property
    def _mapped(self) -> torch.UntypedStorage:
        """The whole file, mapped: bytes are read when they are used, and whatever follows the last tensor never is."""
        try:
            mapped = map_file(self.path, self._stamp[0]) if file_stamp(self.path) == self._stamp else None
        except OSError as error:
            raise _unreadable(self.path, error) from error
        except ValueError as error:  # as Python tells of a file that became shorter just now
            raise self._written_anew() from error
        if mapped is None:
            raise self._written_anew()
        return mapped

    def _check_unchanged(self) -> None:
        """CheckpointError if others have written into the mapped file; one that took its place changes nothing."""
        if stamp_of_mapped(self._mapped) not in (self._stamp, None):
            raise self._written_anew()

    def _written_anew(self) -> CheckpointError:
        return CheckpointError(
            f"{called(self.path)} was written anew while it was in use, and is not what it was when it was opened: "
            "start again with the new file, when it is complete."
        )


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Begin every CheckpointError within with the ``name`` of a file, unless it says that itself."""
    try:
        yield
    except CheckpointError as error:
        if name in str(error):
            raise
        raise CheckpointError(f"{name}: {error}") from None


def weight_beside(key: str) -> str:
    """Return the name of the weight that a tensor, whatever it is, would belong to."""
    return f"{key.rpartition('.')[0]}.weight"


def called(path: Path) -> str:
    """Return what sentences call a file: its name; of diffusers' files, which all have one name, with two folders."""
    return str(Path(*path.parts[-3:])) if path.name.startswith(OF_DIFFUSERS) else path.name


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
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise CheckpointError(
                f"{path} has {size:,} bytes, at most {_LARGEST_FILE:,} were expected; download it again."
            )
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file says, which is an object.

    Raises:
        CheckpointError: if it is not valid, and as ``read_file`` does.
    """
    return parse_json(read_file(path), str(path))


def is_lfs_pointer(path: Path) -> bool:
    """Return whether the file is what git leaves behind when large files were not downloaded."""
    with path.open("rb") as file:
        return file.read(len(_LFS_START)) == _LFS_START


def _unreadable(path: Path, error: OSError) -> OSError:
    """Our error for one of the system; one of ours stays what it is."""
    if isinstance(error, MissingFileError | UnreadableFileError):
        return error
    return not_read(path, error)


def check_there(path: Path) -> None:
    """Raise MissingFileError if ``path`` is neither a file nor a folder."""
    if path.exists():
        return
    if os.path.islink(path):
        raise MissingFileError(f"{path} is a link to {os.readlink(path)}, which is not there: download that again.")
    raise MissingFileError(f"There is no file {path}; check the name, or download it first.")


def _check_regular(path: Path) -> None:
    if not path.is_file():
        if path.exists():
            inside = f", such as {found[0].name} in it" if (found := visible_files(path, ".safetensors")) else ""
            raise UnreadableFileError(f"{path} is a folder, a pipe or a device; a regular file was expected{inside}.")
        check_there(path)
    if os.path.exists(control := f"{path}.aria2"):  # which is no error for a path that cannot be
        raise CheckpointError(
            f"{called(path)} is still being downloaded, as {os.path.basename(control)} beside it says, so pieces of it "
            "may be missing: wait for it, or remove that note if the file came from elsewhere."
        )


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata of a file, and its tensors by name."""
    if is_lfs_pointer(path):
        raise CheckpointError(
            f"{called(path)} is a git-LFS pointer, not the model itself; run `git lfs pull` in its folder, or download "
            "the file with the browser."
        )
    if is_gguf(path):
        return read_gguf(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        length = struct.unpack("<Q", start[:8])[0] if start[8:] == b"{" else _LONGEST_HEADER + 1
        if length > _LONGEST_HEADER:
            what = describe_start(start)
            raise CheckpointError(
                f"{called(path)} is neither a safetensors nor a GGUF file{', ' if what else ''}{what}; LTX-2 weights "
                "are read from .safetensors and .gguf files only."
            )
        text = b"{" + file.read(length - 1)
    if len(text) < length:
        raise _incomplete(path, size, 8 + length)
    title = f"The header of {called(path)}"
    check_count(text.count(b'"data_offsets"'), "tensors", called(path))  # before Python makes objects of them
    header = parse_json(text, title, unique=True)
    metadata = _metadata(header.pop("__metadata__", None), title)
    entries = {respell(key): _entry(key, info, 8 + length, title) for key, info in header.items()}
    end = check_places(entries, title)
    entries |= _stated_markers(metadata, entries, called(path))
    if size < end:
        raise _incomplete(path, size, end)
    return metadata, entries


def _check_end(path: Path, entries: Mapping[str, Entry]) -> None:
    """CheckpointError for a large file whose last hundredth is zeros, as of a download that first sets room aside."""
    end = max((entry.start + entry.nbytes for entry in entries.values()), default=0)
    if end < _LARGE:
        return
    with path.open("rb") as file:
        for piece in range(_SAMPLES):  # the first is enough for a complete file
            file.seek(end - _SAMPLE - piece * (end // 100 // _SAMPLES))
            if file.read(_SAMPLE).strip(b"\0"):
                return
    raise CheckpointError(
        f"{called(path)} ends in {end // 100:,} bytes of zeros or more, as a file does that is still being downloaded: "
        "wait for it, or download it again."
    )


def _incomplete(path: Path, size: int, end: int) -> CheckpointError:
    return CheckpointError(
        f"{called(path)} is incomplete: it has {size:,} bytes and should have {end:,}; download it again."
    )


def _metadata(found: object, title: str) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CheckpointError(
            f"{title} has __metadata__ = {shown(found)}; an object of texts was expected. Download the file again."
        )
    return found


def _entry(key: str, info: object, start: int, title: str) -> Entry:
    """Where a tensor lies, if what the header says about it can be."""
    stated = info if isinstance(info, Mapping) else {}
    dtype, shape, place = (stated.get(name) for name in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _is_whole(shape, _MOST_AXES) or not _is_whole(place, 2) or len(place) != 2:
        raise contradiction(key, f"as {shown(info)}", title)
    nbytes, numbers = place[1] - place[0], math.prod(max(1, each) for each in shape)
    if (
        nbytes < 0
        or numbers > MOST_NUMBERS
        or (dtype in DTYPES and nbytes != math.prod(shape) * DTYPES[dtype].itemsize)
    ):
        raise contradiction(key, f"as {dtype} of shape {tuple(shape)} in {nbytes:,} bytes", title)
    return Entry(dtype, tuple(shape), nbytes, start + place[0])


def _stated_markers(metadata: Mapping[str, str], entries: Mapping[str, Entry], file: str) -> dict[str, Entry]:
    """The markers of layers that the metadata holds, as if they stood beside their weights as in other files.

    A marker that does stand there counts first: lists of a whole file are known to be wrong at times. Raises
    CheckpointError if the metadata cannot be read.
    """
    stated = metadata.get("_quantization_metadata")
    if stated is None:
        return {}
    title = f"_quantization_metadata in the header of {file}"
    layers = Fields(parse_json(stated, title), title).section("layers")
    markers = {}
    for layer in layers.content:
        marker = layers.content[layer]
        options = {"format": marker} if isinstance(marker, str) else layers.section(layer).content
        named = (f"{IN_MODEL}{layer}", layer, layer.removeprefix(IN_MODEL))
        module = next((name for name in named if f"{name}.weight" in entries), None)
        key = f"{module}.{MARKER}"
        if module is not None and key not in entries:
            markers[key] = marker_entry(options)
    return markers


def _is_whole(numbers: Any, most: int) -> TypeGuard[list[int]]:
    """Whether ``numbers`` is a list of whole numbers from 0 on, of at most ``most``."""
    return isinstance(numbers, list) and len(numbers) <= most and all(type(n) is int and n >= 0 for n in numbers)
