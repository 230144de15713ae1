"""Pictures and short videos at chosen frames (``README.md``, "Keyframes")."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from .. import geometry
from ..errors import SettingError, counted
from .state import State, tokens


def place_in(frame: int, frames: int) -> int:
    """Return where a clip of ``frames`` shows a picture, from 0 on; ``frame`` counts from the end where it is negative.

    Raises SettingError for a frame outside the clip.
    """
    place = geometry.frame_number(frame, frames)
    if not 0 <= place < frames:
        raise SettingError(
            f"A picture is given at frame {frame}, but the clip has {counted(frames, 'frame')}: choose one from "
            f"{-frames} to {frames - 1}."
        )
    return place


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A picture, or a short video, that the clip shows at a frame: the first, the last (-1) or any other.

    At frame 0 it takes the place of the clip's own tokens, unless ``append``; elsewhere it is appended as in the
    official pipelines, which append it at 0, too, where they interpolate between keyframes. ``strength`` 1 keeps it as
    it is, 0 ignores it. The latent of a short video that was ``encoded_alone`` begins with a single frame wherever the
    clip shows it; that of the official formula, with eight.
    """

    latent: Tensor  # (B or 1, C, f, H, W), of the clip's own H and W
    frame: int = 0  # in pixel frames; negative counts from the end
    strength: float = 1.0
    append: bool = False
    encoded_alone: bool = False
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError for a frame outside the clip or a picture of another size."""
        channels, length, *size = state.shape
        frame = place_in(self.frame, geometry.pixel_frames(length))
        if [self.latent.shape[1], *self.latent.shape[3:]] != [channels, *size]:
            raise SettingError(
                f"A picture is encoded to (C, H, W) = {(self.latent.shape[1], *self.latent.shape[3:])}, the clip has "
                f"{(channels, *size)}: resize it to the size of the clip before it is encoded."
            )
        return self._replace(state) if frame == 0 and not self.append else self._append(state, frame)

    def _replace(self, state: State) -> State:
        own, picture = state.own(state.clean).clone(), tokens(self.latent).to(state.clean)
        if picture.shape[1] > own.shape[1]:
            raise SettingError(
                f"A video of {self.latent.shape[2]} latent frames is given for the beginning of a clip of "
                f"{state.shape[1]}: cut it."
            )
        mask = state.mask.clone()
        own[:, : picture.shape[1]], mask[:, : picture.shape[1]] = picture, 1 - self.strength
        covered = replace(state, clean=state.with_own(state.clean, own), mask=mask)
        return replace(covered, is_covered=covered.is_given and not state.is_frozen)

    def _append(self, state: State, frame: int) -> State:
        length, height, width = self.latent.shape[2:]
        causal = frame == 0 or self.encoded_alone
        positions = geometry.video_positions((length, height, width), Fraction(1), causal=causal)
        time = positions[:, 0]
        time += frame
        if length == 1:
            time[..., 1] = time[..., 0] + 1  # a single picture, not eight frames
        time /= float(state.fps)
        return state.append(self.latent, positions, self.strength)
