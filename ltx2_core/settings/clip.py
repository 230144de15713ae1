"""What a clip shows, and how large and long it is."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from ..conditioning.pictures import read_frames, read_strengths
from ..errors import SettingError
from ..errors.foreign import shown
from ..fields import Checked, Choice, Number, Switch, Whole, Words, zero
from ..geometry import RATIOS, SPACE_SCALE, ClipShape, exact_fps, nearest_frames, nearest_size, size_of_ratio
from ..sampling import Recipe
from ..sampling.windows import Segment, Windowing

STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "picture and sound": ("video", "audio"),
    "picture only": ("video",),
    "sound only": ("audio",),
}


AUTO, AS_MODEL, AS_PICTURE, BY_HAND = "auto", "as the model likes it", "as the picture", "by hand"
SIZES = (AUTO, AS_MODEL, *RATIOS, AS_PICTURE, BY_HAND)
AS_IT_IS = "as it is"
AREAS = (AS_MODEL, "0.1", "0.25", "0.4", "0.5", "0.9", "1.5", "2.1", "3.7", "8.3")
IN_SECONDS, IN_FRAMES = "in seconds", "in frames"
AS_PROMPT, AS_GIVEN = "as the prompt needs", "as the sound or video"
LENGTHS = (AUTO, AS_MODEL, IN_SECONDS, IN_FRAMES, AS_PROMPT, AS_GIVEN)


@dataclass(frozen=True)
class PromptSettings(Checked):
    """What is to be seen and heard, and what not."""

    prompt: Annotated[
        str,
        Words(lines=True, dynamic=True, shown="a red ball bounces twice on the left"),
        "What is seen and what is heard, in whole sentences and in the order of events. Name the sounds, too. Up to "
        "1024 tokens are read; what comes after them is ignored, and the log says so.",
    ] = ""
    negative: Annotated[
        str | None,
        Words(lines=True, dynamic=True, shown=""),
        "What to stay away from, in picture and sound. It works only while a text scale is above 1. Empty takes what "
        'the recipe of the model says; two quotation marks, "", mean: away from the average clip.',
    ] = None
    keep_encoded: Annotated[
        bool,
        Switch(advanced=True, flag="no-cache"),
        "Keeps encoded prompts on disk (at most 1 GB), so that a repeated prompt never loads Gemma, also after a "
        "restart. The prompts themselves are not written down.",
    ] = True


@dataclass(frozen=True)
class Enhancing(Checked):
    """How a language model makes a short prompt longer."""

    wording: Annotated[  # a seed, but hosts change what is called so with every run, and writing takes a minute
        int,
        Whole(0, 2**32 - 1),
        "Another number gives another wording of the same idea.",
    ] = 10
    temperature: Annotated[
        float,
        Number(0, 2, 0.05, advanced=True),
        "How freely words are chosen: 0 always takes the likeliest, 1 is lively, more is wild.",
    ] = 0.7
    longest: Annotated[
        int,
        Whole(16, 1024, unit="tokens", advanced=True),
        "Where the text ends at the latest; a sentence that is not finished by then is left out. A word has one or two "
        "tokens.",
    ] = 512
    system_prompt: Annotated[
        str,
        Words(lines=True, advanced=True),
        "What Gemma is told to do with the prompt, in place of our own instruction; then nobody looks whether the "
        "prompt is still said. Empty takes ours.",
    ] = ""


def given_negative(negative: str | None, recipe: Recipe) -> str:
    """Return the negative prompt that is meant: that of the recipe for None, none for two quotation marks."""
    if negative is None:
        return recipe.negative
    return "" if negative.strip() == '""' else negative


@dataclass(frozen=True)
class OwnClipSettings(Checked):
    """Which part of a clip of one's own is taken, and at which size; 0 takes it as it is."""

    width: Annotated[
        int,
        Whole(0, 4096, 32, unit="pixels", instead=zero("that of the clip", usual=768)),
        "Width in pixels: the clip is resized in proportion until it covers the new size, and cropped at its centre. "
        "0 takes its own, or the nearest multiple of 32.",
    ] = 0
    height: Annotated[
        int,
        Whole(0, 4096, 32, unit="pixels", instead=zero("that of the clip", usual=512)),
        "Height in pixels, likewise.",
    ] = 0
    frames: Annotated[
        int,
        Whole(0, 100_000, 8, unit="frames", instead=zero("all", usual=121)),
        "How many frames of it to take, 8 k + 1. 0 takes all; what fills no latent is left out.",
    ] = 0
    fps: Annotated[
        float,
        Number(0, 240, 0.001, 0.001, unit="frames per second", instead=zero("that of the clip", usual=24)),
        "Frames per second of the latent; a video of another rate is resampled. 0 takes that of the video, and 24 for "
        "images.",
    ] = 0.0
    megapixels: Annotated[
        str,
        Choice((AS_IT_IS, *AREAS)),
        "How many pixels the clip has at most, in millions, where neither width nor height is set: a larger one "
        "becomes smaller, in its own shape. 0.4 is what the models are shown with, 0.9 is 720p.",
    ] = AS_IT_IS

    def size_of(self, own: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
        """Return width and height for a clip of its ``own`` ones, in pixels; 0 takes those."""
        if self.width or self.height or self.megapixels == AS_IT_IS:
            return self.width, self.height
        area = _area_of(self.megapixels, recipe)
        return size_of_ratio(own[0] / own[1], area) if area < own[0] * own[1] else (0, 0)


@dataclass(frozen=True)
class ExtendSettings(Checked):
    """How a clip is continued."""

    seconds: Annotated[
        float,
        Number(0.1, 3600, 0.1, unit="seconds"),
        "How much longer it becomes, rounded to a possible number of frames.",
    ] = 2.0


@dataclass(frozen=True)
class KeyframeSettings(Checked):
    """Where a batch of pictures is shown, and how firmly."""

    frames: Annotated[
        str,
        Words(flag="image", reads=read_frames),
        "The frame of each picture, in the order of the batch, such as 0, 60, -1: 0 is the first frame of the clip, -1 "
        "the last one.",
    ] = "0, -1"
    strengths: Annotated[
        str,
        Words(flag="image", reads=read_strengths),
        "How firmly the clip keeps to each picture, 0 to 1: one number for all, or one for each, such as 1, 0.7, 1.",
    ] = "1"


@dataclass(frozen=True)
class ClipSettings(Checked):
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

    size: Annotated[
        str,
        Choice(SIZES),
        "How large the clip is: as the model likes it, by aspect ratio, as the picture that is given, or by hand, that "
        "is by width and height. auto is by hand where no model is connected, or where width or height is given on the "
        "command line; else as the picture, and without one as the model likes it.",
    ] = AUTO
    megapixels: Annotated[
        str,
        Choice(AREAS),
        "How many pixels a size by aspect ratio or as a picture has, in millions: 0.4 is what the models are shown "
        "with, 0.5 becomes 1080p in two stages, 0.9 is 720p, 2.1 is 1080p, 8.3 is 4K.",
    ] = AS_MODEL
    length: Annotated[
        str,
        Choice(LENGTHS, flag="seconds"),
        "How long the clip is: as the model likes it, by seconds, by frames, as the sound or video that is connected, "
        "or as the prompt needs, which the duration head of LTX-2.5 tells from the encoded "
        "prompt. auto is by seconds above 0; else as a sound that is connected; else by frames where no model is "
        "connected, and as the model likes it where one is.",
    ] = AUTO
    least_seconds: Annotated[
        float,
        Number(0.1, 120, 0.1, unit="seconds", advanced=True),
        "The shortest clip that the prompt may need, for length as the prompt needs.",
    ] = 1.0
    most_seconds: Annotated[
        float,
        Number(0.1, 120, 0.1, unit="seconds", advanced=True),
        "The longest clip that the prompt may need, likewise.",
    ] = 20.0

    def __post_init__(self) -> None:
        """Make the frame rate an exact fraction; numbers and text such as "24000/1001" are understood.

        Raises SettingError for a length in seconds without any, and for limits of it that are the wrong way round.
        """
        object.__setattr__(self, "fps", exact_fps(self.fps))
        super().__post_init__()
        if self.length == IN_SECONDS and not self.seconds:
            raise SettingError(f"length is {IN_SECONDS}, but seconds is 0: write how many.")
        if self.least_seconds > self.most_seconds:
            raise SettingError(
                f"least_seconds is {shown(self.least_seconds)} and most_seconds {shown(self.most_seconds)}, between "
                "which there is no length: make the first one smaller, or the second one larger."
            )

    def automatic(self, has_picture: bool) -> "ClipSettings":
        """Return what auto means where a model is known: as a picture or the model likes it, but for given seconds."""
        size = AS_PICTURE if has_picture else AS_MODEL
        length = IN_SECONDS if self.seconds else AS_MODEL
        return replace(
            self,
            size=size if self.size == AUTO else self.size,
            length=length if self.length == AUTO else self.length,
        )

    def following(self, has_picture: bool) -> "ClipSettings":
        """Return what auto means outside of a graph: as a picture where there is one, but for given sizes."""
        is_free = self.size == AUTO and not self.width and not self.height
        return replace(self, size=AS_PICTURE) if is_free and has_picture else self

    @property
    def follows_prompt(self) -> bool:
        """Whether the clip is to be as long as the prompt needs."""
        return self.length == AS_PROMPT

    def lasting(self, frames: int) -> "ClipSettings":
        """Return these settings with a length in frames, whatever they said of it."""
        return replace(self, frames=frames, seconds=None, length=IN_FRAMES)

    def sized(
        self, recipe: Recipe | None, picture: tuple[int, int] | None = None, step: int = SPACE_SCALE
    ) -> "ClipSettings":
        """Return these settings with width, height and frames that follow from the choices of size and length.

        Args:
            recipe: That of the model, for what is not set; None where no model is known.
            picture: Width and height of the picture that is given, in pixels; None without one.
            step: What width and height must be multiples of, in pixels.

        Raises:
            SettingError: A choice for which the model or the picture is missing.
        """
        width, height = self._size(recipe, picture, step)
        own = {"width": width, "height": height, "frames": self._frames(recipe)}
        usual = {} if recipe is None else {name: getattr(recipe, name) for name in own}
        return replace(
            self,
            **usual | {name: value for name, value in own.items() if value},
            seconds=self.seconds if self.length in (AUTO, IN_SECONDS) else None,
            size=BY_HAND,
            length=AUTO,
        )

    def _size(self, recipe: Recipe | None, picture: tuple[int, int] | None, step: int) -> tuple[int | None, int | None]:
        """The width and height that are chosen; None for what the recipe says."""
        if self.size in (AUTO, BY_HAND):
            return self.width, self.height
        if self.size == AS_MODEL:
            likes = _known("size", recipe)
            return likes.width, likes.height
        return size_of_ratio(self._ratio(picture), _area_of(self.megapixels, recipe), step)

    def _ratio(self, picture: tuple[int, int] | None) -> float:
        """Width by height, as it is chosen."""
        if self.size in RATIOS:
            return RATIOS[self.size]
        if picture is None:
            raise SettingError(f"size is {AS_PICTURE}, but there is no picture: connect or give one.")
        return picture[0] / picture[1]

    def _frames(self, recipe: Recipe | None) -> int | None:
        """The frames that are chosen; None for what the recipe says, or what seconds say."""
        if self.follows_prompt:
            raise SettingError(f"length is {AS_PROMPT}, but no prompt was read: connect one, or choose another length.")
        if self.length == AS_GIVEN:
            raise SettingError(f"length is {AS_GIVEN}, but there is neither: connect one, or choose another length.")
        return _known("length", recipe).frames if self.length == AS_MODEL else self.frames

    def fitting(self, recipe: Recipe | None, picture: tuple[int, int] | None) -> tuple[ClipShape, list[str]]:
        """Return the nearest clip that LTX-2 can make, as ``automatic`` where a model is known, and what was changed.

        Arguments and errors as of ``sized``.
        """
        asked = self if recipe is None else self.automatic(picture is not None)
        return asked.sized(recipe, picture).nearest()

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
    def asked_frames(self) -> int | None:
        """The number of frames that was asked for, be it in frames or in seconds; None if neither was."""
        return nearest_frames(self.seconds * self.fps) if self.seconds else self.frames


def _area_of(megapixels: str, recipe: Recipe | None) -> float:
    """How many pixels a choice of megapixels means."""
    if megapixels != AS_MODEL:
        return float(megapixels) * 1e6
    likes = _known("megapixels", recipe)
    return likes.width * likes.height


def _known(setting: str, recipe: Recipe | None) -> Recipe:
    """The recipe; SettingError if none is known and this setting follows it."""
    if recipe is None:
        raise SettingError(f"{setting} is {AS_MODEL}, but there is no model: connect one, or make another choice.")
    return recipe


@dataclass(frozen=True)
class LongClip(Checked):
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
