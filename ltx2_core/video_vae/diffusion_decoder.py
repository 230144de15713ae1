"""From latents to pixels by a diffusion model (see README.md, "Diffusion")."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..layers.norms import RMSNorm
from .decoding import FLOAT32, DecodingWork, Denoising, Work
from .diffusion_config import DiffusionDecoderConfig
from .diffusion_layers import Block, DiffusionBlock, TimeEmbedding, Upsample
from .diffusion_tiles import CellGrid, least_overlap, pad_to
from .layers import ChannelStatistics, patchify, unpatchify
from .place_noise import place_noise
from .tiling import OnTile, TileAxis, Tiling, stream_tiles

# The overlap is that of the official tiling. Tiles of the whole clip are made where there is room for them.
_TILINGS: tuple[Tiling, ...] = (
    Tiling(4096, 160, 4096, 40),
    Tiling(1088, 160, 128, 40),
    Tiling(768, 160, 128, 40),
    Tiling(640, 160, 128, 40),
    Tiling(512, 160, 128, 40),
    Tiling(512, 160, 88, 40),
    Tiling(384, 160, 88, 40),
    Tiling(320, 160, 80, 40),
)


class DiffusionDecoder(nn.Module):
    """The default decoder of LTX-2.5.

    Three stages turn the whole latent into *cells* of two frames and 8x8 pixels, a fourth turns cells into a context
    for every 4x4 pixels, and the last denoises the pixels. From the cells on a clip may be made in tiles.
    """

    tilings = _TILINGS
    usual_tiling = _TILINGS[2]
    denoises = True

    def __init__(self, config: DiffusionDecoderConfig):
        super().__init__()
        self.config = config
        first, *_, last = config.stages
        patch = config.out_channels * config.patch_size**2
        self.statistics = ChannelStatistics(config.latent_channels)
        self.from_latent = nn.Linear(config.latent_channels, first.channels)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(stage, config.head_dim, config.gates) for _ in range(stage.depth))
            for stage in config.stages[:-1]
        )
        self.upsamples = nn.ModuleList(
            Upsample(stage.channels, upsample) for stage, upsample in zip(config.stages, config.upsamples)
        )
        self.time = TimeEmbedding(config.embedding, last.channels, config.time_multiplier)
        self.from_pixels = nn.Linear(patch, last.channels)
        self.diffusion = nn.ModuleList(DiffusionBlock(last, config.head_dim, config.gates) for _ in range(last.depth))
        self.norm_out = RMSNorm(last.channels)
        self.to_pixels = nn.Linear(last.channels, patch)

    def forward(self, latent: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Decode a latent (B, C, f, h, w) as a whole to pixels (B, 3, F, H, W), nominally -1..1.

        Args:
            latent: at least as large as ``config.smallest``.
            noise: (B, 3, F, H, W).
            steps: of denoising; None for as many as the file says.
        """
        self.check(latent)
        context = self.make_context(self.make_cells(latent), is_first=True, is_last=True)
        return self.denoise(noise, context, steps)

    def check(self, latent: Tensor) -> None:
        """Raise SettingError for a latent (B, C, f, h, w) of other channels."""
        if latent.shape[1] != self.config.latent_channels:
            raise SettingError(
                f"This latent has {latent.shape[1]} channels, the video VAE expects {self.config.latent_channels}. "
                "Was it made by another model?"
            )

    def make_cells(self, latent: Tensor) -> Tensor:
        """Run the first three stages on a whole latent (B, C, f, h, w).

        Returns:
            (B, T, H, W, C'), with cells of ghosts behind those of the clip.
        """
        ghosts = latent[:, :, -1:].expand(-1, -1, self.config.ghosts, -1, -1)
        x = self.statistics.denormalize(torch.cat((latent, ghosts), dim=2))
        x = self.from_latent(x.movedim(1, -1).to(self.from_latent.weight.dtype))
        for number in range(len(self.stages) - 1):
            x = self._run_stage(number, x, is_first=True)
        return x

    def make_context(self, cells: Tensor, *, is_first: bool, is_last: bool) -> Tensor:
        """Run the fourth stage.

        Args:
            cells: (B, T, H, W, C'), of a tile.
            is_first: Whether they begin with the clip.
            is_last: Whether they end with its ghosts, which are cut off unless the last windows need them.

        Returns:
            (B, F, H/4, W/4, C).
        """
        number = len(self.stages) - 1
        context = self._run_stage(number, cells, is_first)
        if is_last:
            frames = context.shape[1]
            content = max(frames - self.config.ghosts * self.config.time_scale, 1)
            context = context[:, : max(content, self.config.stages[-1].kernel[0])]
        return context

    def _run_stage(self, number: int, x: Tensor, is_first: bool) -> Tensor:
        for block in self.stages[number].children():
            x = block(x)
        return self.upsamples[number](x, is_first)

    def denoise(self, noise: Tensor, context: Tensor, steps: int | None = None) -> Tensor:
        """Turn noise (B, 3, F, H, W) into pixels of the same shape.

        Args:
            noise: of the first step.
            context: (B, F, H/4, W/4, C), of the same frames.
            steps: None for as many as the file says.
        """
        count = steps or self.config.steps
        times = [1 - step / count for step in range(count)]
        x = noise
        for time, following in zip(times, [*times[1:], 0.0]):
            found = self._predict(x, time, context)
            if self.config.predicts_x0 and not following:
                return found
            x, found = x.float(), found.float()
            velocity = (x - found) / time if self.config.predicts_x0 else found
            x = (x - (time - following) * velocity).to(noise.dtype)
        return x

    def _predict(self, pixels: Tensor, time: float, context: Tensor) -> Tensor:
        """Return what the last stage makes of pixels (B, 3, F, H, W) at ``time``."""
        modulation = self.time(time)
        x = self.from_pixels(patchify(pixels, self.config.patch_size).movedim(1, -1))
        for block in self.diffusion.children():
            x = block(x, context, modulation)
        x = self.to_pixels(self.norm_out(x))
        return unpatchify(x.movedim(-1, 1), self.config.patch_size)

    def decode(
        self, latent: Tensor, tiling: Tiling, denoising: Denoising | None = None, on_tile: OnTile | None = None
    ) -> Iterator[Tensor]:
        """Decode in tiles of cells, as ``decoding.Decoder`` says; latents of any size."""
        denoising, frames = denoising or Denoising(), (latent.shape[2] - 1) * self.config.time_scale + 1
        self.check(latent)
        padded, (top, left) = pad_to(latent, self.config.smallest)
        height, width = (length * self.config.space_scale for length in latent.shape[3:])
        top, left = top * self.config.space_scale, left * self.config.space_scale
        grid = CellGrid.of(self.config, padded.shape[2:], self.fitted(tiling))
        cells = self.make_cells(padded)

        def run(slab: Tensor, time: TileAxis, row: TileAxis, column: TileAxis) -> Tensor:
            return self._run_tile(slab[:, :, row.source, column.source], grid, (time, row, column), denoising)

        for chunk in stream_tiles(lambda t: cells[:, t], run, self.config.out_channels, grid.tiles, on_tile):
            chunk = chunk[:, :, :frames, top : top + height, left : left + width]
            frames -= chunk.shape[2]
            if chunk.shape[2]:
                yield chunk
            del chunk  # before the next one is made

    def _run_tile(
        self, cells: Tensor, grid: CellGrid, place: tuple[TileAxis, TileAxis, TileAxis], denoising: Denoising
    ) -> Tensor:
        """Make the pixels of one tile."""
        time, row, column = (axis.target for axis in place)
        context = self.make_context(cells, is_first=time.start == 0, is_last=time.stop == grid.frames)
        batch, frames, height, width, _ = context.shape
        patch, channels = self.config.patch_size, self.config.out_channels
        shape = (batch, channels, frames, height * patch, width * patch)
        noise = place_noise(denoising.decoder_seed, shape, (time.start, row.start, column.start), cells)
        return self.denoise(noise, context, denoising.decoder_steps or None)[:, :, : time.stop - time.start]

    def work(self, latent: Tensor, tiling: Tiling, denoising: Denoising | None = None) -> DecodingWork:
        """Say what ``decode`` computes of a latent of this shape, and holds meanwhile."""
        padded, _ = pad_to(latent, self.config.smallest)
        grid = CellGrid.of(self.config, padded.shape[2:], self.fitted(tiling))
        place, tiles = grid.largest()
        whole = (len(padded), *grid.cells, self.config.stages[3].channels)
        cells = padded.new_empty(len(padded), *(axis.source.stop - axis.source.start for axis in place), whole[-1])
        kept = math.prod(whole) * padded.element_size()
        frame = len(padded) * self.config.out_channels * grid.height * grid.width * FLOAT32
        interval, tail = frame * grid.longest_interval, frame * grid.longest_tail
        parts = (
            Work("cells", lambda: self.make_cells(padded)),
            Work(
                (cells.shape, place[0].target.stop == grid.frames, denoising),
                lambda: self._run_tile(cells, grid, place, denoising or Denoising()),
                tiles,
                kept + interval + tail,
            ),
        )
        return DecodingWork(parts, interval, kept)

    def fitted(self, tiling: Tiling) -> Tiling:
        """Return ``tiling`` with at least the overlap beyond which no pixel sees, and tiles of at least twice that."""
        pixels, frames = least_overlap(self.config)
        overlap, frame_overlap = max(tiling.tile_overlap, pixels), max(tiling.frame_overlap, frames)
        size, length = max(tiling.tile_size, 2 * overlap), max(tiling.tile_frames, 2 * frame_overlap)
        return Tiling(size, overlap, length, frame_overlap)
