"""What a clip shows, and how large and long it is."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from ..fields import Choice, Number, Switch, Whole, Words
from ..geometry import ClipShape, exact_fps, nearest_frames, nearest_size
from ..sampling.recipes import NEGATIVE
from ..sampling.windows import Segment, Windowing

STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "picture and sound": ("video", "audio"),
    "picture only": ("video",),
    "sound only": ("audio",),
}


@dataclass(frozen=True)
class PromptSettings:
    """What is to be seen and heard, and what not."""

    prompt: Annotated[
        str,
        Words(lines=True, dynamic=True, shown="a red ball bounces twice on the left"),
        "What is seen and what is heard, in whole sentences and in the order of events. Name the sounds, too. Up to "
        "1024 tokens are read; what comes after them is ignored, and the log says so.",
    ] = ""
    negative: Annotated[
        str | None,
        Words(lines=True, dynamic=True, shown=NEGATIVE),
        "What to stay away from, in picture and sound. It works only while a text scale is above 1. Empty means: away "
        "from the average clip.",
    ] = None
    keep_encoded: Annotated[
        bool,
        Switch(advanced=True, flag="no-cache"),
        "Keeps encoded prompts on disk (at most 1 GB), so that a repeated prompt never loads Gemma, also after a "
        "restart. The prompts themselves are not written down.",
    ] = True


@dataclass(frozen=True)
class OwnClipSettings:
    """Which part of a clip of one's own is taken, and at which size; 0 takes it as it is."""

    width: Annotated[
        int,
        Whole(0, 4096, 32, unit="pixels"),
        "Width in pixels: the clip is resized in proportion until it covers the new size, and cropped at its centre. "
        "0 takes its own, or the nearest multiple of 32.",
    ] = 0
    height: Annotated[int, Whole(0, 4096, 32, unit="pixels"), "Height in pixels, likewise."] = 0
    frames: Annotated[
        int,
        Whole(0, 100_000, 8, unit="frames"),
        "How many frames of it to take, 8 k + 1. 0 takes all; what fills no latent is left out.",
    ] = 0
    fps: Annotated[
        float,
        Number(0, 240, 0.001, 0.001, unit="frames per second"),
        "Frames per second of the latent; a video of another rate is resampled. 0 takes that of the video, and 24 for "
        "images.",
    ] = 0.0


@dataclass(frozen=True)
class ExtendSettings:
    """How a clip is continued."""

    seconds: Annotated[
        float,
        Number(0.1, 3600, 0.1, unit="seconds"),
        "How much longer it becomes, rounded to a possible number of frames.",
    ] = 2.0


@dataclass(frozen=True)
class KeyframeSettings:
    """Where a batch of pictures is shown, and how firmly."""

    frames: Annotated[
        str,
        Words(flag="image"),
        "The frame of each picture, in the order of the batch, such as 0, 60, -1: 0 is the first frame of the clip, -1 "
        "the last one.",
    ] = "0, -1"
    strengths: Annotated[
        str,
        Words(flag="image"),
        "How firmly the clip keeps to each picture, 0 to 1: one number for all, or one for each, such as 1, 0.7, 1.",
    ] = "1"


@dataclass(frozen=True)
class ClipSettings:
    """Size, length and frame rate of a clip; None where the recipe of the model decides."""

    width: Annotated[
        int | None,
        Whole(32, 4096, 32, unit="pixels", shown=768),
        "Width in pixels, a multiple of 32. Time and memory grow faster than the area.",
    ] = None
    height: Annotated[int | None, Whole(32, 4096, 32, unit="pixels", shown=512), "Height in pixels, likewise."] = None
    frames: Annotated[
        int | None,
        Whole(1, 2881, 8, unit="frames", shown=121),
        "Length in frames: 8 k + 1, such as 97, 121 or 241. The models were made for up to about 20 seconds.",
    ] = None
    fps: Annotated[
        Fraction,
        Number(1, 240, 0.001, 0.001, unit="frames per second", shown=24.0),
        "Frames per second. It decides how long the sound is, and how fast things seem to move. 23.976 and 29.97 "
        "stand for 24000/1001 and 30000/1001.",
    ] = Fraction(24)
    seconds: Annotated[
        float | None,
        Number(0, 120, 0.1, unit="seconds", shown=0.0),
        "Length in seconds, rounded to a possible number of frames. Above 0 it is used instead of frames.",
    ] = None
    batch_size: Annotated[
        int,
        Whole(1, 64, advanced=True),
        "How many clips to make at once, each with noise of its own. Each one needs its own memory.",
    ] = 1
    streams: Annotated[
        str,
        Choice(tuple(STREAM_CHOICES), advanced=True),
        "sound only makes no picture, which is much faster; width and height do not matter then. picture only makes "
        "a silent clip.",
    ] = "picture and sound"

    def __post_init__(self) -> None:
        """Make the frame rate an exact fraction; numbers and text such as "24000/1001" are understood."""
        object.__setattr__(self, "fps", exact_fps(self.fps))

    def nearest(self) -> tuple[ClipShape, list[str]]:
        """Return the nearest clip that LTX-2 can make, and what had to be changed for it; every size must be set."""
        assert self.width is not None and self.height is not None and self.frames is not None
        length = float(self.seconds * self.fps) if self.seconds else self.frames
        clip = ClipShape(nearest_size(self.width), nearest_size(self.height), nearest_frames(length), self.fps)
        rows = (
            ("width", self.width, clip.width, "a multiple of 32"),
            ("height", self.height, clip.height, "a multiple of 32"),
            ("frames", round(length), clip.frames, "8 k + 1"),
        )
        return clip, [f"{name} {asked} became {made}, {rule}" for name, asked, made, rule in rows if asked != made]

    @property
    def length(self) -> int | None:
        """The number of frames that was asked for, be it in frames or in seconds; None if neither was."""
        return nearest_frames(self.seconds * self.fps) if self.seconds else self.frames


@dataclass(frozen=True)
class LongClip:
    """How a clip is made that is longer than what the model makes at once.

    ``segments`` are the prompts that follow that of the request, each with the second at which it begins. ``resume``
    is the folder in which finished windows are kept, so that a run that broke off goes on where it was.
    """

    windowing: Windowing = field(default_factory=Windowing)
    segments: tuple[Segment, ...] = ()
    resume: Annotated[
        str | Path | None,
        Switch(advanced=True, shown=True),
        "Keeps finished windows on disk (at most 1 GB), so that a run that was cancelled or broke off goes on where it "
        "was, also after a restart.",
    ] = None
