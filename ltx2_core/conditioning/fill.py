"""Where a reference lies in the clip, and which part of it is made anew (``README.md``, "References")."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

GREEN = (102, 255, 0)  # of 255; the LoRA was trained with it

AUTO, CUT, MIRRORED = "auto", "cut", "mirrored"
EDGES = (AUTO, CUT, MIRRORED)

OFF = "off"
# Where a clip is painted on, and which share of the free width and height then lies left of and above the reference.
PLACES = {
    OFF: (Fraction(1, 2), Fraction(1, 2)),
    "around": (Fraction(1, 2), Fraction(1, 2)),
    "left": (Fraction(1), Fraction(1, 2)),
    "right": (Fraction(0), Fraction(1, 2)),
    "top": (Fraction(1, 2), Fraction(1)),
    "bottom": (Fraction(1, 2), Fraction(0)),
}


@dataclass(frozen=True)
class Placement:
    """Where a reference lies in a picture, in pixels: its size, and what is free left, right, above and below.

    A reference that covers the picture is cropped to its shape. What is free shows its mirror image, if ``mirrors``.
    """

    width: int
    height: int
    free: tuple[int, int, int, int] = (0, 0, 0, 0)
    mirrors: bool = False

    @classmethod
    def of(cls, size: tuple[int, int], within: tuple[int, int], place: str, margin: float) -> "Placement":
        """Return that of a reference that is seen whole.

        Args:
            size: width and height of the reference.
            within: those of the picture.
            place: where the picture goes on, one of ``PLACES``.
            margin: the least share of width and height that stays free.
        """
        scale = min(Fraction(there, own) for own, there in zip(size, within)) * (1 - Fraction(str(margin)))
        inner = [max(1, int(own * scale)) for own in size]
        rest = [there - own for own, there in zip(inner, within)]
        left, top = (int(share * free) for share, free in zip(PLACES[place], rest))
        return cls(inner[0], inner[1], (left, rest[0] - left, top, rest[1] - top))

    @classmethod
    def mirrored(cls, size: tuple[int, int], within: tuple[int, int]) -> "Placement":
        """Return that of a reference that is seen whole and never enlarged, at the left and upper edge of the picture.

        Source: ``resize_and_reflect_pad`` of ltx-pipelines 1.2.0.

        Args:
            size: width and height of the reference.
            within: those of the picture.
        """
        scale = min(Fraction(1), *(Fraction(there, own) for own, there in zip(size, within)))
        width, height = (max(1, round(own * scale)) for own in size)
        return cls(width, height, (0, within[0] - width, 0, within[1] - height), mirrors=True)

    def within(self, pixels: Tensor, value: float) -> Tensor:
        """Return (..., H, W) in the picture, with ``value`` where it is free, unless it mirrors."""
        if not any(self.free):
            return pixels
        if not self.mirrors:
            return F.pad(pixels, self.free, value=value)
        mode = "reflect" if self.free[1] < self.width and self.free[3] < self.height else "replicate"
        return F.pad(pixels.flatten(0, -3), self.free, mode).unflatten(0, pixels.shape[:-2])


def grow(mask: Tensor, pixels: int, frames: int) -> Tensor:
    """Let what a mask covers grow, in space and in time, to a hard edge.

    Args:
        mask: (F, H, W) in 0..1.
        pixels: how far to all four sides, diagonals included.
        frames: how far before and after.

    Returns:
        (F, H, W), 0 or 1; ``mask`` as it is where nothing grows.
    """
    if not pixels and not frames:
        return mask
    covered = mask > 0.5
    for axis, radius in enumerate((frames, pixels, pixels)):  # what touches a box touches its rows, axis by axis
        covered = _spread(covered, axis, radius)
    return covered.float()


def _spread(covered: Tensor, axis: int, radius: int) -> Tensor:
    """Cover what lies ``radius`` before and after along one of three axes, each time twice as far."""
    covered = F.pad(covered, [0, 0] * (2 - axis) + [radius, radius])
    width = 1
    while width < 2 * radius + 1:
        step = min(width, 2 * radius + 1 - width)
        length = covered.shape[axis] - step
        covered = covered.narrow(axis, 0, length) | covered.narrow(axis, step, length)
        width += step
    return covered


def paint(chunks: Iterable[Tensor], mask: Tensor) -> Iterator[Tensor]:
    """Paint green what a mask covers.

    Args:
        chunks: consecutive frames (1, 3, F, H, W) in -1..1.
        mask: (F, H, W) in 0..1, with a frame for each of theirs, or one for all.
    """
    green, number = (torch.tensor(GREEN) / 255 * 2 - 1).view(3, 1, 1, 1), 0
    for chunk in chunks:
        here = mask if len(mask) == 1 else mask[number : number + chunk.shape[2]]
        number += chunk.shape[2]
        yield torch.lerp(chunk, green.to(chunk), here.to(chunk))
