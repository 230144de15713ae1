"""Previews while a sound is sampled: from latents to mel frames by one matrix, and to a picture."""

from dataclasses import dataclass
from math import log

import torch
from einops import rearrange
from torch import Tensor

from .mel import FLOOR

LOUD = 1.0  # log mel that is painted in the last colour; official and miniature sounds hardly exceed it
COLOURS = ((0.03, 0.03, 0.06), (0.26, 0.09, 0.44), (0.72, 0.20, 0.42), (0.98, 0.58, 0.23), (1.0, 0.97, 0.80))


@dataclass(frozen=True)
class MelFactors:
    """Linear maps from all values of a latent frame to its mel frames, the mean of both sides.

    The first latent frame of a sound stands for one mel frame and has a map of its own. The last row of a map is its
    bias.
    """

    first: Tensor  # (C * M + 1, 1, bins)
    later: Tensor  # (C * M + 1, 4, bins)


def preview_mel(latent: Tensor, factors: MelFactors) -> Tensor:
    """Map the first sound of ``latent`` (B, C, T, M) to log mel (4 T - 3, bins), float32, on the CPU."""
    frames = rearrange(latent[0], "c t m -> t (c m)").float().cpu()
    frames = torch.cat((frames, torch.ones_like(frames[:, :1])), dim=1)
    mels = (torch.tensordot(frames[:1], factors.first, 1), torch.tensordot(frames[1:], factors.later, 1))
    return torch.cat([mel.flatten(0, 1) for mel in mels])


def mel_picture(mel: Tensor) -> Tensor:
    """Draw log mel (T, bins) as a picture (bins, T, 3) in 0..1: time to the right, pitch upwards, silence dark."""
    silence = log(FLOOR)
    level = ((mel.float().T.flip(0) - silence) / (LOUD - silence)).nan_to_num().clamp(0, 1) * (len(COLOURS) - 1)
    below = level.long().clamp(max=len(COLOURS) - 2)
    table = torch.tensor(COLOURS, device=mel.device)
    return torch.lerp(table[below], table[below + 1], (level - below)[..., None])
