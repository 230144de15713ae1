"""Every setting of a run, declared once: its limits, its text, and what a recipe fills in where it is not set.

Settings of a value that belongs to another room (guidance, schedule, tiles, windows, conditions, strengths of LoRAs)
are declared beside that value and collected here. Widgets of nodes, flags of the command line and tables of help pages
are all made from these fields (see ``fields.py``).
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch

from .checkpoint.upscaler import UpscalerFile
from .conditioning.conditions import Condition, Picture, of_second_stage, remakes_sound
from .conditioning.rate import at_rate
from .errors import SettingError
from .fields import Choice, Number, Seed, Switch, Whole, Words, did_you_mean, plain_numbers, settings_of
from .geometry import RATIOS, SPACE_SCALE, ClipShape, exact_fps, nearest_frames, nearest_size, size_of_ratio
from .latents import NOISE_ORDERS, STREAMS
from .lora import Lora, Stack, Strengths
from .lora.stack import without_in_context
from .quantization import CASTS
from .sampling import (
    SAMPLERS,
    AnyGuidance,
    Guidance,
    GuidanceBySigma,
    Recipe,
    Refine,
    ScheduleSettings,
    StreamGuidance,
    Tiles,
    TileSettings,
    schedules,
)
from .sampling.schedules import CUSTOM
from .sampling.windows import Segment, Window, Windowing
from .video_vae import Tiling

GIB = 2**30

STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "picture and sound": ("video", "audio"),
    "picture only": ("video",),
    "sound only": ("audio",),
}
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
STEP_NOISES = ("official", "by seed")
AUTO, AS_MODEL, AS_PICTURE, BY_HAND = "auto", "as the model likes it", "as the picture", "by hand"
SIZES = (AUTO, AS_MODEL, *RATIOS, AS_PICTURE, BY_HAND)
AREAS = (AS_MODEL, "0.1", "0.25", "0.4", "0.6", "0.9", "1.5", "2.1", "3.7", "8.3")
IN_SECONDS, IN_FRAMES = "in seconds", "in frames"
LENGTHS = (AUTO, AS_MODEL, IN_SECONDS, IN_FRAMES)
RECIPE = "recipe of the model"
FOLLOWED = ("auto", RECIPE, "these widgets")
SECOND_STAGE_SOUND = ("as the recipe", "hold", "refine")


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


def given_negative(negative: str | None, recipe: Recipe) -> str:
    """Return the negative prompt that is meant: that of the recipe for None, none for two quotation marks."""
    return recipe.negative if negative is None else "" if negative.strip() == '""' else negative


@dataclass(frozen=True)
class RecipeSettings:
    """Which recipe of the model is followed."""

    steps: Annotated[
        int, Whole(0, 200), "How many steps; 0 takes the recommended number. Distilled models have exactly 8."
    ] = 0
    hq: Annotated[
        bool,
        Switch(advanced=True),
        "The recipe of few, precise steps, for the dev model of LTX-2.3 with its distilled LoRA. It depends on the "
        "size of the clip, and names its own sampler.",
    ] = False
    settings: Annotated[
        str,
        Choice(FOLLOWED, flag="hq"),
        "Where steps, sampler and all scales come from: the recipe of the model, or the widgets of this node. auto "
        "follows the recipe while nothing is connected to sigmas, and else the widgets.",
    ] = FOLLOWED[0]

    def follows(self, sigmas: object) -> bool:
        """Return whether the recipe counts, if these ``sigmas`` are given; None for none."""
        return self.settings == RECIPE or (self.settings == FOLLOWED[0] and sigmas is None)


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
    size: Annotated[
        str,
        Choice(SIZES),
        "How large the clip is: as the model likes it, by aspect ratio, as the picture that is given, or by hand, that "
        "is by width and height. auto is by hand where no model is connected, or where width and height are given on "
        "the command line, and else as the model likes it.",
    ] = AUTO
    megapixels: Annotated[
        str,
        Choice(AREAS),
        "How many pixels a size by aspect ratio or as a picture has, in millions: 0.4 is what the models are shown "
        "with, 0.9 is 720p, 2.1 is 1080p, 8.3 is 4K.",
    ] = AS_MODEL
    length: Annotated[
        str,
        Choice(LENGTHS, flag="seconds"),
        "How long the clip is: as the model likes it, by seconds, or by frames. auto is by seconds above 0; else by "
        "frames where no model is connected, and as the model likes it where one is.",
    ] = AUTO

    def __post_init__(self) -> None:
        """Make the frame rate an exact fraction; numbers and text such as "24000/1001" are understood."""
        object.__setattr__(self, "fps", exact_fps(self.fps))

    def automatic(self, has_picture: bool) -> "ClipSettings":
        """Return what auto means where a model is known: as a picture or the model likes it, but for given seconds."""
        size, length = AS_PICTURE if has_picture else AS_MODEL, IN_SECONDS if self.seconds else AS_MODEL
        return replace(
            self,
            size=size if self.size == AUTO else self.size,
            length=length if self.length == AUTO else self.length,
        )

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
        ratio = self._ratio(picture)
        if self.megapixels != AS_MODEL:
            return size_of_ratio(ratio, float(self.megapixels) * 1e6, step)
        likes = _known("megapixels", recipe)
        return size_of_ratio(ratio, likes.width * likes.height, step)

    def _ratio(self, picture: tuple[int, int] | None) -> float:
        """Width by height, as it is chosen."""
        if self.size in RATIOS:
            return RATIOS[self.size]
        if picture is None:
            raise SettingError(f"size is {AS_PICTURE}, but there is no picture: connect or give one.")
        return picture[0] / picture[1]

    def _frames(self, recipe: Recipe | None) -> int | None:
        """The frames that are chosen; None for what the recipe says, or what seconds say."""
        if self.length == IN_SECONDS and not self.seconds:
            raise SettingError(f"length is {IN_SECONDS}, but seconds is 0: write how many.")
        return _known("length", recipe).frames if self.length == AS_MODEL else self.frames

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


def _known(setting: str, recipe: Recipe | None) -> Recipe:
    """The recipe; SettingError if none is known and this setting follows it."""
    if recipe is None:
        raise SettingError(f"{setting} is {AS_MODEL}, but there is no model: connect one, or make another choice.")
    return recipe


@dataclass(frozen=True)
class SamplingSettings:
    """How the noise levels of a schedule are walked."""

    seed: Annotated[
        int, Seed(), "Another number gives another clip; the same number and settings give the same one."
    ] = 0
    sampler: Annotated[
        str | None,
        Choice(tuple(SAMPLERS), shown="euler", advanced=True),
        "How a step is taken. euler is what the models are shown with.",
    ] = None
    start_step: Annotated[
        int,
        Whole(0, 1000, advanced=True),
        "The first step to take, counted from 0: the later, the more is kept of what the clip begins with. To go on "
        "where another run stopped, give its end step here and its latent, and switch add_noise off.",
    ] = 0
    end_step: Annotated[
        int,
        Whole(0, 1000, advanced=True),
        "Stop before this step, with a latent that is still noisy. 0 goes to the end.",
    ] = 0
    add_noise: Annotated[
        bool,
        Switch(advanced=True),
        "Off where the latent comes from a run that stopped before its end: it has its noise.",
    ] = True
    noise_order: Annotated[
        str,
        Choice(NOISE_ORDERS, advanced=True),
        "In which order random numbers become noise: as the official code draws them, or as ComfyUI's own samplers "
        "do, so that a seed from a core workflow begins with the same noise.",
    ] = "official"
    batched_passes: Annotated[
        bool,
        Switch(advanced=True),
        "Computes the prompt and the negative prompt as one batch. Faster for small clips on large cards, but needs "
        "more memory.",
    ] = False
    step_noise: Annotated[
        str,
        Choice(STEP_NOISES, advanced=True),
        "Which fresh noise a stochastic sampler adds. official is that of the official pipelines: res_2s adds the same "
        "for every seed, the others follow it. by seed lets res_2s follow the seed, too.",
    ] = "official"


@dataclass(frozen=True)
class StreamScales:
    """Scales of one stream alone, beside the sliders for both."""

    video_text_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="video-text-scale"),
        "Text scale of the picture alone. 0 means: as the slider.",
    ] = 0.0
    audio_text_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="audio-text-scale"),
        "Text scale of the sound alone; the official pipelines use 7. 0 means: as the slider.",
    ] = 0.0
    video_cross_modal_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="video-cross-modal-scale"),
        "How closely the picture follows the sound. 0 means: as the slider.",
    ] = 0.0
    audio_cross_modal_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="audio-cross-modal-scale"),
        "How closely the sound follows the picture. 0 means: as the slider.",
    ] = 0.0

    def guidance(self, both: Guidance) -> StreamGuidance:
        """Return the guidance of each stream: ``both``, but for the scales that are set here."""
        video = replace(
            both,
            text_scale=self.video_text_scale or both.text_scale,
            cross_modal_scale=self.video_cross_modal_scale or both.cross_modal_scale,
        )
        audio = replace(
            both,
            text_scale=self.audio_text_scale or both.text_scale,
            cross_modal_scale=self.audio_cross_modal_scale or both.cross_modal_scale,
        )
        return StreamGuidance(video, audio)


@dataclass(frozen=True)
class GuidanceRange:
    """Where settings of guidance apply."""

    stream: Annotated[
        str,
        Choice(("both", "video", "audio"), flag="guidance-up-to"),
        "What these settings are for. The other stream keeps what comes in through guidance, or stays unguided.",
    ] = "both"
    up_to_sigma: Annotated[
        float,
        Number(0, 1, 0.01, advanced=True, flag="guidance-up-to"),
        "The highest noise level at which these settings apply. Below 1, early steps keep what comes in through "
        "guidance; for example strong guidance first, and mild guidance up to 0.8.",
    ] = 1.0

    def apply(self, before: StreamGuidance, new: Guidance) -> StreamGuidance:
        """Return ``before`` with ``new`` in this range."""
        changed = {
            name: self._added(getattr(before, name), new)
            for name in ("video", "audio")
            if self.stream in (name, "both")
        }
        return replace(before, **changed)

    def _added(self, before: AnyGuidance, new: Guidance) -> AnyGuidance:
        if self.up_to_sigma >= 1:
            return new
        rows = before.table if isinstance(before, GuidanceBySigma) else ((1.0, before),)
        above = [row for row in rows if row[0] > self.up_to_sigma]
        return GuidanceBySigma((*above, (self.up_to_sigma, new)))


def parse_stg_blocks(text: str, recipe: Recipe, layers: int) -> tuple[int, ...]:
    """Return block numbers as people write them, or those of the recipe for "auto".

    Raises:
        SettingError: for anything that is not the number of one of the model's ``layers`` blocks.
    """
    if text.strip() == "auto":
        return recipe.video.stg_blocks
    try:
        blocks = tuple(int(number) for number in plain_numbers(text).split(",") if number.strip())
    except ValueError:
        raise SettingError(f"stg_blocks is {text!r}; write block numbers, such as 28 or 14, 19, or auto.") from None
    check_stg_blocks(blocks, layers)
    return blocks


def check_stg_blocks(blocks: Collection[int], layers: int) -> None:
    """Raise SettingError if a number in ``blocks`` is not that of one of the model's ``layers`` blocks."""
    if wrong := [block for block in blocks if not 0 <= block < layers]:
        raise SettingError(f"stg_blocks names {wrong[0]}; this model has {layers} blocks, counted from 0.")


