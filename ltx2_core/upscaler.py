"""From a latent to one of more cells, or of more frames (spec: upscaler.md).

Norms look at the whole clip, so tiles would change what comes out. Everything else sees at most one frame on either
side and is done a few frames at a time, mostly in place: beside the weights there are two clips of hidden channels and
a few frames more, whatever the length.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .geometry import SPACE_SCALE, ClipShape, latent_frames, pixel_frames
from .latents import AVLatent
from .layers import needs_grad

CELLS = 2**14  # of latent that are worked on at once, but at least one frame

RATIONAL = (Fraction(3, 4), Fraction(3, 2), Fraction(2), Fraction(4))  # scales that rational upscalers may have

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UpscalerConfig:
    """What an upscaler enlarges, and its size."""

    space: Fraction = Fraction(2)  # of height and width
    time: int = 1  # latent frames F become time * F - (time - 1)
    rational: bool = False  # reaches ``space`` by way of a larger size, and blurs
    in_channels: int = 128
    mid_channels: int = 512
    blocks: int = 4  # before, and again after

    def __post_init__(self):
        possible = RATIONAL if self.rational else (2,) if self.time == 1 else (1, 2)
        if self.space not in possible:
            raise ValueError(
                f"This upscaler enlarges space by {float(self.space):g} and time by {self.time}; choose one of LTX-2, "
                "which enlarges space by 2 or 1.5, or time by 2."
            )

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "UpscalerConfig":
        """Read the ``config`` of an upscaler file; absent keys take the official reader's defaults."""
        if section.get("dims", 3) != 3:
            raise ValueError(
                f"This upscaler has {section['dims']} dims; those of LTX-2 have 3: time, height and width."
            )
        time = 2 if section.get("temporal_upsample", False) else 1
        rational = time == 1 and section.get("rational_resampler", False)
        scale = section.get("spatial_scale", 2.0) if rational else 2
        return cls(
            space=Fraction(scale) if section.get("spatial_upsample", True) else Fraction(1),
            time=time,
            rational=rational,
            in_channels=section.get("in_channels", 128),
            mid_channels=section.get("mid_channels", 512),
            blocks=section.get("num_blocks_per_stage", 4),
        )

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> "UpscalerConfig":
        """Told by the tensors (our names) of a file without a config; of x1.5 and x0.75, which look alike, x1.5."""
        mid, channels = shapes["conv_in.weight"][:2]
        weight = shapes["upsample.conv.weight"]
        time = 2 if len(weight) == 5 else 1
        up = math.isqrt(weight[0] // mid // time)
        return cls(
            space=Fraction(3, 2) if up == 3 else Fraction(up),
            time=time,
            rational="upsample.blur" in shapes,
            in_channels=channels,
            mid_channels=mid,
            blocks=len({name.split(".")[1] for name in shapes if name.startswith("before.")}),
        )

    @property
    def enlarges(self) -> str:
        """What it does, in words."""
        parts = {f"space by {float(self.space):g}": self.space != 1, f"time by {self.time}": self.time != 1}
        return " and ".join(words for words, is_so in parts.items() if is_so)

    def clip(self, shape: ClipShape) -> ClipShape:
        """What becomes of a clip: as long to a fraction of a frame, at more frames per second if there are more."""
        height, width = (
            math.ceil(side * self.space / SPACE_SCALE) * SPACE_SCALE for side in (shape.height, shape.width)
        )
        frames = pixel_frames(self.time * (latent_frames(shape.frames) - 1) + 1)
        return replace(shape, width=width, height=height, frames=frames, fps=shape.fps * self.time)


class Statistics(Protocol):
    """Those of the video VAE, by which the rest of the model sees every latent channel as 0 and 1."""

    def normalize(self, latent: Tensor) -> Tensor: ...

    def denormalize(self, latent: Tensor) -> Tensor: ...


class Enlarging(Protocol):
    """An upscaler, ours or another implementation of the same."""

    config: UpscalerConfig

    def __call__(self, latent: Tensor, /) -> Tensor:
        """(B, C, F, H, W), before normalisation -> a larger one, likewise, in the network's own dtype."""


def upscale(upscaler: Enlarging, latent: AVLatent, fps: Fraction, statistics: Statistics) -> tuple[AVLatent, Fraction]:
    """The larger latent, and its frame rate, which a temporal upscaler doubles; sound passes through as it is."""
    if latent.video is None:
        raise ValueError("This latent has no video stream; an upscaler enlarges nothing else.")
    raw = statistics.denormalize(latent.video.float())
    video = statistics.normalize(upscaler(raw).float()).to(latent.video.dtype)
    return AVLatent(video, latent.audio), fps * upscaler.config.time


class Upscaler(nn.Module):
    """Residual blocks, channels that become cells or frames, and residual blocks again."""

    def __init__(self, config: UpscalerConfig):
        super().__init__()
        self.config, width = config, config.mid_channels
        self.conv_in, self.norm_in = Conv(config.in_channels, width), Norm(width)
        self.before = nn.ModuleList(Residual(width) for _ in range(config.blocks))
        self.upsample = (
            InSpace(width, config.space, config.rational) if config.time == 1 else InTime(width, config.space)
        )
        self.after = nn.ModuleList(Residual(width) for _ in range(config.blocks))
        self.conv_out = Conv(width, config.in_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, F, H, W) as the video encoder makes it, before normalisation -> a larger one, likewise."""
        if latent.shape[1] != self.config.in_channels:
            raise ValueError(
                f"This latent has {latent.shape[1]} channels, the upscaler expects {self.config.in_channels}. Was it "
                "made by another model?"
            )
        x = self.norm_in(self.conv_in(latent.to(self.conv_in.weight)))
        for block in self.before:
            x = block(x)
        x = self.upsample(x)
        for block in self.after:
            x = block(x)
        return self.conv_out(x)


class Conv(nn.Conv3d):
    """A 3x3x3 convolution with zeros around the clip."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``out`` may be ``x``, which is then overwritten."""
        return joined(self.pieces(x), x.shape[2], out)

    def pieces(self, x: Tensor) -> Iterator[Tensor]:
        """The output a few frames at a time; ``x`` may be overwritten as far as that goes."""
        before = torch.zeros_like(x[:, :, :1])
        for place in places(x):
            after = x[:, :, place.stop : place.stop + 1]
            window = torch.cat([before, x[:, :, place], after if after.shape[2] else torch.zeros_like(before)], 2)
            before = x[:, :, place.stop - 1 : place.stop].clone()
            yield super().forward(window)


class Norm(nn.GroupNorm):
    """SiLU(norm(x)), or SiLU(norm(x) + residual); statistics span the clip, in float32.

    It is written over ``x`` unless autograd needs that.
    """

    def __init__(self, channels: int):
        super().__init__(32, channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if needs_grad(x):
            normal = super().forward(x)
            return F.silu(normal if residual is None else normal + residual)
        scale, shift = self._line(x)
        for place in places(x):
            part = torch.addcmul(shift, x[:, :, place], scale)
            if residual is not None:
                part += residual[:, :, place]
            x[:, :, place] = F.silu(part, inplace=True)
        return x

    def _line(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (B, C, 1, 1, 1) of every channel, from the moments of all parts."""
        grouped = x.unflatten(1, (self.num_groups, -1))
        moments = [torch.var_mean(grouped[:, :, :, p].float(), (2, 3, 4, 5), correction=0) for p in places(x)]
        variances, means = (torch.stack(each, -1) for each in zip(*moments))  # (B, groups, parts)
        share = torch.tensor([(p.stop - p.start) / x.shape[2] for p in places(x)], device=x.device)
        mean = (means * share).sum(-1, keepdim=True)
        variance = ((variances + (means - mean).square()) * share).sum(-1, keepdim=True)
        weight, bias = (each.float().unflatten(0, (self.num_groups, -1)) for each in (self.weight, self.bias))
        scale = weight / (variance + self.eps).sqrt()
        shift = bias - mean * scale
        return scale.flatten(1)[..., None, None, None], shift.flatten(1)[..., None, None, None]


class Residual(nn.Module):
    """SiLU(x + norm2(conv2(SiLU(norm1(conv1(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.norm1 = Conv(channels, channels), Norm(channels)
        self.conv2, self.norm2 = Conv(channels, channels), Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(hidden, out=hidden), residual=x)


class InSpace(nn.Module):
    """Channels become cells of their frame; a rational one then blurs and leaves some out."""

    blur: Tensor

    def __init__(self, channels: int, scale: Fraction, rational: bool):
        super().__init__()
        self.up, self.down = scale.numerator, scale.denominator
        self.conv = nn.Conv2d(channels, channels * self.up**2, kernel_size=3, padding=1)
        if rational:
            self.register_buffer("blur", binomial())

    def forward(self, x: Tensor) -> Tensor:
        return joined((self._enlarged(x[:, :, place]) for place in places(x)), x.shape[2])

    def _enlarged(self, x: Tensor) -> Tensor:
        frames = F.pixel_shuffle(self.conv(rearrange(x, "B C F H W -> (B F) C H W")), self.up)
        if self.down > 1:
            kernel = self.blur.expand(x.shape[1], -1, -1, -1)
            frames = F.conv2d(frames, kernel, stride=self.down, padding=2, groups=x.shape[1])
        return rearrange(frames, "(B F) C H W -> B C F H W", B=len(x))


class InTime(nn.Module):
    """Channels become frames, of which the first is one too many, and at a scale of 2 cells as well."""

    def __init__(self, channels: int, scale: Fraction):
        super().__init__()
        self.side = int(scale)
        self.conv = Conv(channels, channels * 2 * self.side**2)

    def forward(self, x: Tensor) -> Tensor:
        return joined(self._enlarged(x), 2 * x.shape[2] - 1)

    def _enlarged(self, x: Tensor) -> Iterator[Tensor]:
        surplus = 1
        for part in self.conv.pieces(x):
            pattern = "B (C t h w) F H W -> B C (F t) (H h) (W w)"
            yield rearrange(part, pattern, t=2, h=self.side, w=self.side)[:, :, surplus:]
            surplus = 0


def binomial() -> Tensor:
    """(1, 1, 5, 5): the blur of all released upscalers."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return (row[:, None] * row)[None, None]


def places(x: Tensor) -> list[slice]:
    """The frames of (B, C, F, H, W), a few at a time."""
    total, height, width = x.shape[2:]
    frames = max(1, CELLS // (height * width))
    return [slice(start, min(start + frames, total)) for start in range(0, total, frames)]


def joined(parts: Iterator[Tensor], frames: int, out: Tensor | None = None) -> Tensor:
    """Consecutive parts as one clip of ``frames``, of which hardly more than one exists at a time."""
    stop = 0
    for part in parts:
        if out is None:
            out = part.new_empty(*part.shape[:2], frames, *part.shape[3:])
        start, stop = stop, stop + part.shape[2]
        out[:, :, start:stop] = part
        del part  # before the next one is made
    assert out is not None
    return out
