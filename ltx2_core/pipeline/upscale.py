"""A finished latent becomes larger, or gets more frames."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint.upscaler import video_statistics
from ..errors import SettingError
from ..geometry import Keyframes
from ..latents import AVLatent, compress_range, draw_toward
from ..memory.partition import Weights
from ..memory.placement import StageNeed
from ..memory.trace import cost
from ..upscaler import LatentUpscaler, Upscaler, UpscalerConfig
from ..video_vae.layers import ChannelStatistics
from .engine import Engine
from .needs.blueprint import Blueprint
from .stage import NetworkKey, Stage, upscaler_key


def upscale(
    upscaler: LatentUpscaler,
    latent: AVLatent,
    fps: Fraction,
    statistics: ChannelStatistics,
    adain_factor: float = 0.0,
    tone_map_compression: float = 0.0,
) -> tuple[AVLatent, Fraction]:
    """Enlarge the video of a latent and return it with its frame rate; audio is passed through.

    Keyframes are enlarged in space like a video of their own; in time they only move.

    Args:
        upscaler: the network.
        latent: a normalised latent with video.
        fps: its frame rate, which a temporal upscaler doubles.
        statistics: those of the video VAE of the same model version.
        adain_factor: how far each channel is drawn to the mean and deviation that it had.
        tone_map_compression: how far large numbers become smaller after that, 0 to 1.

    Raises:
        SettingError: if there is no video, or the upscaler expects other channels.
    """
    if latent.video is None:
        raise SettingError(
            "This latent has no video stream, and an upscaler enlarges nothing else: give it one with a picture."
        )

    def enlarge(video: Tensor) -> Tensor:
        raw = statistics.denormalize(video.float())
        large = upscaler(raw).float()
        if adain_factor:
            large = draw_toward(large, raw, adain_factor)
        if tone_map_compression:
            large = compress_range(large, tone_map_compression)
        return statistics.normalize(large).to(video.dtype)

    config, keyframes = upscaler.config, latent.keyframes
    if keyframes is not None and config.space != 1:
        keyframes = keyframes.map(enlarge)
    if keyframes is not None:
        keyframes = keyframes.at_rate(config.time)
    return AVLatent(enlarge(latent.video), latent.audio, keyframes), fps * config.time


def outlined(config: UpscalerConfig, latent: AVLatent, fps: Fraction) -> tuple[AVLatent, Fraction]:
    """Return what ``upscale`` will, with the nearest cell of ``latent`` in each: enough to lay out what follows."""
    frames, *sides = config.upscaled_shape(latent.shape(fps)).video_latent

    def nearest(video: Tensor, count: int) -> Tensor:
        return F.interpolate(video, (count, *sides))

    keyframes = latent.keyframes
    if keyframes is not None:
        keyframes = keyframes.map(lambda x: nearest(x, x.shape[2])).at_rate(config.time)
    assert latent.video is not None
    return AVLatent(nearest(latent.video, frames), latent.audio, keyframes), fps * config.time


@dataclass(frozen=True)
class Upscale(Stage):
    """Enlarge a latent of (F, H, W) ``size`` with the upscaler of ``key``, which computes in ``dtype``.

    So many ``keyframes`` are enlarged with it. ``number`` tells it from earlier stages that enlarge the same axes, as
    engines know stages by their names. ``tones`` are the last two arguments of ``upscale``.
    """

    key: NetworkKey[Any]
    config: UpscalerConfig
    size: tuple[int, int, int]
    dtype: torch.dtype = torch.bfloat16
    batch: int = 1
    keyframes: int = 0
    number: int = 1
    tones: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """Such as "upscaling space by 2"."""
        return f"upscaling {self.config.enlarges}" + (f", round {self.number}" if self.number > 1 else "")

    @property
    def networks(self) -> tuple[NetworkKey[Any], ...]:
        """The upscaler."""
        return (self.key,)

    @property
    def measured(self) -> "Upscale":
        """The stage without its network."""
        return replace(self, key=upscaler_key(None))

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the upscaler on the whole latent, which its norms need at once."""
        with torch.device("meta"):
            upscaler, statistics = Upscaler(self.config).to(self.dtype), ChannelStatistics(self.config.in_channels)
        frames, *sides = self.size
        video, beside = (
            torch.empty(self.batch, self.config.in_channels, count, *sides, device="meta")
            for count in (frames, self.keyframes)
        )
        keyframes = Keyframes(beside, tuple(range(self.keyframes))) if self.keyframes else None
        latent = AVLatent(video, None, keyframes)
        work = cost(lambda: upscale(upscaler, latent, Fraction(1), statistics, *self.tones))
        given = video.nbytes + beside.nbytes
        return StageNeed(self.name, Weights.of(upscaler), work, given)

    def run(self, engine: Engine, latent: AVLatent, fps: Fraction) -> tuple[AVLatent, Fraction]:
        """Return the larger latent, with its sound unchanged, and its frame rate."""
        with engine.use(self) as networks:
            device = engine.device(self.key)
            statistics = video_statistics(engine.models).to(device)
            return upscale(networks[self.key], latent.to(device), fps, statistics, *self.tones)