@dataclass(frozen=True)
class SecondStage:
    """What is done to a finished latent: it is enlarged by each upscaler in turn, then refined.

    ``tiles`` None, or settings without counts, takes as few tiles as the memory allows. ``lora`` is the distilled
    LoRA, which the recipes of dev models ask for. ``sigmas`` and ``guidance`` None are those of the recipe.
    """

    upscalers: tuple[UpscalerFile, ...] = ()
    refine: Annotated[bool, Switch(), "Puts detail into what was enlarged: noise is added and taken away again."] = True
    tiles: TileSettings | Tiles | None = None
    lora: Lora | None = None
    sound: Annotated[
        str,
        Choice(SECOND_STAGE_SOUND),
        "Which sound the clip gets. The recipe of dev models keeps that of the first stage; the one of distilled "
        "models makes it anew with the large picture, and so do those of IC-LoRAs and of keyframes that are all shown "
        "beside the clip. hold also keeps it from the noise, so that the picture follows it exactly; refine makes it "
        "anew.",
    ] = "as the recipe"
    noise_scale: Annotated[
        float,
        Number(0, 1),
        "How much noise is added first. Higher invents more detail and keeps less of the latent: 0.4 keeps faces as "
        "they are, 0.9 redraws. 0 takes what the sigmas begin with.",
    ] = 0.0
    keep_references: Annotated[
        bool,
        Switch(advanced=True),
        "Shows reference videos and their IC-LoRA to the second stage, too, as Dub-It and HDR need it: more tokens and "
        "more memory. The official IC-LoRA pipeline leaves both out there.",
    ] = False
    sigmas: Annotated[
        tuple[float, ...] | None,
        Words(),
        "The noise levels, such as 0.9, 0.7, 0.4, 0. Not set, they are those that the recipe of the model has for its "
        "second stage.",
    ] = None
    guidance: StreamGuidance | None = None
    distilled_lora_strength: Annotated[
        float | None,
        Number(-10, 10, 0.05, 0.001, shown=0.0, advanced=True),
        "Strength of the distilled LoRA in the first stage. Not set, it is that of the recipe: none, or 0.25 for hq.",
    ] = None
    distilled_lora_refine_strength: Annotated[
        float | None,
        Number(-10, 10, 0.05, 0.001, shown=1.0, advanced=True),
        "Strength of the distilled LoRA in the second stage. Not set, it is that of the recipe: 1 for dev models, 0.5 "
        "for hq.",
    ] = None

    def first(self, width: int, height: int, frames: int, fps: Fraction) -> ClipShape:
        """Return the clip of the first stage.

        Args:
            width: of the enlarged clip, in pixels.
            height: of the enlarged clip, in pixels.
            frames: of the first stage, 8 k + 1.
            fps: of the first stage.

        Raises:
            SettingError: nothing becomes that large when it is enlarged by these upscalers.
        """
        space, step = self.space, self.step
        for name, value in (("width", width), ("height", height)):
            if space != 1 and value % step:
                raise SettingError(
                    f"{name} is {value}; what is enlarged by {float(space):g} must be a multiple of {step}, for "
                    f"example {nearest_size(value, step)}."
                )
        return ClipShape(int(width / space), int(height / space), frames, fps)

    @property
    def space(self) -> Fraction:
        """How many times as wide and high the clip becomes."""
        return prod((file.config.space for file in self.upscalers), start=Fraction(1))

    @property
    def step(self) -> int:
        """What width and height of the enlarged clip must be multiples of, in pixels."""
        return SPACE_SCALE * self.space.numerator

    def last(self, clip: ClipShape) -> ClipShape:
        """Return what becomes of the clip of the first stage."""
        for file in self.upscalers:
            clip = file.config.upscaled_shape(clip)
        return clip

    def with_lora(self, loras: Stack, strength: float) -> Stack:
        """Add the distilled LoRA with this strength to ``loras``; it was made for the transformer alone."""
        if self.lora is None or not strength:
            return loras
        return (*loras, (self.lora, Strengths(strength, text=0)))

    def lora_strengths(self, recipe: Recipe) -> tuple[float, float]:
        """Return the strengths of the distilled LoRA in the first stage and in the second one."""
        first, refine = self.distilled_lora_strength, self.distilled_lora_refine_strength
        return recipe.lora if first is None else first, recipe.refine.lora if refine is None else refine

    def given(self, conditions: Collection[Condition]) -> tuple[Condition, ...]:
        """Return which of the first stage's conditions the second one has."""
        return of_second_stage(conditions, self.keep_references)

    def kept_loras(self, loras: Stack, conditions: Collection[Condition]) -> Stack:
        """Return which of the first stage's LoRAs the second one has: an IC-LoRA leaves with its reference."""
        leaves = len(self.given(conditions)) < len(conditions)
        return without_in_context(loras) if leaves else loras

    def completed(self, recipe: Refine, conditions: Collection[Condition] = ()) -> Refine:
        """Return ``recipe`` of a second stage with everything in place that is set here.

        Args:
            recipe: that of the model.
            conditions: what is given in the first stage; it tells which pipeline this is.
        """
        if self.sound == "refine" or remakes_sound(conditions):
            recipe = replace(recipe, keeps_sound=False)
        if self.sigmas is not None:
            recipe = replace(recipe, sigmas=tuple(schedules.check_sigmas(self.sigmas)))
        if self.guidance is not None:
            recipe = replace(recipe, video=self.guidance.video, audio=self.guidance.audio)
        if self.noise_scale:
            recipe = replace(recipe, sigmas=tuple(schedules.starting_at(recipe.sigmas, self.noise_scale)))
        return recipe


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


