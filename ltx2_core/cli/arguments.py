"""From parsed flags to a request: files are probed and read, and what a video says fills in size, length and rate."""

import argparse
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..checkpoint import Models
from ..checkpoint.text_encoder import open_text_encoder
from ..checkpoint.upscaler import UpscalerFile, find_upscaler, open_upscaler
from ..conditioning.blend import Blending
from ..conditioning.conditions import Condition, KeepAudio, KeepVideo
from ..conditioning.sources import AudioSource, VideoSource
from ..conditioning.timeline import Timeline
from ..errors import SettingError, counted
from ..geometry import SPACE_SCALE, ClipShape, exact_fps, floor_frames, nearest_frames, nearest_size
from ..lora import Lora, Report, Shrink, Stack, Strengths, check_text_lora, compare, open_shrunk, open_text_lora
from ..lora.stack import find_distilled_lora
from ..pipeline.duration import follow_given
from ..pipeline.generate import recipe_of
from ..sampling import AnyGuidance, Guidance, GuidanceBySigma, Recipe, ScheduleSettings, StreamGuidance, TileSettings
from ..sampling.schedules import CUSTOM
from ..sampling.windows import Segment, Windowing
from ..settings import (
    AS_PROMPT,
    AUTO,
    BY_HAND,
    ClipSettings,
    Enhancing,
    LongClip,
    Request,
    Resources,
    SamplingSettings,
    SecondStage,
    check_stg_blocks,
)
from ..settings.second_stage import DUBBED
from ..video_vae import Denoising, Tiling
from . import syntax
from .conditions import (
    Sources,
    audio_source,
    beside,
    own_fps,
    path_of,
    read_conditions,
    shows_whole,
    space_of,
    video_source,
)
from .flags import Command, destination, given
from .values import MAKES_LONG

_log = logging.getLogger(__name__)

# Flags that mean nothing without another one, or without one of several.
_ONLY_WITH = {
    "audio": ("audio-noise",),
    "image": ("compression",),
    " ".join(MAKES_LONG): ("overlap", "drift", "overlap-strength", "transition", "resume"),
    "retake": ("only",),
    "mask": ("feather", "mask-sound"),
    "blend": ("blend-radius",),
    "as-prompt-needs": ("least-seconds", "most-seconds"),
    "upscale upscaler temporal-upscaler dub": ("upscale-adain-factor", "upscale-tone-map-compression"),
    "enhance": ("enhance-wording", "enhance-temperature", "enhance-longest", "enhance-system-prompt", "enhancer"),
    "refine": (
        "refine-sound", "refine-noise-scale", "refine-sigmas", "refine-guidance", "keep-references", "keep-keyframes",
        "tiles", "tile-overlap", "tile-frame-overlap", "tile-mode", "tile-positions", "detailing-lora",
        "detailing-lora-strength", "distilled-lora-refine-strength",
    ),
}  # fmt: skip
# Flags that mean nothing beside another one.
_NOT_WITH = {"sigmas": ("steps", "denoise"), "sound-only": ("width", "height", "size", "megapixels")}
_OF_LTX2 = ("max-shift", "base-shift", "terminal")
# What counts for a latent that was kept, beside how it is decoded and by what.
_OF_LATENTS = {
    "output", "overwrite", "metadata", "latent", "checkpoint", "text-encoder", "distilled", "audio", "video",
    "timeline", "hdr", "high-quality", "lora",
}  # fmt: skip


