"""Encoding and decoding in overlapping tiles, which bounds the memory that a large or long clip needs.

Each tile is a clip of its own; where tiles overlap they are blended with linear ramps (spec: video_vae.md, sections 9
and 10). Tiles of one time interval share a buffer, so finished frames stream out while later ones are still latents,
and frames to be encoded stream in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from .decoder import VideoDecoder
from .encoder import VideoEncoder

OnTile = Callable[[int, int], None]

FRAMES, PIXELS = 8, 32  # per latent, in every LTX-2 video VAE


@dataclass(frozen=True)
class Tiling:
    """Size and overlap of tiles: ``pixels`` along the longer side of the picture, and ``frames``."""

    pixels: int = 768
    pixel_overlap: int = 64
    frames: int = 80
    frame_overlap: int = 24

    def __post_init__(self):
        _check("pixels", self.pixels, self.pixel_overlap, PIXELS)
        _check("frames", self.frames, self.frame_overlap, FRAMES)


@dataclass(frozen=True)
class Span:
    """What a tile covers of one axis, [start, stop), and over how much of it the tile fades in and out."""

    start: int
    stop: int
    fade_in: int = 0
    fade_out: int = 0


@dataclass(frozen=True)
class Part:
    """A tile along one axis: where its input lies, where its output goes, and how much every sample counts."""

    source: slice
    target: slice
    weight: Tensor


def decode_tiled(
    decoder: VideoDecoder, latent: Tensor, tiling: Tiling, on_tile: OnTile | None = None
) -> Iterator[Tensor]:
    """Decode ``latent`` (B, C, f, h, w) to consecutive chunks of frames (B, 3, F, H, W), blended in float32.

    Along the shorter side tiles shrink as the picture does. ``on_tile(done, total)`` is called after every tile.
    """
    frames, height, width = latent.shape[2:]
    time, space = decoder.config.time_scale, decoder.config.space_scale
    size, overlap = tiling.pixels // space, tiling.pixel_overlap // space

    def side(length: int) -> list[Part]:
        coupled = max(2, overlap + 1, round(size * length / max(height, width)))
        spans = split(length, coupled, overlap)
        return _parts(spans, [to_pixels(span, space) for span in spans], from_zero=False)

    spans = split_time(frames, tiling.frames // time, tiling.frame_overlap // time)
    intervals = _parts(spans, [to_frames(span, time) for span in spans], from_zero=True)
    channels = decoder.config.out_channels
    return _stream(decoder, lambda t: latent[:, :, t], channels, intervals, side(height), side(width), on_tile)


def encode_tiled(encoder: VideoEncoder, pixels: Tensor, tiling: Tiling, on_tile: OnTile | None = None) -> Tensor:
    """Encode ``pixels`` (B, 3, F, H, W) to latents (B, C, f, h, w), blended in float32.

    Tiles have the same size along both sides. ``on_tile(done, total)`` is called after every tile.
    """
    return encode_stream(encoder, [pixels], pixels.shape[2], tiling, on_tile)


def encode_stream(
    encoder: VideoEncoder, chunks: Iterable[Tensor], frames: int, tiling: Tiling, on_tile: OnTile | None = None
) -> Tensor:
    """Like ``encode_tiled`` for the first ``frames`` of consecutive ``chunks``, of which few more than a tile are held.

    Raises ValueError if the chunks end before.
    """
    if tiling.pixel_overlap < 2 * PIXELS or tiling.frame_overlap < 2 * FRAMES:
        raise ValueError(
            f"Tiles that overlap by {tiling.pixel_overlap} pixels and {tiling.frame_overlap} frames are too little to "
            f"encode with: use at least {2 * PIXELS} pixels and {2 * FRAMES} frames."
        )
    film = _Film(chunks, frames)
    height, width = encoder.crop(film.read(slice(0, 1))).shape[3:]
    time, space = encoder.config.time_scale, encoder.config.space_scale

    def side(length: int) -> list[Part]:
        spans = split(length // space, tiling.pixels // space, tiling.pixel_overlap // space)
        return _parts([to_pixels(span, space) for span in spans], spans, from_zero=False)

    spans = split_time((frames - 1) // time + 1, tiling.frames // time, tiling.frame_overlap // time)
    intervals = _parts([to_frames(span, time) for span in spans], spans, from_zero=True)
    channels = encoder.config.latent_channels
    latents = _stream(encoder, film.read, channels, intervals, side(height), side(width), on_tile)
    return torch.cat(list(latents), dim=2)


class _Film:
    """Consecutive chunks of frames (B, 3, F, H, W), of which those that were passed are forgotten."""

    def __init__(self, chunks: Iterable[Tensor], frames: int):
        self._chunks, self._frames = iter(chunks), frames
        self._held: list[Tensor] = []
        self._start = 0

    def read(self, time: slice) -> Tensor:
        """The frames of ``time``, which begins no earlier than in the call before."""
        held = [chunk[:, :, time.start - self._start :] for chunk in self._held]
        missing = time.stop - time.start - sum(chunk.shape[2] for chunk in held)
        while missing > 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise ValueError(
                    f"The video ends after {time.stop - missing} of {self._frames} frames: take fewer, or another one."
                )
            held.append(chunk)
            missing -= chunk.shape[2]
        film = held[0] if len(held) == 1 else torch.cat(held, dim=2)
        self._held, self._start = [film], time.start
        return film[:, :, : time.stop - time.start]


def split(length: int, size: int, overlap: int) -> list[Span]:
    """Cover ``length`` with tiles of ``size`` that overlap by ``overlap``; the last one may be shorter."""
    if length <= size:
        return [Span(0, length)]
    starts = range(0, length - overlap, size - overlap)
    stops = [*(start + size for start in starts[:-1]), length]
    return [
        Span(start, stop, overlap if start > 0 else 0, overlap if stop < length else 0)
        for start, stop in zip(starts, stops)
    ]


def split_time(length: int, size: int, overlap: int) -> list[Span]:
    """Like ``split``, but later tiles start one latent earlier: a tile's first latent is only one frame."""
    first, *later = split(length, size, overlap)
    return [first, *(replace(span, start=span.start - 1, fade_in=span.fade_in + 1) for span in later)]


