"""Two clips in one picture, to choose between them: beside each other, wiped, or what differs."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor

from ..fields import Checked, Choice, Number, check_settings
from ..media import probe
from .sources import AudioSource, Numbered, VideoSource

SIDE, ABOVE, WIPED, DIFFERENCE = "side by side", "one above the other", "wiped", "difference"
LAYOUTS = (SIDE, ABOVE, WIPED, DIFFERENCE)
SOUNDS = ("of the first", "of the second", "none")
LINE = 2  # pixels, white, between the halves of a wiped picture


@dataclass(frozen=True)
class Comparison(Checked):
    """How two clips are shown as one."""

    layout: Annotated[
        str,
        Choice(LAYOUTS),
        "wiped shows the first clip left of a line and the second one right of it; difference shows by how much they "
        "differ, black where they are the same.",
    ] = SIDE
    wipe: Annotated[
        float,
        Number(0, 1, 0.01),
        "Where the line of wiped stands: 0 shows only the second clip, 1 only the first.",
    ] = 0.5
    gain: Annotated[
        float,
        Number(1, 100, 0.5, advanced=True),
        "Differences are shown so many times as large.",
    ] = 4.0
    sound: Annotated[str, Choice(SOUNDS), "Whose sound is heard."] = SOUNDS[0]

    def __post_init__(self) -> None:
        """Raise SettingError for a value outside its limits."""
        super().__post_init__()
        check_settings(self)

    def frames(self, first: VideoSource, second: VideoSource, fps: Fraction) -> Iterator[Tensor]:
        """Yield frames (F, H, W, 3) in 0..1 at ``fps``.

        They last as long as the longer clip; the shorter one stands still on its last picture. The second clip is
        resized to cover the size of the first one, and cropped at its centre. Sides are even, as videos need.

        Raises:
            MediaError: A file without pictures, or one that does not say how long it is.
        """
        width, height = (max(2, side - side % 2) for side in first.size())
        videos = first, second
        counts = [video.count(fps) for video in videos]
        held = (_held(video.fitted(fps, n, width, height), max(counts)) for video, n in zip(videos, counts))
        for one, other in _together(*held):
            yield self.join(one, other)

    def heard(self, first: AudioSource | None, second: AudioSource | None) -> AudioSource | None:
        """Return the sound that was chosen; None for none, and of a silent clip."""
        return dict(zip(SOUNDS, (first, second, None)))[self.sound]

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Return frames (F, H, W, 3) of both clips, which are equally large, as one picture each."""
        if self.layout == SIDE:
            return torch.cat((first, second), dim=2)
        if self.layout == ABOVE:
            return torch.cat((first, second), dim=1)
        if self.layout == DIFFERENCE:
            return ((first - second).abs() * self.gain).clamp(0, 1)
        at, width = round(self.wipe * first.shape[2]), first.shape[2]
        wiped = torch.cat((first[:, :, :at], second[:, :, at:]), dim=2)
        if 0 < at < width:
            wiped[:, :, max(0, at - LINE // 2) : at + LINE // 2] = 1
        return wiped


def rate_of(video: VideoSource) -> Fraction | None:
    """Return the frame rate of a video; None where it has none of its own."""
    return video.fps if isinstance(video.source, Tensor | Numbered) else probe(video.source).fps


def _held(chunks: Iterator[Tensor], length: int) -> Iterator[Tensor]:
    """Yield ``length`` frames (F, H, W, 3) in 0..1 of ``chunks`` (1, 3, F, H, W) in -1..1; the last one stays."""
    for chunk in chunks:
        frames = rearrange(chunk[0] / 2 + 0.5, "c f h w -> f h w c")
        length -= len(frames)
        yield frames
    yield from (frames[-1:] for _ in range(length))


def _together(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pieces of two videos that are equally long, whatever pieces they come in."""
    one = other = None
    while True:
        one = next(first, None) if one is None or not len(one) else one
        other = next(second, None) if other is None or not len(other) else other
        if one is None or other is None:
            return
        count = min(len(one), len(other))
        yield one[:count], other[:count]
        one, other = one[count:], other[count:]