@dataclass(frozen=True)
class Resources:
    """Where a run computes, in what, and how much it may take."""

    device: Annotated[str | None, Words(), "cuda, cpu or mps, also cuda:1. Not set, the fastest there is."] = None
    max_vram: Annotated[
        float | None,
        Number(0, 1024, 0.5, unit="GB", shown=0.0, flag="vram"),
        "The most gigabytes of the card that may be taken, for weights and work together. 0 takes what is free.",
    ] = None
    max_ram: Annotated[
        float | None,
        Number(0, 1024, 0.5, unit="GB", shown=0.0, flag="ram"),
        "The most gigabytes of RAM that may be pinned for streaming weights. 0 takes what is free, up to half of all.",
    ] = None
    precision: Annotated[
        str,
        Choice(tuple(PRECISIONS), advanced=True),
        "What the networks compute in. auto takes bf16 on a graphics card and fp32 on a CPU. fp32 takes twice the "
        "memory; fp16 is for cards without bf16, and may give black frames.",
    ] = "auto"
    format: Annotated[
        str | None,
        Choice(tuple(CASTS), shown="fp8", advanced=True),
        "Format of the transformer's weights in memory; fp8 takes half the memory of bf16 for the part that paints "
        "the picture: slightly softer detail, while the sound keeps its full precision. Not set, it is that of the "
        "file.",
    ] = None
    cache: Annotated[
        bool | str | Path | None,
        Switch(advanced=True),
        "Keeps encoded prompts on disk, so that one that was encoded before needs no text encoder.",
    ] = True

    @property
    def vram(self) -> int | None:
        """The most bytes of the card that may be taken; None for what is free."""
        return int(self.max_vram * GIB) if self.max_vram else None

    @property
    def ram(self) -> int | None:
        """The most bytes of RAM that may be pinned; None for what is free."""
        return int(self.max_ram * GIB) if self.max_ram else None

    @property
    def dtype(self) -> torch.dtype | None:
        """What the networks compute in; None where the device decides."""
        return PRECISIONS[self.precision]


