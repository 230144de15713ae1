"""A video latent becomes frames, tile by tile."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checkpoint.components import COMPONENTS
from ..checkpoint.versions import VERSIONS
from ..errors import NotANumberError, SettingError
from ..geometry import SPACE_SCALE, VIDEO_CHANNELS, Keyframes, pixel_frames
from ..health import PictureHealth, Seams, check_finite
from ..latents import AVLatent
from ..memory.machine import Machine
from ..memory.placement import Room, StageNeed, gigabytes
from ..memory.ram import check_ram, lacking_ram
from ..memory.trace import Cost, cost
from ..quantization import plain_dtype
from ..video_vae import Decoder, DecoderInput, Denoising, Tiling, TinyDecoder
from ..video_vae.decoding import DecodingWork, Work
from ..video_vae.tiny_decoder import RELEASED
from .engine import Engine
from .needs.blueprint import FLOAT32, Blueprint, empty_like
from .precision import clean_inference, widen
from .stage import NO_LOAD, VIDEO_DECODER, Load, NetworkKey, Stage, fit_tiles, need_of, try_in_ram

HOLD_LESS = (
    "make it smaller or shorter, close other programs, or keep its latent (LTX-2 Save AV Latent), of which `python -m "
    "ltx2_core generate --latent FILE` writes frame by frame"
)


@dataclass(frozen=True)
class DecodeVideo(Stage):
    """Decode a latent of (F, H, W) ``size``; ``tiling`` None, or of 0 pixels, takes the largest tiles that fit.

    The frames ``keyframes`` were generated beside it, and are decoded with it by a decoder that can. What waits for
    later tiles, frames that are being blended above all, does so on the card, or ``in_ram``. On a graph the clip is
    held ``whole`` in RAM besides.

    Which decoder the model has makes no difference here: see ``video_vae.decoding``.
    """

    size: tuple[int, int, int]
    tiling: Tiling | None = None
    batch: int = 1
    denoising: Denoising = Denoising()
    keyframes: tuple[int, ...] = ()
    in_ram: bool = False
    whole: bool = False
    name = "frames"
    networks = (VIDEO_DECODER,)

    def __post_init__(self) -> None:
        """Treat tiles without a size as if none were asked for."""
        object.__setattr__(self, "tiling", self.tiling and self.tiling.chosen)

    def fit(self, blueprint: Blueprint, room: Room, load: Load = NO_LOAD) -> "DecodeVideo":
        """Choose the largest tiles that fit, with what waits on the card, or else in RAM.

        Every tile needs all weights of the decoder, so they stay; only the smallest tiles let them stream.
        """
        decoder: Decoder = blueprint.network("video_decoder")
        tilings = decoder.tilings if self.tiling is None else (decoder.fitted(self.tiling),)
        if room.budget is None:
            return replace(self, tiling=tilings[0] if self.tiling else decoder.usual_tiling)
        stages = (replace(self, tiling=tiling) for tiling in tilings)
        held = self._frame_bytes if self.whole else 0
        candidates = try_in_ram(stages, room, lambda stage: stage._work(blueprint).waiting + held)
        return fit_tiles(candidates, blueprint, room.budget)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the largest tile, and the frames that are being blended."""
        decoding = self._work(blueprint)
        work = sum((self._cost(part, blueprint) for part in decoding.parts), Cost())
        if not self.in_ram:  # the tile is gone by then
            work = replace(work, peak=max(work.peak, decoding.finishing))
        given = FLOAT32 * self.batch * VIDEO_CHANNELS * math.prod(self.size)
        return StageNeed(self.name, blueprint.weights("video_decoder"), work, given)

    @property
    def _frame_bytes(self) -> int:
        """Bytes of all frames in float32."""
        frames, height, width = self.size
        return FLOAT32 * 3 * self.batch * pixel_frames(frames) * height * width * SPACE_SCALE**2

    def refuse(self, room: Room) -> str:
        """Say why a whole clip does not fit the RAM, in which it is held where it is not written frame by frame."""
        free = room.budget if room.in_ram else room.free
        if not self.whole or not free or self._frame_bytes <= free:
            return ""
        return lacking_ram(self._frame_bytes, free, self._whose, HOLD_LESS)

    @property
    def _whose(self) -> str:
        frames, height, width = self.size
        size = f"{width * SPACE_SCALE} x {height * SPACE_SCALE} pixels and {pixel_frames(frames)} frames"
        return f"An IMAGE of {size}" if self.batch == 1 else f"An IMAGE of {self.batch} clips of {size}"

    def _work(self, blueprint: Blueprint) -> DecodingWork:
        network: Decoder = blueprint.network("video_decoder")
        latent = empty_like(blueprint.network("video_decoder"), self.batch, VIDEO_CHANNELS, *self.size)
        beside = latent.new_empty(self.batch, VIDEO_CHANNELS, len(self.keyframes), *self.size[1:])
        keyframes = Keyframes(beside, self.keyframes) if self.keyframes else None
        return network.work(DecoderInput(latent, self._tiling(network), self.denoising, keyframes))

    def _cost(self, part: Work, blueprint: Blueprint) -> Cost:
        """Measure ``part`` once for all tilings that have it."""
        measured = blueprint.remember(("decoding", self.size, self.batch, part.key), lambda: cost(part.run))
        return replace(measured * part.times, peak=measured.peak + (part.given if self.in_ram else part.held))

    def _tiling(self, decoder: Decoder) -> Tiling:
        return self.tiling or decoder.usual_tiling

    def shared_network(self, blueprint: Blueprint) -> NetworkKey[Any] | None:
        """Return the decoder if it makes several tiles, each by itself."""
        return VIDEO_DECODER if self.count_tiles(blueprint) > 1 else None

    def count_tiles(self, blueprint: Blueprint) -> int:
        """Return in how many tiles that do not depend on each other the clip is decoded."""
        decoder: Decoder = blueprint.network("video_decoder")
        return decoder.count_tiles(torch.empty(1, VIDEO_CHANNELS, *self.size, device="meta"), self._tiling(decoder))

    def share_of_tiles(self, blueprint: Blueprint) -> float:
        """Return which share of the work is that of tiles; the diffusion decoder looks at the whole clip before."""
        work = self._work(blueprint)
        costs = [_operations(self._cost(part, blueprint)) for part in work.parts]
        return sum(costs[work.before_tiles :]) / sum(costs)

    def advise(self, need: StageNeed, budget: int) -> str:
        """Say that RAM helps, too, and which decoders need less."""
        return (
            "Make the clip smaller or shorter, give it more RAM, in which frames may wait, or choose a convolutional "
            "or a tiny video decoder."
        )

    def remarks(self, blueprint: Blueprint, machine: Machine) -> Sequence[str]:
        """Say if frames wait in RAM, and if tiles are smaller than the usual ones."""
        usual = blueprint.network("video_decoder").usual_tiling
        needed, need = (need_of(replace(self, tiling=each, in_ram=False), blueprint) for each in (self.tiling, usual))
        remarks = [*self._compare(blueprint)]
        if self.in_ram:
            waiting = gigabytes(self._work(blueprint).waiting)
            remarks.append(
                f"Up to {waiting} of frames wait in RAM until they are whole, which leaves the card to tiles."
            )
        if self.tiling is not None and needed.work_bytes < need.work_bytes:
            remarks.append(
                f"Tiles of {self.tiling.tile_size} pixels and {self.tiling.tile_frames} frames instead of "
                f"{usual.tile_size} and {usual.tile_frames}, which need {gigabytes(need.peak)}: there are more seams "
                "to hide."
            )
        return tuple(remarks)

    def _compare(self, blueprint: Blueprint) -> Sequence[str]:
        """Say what other decoders of the same latents would take, where the model has the one that denoises."""
        if not blueprint.network("video_decoder").denoises:
            return ()
        plain, tiny = (blueprint.remember(("other decoder", make), partial(make, blueprint)) for make in OTHERS)
        own = _operations(need_of(self, blueprint).cost)
        conv, draft = (need_of(replace(self, tiling=None, in_ram=False), other) for other in (plain, tiny))
        times = own / _operations(conv.cost)
        if times < 0.05:  # a miniature, which is no choice beside it
            return ()
        return (
            f"The diffusion decoder computes {times:.1f} times what the convolutional one of LTX-2.5 would, whose "
            f"usual tiles need {gigabytes(conv.peak)} and which reads the same latents (ltx-2.5-video-vae-conv-bf16), "
            f"and {own / _operations(draft.cost):.0f} times what a tiny one would as a draft, with "
            f"{gigabytes(draft.peak)} (taeltx2_3).",
        )

    def seed(self, blueprint: Blueprint) -> int | None:
        """Return the seed that frames depend on; None where the decoder denoises nothing."""
        return self.denoising.decoder_seed if blueprint.network("video_decoder").denoises else None

    def check(self, blueprint: Blueprint) -> None:
        """Raise SettingError for a latent that is too small for the decoder."""
        blueprint.network("video_decoder").check(torch.empty(self.batch, VIDEO_CHANNELS, *self.size, device="meta"))

    def warning(self, blueprint: Blueprint) -> str:
        """Say if such a latent will be too small to decode, which may be meant if it is enlarged first."""
        if not blueprint.has("video_decoder"):
            return ""
        try:
            self.check(blueprint)
        except SettingError as error:
            return f"This clip cannot be decoded unless it is enlarged first. {error}"
        return ""

    def describe_tiles(self) -> str:
        """Say in which tiles frames are decoded."""
        tiling = self.tiling or Tiling()
        frames, height, width = self.size
        if max(height, width) * SPACE_SCALE <= tiling.tile_size and pixel_frames(frames) <= tiling.tile_frames:
            return "Frames are decoded all at once."
        return f"Frames are decoded in tiles of {tiling.tile_size} pixels and {tiling.tile_frames} frames."

    @clean_inference()  # of a generator: only while it makes a chunk, not while the caller looks at it
    def run(
        self, engine: Engine, latent: Tensor, seams: Seams | None = None, keyframes: Keyframes | None = None
    ) -> Iterator[Tensor]:
        """Yield consecutive frames (B, f, H, W, 3) in 0..1 on the CPU, decoded as they are asked for.

        Args:
            engine: whose events are told what looks wrong, at the end.
            latent: (B, C, F, H, W).
            seams: watches for lines where the latent's own tiles meet.
            keyframes: that were generated beside it.
        """
        watchers: list[PictureHealth | Seams] = [PictureHealth(), seams or Seams()]

        def inspect(chunk: Tensor) -> Tensor:
            for watcher in watchers:
                watcher.see(chunk)
            return chunk.cpu()

        yield from map(inspect, self._frames(engine, latent, keyframes))
        for watcher in watchers:
            engine.events.report_findings(watcher.findings())

    def _frames(self, engine: Engine, latent: Tensor, keyframes: Keyframes | None) -> Iterator[Tensor]:
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
            yield from map(count, self._decoded(engine, latent, keyframes))
            return
        except NotANumberError as error:
            wider = widen(engine, self, error)
        yield from filter(Tensor.numel, map(take_new, self._decoded(wider, latent, keyframes)))

    def _decoded(self, engine: Engine, latent: Tensor, keyframes: Keyframes | None) -> Iterator[Tensor]:
        stage = engine.fit(self)

        def on_tile(done: int, total: int) -> None:
            engine.events.on_progress(self.name, done, total)
            engine.events.check()

        if stage.in_ram:
            engine.clear_ram(stage._work(engine.blueprint).waiting)
        with engine.use(stage) as networks:
            decoder, device = networks[VIDEO_DECODER], engine.device(VIDEO_DECODER)
            moved = AVLatent(latent, None, keyframes).to(torch.device("cpu") if stage.in_ram else device)
            assert moved.video is not None
            inputs = DecoderInput(moved.video, stage._tiling(decoder), stage.denoising, moved.keyframes, device)
            yield from decode_video(decoder, inputs, on_tile)

    def collect(
        self, engine: Engine, latent: Tensor, seams: Seams | None = None, keyframes: Keyframes | None = None
    ) -> Tensor:
        """Return all frames (B, F, H, W, 3) in 0..1, on the CPU; arguments as for ``run``.

        Raises:
            DoesNotFitError: if they do not fit the RAM that is free.
        """
        engine.clear_ram(self._frame_bytes)
        check_ram(self._frame_bytes, self._whose, HOLD_LESS)
        frames, height, width = self.size
        result = torch.empty(self.batch, pixel_frames(frames), height * SPACE_SCALE, width * SPACE_SCALE, 3)
        done = 0
        for chunk in self.run(engine, latent, seams, keyframes):
            result[:, done : done + chunk.shape[1]] = chunk
            done += chunk.shape[1]
        return result


