"""Pixels, latents, tokens and seconds of both streams.

A clip owns one rational frame rate; every length follows from it (``conditioning/README.md``, "Positions").
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import ceil, log, sqrt

import torch
from einops import rearrange
from torch import Tensor

from .errors import SettingError, counted

TIME_SCALE = 8  # pixel frames per latent frame, after the first
SPACE_SCALE = 32  # pixels per latent cell, both ways
VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
AUDIO_BINS = 16
AUDIO_RATE = 25  # audio latents per second: 16 kHz / hop 160 / 4

LOWEST_FPS, HIGHEST_FPS = 1, 240

_RATE = re.compile(r"\s*\d{1,9}(\.\d{0,9}|/\d{1,9})?\s*")

# Rates that people write as decimals and mean as fractions.
_BROADCAST = tuple(Fraction(nominal * 1000, 1001) for nominal in (24, 30, 48, 60, 120))


def exact_fps(fps: float | str | Fraction) -> Fraction:
    """Turn a frame rate into a fraction; 23.976, 29.97 and their like become n * 1000 / 1001.

    Raises SettingError for what is no rate between 1 and 240.
    """
    try:
        # True is a number to Python, and 1e999999999 a fraction, which takes for ever.
        if isinstance(fps, bool) or (isinstance(fps, str) and not _RATE.fullmatch(fps)):
            raise ValueError
        rate = Fraction(fps) if isinstance(fps, (str, Fraction)) else Fraction(float(fps)).limit_denominator(100_000)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise SettingError(
            f"fps is {fps!r}; it must be a number such as 24 or a fraction such as 24000/1001."
        ) from None
    if not LOWEST_FPS <= rate <= HIGHEST_FPS:
        raise SettingError(f"fps is {fps}; it must lie between {LOWEST_FPS} and {HIGHEST_FPS}.")
    for exact in _BROADCAST:
        if abs(rate - exact) < Fraction(1, 200):
            return exact
    return rate


def nearest_frames(frames: float) -> int:
    """Return the nearest count that the video VAE can make: 8 k + 1."""
    return max(0, round((frames - 1) / TIME_SCALE)) * TIME_SCALE + 1


def covering_frames(frames: float) -> int:
    """Return the smallest count that fills latents, 8 k + 1, and lacks at most half a frame of ``frames``."""
    return max(0, ceil((frames - 1.5) / TIME_SCALE)) * TIME_SCALE + 1


def floor_frames(frames: int) -> int:
    """Return the largest count up to ``frames`` that fills latents: 8 k + 1."""
    return (frames - 1) // TIME_SCALE * TIME_SCALE + 1


def nearest_size(pixels: float, multiple: int = SPACE_SCALE) -> int:
    """Return the nearest width or height that the video VAE can make."""
    return max(1, round(pixels / multiple)) * multiple


# Width by height, as people name it.
RATIOS = {"16:9": 16 / 9, "9:16": 9 / 16, "1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "21:9": 21 / 9}

MOST_PIXELS = 4096  # of a side


def size_of_ratio(ratio: float, area: float, multiple: int = SPACE_SCALE) -> tuple[int, int]:
    """Return the width and height that come nearest to a ratio and an area.

    A wrong ratio is seen at once, a few pixels more or less are not, so the ratio counts four times as much. No side is
    shorter than two of a latent, which decoders that mirror pictures at their edges need.

    Args:
        ratio: Width by height.
        area: In pixels.
        multiple: What both must be multiples of, in pixels.

    Raises:
        SettingError: A side would be too long.
    """
    widths, heights = (
        [nearest_size(side, multiple) + offset * multiple for offset in (-1, 0, 1)]
        for side in (sqrt(area * ratio), sqrt(area / ratio))
    )
    least = max(multiple, 2 * SPACE_SCALE)
    possible = [size for size in product(widths, heights) if least <= min(size) <= max(size) <= MOST_PIXELS]
    if not possible:
        shape = f"{ratio:.2f}:1" if ratio >= 1 else f"1:{1 / ratio:.2f}"
        raise SettingError(
            f"{area / 1e6:.2g} megapixels at {shape} have a side beyond {MOST_PIXELS} pixels; choose fewer megapixels, "
            "or width and height by hand."
        )
    return min(possible, key=lambda size: 4 * abs(log(size[0] / size[1] / ratio)) + abs(log(size[0] * size[1] / area)))


@dataclass(frozen=True)
class ClipShape:
    """The size of a clip, from which the lengths of both streams follow.

    ``width`` and ``height`` are pixels, multiples of 32; ``frames`` is 8 k + 1; ``fps`` becomes a fraction. Raises
    SettingError for others.
    """

    width: int
    height: int
    frames: int
    fps: Fraction

    def __post_init__(self):
        if self.frames < 1 or self.frames % TIME_SCALE != 1:
            raise SettingError(
                f"frames is {self.frames}; it must be {TIME_SCALE} k + 1, for example {nearest_frames(self.frames)}."
            )
        for name, value in (("width", self.width), ("height", self.height)):
            if value < SPACE_SCALE or value % SPACE_SCALE:
                raise SettingError(
                    f"{name} is {value}; it must be a multiple of {SPACE_SCALE}, for example {nearest_size(value)}."
                )
        object.__setattr__(self, "fps", exact_fps(self.fps))

    @classmethod
    def of_latent(cls, video: Tensor, fps: float | Fraction) -> "ClipShape":
        """Return the clip whose video latent has the shape (B, C, F, H, W) of ``video``."""
        frames, height, width = video.shape[2:]
        return cls(width * SPACE_SCALE, height * SPACE_SCALE, pixel_frames(frames), exact_fps(fps))

    @property
    def seconds(self) -> Fraction:
        """The length in seconds."""
        return self.frames / self.fps

    def describe(self) -> str:
        """Say size, length and rate in a few words."""
        size = f"{self.width} x {self.height}, {counted(self.frames, 'frame')}"
        return f"{size}, {float(self.seconds):.2f} s at {float(self.fps):g} fps"

    @property
    def video_latent(self) -> tuple[int, int, int]:
        """(F, H, W) of the video latent."""
        return latent_frames(self.frames), self.height // SPACE_SCALE, self.width // SPACE_SCALE

    @property
    def audio_latents(self) -> int:
        """T of the audio latent."""
        return audio_latents(self.frames, self.fps)

    def samples(self, sample_rate: int) -> int:
        """Samples of sound that last exactly as long as the frames; one at least, whatever the rate."""
        return max(1, round(self.seconds * sample_rate))


@dataclass(frozen=True, eq=False)
class Keyframes:
    """Single frames that were generated beside a clip (see conditioning/README.md, "Generated keyframes").

    Attributes:
        latent: (B, C, K, H, W), of which every latent frame stands for one frame.
        frames: the K frames of the clip that they are, rising.
    """

    latent: Tensor
    frames: tuple[int, ...]

    def map(self, function: Callable[..., Tensor]) -> "Keyframes":
        """Apply ``function`` to their latent."""
        return Keyframes(function(self.latent), self.frames)

    def belongs_to(self, video: Tensor) -> bool:
        """Return whether they can be frames of ``video`` (B, C, F, H, W)."""
        same = self.latent.shape[:2] == video.shape[:2] and self.latent.shape[3:] == video.shape[3:]
        return same and self.frames[-1] < pixel_frames(video.shape[2])

    def before(self, end: int) -> "Keyframes | None":
        """Return those before the frame ``end``; None if there are none."""
        count = sum(frame < end for frame in self.frames)
        return Keyframes(self.latent[:, :, :count], self.frames[:count]) if count else None

    def moved(self, frames: int) -> "Keyframes":
        """Return them so many ``frames`` later."""
        return Keyframes(self.latent, tuple(frame + frames for frame in self.frames))

    def at_rate(self, times: int) -> "Keyframes":
        """Return them as frames of the same clip at so many ``times`` its frame rate."""
        return Keyframes(self.latent, tuple(frame * times for frame in self.frames))


def latent_frames(frames: int) -> int:
    """Return the latent frames that hold this many pixel frames."""
    return (frames - 1) // TIME_SCALE + 1


def audio_latents(frames: int, fps: Fraction) -> int:
    """Return the audio latents that last as long as so many pixel frames; at least one, else there is no stream.

    Where that is half a latent (49 frames at 10 fps, 153 at 30), rounding errors of float64 decide, as in ltx-core
    (``AudioLatentShape.from_duration``): another count would be other noise.
    """
    return max(1, round(frames / float(fps) * AUDIO_RATE))


def frame_number(frame: int, frames: int) -> int:
    """Return which frame, from 0 on, a clip of ``frames`` frames has at ``frame``; negative ones count from the end."""
    return frame + frames if frame < 0 else frame


def pixel_frames(latents: int) -> int:
    """Return the pixel frames that this many latent frames become."""
    return (latents - 1) * TIME_SCALE + 1


SEGMENTS = (24, 32)  # frames between two generated keyframes; the later one where both fit equally well


def segment_length(frames: int) -> int:
    """Return the frames from one generated keyframe to the next that fill a clip of ``frames`` up least.

    Source: ltx-pipelines 1.2.0, the layout of its DFR pipeline.
    """
    return min(reversed(SEGMENTS), key=lambda segment: -(frames - 1) % segment)


def whole_segments(frames: int) -> int:
    """Return the length of the shortest clip of at least ``frames`` that consists of whole segments."""
    return frames + -(frames - 1) % segment_length(frames)


def video_positions(
    shape: tuple[int, int, int], fps: Fraction, device: torch.device | str = "cpu", causal: bool = True
) -> Tensor:
    """Compute where each token of a video latent starts and ends: (1, 3, N, 2), seconds and pixels, float32.

    Args:
        shape: (F, H, W) of the latent.
        fps: Frames per second of the clip.
        device: Where the result lies.
        causal: The first latent holds one frame, as at the beginning of a clip; else eight like all others.
    """
    frames, height, width = shape
    time = _bounds(frames) * TIME_SCALE
    if causal:
        time = (time + 1 - TIME_SCALE).clamp(min=0)
    grid = torch.stack(
        torch.broadcast_tensors(
            time[:, None, None],
            (_bounds(height) * SPACE_SCALE)[None, :, None],
            (_bounds(width) * SPACE_SCALE)[None, None],
        )
    )
    positions = rearrange(grid, "a f h w bounds -> 1 a (f h w) bounds").contiguous()
    positions[:, 0] /= float(fps)
    return positions.to(device)


def audio_positions(length: int, device: torch.device | str = "cpu") -> Tensor:
    """Compute where each of ``length`` audio tokens starts and ends: (1, 1, T, 2), seconds, float32."""
    mel_frames = (_bounds(length) * 4 + 1 - 4).clamp(min=0)
    return (mel_frames * 160 / 16000)[None, None].to(device)


def video_tokens(latent: Tensor) -> Tensor:
    """Turn a video latent (B, C, F, H, W) into tokens (B, N, C), time slowest."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def video_latent(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Turn tokens (B, N, C) back into a video latent (B, C, F, H, W)."""
    frames, height, width = shape
    return rearrange(tokens, "b (f h w) c -> b c f h w", f=frames, h=height, w=width)


def audio_tokens(latent: Tensor) -> Tensor:
    """Turn an audio latent (B, C, T, M) into tokens (B, T, C * M)."""
    return rearrange(latent, "b c t m -> b t (c m)")


def audio_latent(tokens: Tensor, bins: int = AUDIO_BINS) -> Tensor:
    """Turn tokens (B, T, C * M) back into an audio latent (B, C, T, M)."""
    return rearrange(tokens, "b t (c m) -> b c t m", m=bins)


def _bounds(count: int) -> Tensor:
    """(count, 2): index and index + 1."""
    start = torch.arange(count, dtype=torch.float32)
    return torch.stack((start, start + 1), dim=-1)


def predicted_frames(seconds: float, fps: Fraction, least: float, most: float) -> int:
    """Return the length of a clip whose prompt needs so many seconds: 8 k + 1 frames, rounded down.

    Args:
        seconds: As predicted.
        fps: Frames per second.
        least: Seconds that a clip has at least, if that is possible below ``most``.
        most: Seconds that it has at most.
    """
    low, high = (round(limit * fps) for limit in (least, most))
    frames = floor_frames(round(min(max(least, seconds), most) * fps))
    if frames < low:
        frames += TIME_SCALE
    return frames if frames <= high else floor_frames(high)