_PARTS: dict[str, type] = {
    "clip": ClipSettings,
    "schedule": ScheduleSettings,
    "sampling": SamplingSettings,
    "resources": Resources,
}
_WHOLE = ("conditions", "second", "tiling", "loras", "hq", "guidance", "sigmas")
_OTHER = ("sound_only", "video", "audio", "windowing", "segments", "resume", "dtype", "vram", "ram")


@dataclass(frozen=True)
class Request:
    """Everything that is asked for a clip; what is None follows the recipe of the model.

    ``conditions`` are pictures, videos, sounds and masks, in the order in which they apply. ``sigmas`` are noise levels
    that take the place of the schedule. A stream whose ``guidance`` is None follows the recipe, too. With a ``second``
    stage, width and height are those that come out of it, and the first stage is smaller. ``loras`` are opened LoRAs,
    each with its strengths; ``hq`` is the recipe of few, precise steps. Raises SettingError for values outside their
    limits.
    """

    prompt: str
    negative: str | None = None
    clip: ClipSettings = ClipSettings()
    conditions: tuple[Condition, ...] = ()
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    sigmas: tuple[float, ...] | None = None
    sampling: SamplingSettings = SamplingSettings()
    guidance: StreamGuidance | None = None
    long: LongClip | None = None
    second: SecondStage | None = None
    tiling: Tiling | None = None
    loras: Stack = ()
    hq: bool = False
    resources: Resources = Resources()

    @property
    def resume(self) -> str | Path | None:
        """The folder in which finished windows of a long clip are kept."""
        return None if self.long is None else self.long.resume

    def __post_init__(self) -> None:
        """Hold every setting to its limits."""
        check_limits(self)

    @classmethod
    def of(cls, prompt: str, negative: str | None = None, **flat: Any) -> "Request":
        """Build a request from flat names, such as ``Request.of("a red ball", frames=121, seed=7, steps=20)``.

        Args:
            prompt: what is to be seen and heard.
            negative: what to avoid.
            flat: fields of ClipSettings, ScheduleSettings, SamplingSettings and Resources by their own names; of this
                class ``conditions``, ``second``, ``tiling``, ``loras``, ``hq``, ``guidance`` and ``sigmas``; and as
                shorter words ``video`` and ``audio`` (guidance of one stream), ``sound_only``, ``windowing``,
                ``segments`` and ``resume`` (of a long clip), ``dtype``, and ``vram`` and ``ram`` in bytes.

        Raises:
            SettingError: an unknown name, or a value outside its limits.
        """
        _refuse_unknown(flat)
        flat = {**flat, **_machine(flat)}
        if flat.get("sound_only"):
            flat["streams"] = "sound only"
        if flat.get("fps") is None:
            flat.pop("fps", None)
        parts = {name: owner(**_of_class(flat, owner)) for name, owner in _PARTS.items()}
        whole = {name: flat[name] for name in _WHOLE if name in flat}
        for name in ("conditions", "loras", "sigmas"):
            if whole.get(name) is not None:
                whole[name] = tuple(whole[name])
        if flat.get("video") is not None or flat.get("audio") is not None:
            whole["guidance"] = StreamGuidance(flat.get("video"), flat.get("audio"))  # type: ignore[arg-type]
        return cls(prompt, negative, long=_long(flat), **parts, **whole)

    def completed(self, recipe: Recipe) -> "CompleteRequest":
        """Fill in from ``recipe`` whatever is not set, and check that sizes and settings go together.

        Args:
            recipe: what the model is meant to be sampled with.

        Raises:
            SettingError: sizes that nothing becomes, steps that the schedule does not have, segments that a second
                stage would refine.
        """
        second, long = self.second or SecondStage(refine=False), self.long
        segments = () if long is None else long.segments
        if second.refine and segments:
            raise SettingError(
                "A second stage has one prompt for the whole clip: leave out the segments, or do not refine."
            )
        shape = self._first_shape(second, recipe)
        first_strength, refine_strength = second.lora_strengths(recipe)
        return CompleteRequest(
            request=self,
            shape=shape,
            final=second.last(shape),
            streams=STREAM_CHOICES[self.clip.streams],
            sigmas=self._sigmas(recipe, shape),
            sampler=self.sampling.sampler or recipe.sampler,
            guidance=self._guidance(recipe),
            negative=given_negative(self.negative, recipe),
            second=second,
            refine=second.completed(recipe.refine, self.conditions),
            loras=second.with_lora(self.loras, first_strength),
            refine_loras=second.with_lora(second.kept_loras(self.loras, self.conditions), refine_strength),
            script=(Segment(0, self.prompt), *segments),
            windows=() if long is None else tuple(long.windowing.windows(shape.frames, shape.fps)),
        )

    def _first_shape(self, second: SecondStage, recipe: Recipe) -> ClipShape:
        """The clip of the first stage."""
        usual = second.last(ClipShape(recipe.width, recipe.height, recipe.frames, self.clip.fps))
        pictures = (each.size for each in self.conditions if isinstance(each, Picture))
        final = replace(recipe, width=usual.width, height=usual.height)
        clip = self.clip.sized(final, next(pictures, None), second.step)
        assert clip.width and clip.height and clip.asked_frames
        return second.first(clip.width, clip.height, clip.asked_frames, clip.fps)

    def _guidance(self, recipe: Recipe) -> StreamGuidance:
        """The guidance of both streams."""
        own = self.guidance or recipe.guidance
        return StreamGuidance(own.video or recipe.video, own.audio or recipe.audio)

    def _sigmas(self, recipe: Recipe, shape: ClipShape) -> list[float]:
        """The noise levels of the steps that are taken."""
        sampling = self.sampling
        sigmas = list(self.sigmas) if self.sigmas else scheduled(self.schedule, recipe, prod(shape.video_latent))
        return schedules.slice_steps(schedules.check_sigmas(sigmas), sampling.start_step, sampling.end_step or None)


