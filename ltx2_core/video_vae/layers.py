"""The layers that encoder and decoder share (see README.md, "Layers").

Clips are (B, C, F, H, W) in the channels-last layout: a norm over channels then reads adjacent memory.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import convolve, needs_grad
from ..layers.kernels import NORM_SILU, norm_pixels
from .config import ProjectConfig, ResampleConfig

EPS = 1e-8  # added to the mean square of a pixel
_LARGE_WEIGHT = 2**20  # numbers of a convolution; those of smaller ones are turned in no time


class Conv(nn.Conv3d):
    """A 3x3x3 convolution that repeats edge frames in time and pads zeros or mirrored pixels in space.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        padding: "zeros" or "reflect".
        causal: Whether the first frame is repeated twice in front, instead of once at either end.
        activate: Whether the input is SiLU(pixel_norm(x)) instead of x.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: str, causal: bool, activate: bool = False):
        # Zeros around the picture are the convolution's own work; mirrored pixels are written by ``pad``.
        mirror = padding == "reflect"
        zeros = (0, 0, 0) if mirror else (0, 1, 1)
        super().__init__(in_channels, out_channels, kernel_size=3, padding=zeros)
        self.zeros = zeros
        self.margin = 1 if mirror else 0
        self.before, self.after = (2, 0) if causal else (1, 1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, F, H, W) to (B, C', F, H, W)."""
        return self.convolve_padded(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        """Copy ``x``, activated where the layer says so, into the middle of a larger clip and fill the border."""
        if needs_grad(x):
            return self._pad_for_autograd(F.silu(pixel_norm(x)) if self.activate else x)
        (batch, channels, frames, height, width), m = x.shape, self.margin
        shape = (batch, channels, self.before + frames + self.after, height + 2 * m, width + 2 * m)
        clip = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        first, last = self.before, self.before + frames - 1

        inside = clip[:, :, first : last + 1, m : m + height, m : m + width]
        if self.activate:
            (NORM_SILU.find(x) or NORM_SILU.plain)(x, inside, EPS)
        else:
            inside.copy_(x)

        if m:  # the edge itself is not repeated
            clip[..., 0, :], clip[..., -1, :] = clip[..., 2, :], clip[..., -3, :]
            clip[..., 0], clip[..., -1] = clip[..., 2], clip[..., -3]
        clip[:, :, :first] = clip[:, :, first : first + 1]
        clip[:, :, last + 1 :] = clip[:, :, last : last + 1]
        return clip

    def _pad_for_autograd(self, x: Tensor) -> Tensor:
        """The same without writing in place."""
        if self.margin:
            x = F.pad(x, (1, 1, 1, 1, 0, 0), mode="reflect")
        return torch.cat([*[x[:, :, :1]] * self.before, x, *[x[:, :, -1:]] * self.after], dim=2)

    def convolve_padded(self, padded: Tensor) -> Tensor:
        """Convolve what ``pad`` returned."""
        if self._is_mostly_weight(padded):
            plain = convolve(padded.contiguous(), self.weight, self.bias, self.zeros)  # a product where it pays
            return plain.contiguous(memory_format=torch.channels_last_3d)
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)  # no copy where it is so already
        return convolve(padded, weight, self.bias, self.zeros)

    def _is_mostly_weight(self, padded: Tensor) -> bool:
        """Whether turning ``padded`` around takes less than turning the weight, which a CPU does at every call."""
        size = self.weight.numel()
        return padded.device.type == "cpu" and size >= _LARGE_WEIGHT and padded.numel() < 2 * size


class Residual(nn.Module):
    """x + conv2(SiLU(norm(conv1(SiLU(norm(x))))))."""

    def __init__(self, channels: int, padding: str, causal: bool, channels_in: int | None = None):
        super().__init__()
        self.conv1 = Conv(channels_in or channels, channels, padding, causal, activate=True)
        self.conv2 = Conv(channels, channels, padding, causal, activate=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next hidden states (B, C', F, H, W) of ``x`` (B, C, F, H, W)."""
        hidden = self.conv1(x)
        hidden = self.conv2.pad(hidden)  # frees the first convolution's output before the second runs
        return self.conv2.convolve_padded(hidden).add_(self.skip(x))

    def skip(self, x: Tensor) -> Tensor:
        """Return what goes around the convolutions."""
        return x


class ProjectedResidual(Residual):
    """A residual layer of another number of channels; a projection of layer_norm(x) goes around the convolutions."""

    def __init__(self, block: ProjectConfig, padding: str, causal: bool):
        super().__init__(block.channels_out, padding, causal, block.channels_in)
        self.norm = nn.LayerNorm(block.channels_in, eps=1e-6)
        self.project = nn.Conv3d(block.channels_in, block.channels_out, kernel_size=1)

    def skip(self, x: Tensor) -> Tensor:
        """Project the channels of ``x``, normed at each place."""
        return self.project(self.norm(x.movedim(1, -1)).movedim(-1, 1))


class Downsample(nn.Module):
    """Space to depth by ``stride`` after a convolution; the skip is the mean of neighbouring folded channels."""

    def __init__(self, channels: int, block: ResampleConfig, padding: str):
        super().__init__()
        self.stride, self.out_channels = block.stride, channels * block.multiplier
        self.conv = Conv(channels, self.out_channels // math.prod(block.stride), padding, causal=True)

    def forward(self, x: Tensor) -> Tensor:
        """Halve (B, C, F, H, W) along the strided axes."""
        if self.stride[0] == 2:  # 8k + 1 frames become even
            x = torch.cat([x[:, :, :1], x], dim=2)
        skip = space_to_depth(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)
        return skip.add_(space_to_depth(self.conv(x), self.stride))


class Upsample(nn.Module):
    """Depth to space by ``stride`` after a convolution; with ``residual`` the repeated input is added."""

    def __init__(self, channels: int, block: ResampleConfig, padding: str, causal: bool):
        super().__init__()
        self.stride, self.residual, self.out_channels = block.stride, block.residual, channels // block.multiplier
        self.conv = Conv(channels, self.out_channels * math.prod(block.stride), padding, causal)

    def forward(self, x: Tensor) -> Tensor:
        """Double (B, C, F, H, W) along the strided axes, without the first frame where time is one of them."""
        hidden = self.conv(x)
        if self.residual:  # repeating before unfolding equals repeating the unfolded input
            hidden.unflatten(1, (-1, x.shape[1])).add_(x.unsqueeze(1))
        x = depth_to_space(hidden, self.stride)
        return x[:, :, 1:] if self.stride[0] == 2 else x


class ChannelStatistics(nn.Module):
    """Mean and standard deviation of each latent channel; the rest of the model works on normalised latents."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def normalize(self, latent: Tensor) -> Tensor:
        """Bring each channel of (B, C, F, H, W) to mean 0 and deviation 1."""
        mean, std = self._like(latent)
        return (latent - mean) / std

    def denormalize(self, latent: Tensor) -> Tensor:
        """Undo ``normalize``."""
        mean, std = self._like(latent)
        return latent * std + mean

    def _like(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.to(latent)[:, None, None, None], self.std.to(latent)[:, None, None, None]


def pixel_norm(x: Tensor) -> Tensor:
    """Divide (B, C, F, H, W) by the root mean square over the channels."""
    return norm_pixels(x, EPS)


def space_to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Fold (B, C, F*t, H*h, W*w) into (B, C*t*h*w, F, H, W)."""
    t, h, w = stride
    return rearrange(x, "B C (F t) (H h) (W w) -> B F H W (C t h w)", t=t, h=h, w=w).movedim(-1, 1)


def depth_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Unfold (B, C*t*h*w, F, H, W) into (B, C, F*t, H*h, W*w)."""
    t, h, w = stride
    return rearrange(x, "B (C t h w) F H W -> B (F t) (H h) (W w) C", t=t, h=h, w=w).movedim(-1, 1)


def patchify(pixels: Tensor, size: int) -> Tensor:
    """Fold (B, C, F, H*size, W*size) into (B, C*size*size, F, H, W), the column in the patch before the row.

    No other folding has this order (see README.md, "Patches").
    """
    return rearrange(pixels, "B C F (H row) (W col) -> B F H W (C col row)", row=size, col=size).movedim(-1, 1)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """Undo ``patchify``: (B, C*size*size, F, H, W) to (B, C, F, H*size, W*size)."""
    return rearrange(patches, "B (C col row) F H W -> B C F (H row) (W col)", row=size, col=size)