def request_of(options: argparse.Namespace, models: Models) -> Request:
    """Build the request that the flags of ``generate`` describe.

    Args:
        options: from ``parser.parse``.
        models: the opened files that the clip is made with; their recipe is what flags of guidance change.

    Raises:
        LTX2Error: files that are missing or cannot be read, and settings that cannot be.
    """
    options, strip = with_timeline(with_dubbing(options))
    check_combinations(options)
    tell_unused(options)
    loras = (*read_loras(options.lora, models), *read_text_loras(options.text_encoder_lora, models))
    recipe = recipe_of(models, options.hq)
    guidance, second = guidance_of(options, recipe), second_stage_of(options, models, recipe)
    for each in filter(None, (guidance, second.guidance)):
        check_stg_blocks([block for row in each.rows for block in row.stg_blocks], models.layers)
    clip, sources = read_clip(options)
    clip = snapped(clip, second.step, sizes=not shows_whole(options))
    long = long_of(options, strip)
    return Request(
        _prompt_of(options, long),
        options.negative,
        clip=clip,
        conditions=tuple(read_conditions(options, clip, sources, models.version, loras, strip)),
        schedule=schedule_of(options),
        sampling=SamplingSettings(**given(options, SamplingSettings)),
        guidance=guidance,
        long=long,
        second=second,
        tiling=tiling_of(options),
        decoding=Denoising(**given(options, Denoising)),
        loras=loras,
        hq=options.hq,
        enhance=Enhancing(**given(options, Enhancing)) if options.enhance else None,
        enhancer=options.enhancer,
        encoded=options.encoded_prompt,
        blend=Blending(**given(options, Blending)) if options.blend else None,
        **given(options, Request),
        resources=Resources(**given(options, Resources)),
    )


def _prompt_of(options: argparse.Namespace, long: LongClip | None) -> str:
    """What is to be seen and heard; of a prompt that is encoded already, its name. Raises SettingError without any."""
    prompt: str | None = options.prompt
    if prompt is None and options.encoded_prompt is not None:
        prompt = options.encoded_prompt.name
    if not prompt and long is not None and long.segments:
        return long.segments[0].prompt
    if prompt is None:
        raise SettingError(
            "There is no prompt: say what is to be seen and heard with --prompt, --segments FILE or --timeline FILE."
        )
    return prompt


def decoding_of(options: argparse.Namespace, models: Models, command: Command) -> Request:
    """Return of the flags of ``generate`` what counts for a latent that was kept, and log which do not.

    Arguments and errors as above; ``command`` knows whose settings the flags are.
    """
    if options.blend:
        raise SettingError(
            "A latent that was kept does not know what it was made of: leave --blend out, or make the clip anew."
        )
    own = {flag[2:] for owner in (Tiling, Denoising, Resources) for flag in command.settings[owner].values()}
    counts = own | _OF_LATENTS | ({"fps"} if options.take.fps is None else set())
    _tell(options.asked, sorted(options.asked.keys() - counts), "a latent that was kept is only decoded")
    options, strip = with_timeline(options)
    hdr = given(options, Request)
    sound = audio_source(options.audio)
    conditions: list[Condition] = [] if sound is None else [KeepAudio(sound)]
    if (video := video_source(options.video, space_of(options))) is not None:
        conditions.append(KeepVideo(video))
    if strip is not None:
        parts = strip.conditions(partial(beside, options.timeline), (1, 1))
        conditions += [each for each in parts if isinstance(each, KeepAudio)]
    return Request(
        "",
        clip=ClipSettings(fps=exact_fps(options.fps or 24)),
        conditions=tuple(conditions),
        tiling=tiling_of(options),
        decoding=Denoising(**given(options, Denoising)),
        loras=read_loras(options.lora, models) if hdr.get("hdr") else (),
        **hdr,
        resources=Resources(**given(options, Resources)),
    )


def with_timeline(options: argparse.Namespace) -> tuple[argparse.Namespace, Timeline | None]:
    """Read --timeline; its prompt, length and rate are in the flags that come back, where none says otherwise.

    Raises SettingError for flags that say what the timeline holds.
    """
    if options.timeline is None:
        return options, None
    if options.prompt is not None or options.segments:
        raise SettingError("--timeline holds the prompts: leave --prompt and --segments out.")
    strip, asked = syntax.read_timeline(options.timeline), given(options, ClipSettings)
    if strip.retakes and not options.source:
        raise SettingError("The timeline makes a part of a video anew: say which, with --source FILE.")
    said = {**vars(options), "prompt": strip.script[0].text, "fps": options.fps or strip.fps}
    if "frames" not in asked and not asked.get("seconds") and not options.as_prompt_needs:
        said[destination(ClipSettings, "frames")] = strip.frames
    return argparse.Namespace(**said), strip