@dataclass(frozen=True)
class CompleteRequest:
    """A request with nothing left open.

    ``shape`` is the clip of the first stage, ``final`` the one that comes out; ``sigmas`` are those of the steps that
    are taken; ``loras`` and ``refine_loras`` hold the distilled LoRA where a recipe asks for it; ``script`` has the
    prompt and all segments; without ``windows`` the clip is made at once.
    """

    request: Request
    shape: ClipShape
    final: ClipShape
    streams: tuple[str, ...]
    sigmas: list[float]
    sampler: str
    guidance: StreamGuidance
    negative: str
    second: SecondStage
    refine: Refine
    loras: Stack
    refine_loras: Stack
    script: tuple[Segment, ...]
    windows: tuple[Window, ...]

    def guidance_of(self, free: Collection[str]) -> StreamGuidance:
        """Return the guidance of each stream, neutral for one that is not in ``free`` because it is given."""
        return self.guidance.neutral_where(set(STREAMS) - set(free))

    def refine_guidance_of(self, free: Collection[str]) -> StreamGuidance:
        """Return the guidance of each stream in the second stage, neutral for one that is given."""
        return self.refine.guidance.neutral_where(set(STREAMS) - set(free))

    def needs_negative(self, free: Collection[str]) -> bool:
        """Return whether any stage looks at the negative prompt, if the streams in ``free`` are to be made."""
        if self.guidance_of(free).needs_negative(SAMPLERS[self.sampler]):
            return True
        return self.second.refine and self.refine_guidance_of(free).needs_negative(SAMPLERS[self.refine.sampler])

    @property
    def refine_conditions(self) -> tuple[Condition, ...]:
        """What is given in the second stage, at the frame rate of the clip that comes out."""
        return tuple(at_rate(self.second.given(self.request.conditions), self.shape, self.final))

    @property
    def holds_sound(self) -> bool:
        """Whether the second stage keeps the sound of the first one from the noise."""
        return self.second.refine and self.second.sound == "hold"


