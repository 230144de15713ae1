"""Previews while a clip is sampled: from latents to small frames by one matrix."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class PreviewFactors:
    """Linear maps from the channels of a latent cell to its pixels, colours in -1..1.

    The first latent frame of a clip stands for one frame and has a map of its own. The last row of a map is its bias.
    Colours that differ from the median of their frame by less than ``slack`` are that median, and all others lie nearer
    to it by as much: what a decoder would not show either.
    """

    first: Tensor  # (C + 1, 1, h, w, 3)
    later: Tensor  # (C + 1, t, h, w, 3)
    slack: float = 0.0


def released_factors() -> PreviewFactors:
    """Read the map of the released models, one colour per cell; numbers and source stand in ``preview.json``."""
    content = json.loads((Path(__file__).parent / "preview.json").read_text(encoding="utf-8"))
    table = torch.tensor([*content["factors"], content["bias"]])[:, None, None, None]
    return PreviewFactors(table, table)


def preview_frames(latent: Tensor, factors: PreviewFactors) -> Tensor:
    """Map the first clip of ``latent`` (B, C, F, H, W) to small frames (f, h, w, 3) in 0..1, float32, on the CPU."""
    clip = rearrange(latent[0], "c f h w -> f h w c").float().cpu()
    clip = torch.cat((clip, torch.ones_like(clip[..., :1])), dim=-1)
    frames = [_to_pixels(clip[:1], factors.first), _to_pixels(clip[1:], factors.later)]
    return _flatten(torch.cat(frames).add(1).div(2), factors.slack).clamp(0, 1)


def _flatten(frames: Tensor, slack: float) -> Tensor:
    if not slack:
        return frames
    median = frames.flatten(1, 2).median(dim=1).values[:, None, None]
    return median + F.softshrink(frames - median, slack)


def _to_pixels(cells: Tensor, table: Tensor) -> Tensor:
    pixels = torch.einsum("fhwc,ctyxk->fhwtyxk", cells, table)
    return rearrange(pixels, "f h w t y x k -> (f t) (h y) (w x) k")
