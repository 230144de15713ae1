"""What is asked for a clip, held to its limits and completed by the recipe of the model."""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from math import lcm, prod
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from ..conditioning import LatentCondition
from ..conditioning.blend import Blending, grown
from ..conditioning.conditions import Condition, ReferenceVideo, edits
from ..conditioning.fill import AUTO, MIRRORED, OFF
from ..conditioning.kept import chained
from ..conditioning.light import FILE_SPACES
from ..conditioning.pictures import GeneratedKeyframes, Picture
from ..conditioning.rate import at_rate, of_round
from ..errors import SettingError
from ..errors.files import as_path
from ..errors.kinds import check_kind, check_kinds
from ..fields import Choice, Switch, check_number, did_you_mean, settings_of
from ..geometry import ClipShape, whole_segments
from ..lora import Stack
from ..sampling import SAMPLERS, Recipe, Refine, ScheduleSettings, StreamGuidance, schedules
from ..sampling.schedules import CUSTOM
from ..sampling.windows import Segment, Window, Windowing, prompts_in
from ..video_vae import Denoising, Tiling
from .clip import AS_PICTURE, STREAM_CHOICES, ClipSettings, Enhancing, LongClip, given_negative
from .resources import GIB, PRECISIONS, Resources
from .sampling import SamplingSettings
from .second_stage import SecondStage

_log = logging.getLogger(__name__)

_PARTS: dict[str, type] = {
    "clip": ClipSettings,
    "schedule": ScheduleSettings,
    "sampling": SamplingSettings,
    "resources": Resources,
    "decoding": Denoising,
}
_OTHER = ("sound_only", "video", "audio", "windowing", "segments", "resume", "dtype", "vram", "ram")