def scheduled(settings: ScheduleSettings, recipe: Recipe, tokens: int) -> list[float]:
    """Return the noise levels from 1 to 0 that ``settings`` ask for.

    Args:
        settings: what is None in them follows the recipe.
        recipe: that of the model.
        tokens: how many tokens the video has, for recipes whose schedule shifts with the size.

    Raises:
        SettingError: steps that a schedule does not have, or a custom list that no sampler can follow.
    """
    name = settings.schedule or recipe.schedule
    if name == CUSTOM:
        return settings.sigmas()
    is_plain = settings == ScheduleSettings(settings.steps, settings.schedule, custom_sigmas=settings.custom_sigmas)
    if is_plain or name in schedules.FIXED:
        return recipe.sigmas(settings.steps, settings.schedule, tokens=tokens)
    steps = settings.steps or len(recipe.sigmas(None, settings.schedule)) - 1
    return replace(settings, steps=steps, schedule=name).sigmas(tokens if recipe.by_tokens else None)


def check_limits(value: object) -> None:
    """Hold every setting in ``value`` and in all that it contains to its limits.

    Args:
        value: a dataclass with settings, or a sequence of such; anything else is left alone.

    Raises:
        SettingError: the first value that is outside its limits or of another type; it says which are possible.
    """
    if isinstance(value, (tuple, list)):
        for each in value:
            check_limits(each)
    if not is_dataclass(value) or isinstance(value, type):
        return
    settings = settings_of(type(value))
    for name in _names(type(value)):
        content = getattr(value, name)
        if name not in settings:
            check_limits(content)
        elif isinstance(content, (bool, int, float, str, Fraction)):
            settings[name].check(content)


