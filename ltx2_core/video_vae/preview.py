"""A quick look at a clip that is still being made: from latents to small frames by one matrix."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class PreviewFactors:
    """Linear maps from the channels of a latent cell to its pixels, colours in -1..1.

    The first latent frame of a clip stands for one frame and has a map of its own. Last rows are what an empty latent
    shows.
    """

    first: Tensor  # (C + 1, 1, h, w, 3)
    later: Tensor  # (C + 1, t, h, w, 3)


def released_factors() -> PreviewFactors:
    """One colour for each cell of a released model's latent; numbers and source stand in ``preview.json``."""
    content = json.loads((Path(__file__).parent / "preview.json").read_text())
    table = torch.tensor([*content["factors"], content["bias"]])[:, None, None, None]
    return PreviewFactors(table, table)


def preview_frames(latent: Tensor, factors: PreviewFactors) -> Tensor:
    """Small frames (f, h, w, 3) in 0..1, float32, on the CPU, of the first clip in ``latent`` (B, C, F, H, W)."""
    clip = rearrange(latent[0], "c f h w -> f h w c").float().cpu()
    clip = torch.cat((clip, torch.ones_like(clip[..., :1])), dim=-1)
    parts = [_painted(clip[:1], factors.first), _painted(clip[1:], factors.later)]
    return torch.cat(parts).add(1).div(2).clamp(0, 1)


def _painted(cells: Tensor, table: Tensor) -> Tensor:
    pixels = torch.einsum("fhwc,ctyxk->fhwtyxk", cells, table)
    return rearrange(pixels, "f h w t y x k -> (f t) (h y) (w x) k")
