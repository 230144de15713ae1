"""The layers of the audio encoder and decoder (see README.md, "Autoencoder").

They work on images (B, C, T, F) of time by frequency and are causal in time.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioVAEConfig


def pixel_norm(x: Tensor) -> Tensor:
    """Divide (B, C, T, F) by the root mean square over the channels."""
    scale = (x.float().square().mean(1, keepdim=True) + 1e-6).rsqrt()
    return (x.float() * scale).to(x.dtype)


class CausalConv2d(nn.Conv2d):
    """A 3x3 convolution over this frame and the two before it, and one frequency bin to either side."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, T, F) to (B, C', T, F)."""
        return super().forward(F.pad(x, (1, 1, 2, 0)))


class Downsample(nn.Conv2d):
    """Halves frequency and time; of ceil(T/2) frames the first depends on the first input frame alone."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, T, F) to (B, C, ceil(T/2), F/2)."""
        return super().forward(F.pad(x, (0, 1, 2, 0)))


class Upsample(CausalConv2d):
    """Doubles frequency and time; the first frame stays single, so T frames become 2T - 1."""

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, T, F) to (B, C, 2T - 1, 2F)."""
        if x.dtype is not torch.float32:  # in which sums of weights would be rounded
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))[:, :, 1:]
        return self._convolve_before_doubling(x)[:, :, 1:]

    def _convolve_before_doubling(self, x: Tensor) -> Tensor:
        """Do the same with four products for each number instead of nine.

        Three taps see two numbers of which one was doubled; its two taps are added up. In time both kernels read the
        frame before this one and this one; in frequency the even bins read the bin below, the odd ones that above.
        """
        padded = F.pad(x, (1, 1, 1, 0))
        times, bias = torch.cat(_add_taps(self.weight, 2)), None if self.bias is None else self.bias.repeat(2)
        odd, even = _add_taps(times, 3)
        batch, channels, frames, bins = x.shape
        doubled = x.new_empty(batch, channels, frames, 2, bins, 2)
        for place, (source, weight) in enumerate(((padded[..., :-1], even), (padded[..., 1:], odd))):
            doubled[..., place] = F.conv2d(source, weight, bias).unflatten(1, (2, -1)).movedim(1, 3)
        return doubled.flatten(4).flatten(2, 3)


def _add_taps(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the two taps of ``axis`` that are left of three if the first two see the same number, or the last two."""
    first, middle, last = weight.unbind(axis)
    return torch.stack((first + middle, last), axis), torch.stack((first, middle + last), axis)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = CausalConv2d(in_channels, out_channels)
        self.conv2 = CausalConv2d(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next hidden states of ``x`` (B, C, T, F)."""
        h = self.conv1(F.silu(pixel_norm(x)))
        h = self.conv2(F.silu(pixel_norm(h)))
        return self.shortcut(x) + h


class Level(nn.Module):
    """Residual blocks at one resolution, then the step to the next."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, resize: nn.Module):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        residuals = [ResidualBlock(before, after) for before, after in pairwise(widths)]
        self.blocks = nn.Sequential(*residuals)
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states of the next resolution."""
        return self.resize(self.blocks(x))


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each channel and frequency bin of the latent, in this order in the file."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.shape = (config.latent_channels, 1, config.latent_bins)
        cells = config.latent_channels * config.latent_bins
        self.register_buffer("mean", torch.zeros(cells))
        self.register_buffer("std", torch.ones(cells))

    def normalize(self, latent: Tensor) -> Tensor:
        """Bring each channel and bin of (B, C, T, M) to mean 0 and deviation 1."""
        return (latent - self.mean.view(self.shape)) / self.std.view(self.shape)

    def denormalize(self, latent: Tensor) -> Tensor:
        """Undo ``normalize``."""
        return latent * self.std.view(self.shape) + self.mean.view(self.shape)
