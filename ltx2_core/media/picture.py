"""Single pictures out of files."""

import logging
from contextlib import suppress
from io import SEEK_CUR, BytesIO
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from ..errors import LTX2Error, MediaError
from .colour import is_known
from .local import Source, name_of, open_source
from .read import read_wide_picture

_log = logging.getLogger(__name__)

# Of Pillow: none that runs another program, as EPS does.
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA", "AVIF", "JPEG2000")
TAGGED = ("PNG", "AVIF")  # which can name primaries and transfer beside a profile, and Pillow does not tell them
MOVING = ("GIF", "WEBP", "PNG", "AVIF")  # which may be films; several pictures of a TIFF are its pages
_FOUR = bytes((0, 0, 0, 4))  # how long a chunk cICP is
DEEPEST = 65535  # of whole numbers: 16 bits


def is_moving(source: Source) -> bool:
    """Return whether a picture is several that are shown one after another; what cannot be read is not."""
    with suppress(Exception), open_source(source) as file, Image.open(file, formats=_kinds()) as image:
        return image.format in MOVING and bool(getattr(image, "is_animated", False))
    return False


def _kinds() -> list[str]:
    """Those that this Pillow was built with."""
    Image.init()
    return [kind for kind in KINDS if kind in Image.OPEN]


def read_picture(source: Source) -> Tensor:
    """Read a picture (1, H, W, 3) in 0..1, turned as it says, and in sRGB; HDR (PNG, AVIF) is tone-mapped.

    Of a picture with transparency the colours are read, as ComfyUI's Load Image does, and the transparency is not.
    Grey may have 16 bits, or be floating-point numbers in 0..1.

    Raises MediaError if it is none, damaged or of other numbers, and MissingFileError if there is none.
    """
    try:
        with open_source(source) as file, Image.open(file, formats=_kinds()) as image:
            if getattr(image, "is_animated", False):
                _log.warning("%s has several pictures, of which the first is read.", name_of(source))
            place = file.tell()
            profile = None if image.format == "PNG" and _has_code_points(file) else image.info.get("icc_profile")
            tagged = image.format in TAGGED and profile is None
            if tagged and (wide := read_wide_picture(source)) is not None:
                return wide
            file.seek(place)  # a file that was open before is one for both readers
            return torch.from_numpy(_pixels(image, profile, name_of(source)))[None]
    except (LTX2Error, MemoryError, RecursionError):
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name_of(source)} has too many pixels for a picture: make it smaller.") from error
    except Exception as error:  # Pillow has no common type for what it cannot read
        raise MediaError(
            f"{name_of(source)} cannot be read as a picture: it is of another kind, damaged or cut off. Save it anew, "
            "for example as PNG of 8 or 16 bits."
        ) from error


def _has_code_points(file: BinaryIO) -> bool:
    """Whether a PNG names its colours in a chunk cICP, which then counts before a profile (PNG, third edition, 4.3).

    One that is damaged, or names no colours that are known here, does not count (11.3.2.6).
    """
    file.seek(8)
    while len(head := file.read(8)) == 8 and not head.endswith(b"IDAT"):
        if head.endswith(b"cICP"):
            return head[:4] == _FOUR and is_known(*file.read(2))
        file.seek(int.from_bytes(head[:4], "big") + 4, SEEK_CUR)
    return False


def _pixels(image: Image.Image, profile: bytes | None, name: str) -> np.ndarray:
    """(H, W, 3) in 0..1, float32."""
    picture = ImageOps.exif_transpose(image)
    if picture.mode == "F":
        return _grey(np.asarray(picture), 1, name)
    if picture.mode.startswith("I"):
        grey = _grey(np.asarray(picture), DEEPEST, name)[..., 0]
        picture = Image.fromarray((grey * 255).round().astype(np.uint8))
    if picture.mode in ("RGBa", "La"):  # whose colours are multiplied by their opacity
        picture = picture.convert(picture.mode.upper())
    elif picture.mode not in ("RGB", "CMYK", "L"):
        picture = picture.convert("RGB")
    return np.array(_in_srgb(picture, profile), np.float32) / np.float32(255)


def _grey(values: np.ndarray, white: int, name: str) -> np.ndarray:
    """Numbers in 0..``white`` as (H, W, 3) in 0..1; MediaError for others, since nobody says what is white in them."""
    least, most = float(values.min()), float(values.max())
    if not 0 <= least <= most <= white:
        raise MediaError(
            f"{name} has values from {least:g} to {most:g}, where 0 to {white} is read: save it with 8 or 16 bits."
        )
    return np.repeat(values.astype(np.float32)[..., None] / np.float32(white), 3, axis=-1)


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is not None:
        srgb = ImageCms.createProfile("sRGB")
        with suppress(ImageCms.PyCMSError):  # a profile for other channels than these
            picture = ImageCms.profileToProfile(picture, BytesIO(profile), srgb, outputMode="RGB") or picture
    return picture.convert("RGB")
