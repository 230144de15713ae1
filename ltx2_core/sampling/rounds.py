"""Windows in which a clip of twice the frame rate is refined, between its keyframes (``README.md``, "Rounds")."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import SettingError
from ..geometry import TIME_SCALE, Keyframes
from ..seeds import Seeds
from .samplers import Sampler, euler_ancestral
from .schedules import FIXED

ROUND_SIGMAS = FIXED["distilled"][4:]  # from 0.975 on
ANCHOR_STRENGTH = 0.95  # how firmly a window keeps to the keyframes that it is given
ETA = 0.5  # of the ancestral steps
MOST_TRAINED_FPS = 30  # clips of a higher rate are told that they have the next one
TOLD_FPS = 60


@dataclass(frozen=True)
class RoundWindow:
    """A stretch of a clip, from keyframe to keyframe, that is refined as a clip by itself.

    Attributes:
        first: its first frame in the clip.
        last: its last frame.
        anchors: keyframes in it that are known, frame 0 of the clip excepted.
        slots: keyframes that are generated, in the middle between two anchors.
        drop: latent frames at its beginning that the window before it has made.
    """

    first: int
    last: int
    anchors: tuple[int, ...]
    slots: tuple[int, ...]
    drop: int

    @property
    def latents(self) -> slice:
        """Its latent frames in the clip."""
        return slice(self.first // TIME_SCALE, self.last // TIME_SCALE + 1)


def split_round(anchors: Sequence[int], frames: int, count: int) -> list[RoundWindow]:
    """Deal the stretches between keyframes to windows, larger shares first; each but the first begins one earlier.

    Args:
        anchors: the keyframes that are known, rising; the last is the last frame.
        frames: those of the clip.
        count: how many windows there are at most.

    Raises:
        SettingError: for keyframes that do not end with the clip, or are not at the ends of latents two apart or more.
    """
    places = [0, *anchors]
    steps = [after - before for before, after in zip(places, places[1:])]
    if not anchors or anchors[-1] != frames - 1 or min(steps) < 2 * TIME_SCALE or any(s % TIME_SCALE for s in steps):
        raise SettingError(
            f"The frame rate is raised between keyframes that lie {2 * TIME_SCALE} frames or more and a multiple of "
            f"{TIME_SCALE} apart, the last at the end of the clip, which is frame {frames - 1}; these are at "
            f"{list(anchors)}. Generate them every 24 or 32 frames, in a clip of 24 k + 1 or 32 k + 1 frames."
        )
    count = min(count, len(steps))
    share, more = divmod(len(steps), count)
    windows, own = [], 0
    for number in range(count):
        begin, end = max(0, own - 1), own + share + (number < more)
        inside = places[begin : end + 1]
        drop = (places[own] - places[begin]) // TIME_SCALE + 1 if number else 0
        slots = tuple((before + after) // 2 for before, after in zip(inside, inside[1:]))
        windows.append(RoundWindow(inside[0], inside[-1], tuple(filter(None, inside)), slots, drop))
        own = end
    return windows


def join_round(pieces: Sequence[Tensor], windows: Sequence[RoundWindow]) -> Tensor:
    """Join the latents (B, C, f, H, W) of all windows, without what the window before each has made."""
    return torch.cat([piece[:, :, window.drop :] for piece, window in zip(pieces, windows)], dim=2)


def join_keyframes(known: Keyframes, made: Sequence[Keyframes]) -> Keyframes:
    """Join keyframes, rising; of those that were made twice the first counts."""
    frames: dict[int, Tensor] = {}
    for each in (known, *made):
        for number, frame in enumerate(each.frames):
            frames.setdefault(frame, each.latent[:, :, number : number + 1])
    order = sorted(frames)
    return Keyframes(torch.cat([frames[frame].to(known.latent) for frame in order], dim=2), tuple(order))


def round_sampler(seed: int, number: int, window: int) -> Sampler:
    """Return the sampler of a window of round ``number``, counted from 1; windows are counted from 0."""
    solve = partial(euler_ancestral, eta=ETA)
    return Sampler(solve, stochastic=True, noise_seed=Seeds(seed).round_noise(number, window))
