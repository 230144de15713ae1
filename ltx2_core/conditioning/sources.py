"""Where pictures and sounds come from: tensors, files and light, read and prepared for a clip.

``conditions.py`` says what becomes of them.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Finding, MediaError, SettingError, counted
from ..errors.files import kept_path
from ..errors.stopping import check_stop
from ..fields import Checked, Number, zero
from ..geometry import TIME_SCALE, ClipShape, floor_frames
from ..media import mix_down, probe, read_audio, read_video
from ..media.exr import ExrFrames
from ..media.light import ACESCCT, Space, convert
from ..media.local import Source, name_of
from ..media.read import MISSING
from ..media.values import rate_of, sample_rate_of
from .preprocess import fit, fit_light
from .tracks import MotionTracks
from .values import FRAMES, PIXELS, SAMPLES, SOUND, check_values

AT_ONCE = 8  # frames of a tensor; to resize them takes several times their memory
LONGEST_SOUND = 3600  # seconds; no clip is longer

Numbered = ExrFrames | MotionTracks  # frames that are read by their numbers

# Which part of a file is read.
StartSeconds = Annotated[
    float, Number(0, 86400, 0.01, digits=0.001, unit="s", advanced=True), "The file is read from this second on."
]
LengthSeconds = Annotated[
    float | None,
    Number(0, 86400, 0.01, digits=0.001, unit="s", advanced=True),
    "So many seconds of the file are read. By default it is read to its end.",
]


class Encoders(Protocol):
    """The two VAE encoders, as conditions use them."""

    @property
    def crf(self) -> int:
        """The H.264 quality (CRF) with which the model was trained to see single pictures."""

    def video(self, read: Callable[[], Iterable[Tensor]], shape: tuple[int, int, int]) -> Tensor:
        """Encode pixels (B, 3, F, H, W) in -1..1, which come in chunks, to a latent (B, C, f, h, w).

        Args:
            read: Returns consecutive frames from the first on; called again if they have to be encoded once more.
            shape: F, H and W of all chunks together, in pixels.
        """

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        """Encode a waveform (1 or 2, N) in -1..1 to a latent (1, C, t, M).

        Args:
            waveform: Mono or stereo samples.
            sample_rate: Samples per second.
            latents: The length t of the result: what is longer is cut, what is shorter is filled with silence. None
                keeps the length of the waveform.
        """


@dataclass(frozen=True, eq=False)
class VideoSource(Checked):
    """Consecutive frames: a tensor (F, H, W, 3) in 0..1, a video file, light in EXR files, or tracks to be drawn.

    A file is read piece by piece, at the frame rate of the clip. All others may have a rate of their own, ``fps``;
    without one, each picture is one frame of the clip. The numbers of a tensor are light of ``light``, if that is
    given. Each frame is shown ``times`` times.
    """

    source: Tensor | Source | Numbered
    start: StartSeconds = 0.0
    seconds: LengthSeconds = None
    fps: Fraction | None = None
    light: Space | None = None
    times: int = 1

    def __post_init__(self) -> None:
        """Raise SettingError for frames whose numbers are no pictures, and for a rate that cannot be."""
        super().__post_init__()
        if self.fps is not None:
            object.__setattr__(self, "fps", rate_of(self.fps))
        if isinstance(self.source, (str, os.PathLike)):
            object.__setattr__(self, "source", kept_path(self.source))
        if isinstance(self.source, Tensor):
            check_values("The given video", self.source, PIXELS if self.light is None else None, FRAMES)
            object.__setattr__(self, "source", self.source.detach())

    @property
    def space(self) -> Space | None:
        """What the numbers of its pixels mean, where they are light; None for ordinary frames."""
        return self.source.space if isinstance(self.source, ExrFrames) else self.light

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as it is seen. Raises MediaError for a file without pictures."""
        if isinstance(self.source, Numbered):
            return self.source.size
        if isinstance(self.source, Tensor):
            return self.source.shape[2], self.source.shape[1]
        size = probe(self.source).size
        if size is None:
            raise MediaError(f"{name_of(self.source)} has sound but no pictures; choose a video.")
        return size

    def count(self, fps: Fraction) -> int:
        """Return the number of frames at ``fps``.

        Raises MediaError for a file that does not say how long it is, or ends before ``start``.
        """
        return self.times * self._count(fps)

    def _count(self, fps: Fraction) -> int:
        """The same where each frame is shown once."""
        if isinstance(self.source, Tensor | Numbered):
            return max(1, floor(len(self.source) * fps / (self.fps or fps) + Fraction(1, 2)))
        length = probe(self.source).seconds
        if length is None:
            raise MediaError(f"{name_of(self.source)} does not say how long it is: save it anew, for example as MP4.")
        rest = length - Fraction(self.start).limit_denominator(1_000_000)
        if rest <= 0:
            raise MediaError(f"{name_of(self.source)} has no picture at {self.start:g} s; start earlier.")
        rest = min(rest, Fraction(self.seconds).limit_denominator(1_000_000)) if self.seconds else rest
        return max(1, floor(rest * fps + Fraction(1, 2)))  # as many as read_video shows

    def chunks(self, fps: Fraction, frames: int) -> Iterator[Tensor]:
        """Yield the first ``frames`` frames (F, H, W, 3) at ``fps``; light as the model sees it, in ACEScct.

        The last picture is repeated where the source ends a little earlier. Raises MediaError for a file that ends more
        than a second before it says.
        """
        if self.space is not None:
            yield from (convert(each, self.space, ACESCCT) for each in self._pictures(fps, frames))
        else:
            yield from self._pictures(fps, frames)

    def _pictures(self, fps: Fraction, frames: int) -> Iterator[Tensor]:
        """The same in the numbers of the source."""
        for chunk in self._once(fps, -(-frames // self.times)):
            check_stop()
            shown = chunk if self.times == 1 else chunk.repeat_interleave(self.times, dim=0)[:frames]
            frames -= len(shown)
            yield shown

    def _once(self, fps: Fraction, frames: int) -> Iterator[Tensor]:
        """The same where each frame is shown once."""
        if isinstance(self.source, Tensor | Numbered):
            return _nearest(self.source, (self.fps or fps) / fps, frames)
        return self._of_file(self.source, fps, frames)

    def _of_file(self, file: Source, fps: Fraction, frames: int) -> Iterator[Tensor]:
        missing = frames
        for chunk in read_video(file, fps=fps, start=self.start, frames=frames):
            missing -= len(chunk)
            yield chunk
        if (shown := frames - missing) + fps * MISSING < (due := min(frames, self._count(fps))):
            raise MediaError(
                f"{name_of(file)} is cut off: by the length that it says there are {due} frames at "
                f"{float(fps):g} fps, but it ends after {shown}."
            )
        if missing:
            yield chunk[-1:].expand(missing, -1, -1, -1)

    def fitted(self, fps: Fraction, frames: int, width: int, height: int, crop: bool = True) -> Iterator[Tensor]:
        """Yield the first ``frames`` frames (1, 3, F, height, width) in -1..1, as the video encoder takes them.

        They are cropped to the shape that is asked for, or without ``crop`` resized to it as they are.
        """
        if self.space is not None:
            return (fit_light(each, width, height, self.space, crop) for each in self._pictures(fps, frames))
        return (fit(chunk, width, height, crop) for chunk in self._pictures(fps, frames))


def _nearest(source: Tensor | Numbered, rate: Fraction, frames: int) -> Iterator[Tensor]:
    """Yield ``frames`` frames of ``source``, of which ``rate`` are passed for each; the last one stays."""
    last = len(source) - 1
    nearest = [min(last, floor(number * rate + Fraction(1, 2))) for number in range(frames)]
    if isinstance(source, Numbered):
        yield from source.read(nearest)
    else:
        whole = rate == 1 and frames <= len(source)
        yield from (source[:frames] if whole else source[nearest]).split(AT_ONCE)


@dataclass(frozen=True, eq=False)
class AudioSource:
    """Sound: samples (C, N) in -1..1; more than two channels are mixed down to two."""

    waveform: Tensor
    sample_rate: int

    def __post_init__(self) -> None:
        """Mix the channels down. Raises MediaError for more than 7.1 has, SettingError for what is no sound."""
        check_values("The given sound", self.waveform, SAMPLES, SOUND)
        object.__setattr__(self, "sample_rate", sample_rate_of(self.sample_rate))
        object.__setattr__(self, "waveform", mix_down(self.waveform))

    @classmethod
    def of(cls, source: Source, start: StartSeconds = 0.0, seconds: LengthSeconds = None) -> "AudioSource":
        """Read the sound of a file, at its own sample rate or at 48 kHz if that is lower, and at most an hour of it.

        Raises MediaError if there is none.
        """
        rate, seconds = min(probe(source).sample_rate or 48_000, 48_000), min(seconds or LONGEST_SOUND, LONGEST_SOUND)
        return cls(torch.cat(list(read_audio(source, sample_rate=rate, start=start, seconds=seconds)), dim=1), rate)

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.waveform.shape[-1] / self.sample_rate

    def lasting(self, shape: ClipShape) -> Tensor:
        """Cut the waveform to the length of the clip, or fill it with silence."""
        wanted = shape.samples(self.sample_rate)
        return F.pad(self.waveform, (0, max(0, wanted - self.waveform.shape[-1])))[..., :wanted]

    def findings(self, shape: ClipShape) -> list[Finding]:
        """Report a sound that is shorter than the clip."""
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

    def encoded(self, shape: ClipShape, encoders: Encoders) -> Tensor:
        """Encode the sound to a latent (1, C, t, M) that is at least as long as that of the clip."""
        heard = self.waveform[:, : shape.samples(self.sample_rate) + self.sample_rate]
        return encoders.audio(heard, self.sample_rate, shape.audio_latents + 1)  # ComfyUI once had one more


@dataclass(frozen=True)
class SoundPart(Checked):
    """Which part of a sound is taken."""

    start: Annotated[
        float,
        Number(0, 86400, 0.01, digits=0.001, unit="s", advanced=True, flag="audio"),
        "The sound is taken from this second on.",
    ] = 0.0
    seconds: Annotated[
        float,
        Number(
            0, 86400, 0.01, digits=0.001, unit="s", advanced=True, flag="audio", instead=zero("to its end", usual=5)
        ),
        "So many seconds of the sound are taken. 0 takes it to its end.",
    ] = 0.0

    def of(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Return this part of a waveform (..., N)."""
        first = round(self.start * sample_rate)
        last = first + round(self.seconds * sample_rate) if self.seconds else waveform.shape[-1]
        return waveform[..., first:last]


def samples_of(sound: AudioSource | None) -> tuple[Tensor | None, int | None]:
    """Return waveform and sample rate of a sound, as files are written of it; nothing without one."""
    return (None, None) if sound is None else (sound.waveform, sound.sample_rate)


def check_length(video: VideoSource, shape: ClipShape) -> None:
    """Raise SettingError if ``video`` ends so much before the clip that a shorter one would be nearer to it.

    Clips have 8 k + 1 frames, other videos any number; for those that lack, the last picture stays.
    """
    available = video.count(shape.fps)
    if available <= shape.frames - TIME_SCALE:
        possible = counted(max(1, floor_frames(available)), "frame")
        raise SettingError(
            f"The given video has {counted(available, 'frame')} at {float(shape.fps):g} fps, the clip {shape.frames}: "
            f"make the clip {possible} long, or give a longer video."
        )
