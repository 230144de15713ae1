"""From latents to mel frames (see README.md, "Autoencoder")."""

import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioVAEConfig
from .layers import CausalConv2d, LatentStatistics, Level, ResidualBlock, Upsample, pixel_norm


class AudioDecoder(nn.Module):
    """Turns each latent frame into four mel frames, and the first into one."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        widths = config.widths
        inputs = [*widths[1:], widths[-1]]
        resizes = [nn.Identity(), *(Upsample(width) for width in widths[1:])]
        self.statistics = LatentStatistics(config)
        self.conv_in = CausalConv2d(config.latent_channels, widths[-1])
        self.middle = nn.Sequential(ResidualBlock(widths[-1], widths[-1]), ResidualBlock(widths[-1], widths[-1]))
        # As in the encoder, level 0 is the one next to the mel frames.
        self.levels = nn.ModuleList(
            Level(i, width, config.res_blocks + 1, resize) for i, width, resize in zip(inputs, widths, resizes)
        )
        self.conv_out = CausalConv2d(widths[0], config.out_channels)

    def mel_frames(self, latents: int) -> int:
        """Return how many mel frames ``latents`` latent frames become."""
        return (latents - 1) * 2 ** sum(isinstance(level.resize, Upsample) for level in self.levels) + 1

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a normalised latent (B, 8, L, 16) to log mel (B, 2, 4L - 3, 64), in the dtype of the weights."""
        x = self.statistics.denormalize(latent.to(self.conv_in.weight.dtype))
        x = self.middle(self.conv_in(x))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(x)))
