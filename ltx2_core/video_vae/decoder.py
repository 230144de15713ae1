"""From latents to pixels (see README.md, "Decoder")."""

import math

from torch import Tensor, nn

from ..errors import SettingError
from .config import ResampleConfig, VideoVAEConfig
from .layers import ChannelStatistics, Conv, Residual, Upsample, unpatchify


class VideoDecoder(nn.Module):
    """The convolutional decoder of LTX-2.0 and 2.3; in released files it is not causal."""

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        padding, causal = config.decoder_padding, config.causal_decoder
        multipliers = [block.multiplier for block in config.decoder_blocks if isinstance(block, ResampleConfig)]
        channels = config.decoder_base_channels * math.prod(multipliers)
        self.statistics = ChannelStatistics(config.latent_channels)
        self.conv_in = Conv(config.latent_channels, channels, padding, causal)
        self.blocks = nn.ModuleList()
        for block in config.decoder_blocks:
            if isinstance(block, ResampleConfig):
                layer = Upsample(channels, block, padding, causal)
                channels = layer.out_channels
                self.blocks.append(nn.ModuleList([layer]))
            else:
                self.blocks.append(nn.ModuleList(Residual(channels, padding, causal) for _ in range(block.layers)))
        self.conv_out = Conv(channels, config.out_channels * config.patch_size**2, padding, causal, activate=True)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a latent (B, C, f, h, w) to pixels (B, 3, F, H, W).

        Pixels are nominally -1..1 and not clamped, in the dtype of the weights.

        Raises:
            SettingError: The latent has other channels, or is too small for reflected padding.
        """
        self.check(latent)
        x = self.statistics.denormalize(latent).to(self.conv_in.weight.dtype)
        x = self.conv_in(x)
        for block in self.blocks:
            for layer in block.children():
                x = layer(x)
        return unpatchify(self.conv_out(x), self.config.patch_size)

    def check(self, latent: Tensor) -> None:
        """Raise SettingError for a latent (B, C, f, h, w) of other channels, or too small for reflected padding."""
        channels, (height, width) = latent.shape[1], latent.shape[3:]
        if channels != self.config.latent_channels:
            raise SettingError(
                f"This latent has {channels} channels, the video VAE expects {self.config.latent_channels}. "
                "Was it made by another model?"
            )
        if self.config.decoder_padding == "reflect" and min(height, width) < 2:
            smallest = 2 * self.config.space_scale
            raise SettingError(
                f"A latent of {width}x{height} is too small for this video VAE, which mirrors pictures at their edges. "
                f"It needs 2x2, that is {smallest}x{smallest} pixels; tiles need an overlap."
            )
