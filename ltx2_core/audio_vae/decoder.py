"""Latent -> mel frames (spec: audio.md, section 3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioVAEConfig
from .layers import CausalConv2d, LatentStatistics, Level, ResidualBlock, Upsample, pixel_norm


class AudioDecoder(nn.Module):
    """One latent frame to four mel frames, except that the first becomes a single one."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        widths = config.widths
        inputs = [*widths[1:], widths[-1]]
        resizes = [nn.Identity(), *(Upsample(width) for width in widths[1:])]
        self.statistics = LatentStatistics(config)
        self.conv_in = CausalConv2d(config.latent_channels, widths[-1])
        self.middle = nn.Sequential(*(ResidualBlock(widths[-1], widths[-1]) for _ in range(2)))
        # As in the encoder, level 0 is the one next to the mel frames.
        self.levels = nn.ModuleList(
            Level(i, width, config.res_blocks + 1, resize) for i, width, resize in zip(inputs, widths, resizes)
        )
        self.conv_out = CausalConv2d(widths[0], config.out_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, 8, L, 16) normalised latent -> (B, 2, 4L - 3, 64) log mel, in the weights' dtype."""
        x = self.statistics.denormalize(latent.to(self.conv_in.weight.dtype))
        x = self.middle(self.conv_in(x))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(x)))
