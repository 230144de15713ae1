"""From latents to pixels (see README.md, "Decoder")."""

from collections.abc import Iterator

from torch import Tensor, nn

from ..errors import CheckpointError, SettingError
from ..geometry import pixel_frames
from .config import ProjectConfig, ResampleConfig, VideoVAEConfig
from .decoding import FLOAT32, DecoderInput, DecodesInTiles, DecodingWork, Work, check_channels
from .layers import ChannelStatistics, Conv, ProjectedResidual, Residual, Upsample, unpatchify
from .tiling import (
    NARROWEST,
    TILINGS,
    Grid,
    MakeTiles,
    OnTile,
    TileAxis,
    TileWork,
    Tiling,
    blend_tiles,
    coupled_side,
    largest_tile,
    split_time_axis,
    split_with_least,
    tile_axes,
    to_frames,
    to_pixels,
)


class VideoDecoder(DecodesInTiles, nn.Module):
    """The convolutional decoder of LTX-2.0, 2.3 and 2.5; in released files it is not causal."""

    tilings = TILINGS
    usual_tiling = TILINGS[0]
    denoises = False

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        if not config.decoder_blocks:
            raise CheckpointError(
                "The vae config describes a diffusion decoder, but the tensors are those of a convolutional one; take "
                "the original file, or restore its config."
            )
        self.config = config
        padding, causal = config.decoder_padding, config.causal_decoder
        channels = config.decoder_width
        self.statistics = ChannelStatistics(config.latent_channels)
        self.conv_in = Conv(config.latent_channels, channels, padding, causal)
        self.blocks = nn.ModuleList()
        for block in config.decoder_blocks:
            if isinstance(block, ResampleConfig):
                layer = Upsample(channels, block, padding, causal)
                channels = layer.out_channels
                self.blocks.append(nn.ModuleList([layer]))
            elif isinstance(block, ProjectConfig):
                channels = block.channels_out
                self.blocks.append(nn.ModuleDict({"projected": ProjectedResidual(block, padding, causal)}))
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
        check_channels(latent, self.config.latent_channels)
        height, width = latent.shape[3:]
        if self.config.decoder_padding == "reflect" and min(height, width) < 2:
            smallest = 2 * self.config.space_scale
            raise SettingError(
                f"A latent of {width}x{height} is too small for this video VAE, which mirrors pictures at their edges. "
                f"It needs 2x2, that is {smallest}x{smallest} pixels; tiles need an overlap."
            )

    def decode_by(self, make: MakeTiles, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Decode in tiles, each of which is a clip of its own, as ``make`` makes them; arguments as for ``decode``.

        They shrink along the shorter side of the picture as it does.
        """
        latent = inputs.latent.to(next(self.parameters()).dtype)
        grid = self._grid(latent, inputs.tiling)
        work = (TileWork(latent[:, :, time.source, row.source, column.source]) for time, row, column in grid.places)
        return blend_tiles(make(work), grid, latent.new_empty(len(latent), self.config.out_channels), on_tile)

    def count_tiles(self, latent: Tensor, tiling: Tiling) -> int:
        """Return in how many tiles a latent of this shape is decoded."""
        return self._grid(latent, tiling).count

    def _grid(self, latent: Tensor, tiling: Tiling) -> Grid:
        frames, height, width = latent.shape[2:]
        time, space = self.config.time_scale, self.config.space_scale
        size, overlap = tiling.tile_size // space, tiling.tile_overlap // space

        def side(length: int) -> list[TileAxis]:
            side = coupled_side(length, max(height, width), size, overlap)
            spans = split_with_least(length, side, overlap, NARROWEST)
            return tile_axes(spans, [to_pixels(span, space) for span in spans], from_zero=False)

        spans = split_time_axis(frames, tiling.tile_frames // time, tiling.frame_overlap // time)
        intervals = tile_axes(spans, [to_frames(span, time) for span in spans], from_zero=True)

        return Grid(intervals, side(height), side(width))

    def work(self, inputs: DecoderInput) -> DecodingWork:
        """Say what ``decode`` computes of a latent of this shape, and holds meanwhile."""
        latent, tiling = inputs.latent, inputs.tiling
        batch, channels, length, height, width = latent.shape
        largest, tiles = largest_tile((length, height, width), tiling, coupled=True)
        tile = latent.new_empty(batch, channels, *largest)
        frame = batch * self.config.out_channels * height * width * self.config.space_scale**2 * FLOAT32
        interval = frame * pixel_frames(largest[0])  # what is being blended
        tail = frame * tiling.frame_overlap if len(tiling.intervals(length)) > 1 else 0
        return DecodingWork((Work(largest, lambda: self(tile), tiles, tile.nbytes, interval + tail),), interval)

    def fitted(self, tiling: Tiling) -> Tiling:
        """Return ``tiling`` as it is: seams of 64 pixels hide well."""
        return tiling