@dataclass(frozen=True)
class Request:
    """Everything that is asked for a clip; what is None follows the recipe of the model.

    Raises SettingError for values outside their limits.

    Attributes:
        prompt: what is to be seen and heard.
        negative: what to avoid.
        clip: size, length, frame rate and streams; with a ``second`` stage the size is that which comes out of it.
        conditions: pictures, videos, sounds and masks, in the order in which they apply.
        schedule: how the noise levels fall.
        sigmas: noise levels from at most 1 down to 0, in place of the schedule.
        sampling: sampler, seed and noise.
        guidance: of both streams; one that is None follows the recipe, too.
        long: windows and segments of a long clip; None makes it at once.
        second: refines a clip of which the first stage makes a smaller one; None goes without.
        tiling: tiles in which frames are decoded; None takes the largest that fit.
        decoding: seed and steps of a decoder that denoises.
        loras: opened LoRAs, each with its strengths.
        hq: takes the recipe of few, precise steps.
        resources: devices, memory, formats and caches.
        enhance: lets a language model make the prompt longer, which looks at a picture at frame 0; None leaves it.
        enhancer: file of that model; None takes the text encoder.
        encoded: file of the prompt as the official code encoded it; ``prompt`` is only its name then, "" that of the
            file.
        blend: shows and plays what the clip is made of as it is wherever no part of it was made anew: a reference
            video, or a clip that is changed or continued. None takes all as it was made.
        hdr: space of a clip of HDR; None makes an ordinary one.
        high_quality: shows each frame of a reference twice.
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
    decoding: Denoising = Denoising()
    loras: Stack = ()
    hq: bool = False
    resources: Resources = Resources()
    enhance: Enhancing | None = None
    enhancer: Path | None = None
    encoded: Path | None = None
    blend: Blending | None = None
    hdr: Annotated[
        str | None,
        Choice(tuple(FILE_SPACES)),
        "Makes a clip of HDR, with LTX-2.5 or an HDR IC-LoRA: an .mp4 in HLG, or a folder of EXR pictures in this "
        "space. EXR pictures and folders that are given are in it, too: light of sRGB or of ACEScg, or codes of "
        "ACEScct. Not set, the clip is SDR.",
    ] = None
    high_quality: Annotated[
        bool,
        Switch(advanced=True),
        "For the HDR IC-LoRA: shows each frame of the reference twice, makes 2 n - 1 frames and keeps every second, "
        "which flicker less. Takes twice the time; the picture alone.",
    ] = False

    @property
    def resume(self) -> str | Path | None:
        """The folder in which finished windows of a long clip are kept."""
        return None if self.long is None else self.long.resume

    def __post_init__(self) -> None:
        """Hold every setting to its limits."""
        check_kinds(self, unset=False)
        for name in ("enhancer", "encoded"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_path(path, name))
        for each in filter(None, (self.guidance, self.long)):
            check_kinds(each)
        for condition in filter(is_dataclass, self.conditions):
            check_kinds(condition, unset=False)
        check_limits(self)
        chained(self.conditions)

    @classmethod
    def of(cls, prompt: str, negative: str | None = None, **flat: Any) -> "Request":
        """Build a request from flat names, such as ``Request.of("a red ball", frames=121, seed=7, steps=20)``.

        Args:
            prompt: what is to be seen and heard.
            negative: what to avoid.
            flat: fields of ClipSettings, ScheduleSettings, SamplingSettings, Resources, Denoising and this class, all
                by their own names; ``video`` and ``audio`` (guidance of one stream), ``sound_only``, ``windowing``,
                ``segments`` and ``resume`` (of a long clip), ``dtype``, and ``vram`` and ``ram`` in bytes.

        Raises:
            SettingError: an unknown name, or a value outside its limits.
        """
        _refuse_unknown(flat)
        flat = {**flat, **_machine(flat)}
        check_kind("sound_only", flat.get("sound_only"), bool | None)
        if flat.get("sound_only"):
            flat["streams"] = "sound only"
        if flat.get("custom_sigmas") is not None and flat.get("schedule") is None:
            flat["schedule"] = CUSTOM
        if flat.get("fps") is None:
            flat.pop("fps", None)
        parts = {name: owner(**_of_class(flat, owner)) for name, owner in _PARTS.items()}
        whole = {name: flat[name] for name in _own_names() if flat.get(name) is not None}
        for name in ("conditions", "loras", "sigmas"):
            if whole.get(name) is not None:
                whole[name] = _all_of(name, whole[name])
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
        if (ready := self._ready()) is not None:
            return ready.completed(recipe)
        second, long = self.second or SecondStage(refine=False), self.long
        recipe = recipe.editing(edits(self.conditions))
        second.check_detailing()
        self.sampling.check_motion_speed(long is not None or second.rounds > 0)
        segments = () if long is None else long.segments
        if second.refine and segments:
            raise SettingError(
                "A second stage has one prompt for the whole clip: leave out the segments, or do not refine."
            )
        shape = self._first_made(second, recipe)
        self._check_blending(shape)
        prompt = self.prompt if self.prompt or self.encoded is None else self.encoded.name
        windows = () if long is None else tuple(long.windowing.windows(shape.frames, shape.fps))
        script, unread = _as_read((Segment(0, prompt), *segments), windows, long)
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
            script=script,
            windows=windows,
            shown=self._shown(second.last(shape)),
            asked_frames=self._first_shape(second, recipe).frames,
            unread=unread,
        )

    def _check_blending(self, shape: ClipShape) -> None:
        """Raise SettingError where the clip keeps nothing to blend with, or only numbers of light."""
        if self.blend is not None:
            self.blend.check(self.conditions, shape)
            if self.hdr is not None:
                raise SettingError("Only ordinary frames are blended: make no HDR, or do not blend.")

    def _ready(self) -> "Request | None":
        """The same with what HDR, rounds or high quality ask for; None if it is there."""
        if self.hdr is not None and any(each.edges == AUTO for each in self._references):
            return replace(self, conditions=tuple(map(_mirrored, self.conditions)))
        if self.high_quality and (doubled := self._doubled()) is not None:
            return doubled
        return None if self.second is None or not self.second.rounds else self._for_rounds(self.second)

    def _doubled(self) -> "Request | None":
        """The same with references that show each frame twice; None if they do. SettingError for other clips."""
        references = self._references
        rounds = 0 if self.second is None else self.second.rounds
        if not references or len(references) < len(self.conditions) or self.long is not None or rounds:
            raise SettingError(
                "High quality shows each frame of a reference video twice: give reference videos and nothing else, "
                "without windows, segments and rounds, or turn it off (--high-quality)."
            )
        if self.clip.streams != "picture only":
            raise SettingError(
                "High quality makes two frames for each one that is kept, to which no sound belongs: make the picture "
                "alone (--picture-only)."
            )
        if all(each.twice for each in references):
            return None
        return replace(self, conditions=tuple(replace(each, twice=True) for each in references))

    def _for_rounds(self, second: SecondStage) -> "Request | None":
        """The same with keyframes for the rounds that are asked for; None if it has them."""
        generates = any(isinstance(each, GeneratedKeyframes) for each in self.conditions)
        ready = second.for_rounds()
        if generates and ready == second:
            return None
        more = () if generates else (GeneratedKeyframes(),)
        return replace(self, second=ready, conditions=(*self.conditions, *more))

    def _first_made(self, second: SecondStage, recipe: Recipe) -> ClipShape:
        """The clip that the first stage makes, which may be longer than is asked for."""
        shape = self._first_shape(second, recipe)
        if self.high_quality:
            return replace(shape, frames=2 * shape.frames - 1)
        return replace(shape, frames=whole_segments(shape.frames)) if second.rounds else shape

    def _first_shape(self, second: SecondStage, recipe: Recipe) -> ClipShape:
        """The clip of the first stage."""
        usual = second.last(ClipShape(recipe.width, recipe.height, recipe.frames, self.clip.fps))
        seen, final = self.seen, replace(recipe, width=usual.width, height=usual.height)
        clip = self.clip.following(seen is not None).sized(final, seen, second.step * self._reference_step)
        assert clip.width and clip.height and clip.asked_frames
        width, height = clip.width, clip.height
        if self._whole_reference is not None:
            step = second.step * self._reference_step
            width, height = (-(-side // step) * step for side in (width, height))
        return second.first(width, height, clip.asked_frames, clip.fps)

    @property
    def _whole_reference(self) -> ReferenceVideo | None:
        """The first reference that is shown whole; what its mirror image fills up is no part of the finished clip."""
        return next((each for each in self._references if each.mirrors), None)

    def _shown(self, final: ClipShape) -> tuple[int, int] | None:
        """Width and height of what is kept of the frames: as asked for, else what is no mirror image; None for all."""
        if self._whole_reference is None:
            return None
        place = self._whole_reference.place(final.width, final.height)
        size = self.clip.width or place.width, self.clip.height or place.height
        return None if size == (final.width, final.height) else size

    @property
    def seen(self) -> tuple[int, int] | None:
        """Width and height of the first picture that is given, else of the first reference; None without any."""
        sizes = [each.size for each in self.conditions if isinstance(each, Picture)]
        sizes += [each.video.size() for each in self._references if each.outpaint == OFF]
        return next(iter(sizes), None)

    @property
    def _references(self) -> list[ReferenceVideo]:
        return [each for each in self.conditions if isinstance(each, ReferenceVideo)]

    @property
    def _reference_step(self) -> int:
        """What the cells of a size that is chosen freely must be multiples of, for references that are smaller."""
        return lcm(*(each.downscale for each in self._references))

    def _guidance(self, recipe: Recipe) -> StreamGuidance:
        """The guidance of both streams."""
        own = self.guidance or recipe.guidance
        return StreamGuidance(own.video or recipe.video, own.audio or recipe.audio)

    def _sigmas(self, recipe: Recipe, shape: ClipShape) -> list[float]:
        """The noise levels of the steps that are taken."""
        sampling = self.sampling
        sigmas = list(self.sigmas) if self.sigmas else scheduled(self.schedule, recipe, prod(shape.video_latent))
        sampling.check_step_cache(len(sigmas) - 1)
        return schedules.slice_steps(schedules.check_sigmas(sigmas), sampling.start_step, sampling.end_step or None)


@dataclass(frozen=True)
class CompleteRequest:
    """A request with nothing left open.

    Attributes:
        request: that was completed.
        shape: the clip of the first stage.
        final: the clip of the second stage; the same where there is none.
        streams: that the clip has.
        sigmas: those of the steps that are taken.
        sampler: a key of ``SAMPLERS``.
        guidance: of both streams in the first stage.
        negative: the negative prompt.
        second: the second stage, which may refine nothing.
        refine: its recipe.
        loras: those of the first stage, the distilled LoRA among them where a recipe asks for it.
        refine_loras: likewise, those of the second stage.
        script: the prompt and the segments, as far as some window reads them.
        windows: of a long clip; empty for one that is made at once.
        asked_frames: how long the first stage's clip should be, of which rounds may need some more.
        shown: width and height of what is kept of its frames, from the left and upper edge; None for all of them.
        unread: when prompts begin that no window reads, in seconds.
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
    asked_frames: int
    shown: tuple[int, int] | None = None
    unread: tuple[float, ...] = ()

    @property
    def made(self) -> ClipShape:
        """The finished clip: after all rounds, and without what was only there to fill up the last segment."""
        if not self.second.rounds:
            return self.final
        times = 2**self.second.rounds
        return replace(self.final, frames=(self.asked_frames - 1) * times + 1, fps=self.final.fps * times)

    def needs_negative(self, free: Collection[str]) -> bool:
        """Return whether any stage looks at the negative prompt, if the streams in ``free`` are to be made."""
        stages = [(self.guidance, self.sampler)]
        if self.second.refine:
            stages.append((self.refine.guidance, self.refine.sampler))
        return any(each.for_streams(free).needs_negative(SAMPLERS[sampler]) for each, sampler in stages)

    @property
    def refine_conditions(self) -> tuple[Condition, ...]:
        """What is given in the second stage, at the frame rate of the clip that comes out."""
        times = round(self.final.fps / self.shape.fps)
        return tuple(at_rate(self.second.given(self.request.conditions), self.final, times))

    def round_conditions(self, shape: ClipShape) -> tuple[Condition, ...]:
        """Return what is given in a round that makes a clip of ``shape``."""
        return tuple(at_rate(of_round(self.request.conditions), shape, round(shape.fps / self.shape.fps)))

    @property
    def followed_picture(self) -> tuple[int, int] | None:
        """Width and height of the picture whose aspect ratio the clip has; None where its size was not left to one."""
        seen = self.request.seen
        return seen if self.request.clip.following(seen is not None).size == AS_PICTURE else None

    @property
    def blended_conditions(self) -> tuple[Condition, ...]:
        """What was given, as large and at the frame rate as the finished clip is, to be blended with it."""
        times, scale = round(self.made.fps / self.shape.fps), Fraction(self.final.width, self.shape.width)
        return tuple(grown(at_rate(self.request.conditions, self.made, times), scale))

    @property
    def keeps_keyframes(self) -> bool:
        """Whether keyframes that the first stage generates are still there when it is over."""
        return self.second.keep_keyframes or not self.second.refine

    def parameters_text(self, model: str) -> str:
        """Return prompt, negative prompt and a line of ``Name: value`` of what is really used, and of the ``model``.

        It has the form that sharing sites know from Stable Diffusion web UI ("parameters").
        """
        clip = self.made
        values = {
            "Steps": len(self.sigmas) - 1,
            "Sampler": self.sampler,
            "CFG scale": f"{self.guidance.video.rows[0].text_scale:g}",
            "Seed": self.request.sampling.seed,
            "Size": f"{clip.width}x{clip.height}",
            "Model": model,
            "Frames": (clip.frames + 1) // 2 if self.request.high_quality else clip.frames,
            "FPS": f"{float(clip.fps):g}",
        }
        prompts = [" ".join(segment.prompt.split()) for segment in self.script]
        negative = " ".join(self.negative.split())
        line = ", ".join(f"{name}: {value}" for name, value in values.items())
        return "\n".join([*prompts, *([f"Negative prompt: {negative}"] if negative else []), line])

    def followed(self, small: Tensor) -> tuple[LatentCondition, ...]:
        """Return what the second stage follows of the first one's video latent (B or 1, C, f, h, w)."""
        return self.second.followed(small, self.final.video_latent, self.refine_loras)

    @property
    def held(self) -> tuple[LatentCondition, ...]:
        """What keeps the sound of the first stage from the noise in the second one."""
        return self.second.held if self.second.refine and "audio" in self.streams else ()


