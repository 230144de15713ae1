"""Tokens that the clip attends to without showing them (``README.md``, "References")."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from .state import State

_PAUSE = 0.04  # seconds between a reference sound and the clip


@dataclass(frozen=True, eq=False)
class ReferenceVideoTokens:
    """Append the tokens of a video that an IC-LoRA follows, such as depth, poses or an earlier take.

    The LoRA says how many times smaller the reference is than the clip (``downscale``), and that it holds only the
    first frame and then every ``temporal_scale``-th one. ``attention`` is how strongly reference and clip attend to
    each other: one number, or one for each cell of the reference (f, h, w).
    """

    latent: Tensor  # (B or 1, C, f, h, w)
    downscale: int = 1
    temporal_scale: int = 1
    strength: float = 1.0
    attention: float | Tensor = 1.0
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Append it to ``state``. Raises SettingError where clip, reference and attention differ in size."""
        length, height, width = self.latent.shape[2:]
        if (height * self.downscale, width * self.downscale) != state.shape[2:]:
            raise SettingError(
                f"A reference of {width} x {height} latent cells, {self.downscale} times smaller than the clip, is for "
                f"a clip of {width * self.downscale} x {height * self.downscale}; this one has {state.shape[3]} x "
                f"{state.shape[2]}: resize the reference, or make the clip a multiple of {32 * self.downscale} pixels."
            )
        positions = geometry.video_positions((length, height, width), state.fps / self.temporal_scale)
        positions[:, 0] = (positions[:, 0] - (self.temporal_scale - 1) / float(state.fps)).clamp(min=0)
        positions[:, 1:] *= self.downscale
        return state.append(self.latent, positions, self.strength, self._weight())

    def _weight(self) -> Tensor | None:
        """The attention weight of each token, None if all are 1."""
        if isinstance(self.attention, Tensor):
            if self.attention.shape != self.latent.shape[2:]:
                raise SettingError(
                    f"The attention mask of a reference has {tuple(self.attention.shape)} cells, the reference "
                    f"{tuple(self.latent.shape[2:])}: make it of the same frames."
                )
            return self.attention.flatten()
        return None if self.attention == 1 else torch.full((self.latent[0, 0].numel(),), float(self.attention))


@dataclass(frozen=True, eq=False)
class ReferenceAudioTokens:
    """Append the tokens of a sound from before the clip, for LoRAs that take its voice over."""

    latent: Tensor | None = None  # (B or 1, C, t, M); None: the sound that the clip begins with
    strength: float = 1.0
    stream: ClassVar[str] = "audio"

    def __call__(self, state: State) -> State:
        """Append it to ``state``, so that it ends 0.04 s before the clip begins."""
        latent = state.unpacked(state.latent) if self.latent is None else self.latent
        positions = geometry.audio_positions(latent.shape[2])
        return state.append(latent, positions - positions.max() - _PAUSE, self.strength)
