"""Leaving out most blocks of the picture in steps that change little (see README.md, "Step cache")."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from .inputs import Perturbation
from .state import StatePair, StreamState

WHOLE_AT_FIRST = 5  # steps of a run: what is to be seen and heard is decided there


@dataclass(eq=False)
class StepCache:
    """What the blocks after the first added to the picture, which is added again while the first one changes little.

    The sound walks through all blocks in every step, and hears the picture as it leaves the last one. The first steps
    are whole, and no two steps in a row are left out. One cache serves one run, and in it one prompt.

    Source: First Block Cache (ParaAttention), whose rule this is; the limits beside it are ours.

    Args:
        limit: how much the change that the first block makes may differ from the one at the last whole step, as a share
            of that one's size.
    """

    limit: float
    steps: int = field(default=0, init=False)  # so far
    skipped: int = field(default=0, init=False)  # of these
    _works: bool = field(default=False, init=False)  # whether there is a picture to be made
    _skips: bool = field(default=False, init=False)  # whether this step is left out
    _before: Tensor | None = field(default=None, init=False)  # the picture that the first block is given
    _change: Tensor | None = field(default=None, init=False)  # what it made of that, at the last whole step
    _asked: Hashable = field(default=None, init=False)  # the passes of that step
    _firsts: list[Tensor] = field(default_factory=list, init=False)  # of each pass, after the first block
    _added: list[Tensor] = field(default_factory=list, init=False)  # of each pass, by the others, at that step

    def start(self, states: Sequence[StatePair]) -> None:
        """Take note of the ``states`` of all passes that come to the first block."""
        video = states[0][0]
        self._works = video is not None and video.updated
        self._before = video.x if video is not None else None

    def after(self, index: int, layers: int, states: list[StatePair], skips: Sequence[Perturbation]) -> list[StatePair]:
        """Return the states of all passes after block ``index``; of a step that is left out with the whole picture.

        Args:
            index: the number of the block.
            layers: how many blocks there are.
            states: what the block made; pictures that are not updated pass through it.
            skips: the perturbation of every pass.
        """
        if not self._works or layers == 1:
            return states
        pictures = [video for video, _ in states if video is not None]
        if index == 0:
            self._decide(pictures, skips)
            return self._whole(states) if self._skips else states
        if index == layers - 1 and not self._skips:
            self._added = [video.x - first for video, first in zip(pictures, self._firsts)]
            self._firsts = []
        return states

    def _decide(self, pictures: list[StreamState], skips: Sequence[Perturbation]) -> None:
        """Leave this step out if the same was asked at the last one, a whole one, and the first block changes alike."""
        first, before = pictures[0], self._before
        assert before is not None
        change, self._before = first.x - before, None
        asked = first.x.shape, tuple((skip, video.texts == first.texts) for skip, video in zip(skips, pictures))
        may = self.steps >= WHOLE_AT_FIRST and not self._skips and asked == self._asked
        self._skips = may and self._change is not None and _difference(change, self._change) < self.limit
        self.steps, self.skipped = self.steps + 1, self.skipped + self._skips
        if not self._skips:
            self._change, self._asked, self._added = change, asked, []
            self._firsts = [video.x for video in pictures]

    def _whole(self, states: list[StatePair]) -> list[StatePair]:
        """The states with pictures that no further block changes."""
        return [
            (None if video is None else replace(video, x=video.x + added, updated=False), audio)
            for (video, audio), added in zip(states, self._added)
        ]


def _difference(change: Tensor, before: Tensor) -> float:
    """The mean difference from ``before``, as a share of its mean size, of the clip where it is largest; the host waits
    for it."""
    norm = partial(torch.linalg.vector_norm, ord=1, dim=(1, 2), dtype=torch.float32)
    difference, size = norm(change - before), norm(before)
    return float((difference / size).nan_to_num(nan=0.0).max())
