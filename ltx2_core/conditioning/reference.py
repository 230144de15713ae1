"""Tokens that the clip looks at without showing them (spec: conditioning.md, sections 4 and 5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import geometry
from .state import State

_PAUSE = 0.04  # seconds between a reference sound and the clip


@dataclass(frozen=True, eq=False)
class ReferenceVideo:
    """A video that an IC-LoRA was trained to follow, such as depth, poses or an earlier take.

    The LoRA says how many times smaller the reference is than the clip (``downscale``), and that of its frames only the
    first and then every ``temporal_scale``-th one are given. ``attention`` is how strongly both see each other: one
    number, or one for each cell of the reference (f, h, w).
    """

    latent: Tensor  # (B or 1, C, f, h, w)
    downscale: int = 1
    temporal_scale: int = 1
    strength: float = 1.0
    attention: float | Tensor = 1.0
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Raises ValueError where the sizes of clip, reference and attention do not fit each other."""
        length, height, width = self.latent.shape[2:]
        if (height * self.downscale, width * self.downscale) != state.shape[2:]:
            raise ValueError(
                f"A reference of {width} x {height} latent cells, {self.downscale} times smaller than the clip, is for "
                f"a clip of {width * self.downscale} x {height * self.downscale}; this one has {state.shape[3]} x "
                f"{state.shape[2]}: resize the reference, or make the clip a multiple of {32 * self.downscale} pixels."
            )
        positions = geometry.video_positions((length, height, width), state.fps / self.temporal_scale)
        positions[:, 0] = (positions[:, 0] - (self.temporal_scale - 1) / float(state.fps)).clamp(min=0)
        positions[:, 1:] *= self.downscale
        return state.append(self.latent, positions, self.strength, self._weight())

    def _weight(self) -> Tensor | None:
        """One number for each token, None if it is 1 for all."""
        if isinstance(self.attention, Tensor):
            if self.attention.shape != self.latent.shape[2:]:
                raise ValueError(
                    f"The attention mask of a reference has {tuple(self.attention.shape)} cells, the reference "
                    f"{tuple(self.latent.shape[2:])}: make it of the same frames."
                )
            return self.attention.flatten()
        return None if self.attention == 1 else torch.full((self.latent[0, 0].numel(),), float(self.attention))


@dataclass(frozen=True, eq=False)
class ReferenceAudio:
    """A sound from before the clip, for LoRAs that take its voice over."""

    latent: Tensor  # (B or 1, C, t, M)
    strength: float = 1.0
    stream: ClassVar[str] = "audio"

    def __call__(self, state: State) -> State:
        positions = geometry.audio_positions(self.latent.shape[2])
        return state.append(self.latent, positions - positions.max() - _PAUSE, self.strength)
