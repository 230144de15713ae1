"""Latent upscalers: from a latent to one of more cells, or of more frames.

The network, as in the official ``ltx_core/model/upsampler``: conv_in (3x3x3), group norm of 32 groups (eps 1e-5), SiLU;
``blocks`` residual blocks; the upsampling layer; ``blocks`` residual blocks; conv_out. All convolutions pad zeros and
are not causal. The upsampling layer is one of

- space: per frame a 3x3 convolution to r^2 times the channels, whose order is (c, row, column), and a pixel shuffle by
  r; with the rational resampler r is the numerator of the scale (3/4, 3/2, 2, 4), and a binomial blur
  (1 4 6 4 1 / 16 in both directions, zero padding 2) with the denominator as its stride follows. Sizes are rounded up.
- time: a 3x3x3 convolution to twice the channels in the order (c, t), which become frames; the first is dropped, so F
  latent frames become 2F - 1 and the frame rate doubles. With (c, t, row, column) and 8 times the channels, both.

Released are x2 and x1.5 in space (1024 hidden channels) and x2 in time (512). Inputs and outputs are latents *before*
normalisation by the video VAE's channel statistics; audio passes by unchanged. The x2 file of 2.0 is of the rational
kind, with the denominator 1.

Norms span the whole clip, so tiles would change the result. Everything else depends on at most one frame on either side
and is computed a few frames at a time, mostly in place: beside the weights there are two clips of hidden channels and a
few frames more, whatever the length.
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

from .errors import CheckpointError, SettingError
from .errors.foreign import Fields, shown
from .geometry import SPACE_SCALE, ClipShape, latent_frames, pixel_frames
from .layers import convolve, needs_grad

GROUPS = 32  # of channels that are normalised together
CELLS = 2**14  # cells of a latent that are computed at once, but at least one frame

RATIONAL = (Fraction(3, 4), Fraction(3, 2), Fraction(2), Fraction(4))  # scales that rational upscalers may have

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UpscalerConfig:
    """Describes what an upscaler enlarges, and the size of its network.

    Raises:
        CheckpointError: No released upscaler has these scales.
    """

    space: Fraction = Fraction(2)  # of height and width
    time: int = 1  # latent frames F become time * F - (time - 1)
    rational: bool = False  # reaches ``space`` by way of a larger size, and blurs
    in_channels: int = 128
    mid_channels: int = 512
    blocks: int = 4  # before, and again after

    def __post_init__(self) -> None:
        plain = (2,) if self.time == 1 else (1, 2)
        possible = RATIONAL if self.rational else plain
        if self.space not in possible:
            raise CheckpointError(
                f"This upscaler enlarges space by {float(self.space):g} and time by {self.time}; choose one of LTX-2, "
                "which enlarges space by 2 or 1.5, or time by 2."
            )

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "UpscalerConfig":
        """Read the ``config`` of an upscaler file; absent keys take the official reader's defaults.

        Raises CheckpointError for an upscaler of another model.
        """
        fields = Fields.of(section, "The config of the upscaler")
        if (dims := fields.content.get("dims", 3)) != 3:
            raise CheckpointError(
                f"This upscaler has {shown(dims)} dims; those of LTX-2 have 3: time, height and width."
            )
        time = 2 if fields.flag("temporal_upsample", False) else 1
        rational = time == 1 and fields.flag("rational_resampler", False)
        scale = fields.number("spatial_scale", 2.0, least=0.1, most=16) if rational else 2
        config = cls(
            space=Fraction(scale) if fields.flag("spatial_upsample", True) else Fraction(1),
            time=time,
            rational=rational,
            in_channels=fields.whole("in_channels", cls.in_channels, most=2**14),
            mid_channels=fields.whole("mid_channels", cls.mid_channels, most=2**14),
            blocks=fields.whole("num_blocks_per_stage", cls.blocks, least=0, most=64),
        )
        if config.mid_channels % GROUPS:
            raise fields.refusal("mid_channels", f"a multiple of {GROUPS}")
        return config

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> "UpscalerConfig":
        """Infer the config of a file without one from its tensors (our names); x0.75 looks like x1.5 and gives that.

        Raises CheckpointError for an upscaler of another model.
        """
        conv_in, weight = shapes["conv_in.weight"], shapes["upsample.conv.weight"]
        if len(conv_in) != 5 or len(weight) not in (4, 5) or not all((*conv_in, *weight)) or conv_in[0] % GROUPS:
            raise CheckpointError(
                f"The first layer of this upscaler has the shape {conv_in} and its upsampling layer {weight}; those "
                "of LTX-2 have five axes, and four or five. Download it again."
            )
        mid, channels = conv_in[:2]
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
        """The axes and their scales in words, such as "space by 2"."""
        changes = {f"space by {float(self.space):g}": self.space != 1, f"time by {self.time}": self.time != 1}
        return " and ".join(words for words, changed in changes.items() if changed)

    def upscaled_shape(self, shape: ClipShape) -> ClipShape:
        """Return the shape of the enlarged clip: equally long to a fraction of a frame, at a higher rate if in time."""
        height, width = (
            math.ceil(side * self.space / SPACE_SCALE) * SPACE_SCALE for side in (shape.height, shape.width)
        )
        frames = pixel_frames(self.time * (latent_frames(shape.frames) - 1) + 1)
        return replace(shape, width=width, height=height, frames=frames, fps=shape.fps * self.time)


class LatentUpscaler(Protocol):
    """A network that enlarges latents: ``Upscaler``, or a host's own implementation."""

    config: UpscalerConfig

    def __call__(self, latent: Tensor, /) -> Tensor:
        """Enlarge a latent (B, C, F, H, W) before normalisation; the result has the dtype of the network."""


