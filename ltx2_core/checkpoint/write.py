"""Files of tensors that are written piece by piece, safetensors and GGUF: no more than a piece is in memory."""

import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TargetExistsError, UnreadableFileError
from ..errors.atomic import check_place, complete_file
from ..errors.files import check_names, plain_path, writing
from .files import DTYPES
from .folders import files_of
from .gguf_header import MAGIC, TYPE_NUMBERS

_ALIGNMENT = 32  # of tensors in a GGUF file
_MOST_AXES = 4  # that all readers of GGUF take; more are noted beside
_NAMES = {dtype: name for name, dtype in reversed(DTYPES.items()) if name == "U8" or dtype != torch.uint8}

Piece = tuple[str, Tensor]  # the name of a tensor, and the numbers of it that come next


class Layout(NamedTuple):
    """How a file begins, and where its tensors lie."""

    header: bytes
    places: dict[str, tuple[int, int]]  # from its first byte to that behind its last, in the file
    size: int  # of the whole file, in bytes


class GGUFTensor(NamedTuple):
    """A tensor of a GGUF file: its type, as in gguf_header, the shape of its numbers, and its bytes."""

    type: str
    shape: tuple[int, ...]
    nbytes: int


def safetensors_layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Layout:
    """Lay out a safetensors file.

    Args:
        tensors: by name; on the meta device, or wherever they are.
        metadata: of the header.
    """
    ordered = sorted(tensors, key=lambda name: -tensors[name].itemsize)  # so that each begins at a multiple of its own
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    places, end = {}, 0
    for name in ordered:
        tensor = tensors[name]
        places[name] = start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return _layout(struct.pack("<Q", len(text)) + text, places, end)


def gguf_layout(tensors: Mapping[str, GGUFTensor], fields: Mapping[str, Any]) -> Layout:
    """Lay out a GGUF file.

    Args:
        tensors: by name.
        fields: texts, whole numbers, decimal numbers, truth values, and lists of one kind of these or of bytes.
    """
    noted = {
        f"comfy.gguf.orig_shape.{name}": list(tensor.shape)
        for name, tensor in tensors.items()
        if not 1 <= len(tensor.shape) <= _MOST_AXES
    }
    every = {**fields, **noted}
    header = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(every))]
    header += [_text(key) + _field(value) for key, value in every.items()]
    places, at = {}, 0
    for name, tensor in tensors.items():
        shape = tensor.shape if 1 <= len(tensor.shape) <= _MOST_AXES else _flattened(tensor.shape)
        header.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        header.append(struct.pack("<IQ", TYPE_NUMBERS[tensor.type], at))
        places[name] = at, at + tensor.nbytes
        at += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    text = b"".join(header)
    return _layout(text + bytes(-len(text) % _ALIGNMENT), places, at)


def _layout(header: bytes, places: Mapping[str, tuple[int, int]], size: int) -> Layout:
    """A layout by places and size behind the header."""
    first = len(header)
    return Layout(header, {name: (first + start, first + end) for name, (start, end) in places.items()}, first + size)


def _flattened(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], math.prod(shape[1:])) if shape else (1,)


def _text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def _field(value: Any) -> bytes:
    """The kind of a field and its value; the numbers of kinds are those of gguf_header."""
    if isinstance(value, str | bytes):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if value and isinstance(value[0], str | bytes):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    kinds: dict[type, tuple[int, str]] = {bool: (7, "?"), float: (6, "f")}
    kind, code = kinds.get(type(value[0]) if value else int, (5, "i"))
    return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)


def check_new(target: Path, source: Path, overwrite: bool) -> None:
    """Refuse, before any work is done, to write a file over another one, or where nothing can be written.

    Raises:
        TargetExistsError: ``target`` is there and may not be overwritten, is ``source`` itself or one of its files, or
            would lie among them, as one more of the same.
        SettingError, UnreadableFileError: No file can have that name, or be written there.
    """
    check_names(plain_path(target, "The new file"))
    with writing(target):
        folder = target.absolute().parent
        if target.suffix.lower() == ".safetensors" and source.is_dir() and folder.is_dir() and folder.samefile(source):
            raise TargetExistsError(
                f"{target} would lie among the files of {source.name} and hold what they hold; choose another "
                "folder for the new file."
            )
        if target.exists() and any(each.exists() and target.samefile(each) for each in files_of(source)):
            raise TargetExistsError(f"{target} would be written over itself; choose another name for the new file.")
        if target.is_dir():
            raise TargetExistsError(f"{target} is a folder; give the name of a new file.")
        if target.exists() and not overwrite:
            raise TargetExistsError(f"{target} exists already; choose another name, or replace it with --overwrite.")
    check_place(target)


def write_tensors(target: Path, layout: Layout, pieces: Iterable[Piece]) -> None:
    """Write a file, whole or not at all.

    Args:
        target: the new file.
        layout: of the tensors.
        pieces: their numbers; those of one tensor one after the other.

    Raises:
        UnreadableFileError: the disk has no room for it, or refuses.
    """
    folder = next((parent for parent in target.absolute().parents if parent.is_dir()), None)
    if folder is not None and layout.size > (free := shutil.disk_usage(folder).free):
        raise UnreadableFileError(
            f"{target} needs {layout.size:,} bytes, and {folder} has {free:,} left. Make room there, or choose another "
            "folder."
        )
    places = {name: start for name, (start, _) in layout.places.items()}
    with complete_file(target) as file:
        file.write(layout.header)
        file.truncate(layout.size)
        for name, piece in pieces:
            file.seek(places[name])
            places[name] += file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        assert all(places[name] == end for name, (_, end) in layout.places.items()), "pieces are not as laid out"
        file.flush()
        os.fsync(file.fileno())  # before it takes the place of another one, which may be all that there is