def decode_video(
    decoder: Decoder, inputs: DecoderInput, on_tile: Callable[[int, int], None] | None = None
) -> Iterator[Tensor]:
    """Decode a latent to frames (B, f, H, W, 3) in 0..1, float32, in consecutive chunks.

    Raises:
        NotANumberError: if the decoder produces something that is not a number.
    """

    def finish(pixels: Tensor) -> Tensor:
        check_finite(pixels, "decoding the video")
        return rearrange(pixels.add_(1).div_(2).clamp_(0, 1), "b c f h w -> b f h w c")

    # A loop would hold on to each chunk while the next one is made.
    return map(finish, decoder.decode(inputs, on_tile))


def _convolutional(blueprint: Blueprint) -> Blueprint:
    """Draw the convolutional decoder of the same latents, which is that of 2.3, in the dtype of the present one."""
    config = {"vae": VERSIONS["2.3"].config["vae"]}
    return _drawn(blueprint, config, lambda: COMPONENTS["video_decoder"].make(config, {}))


def _tiny(blueprint: Blueprint) -> Blueprint:
    """Draw the tiny decoder as it is released, likewise."""
    return _drawn(blueprint, {}, lambda: TinyDecoder(RELEASED))


OTHERS = (_convolutional, _tiny)


def _drawn(blueprint: Blueprint, config: dict[str, Any], make: Callable[[], nn.Module]) -> Blueprint:
    dtype = plain_dtype(blueprint.network("video_decoder"))
    with torch.device("meta"):
        state = make().state_dict()
    return Blueprint("other", config, {"video_decoder": {name: x.to(dtype) for name, x in state.items()}}, None)


def _operations(work: Cost) -> float:
    return work.products + work.attention + work.convolutions
