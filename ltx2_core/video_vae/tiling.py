"""Encoding and decoding in overlapping tiles, which bounds the memory that a large or long clip needs.

Each tile is a clip of its own; where tiles overlap they are blended with linear ramps (see README.md, "Tiles"). Tiles
of one time interval share a buffer, so finished frames stream out while later ones are still latents, and frames to be
encoded stream in.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..fields import Checked, Whole, zero
from ..geometry import SPACE_SCALE, TIME_SCALE
from .encoder import VideoEncoder

NARROWEST = 2  # cells of a tile, which a decoder that mirrors pictures at their edges needs

OnTile = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Tiling(Checked):
    """Size and overlap of tiles; those of 0 pixels are the largest that there is room for.

    Raises:
        SettingError: A size or an overlap does not fit the cells of the latent.
    """

    tile_size: Annotated[
        int,
        Whole(0, 4096, 32, "pixels", shown=0, advanced=True, instead=zero("automatic", usual=512)),
        "Pixels of a tile along the clip's longer side. 0 takes the largest tiles that the card has room for, up to "
        "768 (with the diffusion decoder of LTX-2.5 up to the whole clip), and chooses the three numbers below as "
        "well. Smaller needs less memory and takes longer.",
    ] = 768
    tile_overlap: Annotated[
        int,
        Whole(0, 1024, 32, "pixels", advanced=True),
        "Pixels that neighbouring tiles share. More hides their seams better, and takes longer. The diffusion decoder "
        "of LTX-2.5 shares at least 160, and makes tiles at least twice that.",
    ] = 64
    tile_frames: Annotated[
        int,
        Whole(16, 4096, 8, "frames", advanced=True),
        "Frames that are decoded at once. Smaller needs less memory and takes longer.",
    ] = 80
    frame_overlap: Annotated[
        int,
        Whole(0, 1024, 8, "frames", advanced=True),
        "Frames that two such pieces share. More hides their seams better, and takes longer. The diffusion decoder of "
        "LTX-2.5 shares at least 40, and decodes at least 80 at once.",
    ] = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile_size:
            _check("pixels", self.tile_size, self.tile_overlap, SPACE_SCALE)
            _check("frames", self.tile_frames, self.frame_overlap, TIME_SCALE)

    @property
    def chosen(self) -> "Tiling | None":
        """These tiles; None where they follow from the room."""
        return self if self.tile_size else None

    def intervals(self, length: int) -> "list[Span]":
        """Return the intervals in time of tiles of ``length`` latents."""
        return split_time_axis(length, self.tile_frames // TIME_SCALE, self.frame_overlap // TIME_SCALE)


@dataclass(frozen=True)
class Span:
    """The interval [start, stop) of one axis that a tile covers, with the lengths of its blending ramps."""

    start: int
    stop: int
    fade_in: int = 0
    fade_out: int = 0


@dataclass(frozen=True)
class TileAxis:
    """A tile along one axis: the interval of its input, that of its output, and the blend weight of each sample."""

    source: slice
    target: slice
    weight: Tensor


@dataclass(frozen=True)
class Grid:
    """The tiles of a clip; each is one interval by one row by one column."""

    intervals: Sequence[TileAxis]
    rows: Sequence[TileAxis]
    columns: Sequence[TileAxis]

    @property
    def places(self) -> Iterator[tuple[TileAxis, TileAxis, TileAxis]]:
        """Where each tile is, one interval after the other and in it row by row."""
        return product(self.intervals, self.rows, self.columns)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.intervals) * len(self.rows) * len(self.columns)


@dataclass(frozen=True, eq=False)
class TileWork:
    """A tile to make.

    Attributes:
        input: of the network, (B, C, F, H, W) or as the network has it.
        run: makes the tile with a network, of its input on the same device.
    """

    input: Tensor
    run: Callable[[Any, Tensor], Tensor] = lambda network, x: network(x)

    def by(self, network: Callable[..., object]) -> Tensor:
        """Make the tile where its input is."""
        return self.run(network, self.input)

    def at(self, device: torch.device) -> "TileWork":
        """Return the same with its input there."""
        return replace(self, input=self.input.to(device))


MakeTiles = Callable[[Iterable[TileWork]], Iterator[Tensor]]  # makes each tile, in their order, as it is asked for


def encode_stream(
    encoder: VideoEncoder,
    chunks: Iterable[Tensor],
    frames: int,
    tiling: Tiling,
    make: MakeTiles | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Encode consecutive chunks of pixels to one latent (B, C, f, h, w), blended in float32.

    Tiles have the same size along both sides. Little more than the frames of one tile is held at a time.

    Args:
        encoder: The network.
        chunks: Pixels (B, 3, any, H, W) in -1..1.
        frames: How many of their frames to encode.
        tiling: Size and overlap of tiles.
        make: Makes the tiles; None for the encoder itself.
        device: Where tiles are made; None for where the chunks are.

    Raises:
        SettingError: Tiles overlap by less than two cells of the latent, or the chunks have fewer frames.
    """
    if tiling.tile_overlap < 2 * SPACE_SCALE or tiling.frame_overlap < 2 * TIME_SCALE:
        raise SettingError(
            f"Tiles that overlap by {tiling.tile_overlap} pixels and {tiling.frame_overlap} frames are too little to "
            f"encode with: use at least {2 * SPACE_SCALE} pixels and {2 * TIME_SCALE} frames."
        )
    reader = _FrameReader(chunks, frames)
    first = encoder.crop(reader.read(slice(0, 1)))
    height, width = first.shape[3:]
    like = first.new_empty(len(first), encoder.config.latent_channels, device=device)
    del first  # of which more would stay
    time, space = encoder.config.time_scale, encoder.config.space_scale

    def side(length: int) -> list[TileAxis]:
        spans = split_axis(length // space, tiling.tile_size // space, tiling.tile_overlap // space)
        return tile_axes([to_pixels(span, space) for span in spans], spans, from_zero=False)

    spans = split_time_axis((frames - 1) // time + 1, tiling.tile_frames // time, tiling.frame_overlap // time)
    intervals = tile_axes([to_frames(span, time) for span in spans], spans, from_zero=True)
    grid = Grid(intervals, side(height), side(width))

    def tiles_of(slab: Tensor) -> Iterator[TileWork]:
        for row, column in product(grid.rows, grid.columns):
            yield TileWork(slab[..., row.source, column.source])

    work = (each for interval in intervals for each in tiles_of(reader.read(interval.source)))
    tiles = make(work) if make is not None else (each.at(like.device).by(encoder) for each in work)
    return torch.cat(list(blend_tiles(tiles, grid, like, None)), dim=2)


def count_encoding_tiles(size: tuple[int, int, int], tiling: Tiling) -> int:
    """Return in how many tiles pixels are encoded to a latent of (F, H, W) ``size``."""
    side, overlap = tiling.tile_size // SPACE_SCALE, tiling.tile_overlap // SPACE_SCALE
    return len(tiling.intervals(size[0])) * math.prod(len(split_axis(edge, side, overlap)) for edge in size[1:])


def largest_tile(size: tuple[int, int, int], tiling: Tiling, *, coupled: bool) -> tuple[tuple[int, int, int], float]:
    """Return the largest tile of a latent, and how many of these are as much work as all tiles are.

    Args:
        size: frames, rows and columns of the latent.
        tiling: in pixels and frames.
        coupled: whether tiles shrink along the shorter side as the picture does, as the decoder's do.
    """
    length, height, width = size
    side, overlap = tiling.tile_size // SPACE_SCALE, tiling.tile_overlap // SPACE_SCALE
    sides = {
        edge: coupled_side(edge, max(height, width), side, overlap) if coupled else side for edge in (height, width)
    }
    axes = [
        tiling.intervals(length),
        *(split_with_least(edge, sides[edge], overlap, NARROWEST) for edge in (height, width)),
    ]
    sizes = [[span.stop - span.start for span in axis] for axis in axes]
    frames, rows, columns = map(max, sizes)
    return (frames, rows, columns), math.prod(map(sum, sizes)) / (frames * rows * columns)


def coupled_side(length: int, longest: int, size: int, overlap: int) -> int:
    """Return the size of tiles along a side of ``length``: along the shorter one they shrink as the picture does."""
    return max(NARROWEST, overlap + 1, round(size * length / longest))


class _FrameReader:
    """Reads intervals of consecutive chunks of frames (B, 3, F, H, W) and drops frames before the last one read."""

    def __init__(self, chunks: Iterable[Tensor], frames: int):
        self._chunks, self._frames = iter(chunks), frames
        self._held: list[Tensor] = []
        self._start = 0

    def read(self, time: slice) -> Tensor:
        """Return the frames of the interval ``time``, which begins no earlier than that of the call before."""
        held = [chunk[:, :, time.start - self._start :] for chunk in self._held]
        missing = time.stop - time.start - sum(chunk.shape[2] for chunk in held)
        while missing > 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise SettingError(
                    f"The video ends after {time.stop - missing} of {self._frames} frames: take fewer, or another one."
                )
            held.append(chunk)
            missing -= chunk.shape[2]
        frames = held[0] if len(held) == 1 else torch.cat(held, dim=2)
        self._held, self._start = [frames], time.start
        return frames[:, :, : time.stop - time.start]


def split_axis(length: int, size: int, overlap: int) -> list[Span]:
    """Cover ``length`` with tiles of ``size`` that overlap by ``overlap``; the last one may be shorter."""
    if length <= size:
        return [Span(0, length)]
    starts = range(0, length - overlap, size - overlap)
    stops = [*(start + size for start in starts[:-1]), length]
    return [
        Span(start, stop, overlap if start > 0 else 0, overlap if stop < length else 0)
        for start, stop in zip(starts, stops)
    ]


def split_with_least(length: int, size: int, overlap: int, least: int) -> list[Span]:
    """Like ``split_axis``; a last tile shorter than ``least`` begins earlier, and blends over more."""
    spans = split_axis(length, max(size, least), overlap)
    last = spans[-1]
    if len(spans) > 1 and last.stop - last.start < least:
        before, start = spans[-2], last.stop - least
        shared = before.stop - start
        spans[-2:] = [replace(before, fade_out=shared), replace(last, start=start, fade_in=shared)]
    return spans


def split_time_axis(length: int, size: int, overlap: int) -> list[Span]:
    """Like ``split_axis``, but later tiles start one latent earlier: a tile's first latent is only one frame."""
    first, *later = split_axis(length, size, overlap)
    return [first, *(replace(span, start=span.start - 1, fade_in=span.fade_in + 1) for span in later)]


def to_pixels(span: Span, scale: int) -> Span:
    """Convert a span of latents along one side to pixels."""
    return Span(span.start * scale, span.stop * scale, span.fade_in * scale, span.fade_out * scale)


def to_frames(span: Span, scale: int) -> Span:
    """Convert a span of latents to frames: one for its first, ``scale`` for every other."""
    fade_in = 1 + scale * (span.fade_in - 1) if span.fade_in else 0
    return Span(scale * span.start, 1 + scale * (span.stop - 1), fade_in, scale * span.fade_out)


def blend_weights(spans: Sequence[Span], from_zero: bool) -> list[Tensor]:
    """Return the weight of each sample of each tile; where tiles overlap, weights sum to 1.

    Args:
        spans: The tiles along one axis.
        from_zero: For time: a tile that fades in has no past for its first frame, which therefore weighs 0.
    """
    masks = [_trapezoid(span, from_zero) for span in spans]
    total = torch.zeros(spans[-1].stop)
    for span, mask in zip(spans, masks):
        total[span.start : span.stop] += mask
    return [mask / total[span.start : span.stop] for span, mask in zip(spans, masks)]


def _trapezoid(span: Span, from_zero: bool) -> Tensor:
    mask = torch.ones(span.stop - span.start)
    if span.fade_in:
        steps = torch.arange(span.fade_in) if from_zero else torch.arange(span.fade_in) + 1
        mask[: span.fade_in] *= steps / (span.fade_in if from_zero else span.fade_in + 1)
    if span.fade_out:
        mask[-span.fade_out :] *= torch.arange(span.fade_out, 0, -1) / (span.fade_out + 1)
    return mask


def tile_axes(sources: Sequence[Span], targets: Sequence[Span], from_zero: bool) -> list[TileAxis]:
    """Return the tiles along one axis: the intervals of their inputs and outputs, and how they are blended."""
    return [
        TileAxis(slice(source.start, source.stop), slice(target.start, target.stop), weight)
        for source, target, weight in zip(sources, targets, blend_weights(targets, from_zero))
    ]


def blend_tiles(tiles: Iterator[Tensor], grid: Grid, like: Tensor, on_tile: OnTile | None) -> Iterator[Tensor]:
    """Yield of each interval what no later one overlaps, blended in float32.

    Args:
        tiles: (B, C, F, H, W), in the order of its places.
        grid: where they are.
        like: (B, C), where they are blended.
        on_tile: called with (done, total) after every tile; it may raise to interrupt.
    """
    done, total = 0, grid.count
    height, width = grid.rows[-1].target.stop, grid.columns[-1].target.stop
    tail = None
    for time, following in zip(grid.intervals, [*grid.intervals[1:], None]):
        frames = time.target.stop - time.target.start
        buffer = like.new_zeros(*like.shape, frames, height, width, dtype=torch.float32)
        for row, column in product(grid.rows, grid.columns):
            tile = next(tiles).to(buffer.device)
            weight = (row.weight[:, None] * column.weight).to(buffer.device)
            buffer[..., row.target, column.target].addcmul_(tile, weight)
            del tile  # before the next one is made
            done += 1
            if on_tile is not None:
                on_tile(done, total)

        buffer *= time.weight[:, None, None].to(buffer.device)
        if tail is not None:
            buffer[:, :, : tail.shape[2]] += tail
        ready = following.target.start - time.target.start if following else frames
        tail = buffer[:, :, ready:].clone()
        if ready:  # short intervals that overlap by half, and start one earlier, begin together
            yield buffer[:, :, :ready]
        del buffer  # before the next ones are made


def _check(unit: str, size: int, overlap: int, step: int) -> None:
    if size < 2 * step or size % step:
        raise SettingError(f"Tiles of {size} {unit} do not fit: use a multiple of {step}, at least {2 * step}.")
    if not 0 <= overlap < size or overlap % step:
        raise SettingError(
            f"Tiles of {size} {unit} cannot overlap by {overlap}: use a multiple of {step} from 0 to {size - step}."
        )


# From the official tiling to the smallest that still looks whole; later ones need less memory and more time.
TILINGS: tuple[Tiling, ...] = (
    Tiling(),
    Tiling(640, 64, 64, 24),
    Tiling(512, 64, 56, 24),
    Tiling(512, 64, 48, 24),
    Tiling(384, 64, 40, 16),
    Tiling(384, 64, 32, 16),
    Tiling(256, 64, 24, 8),
    Tiling(256, 64, 16, 8),
)
