"""What is given for a clip: the files that flags name, opened, as conditions."""

import argparse
import logging
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.listed import path_inside
from ..conditioning.characters import Character
from ..conditioning.conditions import (
    Condition,
    InitClip,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    ReferenceAudio,
    ReferenceVideo,
)
from ..conditioning.fill import MIRRORED
from ..conditioning.light import FILE_SPACES
from ..conditioning.pictures import Picture
from ..conditioning.sources import AudioSource, VideoSource
from ..conditioning.timeline import Timeline
from ..errors import SettingError
from ..geometry import HIGHEST_FPS, LOWEST_FPS
from ..lora import Stack
from ..lora.stack import reference_scale
from ..media import is_moving, probe, read_picture, read_video
from ..media.exr import ExrFrames, is_exr, read_exr
from ..media.light import Space
from ..pipeline.characters import place_character, place_timeline
from ..settings import ClipSettings, Request
from . import syntax
from .flags import given

PICTURES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".tga", ".jp2", ".ppm", ".gif",
    ".heic", ".jxl",
)  # fmt: skip

MOST_MASKS = 2881  # frames of the longest clip

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What a clip has its size and length from."""

    changed: VideoSource | None  # or continued
    kept: VideoSource | None  # what sound is made for
    sound: AudioSource | None  # what a picture is made for


def read_conditions(
    options: argparse.Namespace,
    clip: ClipSettings,
    sources: Sources,
    version: str,
    loras: Stack,
    strip: Timeline | None,
) -> list[Condition]:
    """Return all that is given, in the order in which it applies.

    Args:
        options: the parsed flags.
        clip: for the length of masks.
        sources: of this clip, from ``read_clip``.
        version: of the model.
        loras: they know how much smaller a reference they want.
        strip: of --timeline, if there is one; its files lie beside it.
    """
    conditions: list[Condition] = []
    begin = None if sources.changed is None else _init_clip(sources.changed)
    if begin is not None:
        conditions.append(begin)
    conditions += [read_image(text, options.compression, space_of(options)) for text in options.image]
    if sources.sound is not None:
        conditions.append(KeepAudio(sources.sound, options.audio_noise))
    if sources.kept is not None:
        conditions.append(KeepVideo(sources.kept))
    conditions += [_reference_audio(text) for text in options.reference_audio]
    if options.generated_keyframes is not None:
        conditions.append(options.generated_keyframes)
    conditions += _reference_videos(options, clip.fps, loras)
    for text in options.character:
        placed, told = place_character(_character(text), loras, version)
        _log.info("%s: %s", text, told)
        conditions += placed
    conditions += [_tracks(text, clip, loras) for text in options.tracks]
    if strip is not None:
        conditions += _of_timeline(strip, options.timeline, loras, version)
    return conditions if begin is None else [*conditions, *_changes(options, clip, strip)]


def beside(timeline: Path, name: str) -> Path:
    """Return where a file of a timeline lies. Raises SettingError for one outside the folder of the timeline."""
    return path_inside(timeline.parent, name, "the folder of the timeline")


def _of_timeline(strip: Timeline, file: Path, loras: Stack, version: str) -> tuple[Condition, ...]:
    """All that lies on a timeline but what is made anew; how its characters are given is logged."""
    placed, told = place_timeline(strip, partial(beside, file), loras, version)
    for line in told:
        _log.info("%s", line)
    return placed


def _init_clip(video: VideoSource) -> InitClip:
    """The clip that is changed or continued, with its sound if it has any."""
    path = path_of(video)
    if video.space is None and probe(path).has_audio:
        return InitClip(video, AudioSource.of(path, video.start, video.seconds))
    _log.info("%s is a video without sound, so all of the sound is made.", path.name)
    return InitClip(video)


def _changes(options: argparse.Namespace, clip: ClipSettings, strip: Timeline | None) -> list[Condition]:
    """What is made anew of a clip that begins as another one."""
    changes: list[Condition] = [] if strip is None else [*strip.changes()]
    if options.retake:
        streams = options.only or "picture and sound"
        changes.append(replace(options.retake, streams=streams))
    if options.mask:
        mask = read_mask(options.mask, clip.fps, clip.asked_frames)
        changes.append(InpaintMask(mask, options.feather, options.mask_sound))
    return changes


def path_of(video: VideoSource) -> Path:
    """Return the file of a given video, or the folder of its EXR frames."""
    return video.source.path if isinstance(video.source, ExrFrames) else Path(str(video.source))


def read_image(text: str, compression: int | None, space: str | None) -> Picture:
    """Read the picture of an --image flag.

    Args:
        text: what was written.
        compression: holds where the flag says nothing else; light is never compressed.
        space: of an EXR picture; None where none was said.
    """
    path, settings = syntax.parse_picture(text)
    if is_exr(path):
        return Picture(read_exr(path)[None], **settings | {"compression": None}, space=_known_space(Path(path), space))
    return Picture(read_picture(path), **{"compression": compression} | settings)


def audio_source(text: str | None) -> AudioSource | None:
    """Return the sound of an --audio flag; None without one."""
    if not text:
        return None
    path, part = syntax.parse_file(text, "start", "seconds")
    return AudioSource.of(path, **part)


def _reference_audio(text: str) -> ReferenceAudio:
    path, part = syntax.parse_file(text, "strength", "start", "seconds")
    strength = part.pop("strength", 1.0)
    return ReferenceAudio(AudioSource.of(path, **part), strength)


def _character(text: str) -> Character:
    """Somebody of whom a picture, a voice or both are given; the end of a name says which a single file is."""
    files, settings = syntax.parse_character(text)
    part = {name: settings.pop(name) for name in ("start", "seconds") if name in settings}
    seen = files[0] if len(files) == 2 or files[0].suffix.lower() in PICTURES else None
    heard = None if files[-1] == seen else AudioSource.of(files[-1], **part)
    return Character(None if seen is None else read_picture(seen), heard, **settings)


def _reference_videos(options: argparse.Namespace, fps: Fraction, loras: Stack) -> list[ReferenceVideo]:
    """The references, each with its mask and its fill, as far as they go."""
    texts, space = options.reference_video, space_of(options)
    masks = [read_mask(path) for path in options.reference_mask]
    fills = [read_mask(path, fps) for path in options.reference_fill]
    pairs = zip(texts, [*masks, *[None] * len(texts)], [*fills, *[None] * len(texts)])
    return [replace(_reference_video(text, loras, space), mask=mask, fill=fill) for text, mask, fill in pairs]


def shows_whole(options: argparse.Namespace) -> bool:
    """Return whether a reference is shown whole, so that the clip may have any size."""
    parts = [_reference_parts(text)[1] for text in options.reference_video]
    return (bool(parts) and space_of(options) is not None) or any(part.get("edges") == MIRRORED for part in parts)


def _reference_parts(text: str) -> tuple[Path, dict[str, Any]]:
    """The file of a reference, and what is said behind it."""
    names = ("strength", "attention", "downscale", "temporal_scale", "grow", "grow_frames")
    return syntax.parse_file(text, *names, "outpaint", "margin", "edges", "start", "seconds")


def _reference_video(text: str, loras: Stack, space: str | None) -> ReferenceVideo:
    path, part = _reference_parts(text)
    source: dict[str, Any] = {name: part.pop(name) for name in ("start", "seconds") if name in part}
    return _reference(_film(path, source, space), part, loras)


def _reference(video: VideoSource, settings: dict[str, Any], loras: Stack) -> ReferenceVideo:
    """The reference with these settings; those of its size are what the LoRAs want, where nothing else was said."""
    downscale, temporal_scale = reference_scale(loras)
    settings = {"downscale": downscale, "temporal_scale": temporal_scale, **settings}
    return ReferenceVideo(video, **settings)


def _tracks(text: str, clip: ClipSettings, loras: Stack) -> ReferenceVideo:
    """Motion tracks as a reference. Raises SettingError where nothing says the size of the picture they are for."""
    sizes = ("width", "height", "frames")
    path, part = syntax.parse_file(text, "strength", "attention", "downscale", "temporal_scale", *sizes)
    known = {"width": clip.width, "height": clip.height, "frames": clip.asked_frames}
    size = {name: part.pop(name, known[name]) for name in sizes}
    if missing := [name for name in sizes if size[name] is None]:
        flags = ", ".join(f"--{name}" for name in missing)
        raise SettingError(
            f"Nothing says the {', '.join(missing)} of the clip that {path.name} is for: give {flags}, or write "
            f"{path.name}:{','.join(f'{name}=..' for name in missing)}."
        )
    return _reference(VideoSource(syntax.read_tracks(path, **size)), part, loras)


def read_mask(path: Path, fps: Fraction | None = None, frames: int | None = None) -> Tensor:
    """Read how white a picture or a video is, (1 or F, H, W) in 0..1; a picture that moves is a video.

    Args:
        path: of the picture or video.
        fps: the rate at which a video is read; None for its own.
        frames: how many of them, at most; None for as many as a clip can have.
    """
    if path.suffix.lower() in PICTURES and not is_moving(path):
        return read_picture(path).mean(-1)
    rate = fps or probe(path).fps or Fraction(24)
    return torch.cat([chunk.mean(-1) for chunk in read_video(path, fps=rate, frames=frames or MOST_MASKS)])


def video_source(text: str | None, space: str | None) -> VideoSource | None:
    """Return the video of a flag, such as --source; None where it was not given."""
    if text is None:
        return None
    return _film(*syntax.parse_file(text, "start", "seconds"), space)


def _film(path: Path, part: dict[str, Any], space: str | None) -> VideoSource:
    """A video file, or the EXR frames of a folder."""
    if not is_exr(path):
        return VideoSource(path, **part)
    if part:
        raise SettingError(f"{path.name} are EXR frames, which are taken whole: leave start and seconds out.")
    return VideoSource(ExrFrames(path, _known_space(path, space)))


def space_of(options: argparse.Namespace) -> str | None:
    """Return what --hdr says; None where it was not given."""
    return given(options, Request).get("hdr")


def _known_space(path: Path, space: str | None) -> Space:
    """The space of an EXR file. Raises SettingError where none was said."""
    if space is None:
        spaces = ", ".join(name.replace(" ", "-") for name in FILE_SPACES)
        raise SettingError(f"{path.name} is EXR, which holds light: say in which space with --hdr, one of {spaces}.")
    return FILE_SPACES[space]


def own_fps(video: VideoSource) -> Fraction | None:
    """Return the rate of a given video; None if it says none. Raises SettingError for EXR frames, which have none, and
    for a rate that no clip has."""
    path = path_of(video)
    if video.space is not None:
        raise SettingError(f"{path.name} are EXR frames, which have no frame rate of their own: give --fps.")
    rate = probe(path).fps
    if rate is not None and not LOWEST_FPS <= rate <= HIGHEST_FPS:
        raise SettingError(
            f"{path.name} has {float(rate):g} frames per second, a clip {LOWEST_FPS} to {HIGHEST_FPS}: say at which "
            "rate it is seen with --fps."
        )
    return rate
