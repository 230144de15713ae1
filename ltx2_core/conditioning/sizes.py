"""How large is what is encoded, before anything is?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ..geometry import AUDIO_BINS, AUDIO_CHANNELS, AUDIO_RATE, SPACE_SCALE, VIDEO_CHANNELS, latent_frames


def latent_size(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the latent's (F, H, W) of pixels of ``shape`` (F, H, W)."""
    frames, height, width = shape
    return latent_frames(frames), height // SPACE_SCALE, width // SPACE_SCALE


def audible_latents(waveform: Tensor, sample_rate: int) -> int:
    """Return how many audio latents a waveform (1 or 2, N) fills, and one for its end."""
    return -(-waveform.shape[-1] * AUDIO_RATE // sample_rate) + 1


@dataclass
class SizeOnlyEncoders:
    """In place of encoders: return zeros of the right size, and note the largest that was asked for."""

    crf: int = 0
    pictures: tuple[int, int, int] | None = field(default=None, init=False)
    sound: int | None = field(default=None, init=False)

    def video(self, read: Callable[[], Iterable[Tensor]], shape: tuple[int, int, int]) -> Tensor:
        """Return zeros (1, C, f, h, w) for pixels of (F, H, W) ``shape``; nothing is read."""
        size = latent_size(shape)
        if self.pictures is None or prod(size) > prod(self.pictures):
            self.pictures = size
        return torch.zeros(1, VIDEO_CHANNELS, *size)

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        """Return zeros (1, C, t, M) for a waveform."""
        audible = audible_latents(waveform, sample_rate)
        self.sound = max(self.sound or 0, audible, latents or 0)
        return torch.zeros(1, AUDIO_CHANNELS, latents or audible, AUDIO_BINS)
