"""What tests give for a clip: frames, a sound, and encoders that note what they are asked to encode."""

from fractions import Fraction

import torch

from ltx2_core.conditioning.conditions import encode_conditions
from ltx2_core.conditioning.sizes import SizeOnlyEncoders
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import STREAMS

FPS = Fraction(24)
CLIP = ClipShape(96, 64, 33, FPS)
FRAMES = torch.rand(33, 64, 96, 3, generator=torch.Generator().manual_seed(0))
SOUND = AudioSource(torch.rand(2, 48_000, generator=torch.Generator().manual_seed(1)) - 0.5, 24_000)


class Seen(SizeOnlyEncoders):
    """Size-only encoders that keep the pixels they are asked to encode."""

    def __init__(self, crf: int = 0):
        super().__init__(crf)
        self.pixels: list[torch.Tensor] = []

    def video(self, read, shape):
        self.pixels.append(torch.cat(list(read()), dim=2)[:, :, : shape[0]])
        assert tuple(self.pixels[-1].shape) == (1, 3, *shape)
        return super().video(read, shape)


def encoded(*conditions, shape=CLIP, streams=STREAMS, encode=None) -> list:
    return encode_conditions(conditions, shape, streams, encode or SizeOnlyEncoders())