class Upscaler(nn.Module):
    """The network: residual blocks, a layer that turns channels into cells or frames, residual blocks again."""

    def __init__(self, config: UpscalerConfig):
        super().__init__()
        self.config, width = config, config.mid_channels
        self.conv_in, self.norm_in = Conv(config.in_channels, width), Norm(width)
        self.before = nn.ModuleList(Residual(width) for _ in range(config.blocks))
        self.upsample = (
            SpatialUpsample(width, config.space, config.rational)
            if config.time == 1
            else TemporalUpsample(width, config.space)
        )
        self.after = nn.ModuleList(Residual(width) for _ in range(config.blocks))
        self.conv_out = Conv(width, config.in_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """Enlarge a latent (B, C, F, H, W) before normalisation; the result has the dtype of the network.

        Raises SettingError for a latent of other channels.
        """
        if latent.shape[1] != self.config.in_channels:
            raise SettingError(
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
    """A 3x3x3 convolution with zero padding, computed a few frames at a time."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Convolve (B, C, F, H, W) to (B, C', F, H, W); ``out`` may be ``x``, which is then overwritten."""
        return join_chunks(self.convolve_chunks(x), x.shape[2], out)

    def convolve_chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output a few frames at a time; the frames of ``x`` done so far may then be overwritten."""
        if len(frame_slices(x)) == 1 and not needs_grad(x, self.weight):  # a small clip needs no windows
            yield convolve(x, self.weight, self.bias, (1, 1, 1))
            return
        before = torch.zeros_like(x[:, :, :1])
        for place in frame_slices(x):
            after = x[:, :, place.stop : place.stop + 1]
            window = torch.cat([before, x[:, :, place], after if after.shape[2] else torch.zeros_like(before)], 2)
            before = x[:, :, place.stop - 1 : place.stop].clone()
            yield super().forward(window)


class Norm(nn.GroupNorm):
    """Computes SiLU(norm(x)) or SiLU(norm(x) + residual), in place unless autograd needs ``x``.

    Statistics span the whole clip and are computed in float32.
    """

    def __init__(self, channels: int):
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise ``x`` (B, C, F, H, W), add ``residual`` and apply SiLU."""
        if needs_grad(x):
            normal = super().forward(x)
            return F.silu(normal if residual is None else normal + residual)
        scale, shift = self._scale_and_shift(x)
        for place in frame_slices(x):
            chunk = torch.addcmul(shift, x[:, :, place], scale)
            if residual is not None:
                chunk += residual[:, :, place]
            x[:, :, place] = F.silu(chunk, inplace=True)
        return x

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift (B, C, 1, 1, 1) of each channel, from the moments of all chunks."""
        grouped = x.unflatten(1, (self.num_groups, -1))
        moments = [torch.var_mean(grouped[:, :, :, p].float(), (2, 3, 4, 5), correction=0) for p in frame_slices(x)]
        variances, means = (torch.stack(each, -1) for each in zip(*moments))  # (B, groups, chunks)
        share = torch.tensor([(p.stop - p.start) / x.shape[2] for p in frame_slices(x)], device=x.device)
        mean = (means * share).sum(-1, keepdim=True)
        variance = ((variances + (means - mean).square()) * share).sum(-1, keepdim=True)
        weight, bias = (each.float().unflatten(0, (self.num_groups, -1)) for each in (self.weight, self.bias))
        scale = weight / (variance + self.eps).sqrt()
        shift = bias - mean * scale
        return scale.flatten(1)[..., None, None, None], shift.flatten(1)[..., None, None, None]


class Residual(nn.Module):
    """A residual block: SiLU(x + norm2(conv2(SiLU(norm1(conv1(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.norm1 = Conv(channels, channels), Norm(channels)
        self.conv2, self.norm2 = Conv(channels, channels), Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next hidden states of ``x`` (B, C, F, H, W), which may be overwritten."""
        hidden = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(hidden, out=hidden), residual=x)


class FrameConv(nn.Conv2d):
    """A 3x3 convolution with zero padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, C', H, W)."""
        return convolve(x, self.weight, self.bias, (1, 1))


class SpatialUpsample(nn.Module):
    """Turns channels into cells of their frame; with a rational scale a strided blur follows."""

    blur: Tensor

    def __init__(self, channels: int, scale: Fraction, rational: bool):
        super().__init__()
        self.up, self.down = scale.numerator, scale.denominator
        self.conv = FrameConv(channels, channels * self.up**2, kernel_size=3, padding=1)
        if rational:
            self.register_buffer("blur", binomial_blur())

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge height and width of (B, C, F, H, W)."""
        enlarged = join_chunks((self._enlarge(x[:, :, place]) for place in frame_slices(x)), x.shape[2])
        return enlarged.contiguous()  # beside channels-last, the next convolutions would turn their weights around

    def _enlarge(self, x: Tensor) -> Tensor:
        frames = F.pixel_shuffle(self.conv(rearrange(x, "B C F H W -> (B F) C H W")), self.up)
        if self.down > 1:
            kernel = self.blur.expand(x.shape[1], -1, -1, -1)
            frames = F.conv2d(frames, kernel, stride=self.down, padding=2, groups=x.shape[1])
        return rearrange(frames, "(B F) C H W -> B C F H W", B=len(x))


class TemporalUpsample(nn.Module):
    """Turns channels into frames, of which the first is dropped, and with a scale of 2 into cells as well."""

    def __init__(self, channels: int, scale: Fraction):
        super().__init__()
        self.side = int(scale)
        self.conv = Conv(channels, channels * 2 * self.side**2)

    def forward(self, x: Tensor) -> Tensor:
        """Turn F frames of (B, C, F, H, W) into 2F - 1."""
        return join_chunks(self._enlarge(x), 2 * x.shape[2] - 1)

    def _enlarge(self, x: Tensor) -> Iterator[Tensor]:
        dropped = 1
        for chunk in self.conv.convolve_chunks(x):
            pattern = "B (C t h w) F H W -> B C (F t) (H h) (W w)"
            yield rearrange(chunk, pattern, t=2, h=self.side, w=self.side)[:, :, dropped:]
            dropped = 0


def binomial_blur() -> Tensor:
    """Make the blur kernel (1, 1, 5, 5) of all released upscalers."""
    row = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    return torch.tensor([[[[a * b for b in row] for a in row]]])  # not computed: it may be on the meta device


def frame_slices(x: Tensor) -> list[slice]:
    """Divide the frames of (B, C, F, H, W) into slices of at most ``CELLS`` cells, at least one frame each."""
    total, height, width = x.shape[2:]
    frames = max(1, CELLS // (height * width))
    return [slice(start, min(start + frames, total)) for start in range(0, total, frames)]


def join_chunks(chunks: Iterator[Tensor], frames: int, out: Tensor | None = None) -> Tensor:
    """Copy consecutive chunks (B, C, f, H, W) into one clip of ``frames``, keeping one chunk at a time."""
    stop = 0
    for chunk in chunks:
        if out is None and chunk.shape[2] == frames:
            return chunk
        if out is None:
            out = chunk.new_empty(*chunk.shape[:2], frames, *chunk.shape[3:])
        start, stop = stop, stop + chunk.shape[2]
        out[:, :, start:stop] = chunk
        del chunk  # before the next one is made
    assert out is not None
    return out
