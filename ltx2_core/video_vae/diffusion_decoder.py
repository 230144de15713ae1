"""From latents to pixels by a diffusion model (see README.md, "Diffusion")."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..geometry import Keyframes
from ..layers import alike
from ..layers.norms import RMSNorm
from .decoding import FLOAT32, DecoderInput, DecodesInTiles, DecodingWork, Denoising, Work, check_channels
from .diffusion_config import DiffusionDecoderConfig
from .diffusion_layers import SHARES, Block, DiffusionBlock, TimeEmbedding, Upsample
from .diffusion_tiles import CellGrid, cell_scale, least_overlap, pad_keyframes, pad_to, seen_in, stage_times
from .keyframe_attention import Hidden, Joint, on_each
from .layers import ChannelStatistics, patchify, unpatchify
from .neighbourhood_attention import Size
from .place_noise import place_noise
from .tiling import MakeTiles, OnTile, TileAxis, TileWork, Tiling, blend_tiles

# The overlap is that of the official tiling. Tiles of the whole clip are made where there is room for them.
_TILINGS: tuple[Tiling, ...] = (
    Tiling(4096, 160, 4096, 40),
    Tiling(1088, 160, 128, 40),
    Tiling(768, 160, 128, 40),
    Tiling(640, 160, 128, 40),
    Tiling(512, 160, 128, 40),
    Tiling(512, 160, 88, 40),
    Tiling(448, 160, 88, 40),
    Tiling(384, 160, 88, 40),
    Tiling(320, 160, 80, 40),
)

Place = tuple[TileAxis, TileAxis, TileAxis]  # of a tile in time, height and width


class DiffusionDecoder(DecodesInTiles, nn.Module):
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
        self.keyframe_mark = nn.Parameter(torch.empty(config.latent_channels)) if config.marks_keyframes else None
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
        cells, _ = self.make_cells(latent)
        return self.denoise(noise, self.make_context(cells, is_first=True, is_last=True), steps)

    def check(self, latent: Tensor) -> None:
        """Raise SettingError for a latent (B, C, f, h, w) of other channels."""
        check_channels(latent, self.config.latent_channels)

    def make_cells(
        self, latent: Tensor, keyframes: Keyframes | None = None, device: torch.device | None = None
    ) -> tuple[Tensor, Keyframes | None]:
        """Run the first three stages on a whole latent (B, C, f, h, w), and on the keyframes beside it.

        Args:
            latent: at least as large as ``config.smallest``.
            keyframes: of its height and width.
            device: where to run; None for where the latent is.

        Returns:
            (B, T, H, W, C'), with cells of ghosts behind those of the clip, and those of the keyframes, both where the
            latent is.
        """
        x = self._see_all(latent.to(device), keyframes)
        clip = x.clip if isinstance(x, Joint) else x
        cells, done, beside = latent.new_empty(self._cells_of(latent), dtype=clip.dtype), 0, None
        for piece in clip.split(self._piece(clip), dim=1):
            if isinstance(x, Joint) and not done:
                both = self._enlarge(x.with_clip(piece), is_first=True)
                piece, beside = both.clip, both.keyframes.to(cells.device)
            else:
                piece = self._enlarge(piece, is_first=not done)
            cells[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
        return cells, None if beside is None or keyframes is None else Keyframes(beside, keyframes.frames)

    def _see_all(self, latent: Tensor, keyframes: Keyframes | None) -> Tensor | Joint:
        """Run the first three stages up to the last upsample, behind which nobody sees the whole clip."""
        x = self._embedded(self._with_ghosts(latent))
        if keyframes is None:
            return self._run_first(x)
        mark = 0 if self.keyframe_mark is None else self.keyframe_mark.float()
        return self._run_first(Joint(x, self._embedded(keyframes.latent.to(latent), mark), ()), keyframes.frames)

    def _run_first(self, x: Hidden, keyframes: Sequence[int] = ()) -> Hidden:
        for number, stage in enumerate([*self.stages.children()][:-1]):
            if number:
                x = self.upsamples[number - 1](x, True)
            if isinstance(x, Joint):
                x = x.at(stage_times(self.config, number, keyframes))
            for block in alike(stage.children(), chained=True):
                x = block(x)
        return x

    def _enlarge(self, x: Hidden, is_first: bool) -> Hidden:
        """Make cells of some frames of the third stage; the first ones begin with the clip."""
        return self.upsamples[len(self.stages) - 2](x, is_first)

    @staticmethod
    def _piece(clip: Tensor) -> int:
        """Return of how many frames of the third stage cells are made at a time."""
        return math.ceil(clip.shape[1] / SHARES)

    def _cells_of(self, latent: Tensor) -> tuple[int, int, int, int, int]:
        """Return the shape (B, T, H, W, C') of the cells of a latent, those of ghosts included."""
        batch, _, frames, height, width = latent.shape
        time, side = cell_scale(self.config)
        count = (frames + self.config.ghosts - 1) * time + 1
        return batch, count, height * side, width * side, self.config.stages[-2].channels

    def _with_ghosts(self, latent: Tensor) -> Tensor:
        return torch.cat((latent, latent[:, :, -1:].expand(-1, -1, self.config.ghosts, -1, -1)), dim=2)

    def _embedded(self, latent: Tensor, mark: Tensor | int = 0) -> Tensor:
        x = self.statistics.denormalize(latent).movedim(1, -1) + mark
        return self.from_latent(x.to(self.from_latent.weight.dtype))

    def make_context(self, cells: Hidden, *, is_first: bool, is_last: bool) -> Hidden:
        """Run the fourth stage.

        Args:
            cells: (B, T, H, W, C'), of a tile, and of the keyframes beside it.
            is_first: Whether they begin with the clip.
            is_last: Whether they end with its ghosts, which are cut off unless the last windows need them.

        Returns:
            (B, F, H/4, W/4, C), and that of the keyframes.
        """
        stage = len(self.stages) - 1
        for block in alike(self.stages[stage].children(), chained=True):
            cells = block(cells)
        context: Hidden = self.upsamples[stage](cells, is_first)
        if not is_last:
            return context
        if isinstance(context, Joint):
            return context.with_clip(self._without_ghosts(context.clip))
        return self._without_ghosts(context)

    def _without_ghosts(self, context: Tensor) -> Tensor:
        content = max(context.shape[1] - self.config.ghosts * self.config.time_scale, 1)
        return context[:, : max(content, self.config.stages[-1].kernel[0])]

    def denoise(self, noise: Hidden, context: Hidden, steps: int | None = None) -> Hidden:
        """Turn noise (B, 3, F, H, W) into pixels of the same shape.

        Args:
            noise: of the first step; that of keyframes is (B, 3, K, H, W).
            context: (B, F, H/4, W/4, C), of the same frames, and that of the keyframes.
            steps: None for as many as the file says.
        """
        count = steps or self.config.steps
        times: list[float] = [1 - step / count for step in range(count)]
        x = noise
        for time, following in zip(times, [*times[1:], 0.0]):
            found = self._predict(x, time, context)
            if self.config.predicts_x0 and not following:
                return found
            x = on_each(partial(self._step, time, following), x, found)
        return x

    def _step(self, time: float, following: float, x: Tensor, found: Tensor) -> Tensor:
        """Go from ``time`` to ``following``."""
        start, found = x.float(), found.float()
        velocity = (start - found) / time if self.config.predicts_x0 else found
        return (start - (time - following) * velocity).to(x.dtype)

    def _predict(self, pixels: Hidden, time: float, context: Hidden) -> Hidden:
        """Return what the last stage makes of pixels (B, 3, F, H, W) at ``time``."""
        modulation, patch = self.time(time), self.config.patch_size
        x = on_each(lambda each: self.from_pixels(patchify(each, patch).movedim(1, -1)), pixels)
        for block in alike(self.diffusion.children(), chained=True):
            x = block(x, context, modulation)
        return on_each(lambda each: unpatchify(self.to_pixels(self.norm_out(each)).movedim(-1, 1), patch), x)

    def decode_by(self, make: MakeTiles, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Decode latents of any size in tiles of cells as ``make`` makes them, all cells here; else as ``decode``."""
        latent, denoising = inputs.latent, inputs.denoising
        self.check(latent)
        frames = (latent.shape[2] - 1) * self.config.time_scale + 1
        padded, (top, left) = pad_to(latent, self.config.smallest)
        height, width = (length * self.config.space_scale for length in latent.shape[3:])
        top, left = top * self.config.space_scale, left * self.config.space_scale
        grid = CellGrid.of(self.config, padded.shape[2:], self.fitted(inputs.tiling))
        cells, beside = self.make_cells(padded, self._seen(inputs), inputs.where)

        def run(place: Place, network: DiffusionDecoder, here: Tensor) -> Tensor:
            return network._run_tile(here, grid, place, denoising, beside)

        work = (
            TileWork(cells[:, time.source, row.source, column.source], partial(run, (time, row, column)))
            for time, row, column in grid.tiles.places
        )
        like = cells.new_empty(len(cells), self.config.out_channels)
        for chunk in blend_tiles(make(work), grid.tiles, like, on_tile):
            chunk = chunk[:, :, :frames, top : top + height, left : left + width]
            frames -= chunk.shape[2]
            if chunk.shape[2]:
                yield chunk
            del chunk  # before the next one is made

    def count_tiles(self, latent: Tensor, tiling: Tiling) -> int:
        """Return in how many tiles a latent of this shape is decoded."""
        padded, _ = pad_to(latent, self.config.smallest)
        return CellGrid.of(self.config, padded.shape[2:], self.fitted(tiling)).tiles.count

    def _seen(self, inputs: DecoderInput) -> Keyframes | None:
        """Return the keyframes that are decoded with the clip, enlarged as it is; None if none are."""
        if inputs.keyframes is None or not inputs.denoising.decoder_keyframes:
            return None
        return pad_keyframes(inputs.keyframes, self.config.smallest)

    def _run_tile(
        self, cells: Tensor, grid: CellGrid, place: Place, denoising: Denoising, beside: Keyframes | None
    ) -> Tensor:
        """Make the pixels of one tile; ``beside`` are the cells (B, K, H, W, C) of all keyframes of the clip."""
        time, row, column = (axis.target for axis in place)
        steps, is_first, is_last = denoising.decoder_steps or None, time.start == 0, time.stop == grid.frames
        begin = time.start, row.start, column.start
        if beside is None:
            context = self.make_context(cells, is_first=is_first, is_last=is_last)
            pixels = self.denoise(self._noise(denoising.decoder_seed, context, begin), context, steps)
            return pixels[:, :, : time.stop - time.start]
        near = seen_in(beside.frames, range(time.start, time.stop))
        frames = [beside.frames[number] for number in near]
        own, stage = beside.latent[:, near][:, :, place[1].source, place[2].source], len(self.stages) - 1
        own = own.to(cells.device)  # which may be another one
        joint = Joint(cells, own, stage_times(self.config, stage, frames, place[0].source.start))
        seen = self.make_context(joint, is_first=is_first, is_last=is_last)
        seen = seen.at(stage_times(self.config, stage + 1, frames, time.start))
        noise = self._joint_noise(denoising.decoder_seed, seen, begin, frames)
        return self.denoise(noise, seen, steps).clip[:, :, : time.stop - time.start]

    def _noise(self, seed: int, context: Tensor, begin: Size) -> Tensor:
        """Noise of the pixels that ``context`` (B, F, H/4, W/4, C) is of, which begin there."""
        batch, frames, height, width, _ = context.shape
        patch, channels = self.config.patch_size, self.config.out_channels
        return place_noise(seed, (batch, channels, frames, height * patch, width * patch), begin, context)

    def _joint_noise(self, seed: int, context: Joint, begin: Size, frames: Sequence[int]) -> Joint:
        """The same for a clip and its keyframes; that of each depends on its frame, and is none of the clip's."""
        each = [
            self._noise(seed, context.keyframes[:, [number]], (-1 - frame, begin[1], begin[2]))
            for number, frame in enumerate(frames)
        ]
        return Joint(self._noise(seed, context.clip, begin), torch.cat(each, dim=2), context.times)

    def work(self, inputs: DecoderInput) -> DecodingWork:
        """Say what ``decode`` computes of a latent of this shape, and holds meanwhile."""
        denoising, keyframes = inputs.denoising, self._seen(inputs)
        padded, _ = pad_to(inputs.latent, self.config.smallest)
        grid = CellGrid.of(self.config, padded.shape[2:], self.fitted(inputs.tiling))
        place, tiles = grid.largest()
        batch, *_, channels = whole = self._cells_of(padded)
        cells = padded.new_empty(batch, *(axis.source.stop - axis.source.start for axis in place), channels)
        beside = keyframes and keyframes.map(lambda each: padded.new_empty(batch, each.shape[2], *whole[2:]))
        frames, kept = () if beside is None else beside.frames, math.prod(whole) * padded.element_size()
        kept += 0 if beside is None else beside.latent.nbytes
        third = self._third_of(padded)
        frame = batch * self.config.out_channels * grid.height * grid.width * FLOAT32
        interval, tail = frame * grid.longest_interval, frame * grid.longest_tail
        parts = (
            Work(("whole", frames), lambda: self._see_all(padded, keyframes), given=padded.nbytes),
            Work(
                ("cells", frames),
                lambda: self._enlarge_some(third, len(frames)),
                third.shape[1] / self._piece(third),
                third.nbytes,
                third.nbytes + kept,
            ),
            Work(
                (cells.shape, place[0].target.stop == grid.frames, denoising, frames),
                lambda: self._run_tile(cells, grid, place, denoising, beside),
                tiles,
                cells.nbytes,
                kept + interval + tail,
            ),
        )
        return DecodingWork(parts, interval, kept, before_tiles=2)

    def _enlarge_some(self, third: Tensor, keyframes: int) -> object:
        """Make cells of the first frames of the third stage, and of so many keyframes."""
        piece = third[:, : self._piece(third)]
        if not keyframes:
            return self._enlarge(piece, is_first=True)
        beside = piece.new_empty(len(piece), keyframes, *piece.shape[2:])
        return self._enlarge(Joint(piece, beside, ()), is_first=True)

    def _third_of(self, latent: Tensor) -> Tensor:
        """Return the shape of what cells are made of, (B, T, H, W, C)."""
        (time, *sides), stage = self.config.upsamples[len(self.stages) - 2].stride, self.config.stages[-3]
        batch, count, height, width, _ = self._cells_of(latent)
        return latent.new_empty(batch, -(-count // time), height // sides[0], width // sides[1], stage.channels)

    def fitted(self, tiling: Tiling) -> Tiling:
        """Return ``tiling`` with at least the overlap beyond which no pixel sees, and tiles of at least twice that."""
        pixels, frames = least_overlap(self.config)
        overlap, frame_overlap = max(tiling.tile_overlap, pixels), max(tiling.frame_overlap, frames)
        size, length = max(tiling.tile_size, 2 * overlap), max(tiling.tile_frames, 2 * frame_overlap)
        return Tiling(size, overlap, length, frame_overlap)
