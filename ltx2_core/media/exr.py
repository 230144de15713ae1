"""Frames as EXR files, by FFmpeg: half-float numbers without limits, whose space the files say themselves."""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MediaError, MissingFileError
from ..errors.files import kept_path, visible_files
from ..errors.stopping import check_stop
from . import pyav as av
from .light import Space
from .local import open_local

BRIGHTEST = 65504.0  # the largest number of half precision
_MAGIC = b"v/1\x01"
_NOT_LINES = 0x1A00  # bits of the version for tiles, for several parts, and for parts that are deep
_LINES = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)  # of the picture in each part, by the number of the compression
_TYPES = {"f2": "16", "f4": "32"}  # of NumPy, by the number of bits that FFmpeg's formats are called by


@dataclass(frozen=True)
class ExrFrames:
    """Pictures of one .exr file, or of a folder of them in the order of their names, in the numbers of ``space``."""

    path: Path
    space: Space

    def __post_init__(self) -> None:
        """Keep the path as it is in this folder."""
        object.__setattr__(self, "path", Path(kept_path(self.path)))

    @cached_property
    def files(self) -> list[Path]:
        """One for each frame. Raises MissingFileError if there is none."""
        if self.path.is_dir():
            if found := visible_files(self.path, ".exr"):
                return found
            raise MissingFileError(f"There is no .exr file in the folder {self.path.name}; choose one with frames.")
        return [self.path]

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self.files)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the first picture."""
        height, width, _ = read_exr(self.files[0]).shape
        return width, height

    def read(self, numbers: Iterable[int]) -> Iterator[Tensor]:
        """Yield pictures (1, H, W, 3), one after the other. Raises MediaError where one has another size."""
        for number in numbers:
            check_stop()
            frame = read_exr(self.files[number])
            if (frame.shape[1], frame.shape[0]) != self.size:
                raise MediaError(
                    f"{self.files[number].name} has {frame.shape[1]} x {frame.shape[0]} pixels, and the first frame "
                    f"{self.size[0]} x {self.size[1]}: all frames of a folder have one size."
                )
            yield frame[None]


def is_exr(path: str | os.PathLike) -> bool:
    """Return whether ``path`` is an .exr file, or a folder with such files in it."""
    path = Path(path)
    if path.is_dir():
        return bool(visible_files(path, ".exr"))
    return path.suffix.lower() == ".exr"


def read_exr(path: str | os.PathLike) -> Tensor:
    """Read a picture (H, W, 3), float32, in the numbers of the file; one channel becomes three, and alpha is left out.

    Raises:
        MissingFileError: there is no such file.
        MediaError: it is no EXR picture, damaged, cut off, or holds NaN or infinite numbers.
    """
    name = Path(path).name
    with open_local(path) as file:
        content = file.read()
    if not content.startswith(_MAGIC):
        raise MediaError(f"{name} is no EXR picture: save it as OpenEXR, with half or float channels.")
    try:
        pixels = _decoded(content)
    except (av.FFmpegError, StopIteration, LookupError, ValueError, struct.error) as error:
        raise MediaError(
            f"{name} cannot be read as an EXR picture: it is damaged, cut off, or has no channels of half or float "
            "numbers called R, G and B, or Y."
        ) from error
    if not np.isfinite(pixels).all():
        raise MediaError(f"{name} holds NaN or infinite numbers: mend the picture, and save it anew.")
    return torch.from_numpy(pixels)


def read_exr_texts(path: str | os.PathLike) -> dict[str, str]:
    """Return all texts in the header of an EXR picture by their names. Raises as ``read_exr``."""
    name = Path(path).name
    with open_local(path) as file:
        content = file.read()
    try:
        texts = {key: value for key, (kind, value) in _attributes(content)[0].items() if kind == b"string"}
    except (LookupError, ValueError, struct.error) as error:
        raise MediaError(f"{name} is no EXR picture, or its header is damaged.") from error
    return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in texts.items()}


def _decoded(content: bytes) -> np.ndarray:
    """The picture (H, W, 3) in an EXR file, float32. Raises ValueError where a part of it cannot be decoded."""
    decoder = av.CodecContext.create("exr", "r")
    decoder.thread_count = 1  # or what goes wrong would be logged in another thread
    with _errors() as errors:
        frame: Any = next(iter([*decoder.decode(av.Packet(content)), *decoder.decode(None)]))
    if errors or not _is_whole(content):
        raise ValueError("a part of it is missing")
    kind = next(f"<{each}" for each, bits in _TYPES.items() if f"f{bits}" in frame.format.name)
    planes = [_plane(plane, np.dtype(kind)) for plane in frame.planes]
    if frame.format.name.startswith("gray"):
        return np.stack([planes[0]] * 3, axis=-1)
    green, blue, red = planes[:3]
    return np.stack([red, green, blue], axis=-1)


@contextmanager
def _errors() -> Iterator[list]:
    """Collect the errors that FFmpeg only logs, while it leaves the parts black that it cannot decode."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as errors:
            yield errors
    finally:
        av.logging.set_level(before)


