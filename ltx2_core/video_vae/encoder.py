"""From pixels to latents (see README.md, "Encoder")."""

from torch import Tensor, nn

from ..errors import SettingError
from .config import ResampleConfig, ResidualConfig, VideoVAEConfig
from .layers import ChannelStatistics, Conv, Downsample, Residual, patchify


class VideoEncoder(nn.Module):
    """The convolutional encoder of all versions; causal: a latent frame depends on no later frame than its own."""

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        padding, channels = config.encoder_padding, config.latent_channels
        self.statistics = ChannelStatistics(config.latent_channels)
        self.conv_in = Conv(config.in_channels * config.patch_size**2, channels, padding, causal=True)
        self.blocks = nn.ModuleList()
        for block in config.encoder_blocks:
            if isinstance(block, ResampleConfig):
                layer = Downsample(channels, block, padding)
                channels = layer.out_channels
                self.blocks.append(nn.ModuleList([layer]))
            elif isinstance(block, ResidualConfig):
                self.blocks.append(nn.ModuleList(Residual(channels, padding, causal=True) for _ in range(block.layers)))
        # The last channel is the logarithm of a variance, which inference does not use.
        self.conv_out = Conv(channels, config.latent_channels + 1, padding, causal=True, activate=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, F, H, W) in -1..1 to normalised means (B, C, f, h, w); drop frames beyond 8k + 1.

        Raises:
            SettingError: Height or width is no multiple of the latent's cells.
        """
        x = patchify(self.crop(pixels).to(self.conv_in.weight.dtype), self.config.patch_size)
        x = self.conv_in(x)
        for block in self.blocks:
            for layer in block.children():
                x = layer(x)
        means = self.conv_out(x)[:, :-1]
        return self.statistics.normalize(means).contiguous()

    def crop(self, pixels: Tensor) -> Tensor:
        """Drop the trailing frames that fill no latent frame; SettingError if height or width do not fit."""
        frames, height, width = pixels.shape[2:]
        scale = self.config.space_scale
        if height % scale or width % scale:
            nearest = [max(1, round(size / scale)) * scale for size in (width, height)]
            raise SettingError(
                f"{width}x{height} pixels do not fit this video VAE: width and height must be multiples of {scale}, "
                f"for example {nearest[0]}x{nearest[1]}. Resize or crop first."
            )
        return pixels[:, :, : frames - (frames - 1) % self.config.time_scale]
