"""Pictures in the size and range that the video encoder takes."""

from math import ceil

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def fit(frames: Tensor, width: int, height: int) -> Tensor:
    """Resize and crop pictures for the video encoder: (F, H, W, 3) in 0..1 -> (1, 3, F, height, width) in -1..1.

    They are resized in proportion until they cover the clip, and cropped at their centre; bilinear without antialias
    filter, as the model was trained (``README.md``, "Pictures"). Each stage needs this at its own size.
    """
    old_height, old_width = frames.shape[1:3]
    scale = max(height / old_height, width / old_width)
    size = ceil(old_height * scale), ceil(old_width * scale)
    resized = F.interpolate(rearrange(frames.float(), "f h w c -> f c h w"), size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    cropped = resized[:, :, top : top + height, left : left + width]
    return rearrange(cropped * 2 - 1, "f c h w -> 1 c f h w")