def with_dubbing(options: argparse.Namespace) -> argparse.Namespace:
    """Write --dub out as the flags that it stands for, of which those that are there count before it.

    Source: the Dub-It pipeline of ltx-pipelines. Raises SettingError beside another video or sound.
    """
    if options.dub is None:
        return options
    others = ("source", "video", "audio", "reference_video", "reference_audio", "sound_only", "picture_only")
    if beside := [f"--{name.replace('_', '-')}" for name in others if getattr(options, name)]:
        raise SettingError(f"--dub gives picture and voice from its own file: leave {' and '.join(beside)} out.")
    path, part = syntax.parse_file(options.dub, "strength", "start", "seconds")
    heard = ",".join(f"{name}={value}" for name, value in part.items() if name != "strength")
    written = vars(options) | {
        "reference_video": [options.dub],
        "reference_audio": [f"{path}:{heard}" if heard else str(path)],
        "dub": f"{path}:{heard}" if heard else str(path),
        "upscale": options.upscale or (None if options.upscaler else 2.0),
        "refine": True,
        destination(SecondStage, "keep_references"): True,
    }
    sound = destination(SecondStage, "sound")
    written[sound] = written[sound] or DUBBED
    return argparse.Namespace(**written)


def check_combinations(options: argparse.Namespace) -> None:
    """Refuse flags that do not go together. Raises SettingError."""
    if options.sound_only and options.picture_only:
        raise SettingError("--sound-only and --picture-only leave nothing: give one of them.")
    if options.sound_only and options.output.suffix.lower() not in (".wav", ".flac"):
        raise SettingError(f"--sound-only makes no picture, so {options.output.name} must be a .wav or .flac file.")
    if options.picture_only and options.output.suffix.lower() in (".wav", ".flac"):
        raise SettingError(f"--picture-only makes no sound, so {options.output.name} must be an .mp4 file or a folder.")
    if (options.retake or options.mask) and not options.source:
        raise SettingError("--retake and --mask change a part of a video: say which, with --source FILE.")
    check_size(given(options, ClipSettings), options.as_prompt_needs)
    references = len(options.reference_video)
    for flag, masks in (("--reference-mask", options.reference_mask), ("--reference-fill", options.reference_fill)):
        if len(masks) > references:
            raise SettingError(
                f"{flag} was given {counted(len(masks), 'time')}, and --reference-video "
                f"{counted(references, 'time')}: give a mask only for a reference."
            )


def tell_unused(options: argparse.Namespace) -> None:
    """Say in the log which flags were given that do nothing without another one."""
    for needed, names in _ONLY_WITH.items():
        flags = needed.split()
        if not any(getattr(options, flag, None) or flag in options.values for flag in flags):
            _tell(options.values, names, f"it counts only with --{' or --'.join(flags)}")
    for other, names in _NOT_WITH.items():
        if other in options.values:
            _tell(options.values, names, f"it does not count with --{other}")
    schedule = given(options, ScheduleSettings).get("schedule", CUSTOM if "sigmas" in options.values else "ltx2")
    if schedule != "ltx2":
        _tell(options.values, _OF_LTX2, "it counts only with --schedule ltx2")


def _tell(values: Iterable[str], names: Iterable[str], why: str) -> None:
    for name in names:
        if name in values:
            _log.warning("--%s is not used: %s.", name, why)


def check_size(asked: dict[str, Any], as_prompt: bool) -> None:
    """Refuse two flags that say one thing about the clip."""
    if as_prompt and ("frames" in asked or asked.get("seconds")):
        raise SettingError("--as-prompt-needs leaves the length to the prompt: leave --frames and --seconds out.")
    if "frames" in asked and asked.get("seconds"):
        raise SettingError("--frames and --seconds both say how long the clip is: give one of them.")
    if asked.get("size", AUTO) not in (AUTO, BY_HAND) and {"width", "height"} & asked.keys():
        raise SettingError("--size and --width or --height both say how large the clip is: give one of them.")