def _mirrored(condition: Condition) -> Condition:
    """A reference whose edges were left open as HDR shows it; anything else as it is."""
    if isinstance(condition, ReferenceVideo) and condition.edges == AUTO:
        return replace(condition, edges=MIRRORED)
    return condition


def _as_read(
    script: tuple[Segment, ...], windows: tuple[Window, ...], long: LongClip | None
) -> tuple[tuple[Segment, ...], tuple[float, ...]]:
    """The prompts that some window reads, and when those begin whose words none does."""
    if long is None or not windows:
        return script, ()
    starts, transition = [float(each.start) for each in script], long.windowing.transition
    numbers = {number for window in windows for number in prompts_in(starts, window, transition)}
    read = tuple(script[number] for number in sorted(numbers))
    words = {each.prompt for each in read}
    return read, tuple(start for start, each in zip(starts, script) if each.prompt not in words)


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
    if name in schedules.FIXED:
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
        else:
            settings[name].check(content)


def _names(owner: type) -> list[str]:
    return [each.name for each in fields(owner)]


def _own_names() -> list[str]:
    """What ``Request.of`` takes by the names of the class itself."""
    return [name for name in _names(Request) if name not in (*_PARTS, "prompt", "negative", "long")]


def _refuse_unknown(flat: dict[str, Any]) -> None:
    known = [*_own_names(), *_OTHER, *(name for owner in _PARTS.values() for name in _names(owner))]
    if unknown := [name for name in flat if name not in known]:
        raise SettingError(f"There is no setting {unknown[0]}.{did_you_mean(unknown[0], known)}")


