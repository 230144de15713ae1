"""From mel frames to latents (see README.md, "Autoencoder")."""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioVAEConfig
from .layers import CausalConv2d, Downsample, LatentStatistics, Level, ResidualBlock, pixel_norm
from .mel import log_mel


class AudioEncoder(nn.Module):
    """Turns four mel frames into one latent frame; the first latent frame depends on the first mel frame alone."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        inputs = [config.channels, *widths]
        resizes = [*(Downsample(width) for width in widths[:-1]), nn.Identity()]
        self.conv_in = CausalConv2d(config.in_channels, config.channels)
        levels = [Level(i, width, config.res_blocks, resize) for i, width, resize in zip(inputs, widths, resizes)]
        self.levels = nn.Sequential(*levels)
        self.middle = nn.Sequential(ResidualBlock(widths[-1], widths[-1]), ResidualBlock(widths[-1], widths[-1]))
        self.conv_out = CausalConv2d(widths[-1], 2 * config.latent_channels)
        self.statistics = LatentStatistics(config)

    def forward(self, mel: Tensor) -> Tensor:
        """Encode log mel (B, 2, T, 64) to a normalised latent (B, 8, ceil(T/4), 16), in the dtype of the weights."""
        x = self.conv_in(mel.to(self.conv_in.weight.dtype))
        x = self.middle(self.levels(x))
        x = self.conv_out(F.silu(pixel_norm(x)))
        mean, _log_variance = x.chunk(2, dim=1)
        return self.statistics.normalize(mean)


@torch.no_grad()
def encode_waveform(encoder: AudioEncoder, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
    """Encode a waveform to a normalised latent (B, 8, L, 16).

    Args:
        encoder: The network.
        waveform: (B, 1 or 2, N) in -1..1.
        sample_rate: Of the waveform, Hz.
        latents: L; a longer waveform is cut, a shorter one padded with silence. None for as many as it fills.
    """
    if latents is not None:
        missing = ceil(latents * sample_rate / encoder.config.latent_rate) - waveform.shape[-1]
        waveform = F.pad(waveform, (0, max(0, missing)))
    return encoder(log_mel(waveform, sample_rate, encoder.config))[:, :, :latents]
