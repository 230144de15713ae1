"""From latents to pixels (spec: video_vae.md, section 6)."""

import math

from torch import Tensor, nn

from .config import Resample, VideoVAEConfig
from .layers import Conv, Residual, Statistics, Upsample, unpatchify


class VideoDecoder(nn.Module):
    """The convolutional decoder of LTX-2.0 and 2.3; released files let it look ahead in time."""

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        padding, causal = config.decoder_padding, config.causal_decoder
        multipliers = [block.multiplier for block in config.decoder_blocks if isinstance(block, Resample)]
        channels = config.decoder_base_channels * math.prod(multipliers)
        self.statistics = Statistics(config.latent_channels)
        self.conv_in = Conv(config.latent_channels, channels, padding, causal)
        self.blocks = nn.ModuleList()
        for block in config.decoder_blocks:
            if isinstance(block, Resample):
                layer = Upsample(channels, block, padding, causal)
                channels = layer.out_channels
                self.blocks.append(nn.ModuleList([layer]))
            else:
                self.blocks.append(nn.ModuleList(Residual(channels, padding, causal) for _ in range(block.layers)))
        self.conv_out = Conv(channels, config.out_channels * config.patch_size**2, padding, causal, activate=True)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, f, h, w) -> pixels (B, 3, F, H, W), nominally -1..1 and not clamped, in the weights' dtype."""
        self._check(latent)
        x = self.statistics.denormalize(latent).to(self.conv_in.weight.dtype)
        x = self.conv_in(x)
        for block in self.blocks:
            for layer in block.children():
                x = layer(x)
        return unpatchify(self.conv_out(x), self.config.patch_size)

    def _check(self, latent: Tensor) -> None:
        channels, (height, width) = latent.shape[1], latent.shape[3:]
        if channels != self.config.latent_channels:
            raise ValueError(
                f"This latent has {channels} channels, the video VAE expects {self.config.latent_channels}. "
                "Was it made by another model?"
            )
        if self.config.decoder_padding == "reflect" and min(height, width) < 2:
            smallest = 2 * self.config.space_scale
            raise ValueError(
                f"A latent of {width}x{height} is too small for this video VAE, which mirrors pictures at their edges. "
                f"It needs 2x2, that is {smallest}x{smallest} pixels; tiles need an overlap."
            )