def _of_class(flat: dict[str, Any], owner: type) -> dict[str, Any]:
    """What of ``flat`` are fields of ``owner``."""
    return {name: flat[name] for name in _names(owner) if name in flat}


def _machine(flat: dict[str, Any]) -> dict[str, Any]:
    """The fields of Resources behind ``dtype``, ``device``, ``devices``, ``vram`` and ``ram`` as PyTorch has them."""
    found: dict[str, Any] = {}
    for name in ("vram", "ram"):
        if flat.get(name) is not None:
            check_number(name, flat[name], 0, 2**60)
            found[f"max_{name}"] = flat[name] / GIB
    if flat.get("device") is not None:
        found["device"] = str(flat["device"])
    if (devices := flat.get("devices")) is not None:
        found["devices"] = devices if isinstance(devices, str) else ",".join(map(str, _all_of("devices", devices)))
    if (dtype := flat.get("dtype")) is not None:
        names = {each: name for name, each in PRECISIONS.items()}
        if not isinstance(dtype, torch.dtype) or dtype not in names:
            raise SettingError(f"dtype is {dtype}; it must be one of {', '.join(map(str, names))}.")
        found["precision"] = names[dtype]
    return found


def _long(flat: dict[str, Any]) -> LongClip | None:
    windowing, segments, resume = (flat.get(name) for name in ("windowing", "segments", "resume"))
    prompts = () if segments is None else _all_of("segments", segments)
    if windowing is None and not prompts:
        if resume is not None:
            _log.warning("resume is not used: it counts only with windowing or segments.")
        return None
    return LongClip(Windowing() if windowing is None else windowing, prompts, resume)


def _all_of(name: str, values: Any) -> tuple[Any, ...]:
    """What was given for a setting that takes several."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        with suppress(TypeError):  # of a tensor that is one number
            return tuple(values)
    raise SettingError(f"{name} is {str(values)[:50]!r}; it must be a list.")