def to_pixels(span: Span, scale: int) -> Span:
    """The pixels of a span of latents along one side."""
    return Span(span.start * scale, span.stop * scale, span.fade_in * scale, span.fade_out * scale)


def to_frames(span: Span, scale: int) -> Span:
    """The frames of a span of latents: one for its first, ``scale`` for every other."""
    fade_in = 1 + scale * (span.fade_in - 1) if span.fade_in else 0
    return Span(scale * span.start, 1 + scale * (span.stop - 1), fade_in, scale * span.fade_out)


def weights(spans: Sequence[Span], from_zero: bool) -> list[Tensor]:
    """How much every sample of every tile counts; where tiles overlap they sum to 1.

    ``from_zero`` is for time: a tile that fades in knows nothing of what came before its first frame, which counts 0.
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


def _parts(sources: Sequence[Span], targets: Sequence[Span], from_zero: bool) -> list[Part]:
    return [
        Part(slice(source.start, source.stop), slice(target.start, target.stop), weight)
        for source, target, weight in zip(sources, targets, weights(targets, from_zero))
    ]


def _stream(
    network: nn.Module,
    read: Callable[[slice], Tensor],
    channels: int,
    intervals: Sequence[Part],
    rows: Sequence[Part],
    columns: Sequence[Part],
    on_tile: OnTile | None,
) -> Iterator[Tensor]:
    """Run ``network`` on what is ``read`` tile by tile, and yield of each interval what no later one touches."""
    done, total = 0, len(intervals) * len(rows) * len(columns)
    height, width = rows[-1].target.stop, columns[-1].target.stop
    tail = None
    for time, following in zip(intervals, [*intervals[1:], None]):
        frames, slab = time.target.stop - time.target.start, read(time.source)
        buffer = slab.new_zeros(len(slab), channels, frames, height, width, dtype=torch.float32)
        for row, column in product(rows, columns):
            tile = network(slab[..., row.source, column.source])
            weight = (row.weight[:, None] * column.weight).to(tile.device)
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
        yield buffer[:, :, :ready]
        del buffer, slab  # before the next ones are made


def _check(unit: str, size: int, overlap: int, step: int) -> None:
    if size < 2 * step or size % step:
        raise ValueError(f"Tiles of {size} {unit} do not fit: use a multiple of {step}, at least {2 * step}.")
    if not 0 <= overlap < size or overlap % step:
        raise ValueError(
            f"Tiles of {size} {unit} cannot overlap by {overlap}: use a multiple of {step} from 0 to {size - step}."
        )
