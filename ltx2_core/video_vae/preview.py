"""A quick look at a clip that is still being made."""

import torch
from einops import rearrange
from torch import Tensor

from .decoder import VideoDecoder

MOMENTS = 4


def preview(decoder: VideoDecoder, latent: Tensor) -> Tensor:
    """A picture (H, W, 3) in 0..1, float32, of the first clip in ``latent`` (B, C, F, H, W).

    It shows four moments, evenly spaced, in reading order; a clip of fewer than four latent frames shows its first.
    Every latent frame is decoded by itself, as if a clip began with it: by count of operations that is a hundredth of
    a sampling step at full size, and it is right for every checkpoint. Linear maps from latents to colours were tried
    instead; fitted to noise or to synthetic pictures, they did not show what the miniature makes.
    """
    clip = latent[0].to(decoder.conv_in.weight.dtype)
    count = MOMENTS if clip.shape[1] >= MOMENTS else 1
    moments = torch.linspace(0, clip.shape[1] - 1, count).round().long()
    pixels = torch.cat([decoder(clip[None, :, moment : moment + 1]) for moment in moments.tolist()])
    rows = 2 if count == MOMENTS else 1
    picture = rearrange(pixels, "(rows columns) c 1 h w -> (rows h) (columns w) c", rows=rows)
    return picture.float().add(1).div(2).clamp(0, 1)
