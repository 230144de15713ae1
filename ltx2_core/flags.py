"""What is given on the command line: pictures, sounds, films, times, masks and segments."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from .conditioning.conditions import (
    STREAMS,
    AudioSource,
    Condition,
    InitClip,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    Picture,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
    VideoSource,
)
from .geometry import exact_fps, floor_frames, nearest_frames, nearest_size
from .lora import Stack
from .media import probe, read_picture, read_video
from .sampling.windows import Segment, Windowing

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def add_flags(clip: argparse.ArgumentParser) -> None:
    """The flags that say what is given."""
    clip.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FRAME:PATH[:STRENGTH]",
        help="a picture at a frame, repeatable: 0 is the first frame, -1 the last one; strength 0..1 (default 1)",
    )
    clip.add_argument("--compression", type=int, metavar="CRF", help="of given pictures; 0 off (default: as trained)")
    clip.add_argument("--audio", type=Path, metavar="FILE", help="a sound, for which a picture is made")
    clip.add_argument("--audio-noise", type=float, default=0.0, help="0..1: how noisy the model sees that sound")
    clip.add_argument("--video", type=Path, metavar="FILE", help="a video, for which sound is made")
    clip.add_argument("--reference-video", type=Path, metavar="FILE", help="a video that an IC-LoRA follows")
    clip.add_argument("--reference-audio", type=Path, metavar="FILE", help="a voice that a LoRA takes over")
    clip.add_argument("--source", type=Path, metavar="FILE", help="a video to change, or to continue in a longer clip")
    clip.add_argument("--retake", metavar="START:END", help="make these seconds of --source anew")
    clip.add_argument("--only", choices=("picture", "sound"), help="retake one stream, and keep the other one")
    clip.add_argument("--mask", type=Path, metavar="FILE", help="make anew what is white; a picture or a video")
    clip.add_argument("--feather", type=int, default=1, help="cells of 32 pixels over which a mask fades (default 1)")
    clip.add_argument("--sound-only", action="store_true", help="make no picture; for .wav and .flac")
    clip.add_argument(
        "--segments", type=Path, metavar="FILE", help="prompts of a long clip: in each line seconds, then the prompt"
    )
    clip.add_argument("--window", type=int, metavar="FRAMES", help="make a long clip in windows of 8 k + 1 frames")
    clip.add_argument("--overlap", type=int, default=24, metavar="FRAMES", help="that windows share (default 24)")
    clip.add_argument("--drift", type=float, default=0.0, help="0..1: draw the colours of windows to the first one")
    clip.add_argument("--resume", type=Path, metavar="FOLDER", help="keep finished windows, and go on from them")


def joined(arguments: Sequence[str]) -> list[str]:
    """``--image -1:PATH`` as one word, because argparse takes -1:PATH for a flag."""
    text = re.sub(r"(^|\0)--image\0(?=-\d+:)", r"\1--image=", "\0".join(arguments))
    return text.split("\0") if text else []


@dataclass(frozen=True)
class Material:
    """What the flags say: what is given, and the size of the clip, as far as anything says it."""

    fps: Fraction
    width: int | None
    height: int | None
    frames: int | None
    conditions: list[Condition] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    windowing: Windowing | None = None


def read_material(options: argparse.Namespace, loras: Stack = ()) -> Material:
    """Read what ``options`` name. ValueError or OSError for files and values that cannot be."""
    if options.sound_only and options.output.suffix.lower() not in (".wav", ".flac"):
        raise ValueError(f"--sound-only makes no picture, so {options.output.name} must be a .wav or .flac file.")
    if (options.retake or options.mask) and not options.source:
        raise ValueError("--retake and --mask change a part of a video: say which, with --source FILE.")
    film = options.source or options.video
    footage = VideoSource(film) if film else None
    fps = exact_fps(options.fps or (probe(film).fps if film else None) or 24)
    width, height, frames = options.width, options.height, options.frames
    if options.seconds is not None:
        frames = nearest_frames(options.seconds * fps)
        print(f"{options.seconds:g} s at {options.fps or fps} fps: {frames} frames.", file=sys.stderr)
    if footage is not None:
        size = footage.size()
        width, height = width or nearest_size(size[0]), height or nearest_size(size[1])
        frames = frames or floor_frames(footage.count(fps))
        print(f"{film.name} as {width} x {height}, {frames} frames at {float(fps):g} fps.", file=sys.stderr)
    segments = read_segments(options.segments) if options.segments else []
    windowing = Windowing(options.window or 121, options.overlap, drift_control=options.drift)
    return Material(
        *(fps, width, height, frames, _conditions(options, loras, fps, frames), segments),
        windowing if options.window or segments else None,
    )


def _conditions(options: argparse.Namespace, loras: Stack, fps: Fraction, frames: int | None) -> list[Condition]:
    conditions: list[Condition] = []
    has_sound = options.source is not None and probe(options.source).has_audio
    if options.source:
        if not has_sound:
            print(f"{options.source.name} is a video without sound, so all of the sound is made.", file=sys.stderr)
        conditions.append(InitClip(VideoSource(options.source), AudioSource.of(options.source) if has_sound else None))
    conditions += [_picture(text, options.compression) for text in options.image]
    if options.audio:
        conditions.append(KeepAudio(AudioSource.of(options.audio), options.audio_noise))
    if options.video:
        conditions.append(KeepVideo(VideoSource(options.video)))
    if options.reference_audio:
        conditions.append(ReferenceAudio(AudioSource.of(options.reference_audio)))
    if options.reference_video:
        factors = [(lora.downscale, lora.temporal_downscale) for lora, _ in loras]
        downscale, temporal_scale = max(factors, default=(1, 1))
        conditions.append(ReferenceVideo(VideoSource(options.reference_video), downscale, temporal_scale))
    if options.retake:
        among = STREAMS if has_sound else STREAMS[:1]
        conditions.append(RetakeRange(*_range(options.retake), options.only or "picture and sound", among))
    if options.mask:
        conditions.append(InpaintMask(_mask(options.mask, fps, frames), options.feather, sound=not has_sound))
    return conditions


def _picture(text: str, compression: int | None) -> Picture:
    """From FRAME:PATH[:STRENGTH]; a path may hold colons itself."""
    found = re.fullmatch(r"(-?\d+):(.+?)(?::([\d.]+))?", text)
    if found is None:
        raise ValueError(f"--image is {text!r}; write FRAME:PATH or FRAME:PATH:STRENGTH, for example 0:cat.png:0.9.")
    frame, path, strength = found.groups()
    return Picture(read_picture(path), int(frame), float(strength or 1), compression=compression)


def read_segments(path: Path) -> list[Segment]:
    """Prompts and when they begin: in each line seconds, then the prompt. Lines that begin with # are left out."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        seconds, _, prompt = line.strip().partition(" ")
        if not seconds or seconds.startswith("#"):
            continue
        try:
            found.append(Segment(float(seconds.rstrip(":s")), prompt.strip()))
        except ValueError:
            raise ValueError(
                f"Line {number} of {path.name} is {line!r}; write seconds, then the prompt, such as 2.5 a dog barks."
            ) from None
    if not found:
        raise ValueError(f"There is no segment in {path.name}; write seconds and a prompt in each line.")
    return found


def _range(text: str) -> tuple[float, float]:
    start, _, end = text.partition(":")
    try:
        found = float(start), float(end)
    except ValueError:
        raise ValueError(f"--retake is {text!r}; write START:END in seconds, for example 1.5:3.") from None
    if found[0] >= found[1]:
        raise ValueError(f"--retake goes from {found[0]:g} s to {found[1]:g} s; it must end after its beginning.")
    return found


def _mask(path: Path, fps: Fraction, frames: int | None) -> Tensor:
    """(F, H, W): how white it is."""
    if path.suffix.lower() in PICTURES:
        return read_picture(path).mean(-1)
    return torch.cat([chunk.mean(-1) for chunk in read_video(path, fps=fps, frames=frames)])
