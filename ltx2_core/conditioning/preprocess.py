"""Pictures in the size and range that the video encoder takes."""

from math import ceil

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..media.light import ACESCCT, Space, convert


def fit(frames: Tensor, width: int, height: int, crop: bool = True) -> Tensor:
    """Resize and crop pictures for the video encoder: (F, H, W, 3) in 0..1 -> (1, 3, F, height, width) in -1..1.

    They are resized in proportion until they cover the clip, and cropped at their centre; bilinear without antialias
    filter, as the model was trained (``README.md``, "Pictures"). Each stage needs this at its own size. Without
    ``crop`` they are resized to it as they are.
    """
    return rearrange(_cover(frames, width, height, crop) * 2 - 1, "f c h w -> 1 c f h w")


def fit_light(frames: Tensor, width: int, height: int, space: Space, crop: bool = True) -> Tensor:
    """Do the same with pictures (F, H, W, 3) in the numbers of ``space``, which the encoder sees as ACEScct.

    They are resized as they are, and converted then, as the official packages do it.
    """
    codes = convert(_cover(frames, width, height, crop).movedim(1, -1), space, ACESCCT)
    return rearrange(codes * 2 - 1, "f h w c -> 1 c f h w")


def _cover(frames: Tensor, width: int, height: int, crop: bool) -> Tensor:
    """Pictures (F, H, W, 3) resized in proportion until they cover this size, and cropped: (F, 3, height, width)."""
    old_height, old_width = frames.shape[1:3]
    scale = max(height / old_height, width / old_width)
    size = (ceil(old_height * scale), ceil(old_width * scale)) if crop else (height, width)
    resized = F.interpolate(rearrange(frames.float(), "f h w c -> f c h w"), size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
