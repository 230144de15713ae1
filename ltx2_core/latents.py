"""Both streams of one sample as a single vector, and its noise."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from . import geometry
from .errors import SettingError, counted
from .geometry import ClipShape, Keyframes
from .seeds import APPENDED_NOISE

MOST_BYTES = 16 * 10**9  # of an empty latent

STREAMS = ("video", "audio")


class Streams(Protocol):
    """Something that has a part for each stream."""

    @property
    def video(self) -> object:
        """The part of the video, None if there is none."""

    @property
    def audio(self) -> object:
        """The part of the audio, None if there is none."""


@dataclass(frozen=True)
class AVLatent:
    """Both streams of one sample; to a sampler they are a single vector, and an absent stream stays absent.

    While it is sampled, a stream is its tokens (B, N, C), to which others may be appended. A finished latent carries
    the keyframes that were generated beside it; they are no part of the vector.
    """

    video: Tensor | None  # (B, C, F, H, W)
    audio: Tensor | None  # (B, C, T, M)
    keyframes: Keyframes | None = None

    def map(self, function: Callable[..., Tensor], *others: "Streams") -> "AVLatent":
        """Apply ``function`` to each stream that is present and to that stream of ``others``."""
        return per_stream(function, self, *others)

    def __add__(self, other: "AVLatent") -> "AVLatent":
        return self.map(torch.add, other)

    def __sub__(self, other: "AVLatent") -> "AVLatent":
        return self.map(torch.sub, other)

    def __mul__(self, factor: "float | AVLatent") -> "AVLatent":
        if isinstance(factor, AVLatent):
            return self.map(torch.mul, factor)
        return self.map(lambda x: x * factor)

    __rmul__ = __mul__

    def to(self, *args: torch.device | torch.dtype | str) -> "AVLatent":
        """Move or convert both streams and the keyframes, as ``Tensor.to`` does."""
        moved, own = self.map(lambda x: x.to(*args)), self.keyframes
        return moved if own is None else replace(moved, keyframes=own.map(lambda x: x.to(*args)))

    def streams(self) -> dict[str, Tensor]:
        """Return the streams that are present, by name."""
        return {name: x for name, x in (("video", self.video), ("audio", self.audio)) if x is not None}

    @property
    def generated_frames(self) -> tuple[int, ...]:
        """The frames of the clip that were generated beside it, rising."""
        return () if self.keyframes is None else self.keyframes.frames

    def clips(self) -> list["AVLatent"]:
        """Return the clips of a batch, each as a batch of one."""
        parts = {name: x.split(1) for name, x in self.streams().items()}
        count, own = len(next(iter(parts.values()), ())), self.keyframes
        clips = [AVLatent(*(parts[name][i] if name in parts else None for name in STREAMS)) for i in range(count)]
        if own is None:
            return clips
        return [replace(each, keyframes=Keyframes(x, own.frames)) for each, x in zip(clips, own.latent.split(1))]

    def shape(self, fps: Fraction) -> ClipShape:
        """Return the clip that this is at ``fps``; of a sound alone, one whose picture would be as small as can be."""
        if self.video is not None:
            return ClipShape.of_latent(self.video, fps)
        assert self.audio is not None
        frames = geometry.nearest_frames(float(self.audio.shape[2] / geometry.AUDIO_RATE * fps))
        return ClipShape(geometry.SPACE_SCALE, geometry.SPACE_SCALE, frames, fps)

    def unequal_lengths(self, fps: Fraction) -> str:
        """Say if picture and sound will not end together; one audio latent more or less is rounding."""
        if self.video is None or self.audio is None:
            return ""
        clip, latents = self.shape(fps), self.audio.shape[2]
        if abs(latents - clip.audio_latents) <= 1:
            return ""
        return (
            f"The sound of this LATENT lasts {latents / geometry.AUDIO_RATE:.2f} s, the picture "
            f"{float(clip.seconds):.2f} s at {float(fps):g} fps: was it made for another frame rate?"
        )

    def first(self, shape: ClipShape) -> "AVLatent":
        """Return the beginning of this, as long as a clip of ``shape``."""
        video = None if self.video is None else self.video[:, :, : shape.video_latent[0]]
        audio = None if self.audio is None else self.audio[:, :, : shape.audio_latents]
        keyframes = None if self.keyframes is None else self.keyframes.before(shape.frames)
        return AVLatent(video, audio, keyframes)

    def select(self, streams: Collection[str]) -> "AVLatent":
        """Keep only these streams, as far as they are present."""
        return AVLatent(
            self.video if "video" in streams else None,
            self.audio if "audio" in streams else None,
            self.keyframes if "video" in streams else None,
        )


def from_parts(parts: Sequence[Tensor]) -> AVLatent:
    """Tell video and audio among latents by their shapes; one clip is repeated for each of the other stream's.

    Raises SettingError for anything else, for unequal numbers of clips, and for nothing.
    """
    videos, sounds = list(filter(_is_video, parts)), list(filter(_is_audio, parts))
    shapes = " and ".join(str(tuple(x.shape)) for x in parts)
    if len(videos) > 1 or len(sounds) > 1 or len(videos) + len(sounds) != len(parts):
        raise SettingError(
            f"This LATENT has the shape {shapes}. LTX-2 needs video (B, {geometry.VIDEO_CHANNELS}, F, H, W), audio "
            f"(B, {geometry.AUDIO_CHANNELS}, T, {geometry.AUDIO_BINS}), or both: connect LTX-2 Empty AV Latent."
        )
    if any(not x.numel() for x in parts):
        raise SettingError(f"This LATENT is empty, with the shape {shapes}: connect LTX-2 Empty AV Latent.")
    count = max(map(len, parts))
    if any(len(x) not in (1, count) for x in parts):
        raise SettingError(
            f"This LATENT has {counted(len(videos[0]), 'clip')} with pictures and {len(sounds[0])} with sound: "
            "repeat the fewer ones, or make as many of both."
        )
    video, audio = (next((x.expand(count, *x.shape[1:]) for x in each), None) for each in (videos, sounds))
    return AVLatent(video, audio)


def _is_video(x: Tensor) -> bool:
    return x.ndim == 5 and x.shape[1] == geometry.VIDEO_CHANNELS


def _is_audio(x: Tensor) -> bool:
    return x.ndim == 4 and (x.shape[1], x.shape[3]) == (geometry.AUDIO_CHANNELS, geometry.AUDIO_BINS)


def per_stream(function: Callable[..., Tensor], first: Streams, *others: Streams) -> AVLatent:
    """Apply ``function`` to the ``video`` of all arguments and to the ``audio``, as far as ``first`` has them."""

    def apply(name: str) -> Tensor | None:
        own = getattr(first, name)
        rest = [getattr(other, name) for other in others]
        return None if own is None else function(own, *rest)

    return AVLatent(apply("video"), apply("audio"))


def empty(shape: ClipShape, batch: int = 1) -> AVLatent:
    """Make a latent of zeros of the size of a clip, on the CPU, float32.

    Raises SettingError for one that would take more than MOST_BYTES.
    """
    video = batch, geometry.VIDEO_CHANNELS, *shape.video_latent
    audio = batch, geometry.AUDIO_CHANNELS, shape.audio_latents, geometry.AUDIO_BINS
    size = 4 * (prod(video) + prod(audio))
    if size > MOST_BYTES:
        raise SettingError(
            f"{batch} x {shape.describe()} would take {size / 1e9:.0f} GB before anything is made, at most "
            f"{MOST_BYTES / 1e9:.0f} GB: ask for a smaller or shorter clip, or for fewer at once."
        )
    return AVLatent(torch.zeros(video), torch.zeros(audio))


def draw_toward(x: Tensor, other: Tensor, factor: float) -> Tensor:
    """Draw the mean and deviation of each channel of ``x`` to those of ``other``, by ``factor``: 1 fully.

    Both are (B, C, ...). Source: Huang and Belongie, arXiv:1703.06868.
    """
    deviation, mean = torch.std_mean(x, tuple(range(2, x.ndim)), keepdim=True)
    other_deviation, other_mean = torch.std_mean(other, tuple(range(2, other.ndim)), keepdim=True)
    return torch.lerp(x, (x - mean) / deviation.clamp(min=1e-6) * other_deviation + other_mean, factor)


def compress_range(x: Tensor, ratio: float) -> Tensor:
    """Make large numbers of ``x`` smaller, by at most 60 % for a ``ratio`` of 1.

    As in diffusers (``LTX2LatentUpsamplePipeline.tone_map_latents``).
    """
    share = 0.75 * ratio
    return x * (1 - 0.8 * share * torch.sigmoid(4 * share * (x.abs() - 1)))


NOISE_ORDERS = ("official", "comfyui")


class Noise:
    """Gaussian noise from one generator, draw after draw, each time video before audio.

    Both streams are token sequences (B, N, C) here (``sampling/README.md``, "Noise"). Numbers are drawn in float32 and
    rounded to the latent's dtype, because bfloat16 draws on a CPU differ from machine to machine; for a float64 latent
    they are drawn in float64.

    Args:
        seed: Starts the generator.
        order: "official" draws token by token, "comfyui" in the layout of the latent, as ComfyUI's own nodes do, so
            that a seed of theirs gives the same clip.
        device: Where numbers are drawn; a CPU and a CUDA generator give different ones.
        drawn: Sizes of the draws that an earlier stage has taken from this generator: they are passed over.
        appended: How many tokens at the end of the audio are no part of the clip. In ComfyUI's order they draw from a
            generator of their own, because ComfyUI keeps them out of the latent.

    Raises:
        SettingError: For another order.
    """

    def __init__(
        self,
        seed: int,
        order: str = "official",
        device: torch.device | str = "cpu",
        drawn: Sequence[int] = (),
        appended: int = 0,
    ):
        if order not in NOISE_ORDERS:
            raise SettingError(f"noise order is {order!r}; it must be one of {', '.join(NOISE_ORDERS)}.")
        self.seed, self.order, self.device, self.appended = seed, order, device, appended
        self._generator = torch.Generator(device).manual_seed(seed % 2**64)
        self._beside = torch.Generator(device).manual_seed((seed + APPENDED_NOISE) % 2**64)
        for count in drawn:
            torch.randn(count, generator=self._generator, device=device)

    def __call__(self, latent: AVLatent) -> AVLatent:
        """Draw the next noise, of the size, dtype and device of ``latent``."""
        return AVLatent(
            None if latent.video is None else self._draw(latent.video, bins=1),
            None if latent.audio is None else self._draw(latent.audio, geometry.AUDIO_BINS, self.appended),
        )

    def fork(self, offset: int) -> "Noise":
        """Start noise of the same kind from another seed, ``offset`` further on (offsets are in ``seeds.py``)."""
        return Noise(self.seed + offset, self.order, self.device, appended=self.appended)

    def _draw(self, x: Tensor, bins: int, appended: int = 0) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.order == "official":
            return torch.randn(x.shape, generator=self._generator, device=self.device, dtype=dtype).to(x)
        batch, tokens, channels = x.shape
        size = batch, channels // bins, tokens - appended, bins
        drawn = torch.randn(size, generator=self._generator, device=self.device, dtype=dtype)
        own = rearrange(drawn, "b c n m -> b n (c m)")
        rest = torch.randn(batch, appended, channels, generator=self._beside, device=self.device, dtype=dtype)
        return torch.cat((own, rest), dim=1).to(x)
