"""What people give, as they have it: pictures, films, sounds, times and masks.

It becomes items when the size of the clip is known; each stage of a clip does that again at its own size.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import SPACE_SCALE, TIME_SCALE, ClipShape
from ..health import Finding
from ..media import compress, probe, read_audio, read_video
from ..media.read import Source
from .begin import Begin
from .frames import Keyframe
from .frozen import Frozen
from .masks import Inpaint, Retake, cells
from .preprocess import fit
from .reference import ReferenceAudio, ReferenceVideo
from .state import Item

STREAMS = ("video", "audio")


class Encoders(Protocol):
    """What makes latents of pixels and waveforms."""

    @property
    def crf(self) -> int:
        """How strongly the model wants single pictures compressed."""

    def video(self, chunks: Iterable[Tensor], shape: tuple[int, int, int]) -> Tensor:
        """(B, 3, F, H, W) pixels in -1..1, in chunks, and their whole (F, H, W) -> (B, C, f, h, w)."""

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        """(1 or 2, N) -> (1, C, t, M), as many ``latents`` as asked for: cut, or filled with silence."""


class Given(Protocol):
    """Something that is given for a clip."""

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        """Its items in a clip of ``shape`` that has these ``streams``."""


def items_of(given: Iterable[Given], shape: ClipShape, streams: Collection[str], encode: Encoders) -> list[Item]:
    """The items of everything ``given``, in its order."""
    return [item for each in given for item in each.items(shape, streams, encode)]


@dataclass(frozen=True, eq=False)
class Footage:
    """Pictures in a row: a tensor (F, H, W, 3) in 0..1, or a video file, from ``start`` seconds on.

    A file is read as it is needed, at the frame rate of the clip. A tensor may have a rate of its own, ``fps``; else
    each picture is one frame of the clip.
    """

    source: Tensor | Source
    start: float = 0.0
    seconds: float | None = None  # None: to the end of the file
    fps: Fraction | None = None

    def size(self) -> tuple[int, int]:
        """Width and height."""
        if isinstance(self.source, Tensor):
            return self.source.shape[2], self.source.shape[1]
        found = probe(self.source).size
        if found is None:
            raise ValueError("This file has sound but no pictures; choose a video.")
        return found

    def count(self, fps: Fraction) -> int:
        """How many frames there are at ``fps``."""
        if isinstance(self.source, Tensor):
            return floor(len(self.source) * fps / (self.fps or fps) + Fraction(1, 2))
        lasting = probe(self.source).seconds
        if lasting is None:
            raise ValueError("This video does not say how long it is: save it anew, for example as MP4.")
        rest = lasting - Fraction(self.start).limit_denominator(1_000_000)
        rest = rest if self.seconds is None else min(rest, Fraction(self.seconds).limit_denominator(1_000_000))
        return floor(rest * fps + Fraction(1, 2))  # as many as read_video shows

    def chunks(self, fps: Fraction, frames: int) -> Iterator[Tensor]:
        """The first ``frames`` (F, H, W, 3); the last picture stays where a file ends a little before it said."""
        if isinstance(self.source, Tensor):
            rate, last = (self.fps or fps) / fps, len(self.source) - 1
            nearest = [min(last, floor(number * rate + Fraction(1, 2))) for number in range(frames)]
            yield self.source[:frames] if rate == 1 else self.source[nearest]
            return
        missing = frames
        for chunk in read_video(self.source, fps=fps, start=self.start, frames=frames):
            missing -= len(chunk)
            yield chunk
        if missing:
            yield chunk[-1:].expand(missing, -1, -1, -1)

    def fitted(self, fps: Fraction, frames: int, width: int, height: int) -> Iterator[Tensor]:
        """The first ``frames`` as the video encoder takes them."""
        return (fit(chunk, width, height) for chunk in self.chunks(fps, frames))


@dataclass(frozen=True, eq=False)
class Recording:
    """Sound, (1 or 2, N) in -1..1."""

    waveform: Tensor
    sample_rate: int

    @classmethod
    def of(cls, source: Source, start: float = 0.0, seconds: float | None = None) -> "Recording":
        """The sound of a file, at the rate that it has there or at most 48 kHz. ValueError if there is none."""
        rate = min(probe(source).sample_rate or 48_000, 48_000)
        return cls(torch.cat(list(read_audio(source, sample_rate=rate, start=start, seconds=seconds)), dim=1), rate)

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate

    def lasting(self, shape: ClipShape) -> Tensor:
        """The waveform as long as the clip: cut, or filled with silence."""
        wanted = shape.samples(self.sample_rate)
        return F.pad(self.waveform, (0, max(0, wanted - self.waveform.shape[-1])))[..., :wanted]

    def findings(self, shape: ClipShape) -> list[Finding]:
        """What there is to say about its length."""
        missing = float(shape.seconds) - self.seconds
        if missing < 0.1:
            return []
        return [
            Finding(
                "reading the sound",
                f"it lasts {self.seconds:.2f} s, and the clip {float(shape.seconds):.2f} s",
                "the rest is filled with silence; make the clip shorter if that is not meant.",
            )
        ]

    def encoded(self, shape: ClipShape, encode: Encoders) -> Tensor:
        """Its latent, at least as long as that of the clip."""
        heard = self.waveform[:, : shape.samples(self.sample_rate) + self.sample_rate]
        return encode.audio(heard, self.sample_rate, shape.audio_latents + 1)  # ComfyUI once had one more


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, or several as a short video, that the clip shows at a frame; negative frames count from the end.

    ``crf`` is how strongly a single picture is compressed before it is encoded: None as the model was trained, 0 not.
    ``strength`` and ``append`` are those of Keyframe.
    """

    image: Tensor  # (F, H, W, 3) in 0..1
    frame: int = 0
    strength: float = 1.0
    append: bool = False
    crf: int | None = None

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        size = whole(len(self.image)), shape.height, shape.width
        latent = encode.video((fit(each, shape.width, shape.height) for each in self._compressed(encode.crf)), size)
        yield Keyframe(latent, self.frame, self.strength, self.append)

    def _compressed(self, usual: int) -> Iterator[Tensor]:
        crf = usual if self.crf is None else self.crf
        yield compress(self.image, crf) if len(self.image) == 1 else self.image