def _plane(plane: Any, kind: np.dtype) -> np.ndarray:
    lines = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    return lines[: plane.height, : plane.width].astype(np.float32)


class ExrEncoder:
    """Encodes frames of one size in one space as EXR files: half-float RGB, compressed by ZIP."""

    def __init__(self, space: Space, fps: Fraction | None = None, texts: Mapping[str, str] | None = None):
        self._fps = fps
        self._context: Any = None
        chromaticities = struct.pack("<8f", *space.primaries.chromaticities)
        self._attributes = _attribute("chromaticities", "chromaticities", chromaticities)
        self._attributes += _attribute("colorSpace", "string", space.name.encode())
        for name, text in (texts or {}).items():
            self._attributes += _attribute(name, "string", text.encode())

    def encode(self, frame: Tensor) -> bytes:
        """Return the file of a frame (H, W, 3); numbers beyond half precision become the largest that it has."""
        pixels = frame.float().clamp(-BRIGHTEST, BRIGHTEST).half().float().cpu().numpy()
        if self._context is None:
            self._context = self._opened(pixels.shape[1], pixels.shape[0])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gbrpf32le")
        (packet,) = self._context.encode(picture)
        return with_attributes(bytes(packet), self._attributes)

    def _opened(self, width: int, height: int) -> Any:
        context = av.CodecContext.create("exr", "w")
        context.width, context.height, context.pix_fmt = width, height, "gbrpf32le"
        context.time_base = Fraction(1)  # which the encoder asks for; its pictures have no times
        if self._fps is not None:
            context.framerate = self._fps
        context.options = {"compression": "zip16", "format": "half"}
        return context


def _attribute(name: str, kind: str, content: bytes) -> bytes:
    return b"\0".join([name.encode(), kind.encode(), struct.pack("<i", len(content)) + content])


def with_attributes(file: bytes, attributes: bytes) -> bytes:
    """Return an EXR file of lines with more ``attributes`` at the end of its header.

    The table behind the header has the places of the parts from the beginning of the file on, which move along. FFmpeg
    writes no chromaticities. Source: "OpenEXR File Layout" of the OpenEXR project.
    """
    places, end = _places(file)
    moved = places + np.uint64(len(attributes))
    return file[:end] + attributes + b"\0" + moved.tobytes() + file[end + 1 + moved.nbytes :]


def _is_whole(file: bytes) -> bool:
    """Whether the part that lies last ends within the file, which FFmpeg does not ask; only of files of lines."""
    if struct.unpack_from("<i", file, 4)[0] & _NOT_LINES:
        return True
    places, _ = _places(file)
    last = int(max(places))
    return last + 8 + struct.unpack_from("<i", file, last + 4)[0] <= len(file)


def _attributes(file: bytes) -> tuple[dict[bytes, tuple[bytes, bytes]], int]:
    """Kind and content of each attribute of an EXR file by its name, and the place of the zero behind them."""
    found, end = dict[bytes, tuple[bytes, bytes]](), 8
    while file[end]:
        name, kind = file.index(b"\0", end), file.index(b"\0", file.index(b"\0", end) + 1)
        size = struct.unpack_from("<i", file, kind + 1)[0]
        found[file[end:name]] = file[name + 1 : kind], file[kind + 5 : kind + 5 + size]
        end = kind + 5 + size
    return found, end


def _places(file: bytes) -> tuple[np.ndarray, int]:
    """Where each part of an EXR file of lines begins, and the place of the zero at the end of its header."""
    attributes, end = _attributes(file)
    (_, window), (_, compression) = attributes[b"dataWindow"], attributes[b"compression"]
    _, first, _, last = struct.unpack("<4i", window)
    parts = -(-(last - first + 1) // _LINES[compression[0]])
    return np.frombuffer(file, "<u8", parts, end + 1), end
