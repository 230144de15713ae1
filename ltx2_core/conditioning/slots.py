"""Keyframes that are generated beside a clip (``README.md``, "Generated keyframes")."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from ..geometry import Keyframes
from .state import LatentCondition, State, tokens


@dataclass(frozen=True, eq=False)
class KeyframeSlots:
    """Append one latent frame for each of these ``frames`` of the clip, which stands for that frame alone.

    They are noisy as the clip is and are generated with it; models that mark keyframes draw the clip towards them.
    """

    frames: tuple[int, ...]  # rising
    latent: Tensor | None = None  # (B or 1, C, K, H, W), what they begin as; None for nothing
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError for frames outside the clip, and for a second such condition."""
        self._check(state)
        channels, _, height, width = state.shape
        begin = torch.zeros(1, channels, len(self.frames), height, width) if self.latent is None else self.latent
        if tuple(begin.shape[1:]) != (channels, len(self.frames), height, width):
            raise SettingError(
                f"The keyframes begin as the latent {tuple(begin.shape[1:])}, and {len(self.frames)} of them are "
                f"generated for a clip of {state.shape}: they must be of its size."
            )
        longer = state.append(torch.zeros_like(begin), self._positions(state), strength=0)
        content = tokens(begin).to(state.latent).expand(len(state.latent), -1, -1)
        frames = torch.tensor(self.frames, device=state.latent.device).repeat_interleave(height * width)
        before = state.latent.shape[1]
        slots = torch.cat((frames.new_full((before,), -1), frames))
        marks = torch.zeros_like(state.mask) if state.keyframes is None else state.keyframes
        return replace(
            longer,
            latent=torch.cat((state.latent, content), dim=1),
            keyframes=F.pad(marks, (0, 0, 0, len(frames)), value=1.0),
            slots=slots,
        )

    def _check(self, state: State) -> None:
        """Raise SettingError for frames that this clip cannot have."""
        length = geometry.pixel_frames(state.shape[1])
        if not self.frames or list(self.frames) != sorted(set(self.frames)):
            raise SettingError(f"Keyframes are generated at frames {self.frames}; write some, in rising order.")
        if outside := [frame for frame in self.frames if not 0 <= frame < length]:
            raise SettingError(
                f"A keyframe is to be generated at frame {outside[0]}, but the clip has {length} frames: choose frames "
                f"from 0 to {length - 1}."
            )
        if state.slots is not None:
            raise SettingError("Keyframes are generated twice in this clip: give all of their frames at once.")

    def _positions(self, state: State) -> Tensor:
        """Start and end of every token in seconds and pixels, (1, 3, N, 2): each frame lasts one frame."""
        _, _, height, width = state.shape
        each = geometry.video_positions((1, height, width), Fraction(1))
        positions = each.repeat(1, 1, len(self.frames), 1)
        start = torch.tensor(self.frames, dtype=torch.float32).repeat_interleave(height * width)
        positions[:, 0] = torch.stack((start, start + 1), dim=-1) / float(state.fps)
        return positions


def seed_slots(conditions: Iterable[LatentCondition], known: Keyframes | None) -> list[LatentCondition]:
    """Let keyframes that an earlier stage left begin as they are ``known``, where the frames are the same."""
    return [
        replace(each, latent=known.latent)
        if known is not None and isinstance(each, KeyframeSlots) and each.frames == known.frames
        else each
        for each in conditions
    ]