def read_loras(written: list[str], models: Models) -> Stack:
    """Open the LoRAs that are ``written`` with their strengths, and log how each fits ``models``."""
    return open_loras(written, models.layers, partial(compare, models=models))


def open_loras(written: list[str], layers: int, compared: Callable[[Lora], Report]) -> Stack:
    """Open the LoRAs that are ``written`` with their strengths, and log how each fits.

    Args:
        written: as --lora takes them.
        layers: how many blocks the transformer has.
        compared: returns how one fits the model, or refuses it.
    """
    loras = []
    for text in written:
        path, strengths, shrink = syntax.parse_lora(text, layers)
        lora = open_shrunk(path, shrink)
        _log.info(replace(compared(lora), strengths=strengths).line)
        loras.append((lora, strengths))
    return tuple(loras)


def read_text_loras(written: list[str], models: Models) -> Stack:
    """Open the LoRAs of Gemma that are ``written`` with their strengths, and log how each fits.

    Raises SettingError for one with more than one strength.
    """
    if not written or models.text_encoder is None:
        return ()
    encoder, loras = open_text_encoder(models.text_encoder), []
    for text in written:
        path, strengths, shrink = syntax.parse_lora(text, models.layers)
        if strengths != Strengths(strengths.strength):
            raise SettingError(f"--text-encoder-lora {text}: Gemma has one strength; write FILE:STRENGTH.")
        lora = open_shrunk(path, shrink, open_text_lora)
        _log.info(check_text_lora(lora, encoder))
        loras.append((lora, strengths))
    return tuple(loras)


def schedule_of(options: argparse.Namespace) -> ScheduleSettings:
    """Return the settings of the schedule; --sigmas alone means the custom one.

    Raises SettingError for --sigmas beside another schedule.
    """
    settings = given(options, ScheduleSettings)
    if "custom_sigmas" in settings and settings.setdefault("schedule", CUSTOM) != CUSTOM:
        raise SettingError(f"--sigmas take the place of a schedule: leave out --schedule {settings['schedule']}.")
    return ScheduleSettings(**settings)


def tiling_of(options: argparse.Namespace) -> Tiling | None:
    """Return the tiles to decode in; None for those that the memory allows."""
    settings = given(options, Tiling)
    return Tiling(**settings).chosen if settings else None


def long_of(options: argparse.Namespace, strip: Timeline | None) -> LongClip | None:
    """Return how a long clip is made; None for a clip that is made at once. ``strip`` may have later prompts."""
    segments = tuple(syntax.read_segments(options.segments)) if options.segments else ()
    if strip is not None:
        segments = tuple(Segment(each.at, each.text) for each in strip.script[1:])
    windows = given(options, Windowing)
    if "window" not in windows and not segments:
        return None
    return LongClip(Windowing(**windows), segments, options.resume)


def snapped(clip: ClipSettings, step: int, sizes: bool = True) -> ClipSettings:
    """Return the clip with the nearest sizes that LTX-2 can make, and log what was changed.

    Args:
        clip: what is not set in it stays so.
        step: what width and height must be multiples of.
        sizes: whether width and height are; else they stay, and a larger clip is cut to them.
    """
    rules = {"width": f"a multiple of {step}", "height": f"a multiple of {step}"} if sizes else {}
    rules["frames"] = "8 k + 1"
    changed: dict[str, Any] = {}
    for name, rule in rules.items():
        asked = getattr(clip, name)
        made = asked and (nearest_frames(asked) if name == "frames" else nearest_size(asked, step))
        if made != asked:
            _log.info("%s %d became %d, %s.", name, asked, made, rule)
            changed[name] = made
    return replace(clip, **changed)


