"""How the diffusion decoder divides a clip: into cells, and cells into tiles (see README.md, "Diffusion: tiles")."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from ..geometry import SPACE_SCALE, TIME_SCALE, Keyframes
from .diffusion_config import DiffusionDecoderConfig
from .neighbourhood_attention import Size
from .tiling import Grid, Span, TileAxis, Tiling, split_with_least, tile_axes, to_pixels


@dataclass(frozen=True)
class CellGrid:
    """The tiles of a clip.

    Attributes:
        tiles: inputs are cells, outputs pixels; the last interval has the cells of the ghosts as well.
        cells: how many there are along each axis, those of the ghosts included.
        frames: of the clip.
        height: in pixels.
        width: in pixels.
    """

    tiles: Grid
    cells: Size
    frames: int
    height: int
    width: int

    @classmethod
    def of(cls, config: DiffusionDecoderConfig, latent: Sequence[int], tiling: Tiling) -> "CellGrid":
        """Divide a latent of (frames, rows, columns)."""
        frames, height, width = latent
        before, side = cell_scale(config)
        last = config.upsamples[-1].stride[0]
        pixels = config.space_scale // side
        least = config.smallest_tile
        real = (frames - 1) * before + 1
        spans = split_with_least(real, tiling.tile_frames // last, tiling.frame_overlap // last, least[0])
        ghosts = config.ghosts * before
        sources = [*spans[:-1], replace(spans[-1], stop=real + ghosts)]
        intervals = tile_axes(sources, [to_cell_frames(span, last) for span in spans], from_zero=False)

        def axis(length: int, smallest: int) -> list[TileAxis]:
            size, overlap = tiling.tile_size // pixels, tiling.tile_overlap // pixels
            spans = split_with_least(length * side, size, overlap, smallest)
            return tile_axes(spans, [to_pixels(span, pixels) for span in spans], from_zero=False)

        grid = Grid(intervals, axis(height, least[1]), axis(width, least[2]))
        space = config.space_scale
        count = intervals[-1].target.stop
        return cls(grid, (real + ghosts, height * side, width * side), count, height * space, width * space)

    def largest(self) -> tuple[tuple[TileAxis, TileAxis, TileAxis], float]:
        """Return the tile with the most cells, and how many of these are as much work as all tiles are."""
        axes = (self.tiles.intervals, self.tiles.rows, self.tiles.columns)
        largest = tuple(max(axis, key=_length) for axis in axes)
        share = math.prod(sum(map(_length, axis)) / _length(tile) for axis, tile in zip(axes, largest))
        return (largest[0], largest[1], largest[2]), share

    @property
    def longest_interval(self) -> int:
        """Frames that are blended at once."""
        return max(axis.target.stop - axis.target.start for axis in self.tiles.intervals)

    @property
    def longest_tail(self) -> int:
        """Frames that wait for the next interval."""
        pairs = zip(self.tiles.intervals, self.tiles.intervals[1:])
        return max((one.target.stop - other.target.start for one, other in pairs), default=0)


def cell_scale(config: DiffusionDecoderConfig) -> tuple[int, int]:
    """Return how many cells a latent has along time (all but the first, which has one), and along each side."""
    strides = [upsample.stride for upsample in config.upsamples[:-1]]
    return math.prod(stride[0] for stride in strides), math.prod(stride[1] for stride in strides)


def least_overlap(config: DiffusionDecoderConfig) -> tuple[int, int]:
    """Return the pixels and frames by which tiles overlap so that their middle sees nothing of their edges.

    That is as far as the windows of one stage reach together, of the fourth or of the last, whichever reach farther.
    """
    fourth, last = config.stages[-2:]
    stride = config.upsamples[-1].stride
    cells = [
        max(fourth.depth * (near // 2), math.ceil(last.depth * (far // 2) / step))
        for near, far, step in zip(fourth.kernel, last.kernel, stride)
    ]
    pixels = max(cells[1:]) * config.space_scale // cell_scale(config)[1]
    return _rounded(pixels, SPACE_SCALE), _rounded(cells[0] * stride[0], TIME_SCALE)


def to_cell_frames(span: Span, scale: int) -> Span:
    """Convert a span of cells to frames: one for the first cell of the clip, ``scale`` for every other."""
    start, stop = (max(0, scale * (place - 1) + 1) for place in (span.start, span.stop))
    return Span(start, stop, span.fade_in * scale, span.fade_out * scale)


def seen_in(frames: Sequence[int], interval: range) -> list[int]:
    """Return which of the keyframes at ``frames``, rising, a tile of this ``interval`` sees.

    Those in it, and the nearest one on each side.
    """
    inside = [number for number, frame in enumerate(frames) if frame in interval]
    before = [number for number, frame in enumerate(frames) if frame < interval.start][-1:]
    behind = [number for number, frame in enumerate(frames) if frame >= interval.stop][:1]
    return [*before, *inside, *behind]


def stage_times(
    config: DiffusionDecoderConfig, stage: int, frames: Sequence[int], origin: int = 0
) -> tuple[float, ...]:
    """Return the times of keyframes in cells of the stage of this number, from its cell ``origin`` on."""
    step = math.prod(upsample.stride[0] for upsample in config.upsamples[stage:])
    return tuple((frame + (step - 1) / 2) / step - origin if frame else 0.0 - origin for frame in frames)


def pad_keyframes(keyframes: Keyframes, least: Size) -> Keyframes:
    """Enlarge keyframes as ``pad_to`` does the clip beside them: their sides, and not their number."""
    return keyframes.map(lambda latent: pad_to(latent, (0, least[1], least[2]))[0])


def pad_to(latent: Tensor, least: Size) -> tuple[Tensor, tuple[int, int]]:
    """Repeat the last frame and the edges of a latent (B, C, f, h, w) until it has the ``least`` size.

    Returns:
        The latent, and how many rows and columns were added in front.
    """
    frames, rows, columns = (max(0, wanted - length) for wanted, length in zip(least, latent.shape[2:]))
    if not (frames or rows or columns):
        return latent, (0, 0)
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2, 0, frames)
    return F.pad(latent, edges, mode="replicate"), (rows // 2, columns // 2)


def _length(axis: TileAxis) -> int:
    return axis.source.stop - axis.source.start


def _rounded(number: int, step: int) -> int:
    return math.ceil(number / step) * step
