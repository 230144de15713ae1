"""The part of a reference that is made anew, as in- and outpainting IC-LoRAs know it (``README.md``, "References")."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

GREEN = (102, 255, 0)  # of 255; the LoRA was trained with it


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
    whole = mask[None]
    for axis, radius in enumerate((frames, pixels, pixels)):  # the largest of a box is that of its rows, axis by axis
        reach = [radius if each == axis else 0 for each in range(3)]
        whole = F.max_pool3d(whole, [2 * each + 1 for each in reach], stride=1, padding=reach)
    return (whole[0] > 0.5).float()


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
