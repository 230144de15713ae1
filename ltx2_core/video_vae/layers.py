"""The layers that encoder and decoder share (spec: video_vae.md, section 3).

Clips are (B, C, F, H, W) in the channels-last layout: a norm over channels then reads what lies together.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import needs_grad
from .config import Resample

FRAMES_AT_ONCE = 8  # while normalising; keeps the copies small


class Conv(nn.Conv3d):
    """A 3x3x3 convolution of a clip, beyond whose ends its edge frames repeat.

    With ``activate`` it takes SiLU(pixel_norm(x)) instead of x.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: str, causal: bool, activate: bool = False):
        # Zeros around the picture are the convolution's own work; mirrored pixels are written by ``surround``.
        mirror = padding == "reflect"
        super().__init__(in_channels, out_channels, kernel_size=3, padding=(0, 0, 0) if mirror else (0, 1, 1))
        self.margin = 1 if mirror else 0
        self.before, self.after = (2, 0) if causal else (1, 1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(self.surround(x))

    def surround(self, x: Tensor) -> Tensor:
        """Copy ``x``, activated if so wished, into the middle of a larger clip and fill the rim around it."""
        if needs_grad(x):
            return self._padded(F.silu(pixel_norm(x)) if self.activate else x)
        (batch, channels, frames, height, width), m = x.shape, self.margin
        shape = (batch, channels, self.before + frames + self.after, height + 2 * m, width + 2 * m)
        clip = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        first, last = self.before, self.before + frames - 1

        inside = clip[:, :, first : last + 1, m : m + height, m : m + width]
        if self.activate:
            for part, target in zip(x.split(FRAMES_AT_ONCE, dim=2), inside.split(FRAMES_AT_ONCE, dim=2)):
                torch.ops.aten.silu.out(pixel_norm(part), out=target)
        else:
            inside.copy_(x)

        if m:  # the edge itself is not repeated
            clip[..., 0, :], clip[..., -1, :] = clip[..., 2, :], clip[..., -3, :]
            clip[..., 0], clip[..., -1] = clip[..., 2], clip[..., -3]
        clip[:, :, :first] = clip[:, :, first : first + 1]
        clip[:, :, last + 1 :] = clip[:, :, last : last + 1]
        return clip

    def _padded(self, x: Tensor) -> Tensor:
        """The same in a form that gradients can follow."""
        if self.margin:
            x = F.pad(x, (1, 1, 1, 1, 0, 0), mode="reflect")
        return torch.cat([*[x[:, :, :1]] * self.before, x, *[x[:, :, -1:]] * self.after], dim=2)

    def convolve(self, surrounded: Tensor) -> Tensor:
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)  # no copy where it is so already
        return F.conv3d(surrounded, weight, self.bias, padding=self.padding)


class Residual(nn.Module):
    """x + conv2(SiLU(norm(conv1(SiLU(norm(x))))))."""

    def __init__(self, channels: int, padding: str, causal: bool):
        super().__init__()
        self.conv1 = Conv(channels, channels, padding, causal, activate=True)
        self.conv2 = Conv(channels, channels, padding, causal, activate=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        hidden = self.conv2.surround(hidden)  # lets go of the first convolution's output before the second runs
        return self.conv2.convolve(hidden).add_(x)


class Downsample(nn.Module):
    """Fold ``stride`` into channels after a convolution; the skip is the mean of neighbouring folded channels."""

    def __init__(self, channels: int, block: Resample, padding: str):
        super().__init__()
        self.stride, self.out_channels = block.stride, channels * block.multiplier
        self.conv = Conv(channels, self.out_channels // math.prod(block.stride), padding, causal=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:  # 8k + 1 frames become even
            x = torch.cat([x[:, :, :1], x], dim=2)
        skip = space_to_depth(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)
        return skip.add_(space_to_depth(self.conv(x), self.stride))


class Upsample(nn.Module):
    """Unfold channels into ``stride`` after a convolution; with ``residual`` the input, repeated, is added to it."""

    def __init__(self, channels: int, block: Resample, padding: str, causal: bool):
        super().__init__()
        self.stride, self.residual, self.out_channels = block.stride, block.residual, channels // block.multiplier
        self.conv = Conv(channels, self.out_channels * math.prod(block.stride), padding, causal)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        if self.residual:  # repeating before unfolding equals repeating the unfolded input
            hidden.unflatten(1, (-1, x.shape[1])).add_(x.unsqueeze(1))
        x = depth_to_space(hidden, self.stride)
        return x[:, :, 1:] if self.stride[0] == 2 else x


class Statistics(nn.Module):
    """Mean and deviation of every latent channel, which the rest of the model sees as 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def normalize(self, latent: Tensor) -> Tensor:
        mean, std = self._like(latent)
        return (latent - mean) / std

    def denormalize(self, latent: Tensor) -> Tensor:
        mean, std = self._like(latent)
        return latent * std + mean

    def _like(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.to(latent)[:, None, None, None], self.std.to(latent)[:, None, None, None]


def pixel_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the channels."""
    return F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-8).movedim(-1, 1)


def space_to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C, F*t, H*h, W*w) -> (B, C*t*h*w, F, H, W)"""
    t, h, w = stride
    return rearrange(x, "B C (F t) (H h) (W w) -> B F H W (C t h w)", t=t, h=h, w=w).movedim(-1, 1)


def depth_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C*t*h*w, F, H, W) -> (B, C, F*t, H*h, W*w)"""
    t, h, w = stride
    return rearrange(x, "B (C t h w) F H W -> B (F t) (H h) (W w) C", t=t, h=h, w=w).movedim(-1, 1)


def patchify(pixels: Tensor, size: int) -> Tensor:
    """(B, C, F, H*size, W*size) -> (B, C*size*size, F, H, W), the column in the patch before the row (section 2)."""
    return rearrange(pixels, "B C F (H row) (W col) -> B F H W (C col row)", row=size, col=size).movedim(-1, 1)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """(B, C*size*size, F, H, W) -> (B, C, F, H*size, W*size), as ``patchify`` packed them."""
    return rearrange(patches, "B (C col row) F H W -> B C F (H row) (W col)", row=size, col=size)