def _names(owner: type) -> list[str]:
    return [each.name for each in fields(owner)]


def _refuse_unknown(flat: dict[str, Any]) -> None:
    known = [*_WHOLE, *_OTHER, *(name for owner in _PARTS.values() for name in _names(owner))]
    if unknown := [name for name in flat if name not in known]:
        raise SettingError(f"There is no setting {unknown[0]}.{did_you_mean(unknown[0], known)}")


def _of_class(flat: dict[str, Any], owner: type) -> dict[str, Any]:
    """What of ``flat`` are fields of ``owner``."""
    return {name: flat[name] for name in _names(owner) if name in flat}


def _machine(flat: dict[str, Any]) -> dict[str, Any]:
    """The fields of Resources behind ``dtype``, and behind ``device``, ``vram`` and ``ram`` as PyTorch counts them."""
    found: dict[str, Any] = {}
    for name in ("vram", "ram"):
        if flat.get(name) is not None:
            found[f"max_{name}"] = flat[name] / GIB
    if flat.get("device") is not None:
        found["device"] = str(flat["device"])
    if (dtype := flat.get("dtype")) is not None:
        names = {each: name for name, each in PRECISIONS.items()}
        if dtype not in names:
            raise SettingError(f"dtype is {dtype}; it must be one of {', '.join(map(str, names))}.")
        found["precision"] = names[dtype]
    return found


def _long(flat: dict[str, Any]) -> LongClip | None:
    windowing, segments = flat.get("windowing"), tuple(flat.get("segments") or ())
    if windowing is None and not segments:
        return None
    return LongClip(windowing or Windowing(), segments, flat.get("resume"))
