"""A video latent becomes frames, tile by tile."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from ..errors import NotANumberError, SettingError
from ..geometry import SPACE_SCALE, TIME_SCALE, VIDEO_CHANNELS, pixel_frames
from ..health import PictureHealth, Seams, check_finite
from ..memory.placement import Room, StageNeed, gigabytes
from ..memory.trace import cost
from ..video_vae import Tiling, VideoDecoder, decode_tiled
from ..video_vae.tiling import split_axis, split_time_axis
from .blueprint import FLOAT32, Blueprint, empty_like
from .precision import widen
from .stage import VIDEO_DECODER, Engine, Stage, fit_tiles, need_of

# From the official tiling to the smallest that still looks whole; later ones need less memory and more time.
TILINGS = (
    Tiling(),
    Tiling(640, 64, 64, 24),
    Tiling(512, 64, 56, 24),
    Tiling(512, 64, 48, 24),
    Tiling(384, 64, 40, 16),
    Tiling(384, 64, 32, 16),
    Tiling(256, 64, 24, 8),
    Tiling(256, 64, 16, 8),
)


@dataclass(frozen=True)
class DecodeVideo(Stage):
    """Decode a latent of (F, H, W) ``size``; ``tiling`` None takes the largest tiles that fit."""

    size: tuple[int, int, int]
    tiling: Tiling | None = None
    batch: int = 1
    name = "frames"
    networks = (VIDEO_DECODER,)

    def fit(self, blueprint: Blueprint, room: Room) -> "DecodeVideo":
        """Choose the largest tiles that fit.

        Every tile needs all weights of the decoder, so they stay; only the smallest tiles let them stream.
        """
        if self.tiling is not None:
            return self
        if room.budget is None:
            return replace(self, tiling=Tiling())
        return fit_tiles((replace(self, tiling=tiling) for tiling in TILINGS), blueprint, room.budget)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the largest tile, and the frames that are being blended."""
        decoder, tiling = blueprint.network("video_decoder"), self.tiling or Tiling()
        length, height, width = self.size
        largest, tiles = largest_tile(self.size, tiling, coupled=True)
        latent = empty_like(decoder, self.batch, VIDEO_CHANNELS, *largest)
        tile = cost(lambda: decoder(latent))
        picture = self.batch * height * width * SPACE_SCALE**2 * 3 * FLOAT32
        interval = picture * pixel_frames(largest[0])  # what is being blended
        spans = split_time_axis(length, tiling.tile_frames // TIME_SCALE, tiling.frame_overlap // TIME_SCALE)
        tail = picture * tiling.frame_overlap if len(spans) > 1 else 0
        # The check for numbers takes half as much again as a finished interval, but the tile is gone by then.
        work = replace(tile * tiles, peak=max(tile.peak + interval + tail, 5 * interval // 2))
        given = FLOAT32 * self.batch * VIDEO_CHANNELS * length * height * width
        return StageNeed(self.name, blueprint.weights("video_decoder"), work, given)

    def remarks(self, blueprint: Blueprint) -> Sequence[str]:
        """Say if tiles are smaller than the official ones."""
        usual = need_of(replace(self, tiling=TILINGS[0]), blueprint)
        if self.tiling is None or need_of(self, blueprint).work_bytes >= usual.work_bytes:
            return ()
        return (
            f"Tiles of {self.tiling.tile_size} pixels and {self.tiling.tile_frames} frames instead of "
            f"{Tiling.tile_size} and {Tiling.tile_frames}, which need {gigabytes(usual.peak)}: there are more seams to "
            "hide.",
        )

    def warning(self, blueprint: Blueprint) -> str:
        """Say if such a latent will be too small to decode, which may be meant if it is enlarged first."""
        if not blueprint.has("video_decoder"):
            return ""
        try:
            blueprint.network("video_decoder").check(torch.empty(self.batch, VIDEO_CHANNELS, *self.size, device="meta"))
        except SettingError as error:
            return f"This clip cannot be decoded unless it is enlarged first. {error}"
        return ""

    def describe_tiles(self) -> str:
        """Say in which tiles frames are decoded."""
        tiling = self.tiling or Tiling()
        return f"Frames are decoded in tiles of {tiling.tile_size} pixels and {tiling.tile_frames} frames."

    def run(self, engine: Engine, latent: Tensor, seams: Seams | None = None) -> Iterator[Tensor]:
        """Yield consecutive frames (B, f, H, W, 3) in 0..1 on the CPU, decoded as they are asked for.

        Args:
            engine: whose events are told what looks wrong, at the end.
            latent: (B, C, F, H, W).
            seams: watches for lines where the latent's own tiles meet.
        """
        watchers: list[PictureHealth | Seams] = [PictureHealth(), seams or Seams((), (), ())]

        def inspect(chunk: Tensor) -> Tensor:
            for watcher in watchers:
                watcher.see(chunk)
            return chunk.cpu()

        with torch.inference_mode():
            yield from map(inspect, self._frames(engine, latent))
        for watcher in watchers:
            engine.events.report_findings(watcher.findings())

    def _frames(self, engine: Engine, latent: Tensor) -> Iterator[Tensor]:
        """Yield all frames once: those from the first on that is not a number are decoded in float32."""
        check_finite(latent, "sampling")
        done = 0

        def count(chunk: Tensor) -> Tensor:
            nonlocal done
            done += chunk.shape[1]
            return chunk

        def take_new(chunk: Tensor) -> Tensor:
            nonlocal done
            known, done = done, max(0, done - chunk.shape[1])
            return chunk[:, known:]

        # Loops would hold on to each chunk while the next one is made.
        try:
            yield from map(count, self._decoded(engine, latent))
            return
        except NotANumberError as error:
            wider = widen(engine, self, error)
        yield from filter(Tensor.numel, map(take_new, self._decoded(wider, latent)))

    def _decoded(self, engine: Engine, latent: Tensor) -> Iterator[Tensor]:
        stage = engine.fit(self)

        def on_tile(done: int, total: int) -> None:
            engine.events.on_progress(self.name, done, total)
            engine.events.check()

        with engine.use(stage) as networks:
            moved = latent.to(engine.device(VIDEO_DECODER))
            yield from decode_video(networks[VIDEO_DECODER], moved, stage.tiling, on_tile)

    def collect(self, engine: Engine, latent: Tensor, seams: Seams | None = None) -> Tensor:
        """Return all frames (B, F, H, W, 3) in 0..1, on the CPU; arguments as for ``run``."""
        frames, height, width = self.size
        result = torch.empty(self.batch, pixel_frames(frames), height * SPACE_SCALE, width * SPACE_SCALE, 3)
        done = 0
        for chunk in self.run(engine, latent, seams):
            result[:, done : done + chunk.shape[1]] = chunk
            done += chunk.shape[1]
        return result


def decode_video(
    decoder: VideoDecoder,
    latent: Tensor,
    tiling: Tiling | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """Decode a latent (B, C, F, H, W) to frames (B, f, H, W, 3) in 0..1, float32, in consecutive chunks.

    Raises:
        NotANumberError: if the decoder produces something that is not a number.
    """
    dtype = next(decoder.parameters()).dtype

    def finish(pixels: Tensor) -> Tensor:
        check_finite(pixels, "decoding the video")
        return rearrange(pixels.add_(1).div_(2).clamp_(0, 1), "b c f h w -> b f h w c")

    # A loop would hold on to each chunk while the next one is made.
    return map(finish, decode_tiled(decoder, latent.to(dtype), tiling or Tiling(), on_tile))


def largest_tile(size: tuple[int, int, int], tiling: Tiling, *, coupled: bool) -> tuple[tuple[int, int, int], float]:
    """Return the largest tile of a latent, and how many of these are as much work as all tiles are.

    Args:
        size: frames, rows and columns of the latent.
        tiling: in pixels and frames.
        coupled: whether tiles shrink along the shorter side as the picture does, as the decoder's do.
    """
    length, height, width = size
    side, overlap = tiling.tile_size // SPACE_SCALE, tiling.tile_overlap // SPACE_SCALE
    times = split_time_axis(length, tiling.tile_frames // TIME_SCALE, tiling.frame_overlap // TIME_SCALE)
    sides = {
        edge: max(2, overlap + 1, round(side * edge / max(height, width))) if coupled else side
        for edge in (height, width)
    }
    axes = [times, *(split_axis(edge, sides[edge], overlap) for edge in (height, width))]
    sizes = [[span.stop - span.start for span in axis] for axis in axes]
    frames, rows, columns = map(max, sizes)
    return (frames, rows, columns), math.prod(map(sum, sizes)) / (frames * rows * columns)