def planned_shape(options: argparse.Namespace, recipe: Recipe) -> ClipShape:
    """Return size, length and rate of a plan as flags say them, else as the recipe does; logs what was changed."""
    asked = given(options, ClipSettings)
    check_size(asked, as_prompt=False)
    clip = snapped(ClipSettings(**asked, fps=exact_fps(options.fps)).sized(recipe), SPACE_SCALE)
    return clip.nearest()[0]


def read_clip(options: argparse.Namespace) -> tuple[ClipSettings, Sources]:
    """Return size, length and rate as flags say them, else as a given video has them; logs what was chosen."""
    space = space_of(options)
    sources = Sources(
        video_source(options.source, space), video_source(options.video, space), audio_source(options.audio)
    )
    video = sources.changed or sources.kept or video_source(options.dub, space)
    fps = exact_fps(options.fps or (own_fps(video) if video else None) or 24)
    length = AS_PROMPT if options.as_prompt_needs else AUTO
    clip = ClipSettings(**given(options, ClipSettings), fps=fps, streams=_streams(options), length=length)
    if clip.seconds and (frames := clip.asked_frames):
        _log.info("%g s at %s fps: %s.", clip.seconds, options.fps or clip.fps, counted(frames, "frame"))
    if video is not None:
        return _fitted(clip, video, _step(options)), sources
    return clip if clip.asked_frames else _as_long_as(clip, sources.sound), sources


def _step(options: argparse.Namespace) -> int:
    """What width and height become multiples of, in pixels, where they are those of a video."""
    enlarged = open_upscaler(options.upscaler).config.space if options.upscaler else Fraction(options.upscale or 1)
    return SPACE_SCALE * enlarged.numerator if options.dub else SPACE_SCALE


def _streams(options: argparse.Namespace) -> str:
    if options.sound_only:
        return "sound only"
    return "picture only" if options.picture_only else "picture and sound"


def _as_long_as(clip: ClipSettings, sound: AudioSource | None) -> ClipSettings:
    heard = follow_given(clip, sound, None)
    if heard != clip and heard.frames:
        _log.info("As long as the sound: %s at %g fps.", counted(heard.frames, "frame"), float(clip.fps))
    return heard


def _fitted(clip: ClipSettings, video: VideoSource, step: int) -> ClipSettings:
    """``clip`` with the length of ``video`` and its size, to multiples of ``step`` pixels, where it has none."""
    width, height = video.size()
    frames = clip.asked_frames or floor_frames(video.count(clip.fps))
    clip = replace(
        clip,
        width=clip.width or nearest_size(width, step),
        height=clip.height or nearest_size(height, step),
        frames=frames,
        seconds=None,
    )
    size = f"{clip.width} x {clip.height}, {counted(frames, 'frame')}"
    _log.info("%s as %s at %g fps.", path_of(video).name, size, float(clip.fps))
    return clip


def guidance_of(options: argparse.Namespace, recipe: Recipe) -> StreamGuidance:
    """Return the recipe's guidance with what was asked for; the flag of a stream counts before the common one."""
    streams: dict[str, AnyGuidance] = {}
    for stream in ("video", "audio"):
        own = {**given(options, Guidance), **given(options, Guidance, f"{stream}.")}
        changes = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
        streams[stream] = with_rows(replace(getattr(recipe, stream), **changes), options.guidance_up_to, stream)
    return StreamGuidance(**streams)


def with_rows(base: AnyGuidance, rows: list[syntax.GuidanceRow], stream: str) -> AnyGuidance:
    """Return ``base`` with the changes that ``rows`` make to a stream up to their noise levels.

    The lower a row's sigma, the more rows count there: each changes what holds above it. At one sigma a row of this
    stream alone counts before one of both.

    Raises SettingError where one of them could not count.
    """
    own = sorted((row for row in rows if stream in row.streams), key=lambda row: len(row.streams), reverse=True)
    _check_once(own)
    for row in (row for row in own if row.sigma is None):
        base = replace(base, **row.changes)
    table: dict[float, Any] = {1.0: base}
    limited = [(row.sigma, row.changes) for row in own if row.sigma is not None]
    for sigma, changes in sorted(limited, key=itemgetter(0), reverse=True):
        base = replace(base, **changes)
        table[min(1.0, sigma)] = base
    return GuidanceBySigma(tuple(table.items())) if len(table) > 1 else table[1.0]