@dataclass(frozen=True, eq=False)
class ReferenceClip:
    """A video that an IC-LoRA follows, as far as it lasts.

    ``downscale`` and ``temporal_scale`` are what the LoRA says. ``attention`` is how strongly clip and reference see
    each other: a number, or a mask (1 or F, H, W) in 0..1 of the reference's own frames.
    """

    footage: Footage
    downscale: int = 1
    temporal_scale: int = 1
    strength: float = 1.0
    attention: float | Tensor = 1.0

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        """Raises ValueError where the clip cannot be divided by ``downscale``."""
        width, height = shape.width // self.downscale, shape.height // self.downscale
        if shape.width % (SPACE_SCALE * self.downscale) or shape.height % (SPACE_SCALE * self.downscale):
            raise ValueError(
                f"This reference is {self.downscale} times smaller than the clip, so width and height of the clip must "
                f"be multiples of {SPACE_SCALE * self.downscale}; it has {shape.width} x {shape.height}."
            )
        available = min(self.footage.count(shape.fps), shape.frames)
        frames = whole((available - 1) // self.temporal_scale + 1)
        read = self.footage.fitted(shape.fps, (frames - 1) * self.temporal_scale + 1, width, height)
        latent = encode.video(_every(read, self.temporal_scale), (frames, height, width))
        attention = self.attention
        if isinstance(attention, Tensor):
            attention = cells(_fitted_mask(attention, width, height), (latent.shape[2], *latent.shape[3:]))
        yield ReferenceVideo(latent, self.downscale, self.temporal_scale, self.strength, attention)


@dataclass(frozen=True, eq=False)
class Voice:
    """A sound from before the clip, whose voice a LoRA takes over."""

    sound: Recording
    strength: float = 1.0

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        yield ReferenceAudio(encode.audio(self.sound.waveform, self.sound.sample_rate), self.strength)


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound of the clip, for which a picture is made; the clip carries the recording itself."""

    sound: Recording
    noise: float = 0.0

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        yield Frozen("audio", self.sound.encoded(shape, encode), self.noise)


@dataclass(frozen=True, eq=False)
class Film:
    """The picture of the clip, for which sound is made; the clip carries these frames themselves."""

    footage: Footage

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        """Raises ValueError if it is shorter than the clip."""
        check_length(self.footage, shape)
        read = self.footage.fitted(shape.fps, shape.frames, shape.width, shape.height)
        yield Frozen("video", encode.video(read, (shape.frames, shape.height, shape.width)))


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the clip is made from, instead of from nothing: for regions to be made anew, and to be continued.

    Of a clip that is longer, the beginning is kept, and goes on as is new.
    """

    footage: Footage
    sound: Recording | None = None

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> "Iterator[Begin]":
        frames = whole(min(self.footage.count(shape.fps), shape.frames))
        own = ClipShape(shape.width, shape.height, frames, shape.fps)
        read = self.footage.fitted(own.fps, frames, own.width, own.height)
        yield Begin("video", encode.video(read, (frames, own.height, own.width)))
        if self.sound is not None and "audio" in streams:
            yield Begin("audio", self.sound.encoded(own, encode)[:, :, : own.audio_latents])


@dataclass(frozen=True)
class RetakeRange:
    """Makes anew what lies between two times, in seconds, in some of the streams; the others stay as they are.

    Of a clip that had only some streams, ``among`` says which; one that it had not is made as a whole.
    """

    start: float
    end: float
    streams: Collection[str] = STREAMS
    among: Collection[str] = STREAMS

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        for stream in self.among:
            if stream in streams:
                yield Retake(stream, self.start, self.end) if stream in self.streams else Frozen(stream)


@dataclass(frozen=True, eq=False)
class Region:
    """Makes anew what a mask (1 or F, H, W) in 0..1 covers, and the sound only if asked to.

    The mask is resized and cropped as pictures are. Around it the picture changes less and less, over ``feather`` cells
    of 32 pixels.
    """

    mask: Tensor
    feather: int = 1
    sound: bool = False

    def items(self, shape: ClipShape, streams: Collection[str], encode: Encoders) -> Iterator[Item]:
        """Raises ValueError for a mask of another number of frames, and for an empty one."""
        mask = cells(_fitted_mask(self.mask, shape.width, shape.height), shape.video_latent)
        if not mask.any():
            raise ValueError("The mask is empty, so there is nothing to make anew: paint white what shall change.")
        yield Inpaint("video", _feathered(mask, self.feather)[None, None])
        if "audio" in streams and not self.sound:
            yield Frozen("audio")


def recording_in(given: Iterable[Given]) -> Recording | None:
    """The sound that a clip carries as it is, if one is given."""
    return next((each.sound for each in given if isinstance(each, Sound)), None)


def film_in(given: Iterable[Given]) -> Footage | None:
    """The frames that a clip carries as they are, if they are given."""
    return next((each.footage for each in given if isinstance(each, Film)), None)


def whole(frames: int) -> int:
    """As many of ``frames`` as fill latents: 8 k + 1."""
    return (frames - 1) // TIME_SCALE * TIME_SCALE + 1


def check_length(footage: Footage, shape: ClipShape) -> None:
    """ValueError if there are fewer frames than in the clip."""
    found = footage.count(shape.fps)
    if found < shape.frames:
        raise ValueError(
            f"The given video has {found} frames at {float(shape.fps):g} fps, the clip {shape.frames}: make the clip "
            f"{max(1, whole(found))} frames long, or give a longer video."
        )


def _every(chunks: Iterable[Tensor], step: int) -> Iterator[Tensor]:
    """Of the frames of ``chunks`` (B, 3, F, H, W) the first, and from the second on every ``step``-th."""
    number = 0
    for chunk in chunks:
        frames = range(number, number + chunk.shape[2])
        number = frames.stop
        if kept := [index for index, frame in enumerate(frames) if frame == 0 or (frame - 1) % step == 0]:
            yield chunk[:, :, kept]


def _fitted_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """A mask (F, H, W) resized and cropped as pictures are."""
    return (fit(mask[..., None], width, height)[0, 0] + 1) / 2


def _feathered(mask: Tensor, distance: int) -> Tensor:
    """A mask (F, H, W) that falls linearly to 0 around what it covers, over ``distance`` cells."""
    for _ in range(distance):
        around = F.max_pool3d(mask[None], (1, 3, 3), stride=1, padding=(0, 1, 1))[0]
        mask = torch.maximum(mask, around - 1 / (distance + 1))
    return mask
