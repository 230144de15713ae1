"""Are what is given, and its numbers, what they should be? Said where they come in, not after the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..errors import SettingError


@dataclass(frozen=True)
class Meant:
    """What numbers mean: in words, and how far they may lie outside of it, as resizing leaves them."""

    words: str
    least: float
    most: float
    remedy: str


PIXELS = Meant("0 (black) to 1 (white)", -0.5, 2.0, "scale or tone-map them first")
WEIGHTS = Meant("0 to 1", -0.5, 1.5, "scale the mask first")
NOISE_WEIGHTS = Meant("0 to 1", -1.0, 1.5, "scale the mask first")  # ComfyUI's guide frames mark their gaps with -1
SAMPLES = Meant("-1 to 1", -32.0, 32.0, "scale the sound first")

_READ = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}

Axes = tuple[str | int, ...]  # of a tensor: what each one counts, or how many there must be

FRAMES: Axes = ("frames", "height", "width", 3)
MASKS: Axes = ("frames", "height", "width")
SOUND: Axes = ("channels", "samples")


def check_values(name: str, values: Tensor, meant: Meant | None = None, axes: Axes = ()) -> None:
    """Check the shape and the numbers of what is given.

    Args:
        name: what it is called in the sentence.
        values: an empty one passes, unless it is meant to be a picture.
        meant: what they should be; None for any finite numbers.
        axes: those of its shape; () for any shape.

    Raises:
        SettingError: for another shape, for NaN and infinite numbers, for those far outside of what is meant, for a
            tensor without numbers of its own, and for numbers of a kind that is not read.
    """
    _check_readable(name, values)
    if not _is_shaped(values.shape, axes):
        words = ", ".join(map(str, axes))
        raise SettingError(f"{name} has the shape {tuple(values.shape)}, where ({words}) is meant.")
    if "height" in axes and not values.numel():
        raise SettingError(f"{name} has the shape {tuple(values.shape)}, in which there is no pixel: give another one.")
    if values.dtype == torch.bool or not values.numel():
        return
    low, high = (float(each) for each in torch.aminmax(values.detach()))
    if not (isfinite(low) and isfinite(high)):
        raise SettingError(f"{name} cannot hold NaN or infinite numbers: look at the node or the file before this one.")
    if meant is not None and not meant.least <= low <= high <= meant.most:
        raise SettingError(f"{name} has values from {low:g} to {high:g}, where {meant.words} is meant: {meant.remedy}.")


def _check_readable(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        raise SettingError(f"{name} is {type(values).__name__}, where a tensor is expected: read a file first.")
    if values.is_meta or values.is_nested or values.layout != torch.strided:
        raise SettingError(f"{name} has no numbers that can be read: its tensor is sparse, nested or a mere shape.")
    if values.dtype not in _READ:
        kind = str(values.dtype).removeprefix("torch.")
        raise SettingError(f"{name} holds numbers of the kind {kind}, which are not read: make them float32 first.")


def _is_shaped(shape: Sequence[int], axes: Axes) -> bool:
    if not axes:
        return True
    return len(shape) == len(axes) and all(isinstance(axis, str) or axis == size for size, axis in zip(shape, axes))