def _check_once(rows: list[syntax.GuidanceRow]) -> None:
    """Raise SettingError for a setting that is said twice up to one noise level; a row without one counts up to 1."""
    seen: dict[tuple[object, ...], Any] = {}
    for row in rows:
        sigma = 1.0 if row.sigma is None else row.sigma
        for name, value in row.changes.items():
            if (key := (row.streams, sigma, name)) in seen:
                raise SettingError(
                    f"{name} is said twice up to sigma {sigma:g}, as {seen[key]} and as {value}: leave one of them out."
                )
            seen[key] = value


def second_stage_of(options: argparse.Namespace, models: Models, recipe: Recipe) -> SecondStage:
    """Return what is to happen after sampling; opens upscalers and, where it is needed, the distilled LoRA."""
    stage = SecondStage(
        _upscalers(options, models),
        options.refine,
        tiles_of(options),
        guidance=_refine_guidance(options, recipe),
        detailing_lora=open_shrunk(options.detailing_lora, Shrink()) if options.detailing_lora else None,
        detailing=options.detailing_lora is not None,
        **given(options, SecondStage),
    )
    first, refine = stage.lora_strengths(recipe)
    if first or (stage.refine and refine):
        return replace(stage, lora=_distilled_lora(options.distilled_lora, models))
    _tell(options.values, ("distilled-lora",), f"the recipe of {models.kind} gives it no strength")
    return stage


def _distilled_lora(text: str | None, models: Models) -> Lora:
    """Open the distilled LoRA that was written, or the one beside the model."""
    path, shrink = (None, {}) if text is None else syntax.parse_file(text, "energy")
    lora = open_shrunk(path or find_distilled_lora(models), Shrink(**shrink))
    if shrink:
        _log.info(compare(lora, models).line)
    return lora


def _upscalers(options: argparse.Namespace, models: Models) -> tuple[UpscalerFile, ...]:
    """What enlarges the latent, first in space and then in time."""
    space = _opened_upscaler(options.upscaler, "space", "upscaler")
    if space is None and options.upscale is not None:
        space = find_upscaler(models, options.upscale)
    if space is not None and options.upscale not in (None, space.config.space):
        raise SettingError(
            f"{space.file.path.name} enlarges by {float(space.config.space):g}, but --upscale is {options.upscale:g}: "
            "leave out --upscale."
        )
    time = _opened_upscaler(options.temporal_upscaler, "time", "temporal-upscaler")
    return tuple(file for file in (space, time) if file is not None)


def _opened_upscaler(path: Path | None, axis: str, flag: str) -> UpscalerFile | None:
    """Open what enlarges this axis; SettingError for a file that enlarges only the other one."""
    if path is None:
        return None
    file = open_upscaler(path)
    if getattr(file.config, axis) == 1:
        other = "temporal-upscaler" if flag == "upscaler" else "upscaler"
        raise SettingError(f"{path.name} is no --{flag}: it leaves {axis} as it is. Give it as --{other}.")
    return file


def tiles_of(options: argparse.Namespace) -> TileSettings | None:
    """Return the tiles to refine in; None where no flag says anything about them."""
    settings = given(options, TileSettings)
    if options.tiles is not None:
        intervals, rows, columns = options.tiles
        settings |= {"intervals": intervals, "rows": rows, "columns": columns}
    return TileSettings(**settings) if settings else None


def _refine_guidance(options: argparse.Namespace, recipe: Recipe) -> StreamGuidance | None:
    if not options.refine_guidance:
        return None
    refine, rows = recipe.refine, options.refine_guidance
    return StreamGuidance(with_rows(refine.video, rows, "video"), with_rows(refine.audio, rows, "audio"))
