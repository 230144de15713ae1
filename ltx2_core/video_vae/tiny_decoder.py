"""A tiny decoder, for drafts: convolutions of single frames that remember the frame before (README.md, "Tiny")."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..geometry import TIME_SCALE, VIDEO_CHANNELS
from .decoding import FLOAT32, DecoderInput, DecodingWork, Work, check_channels
from .tiling import OnTile, Tiling

STAGES = 3  # each of which doubles height, width and frames
BLOCKS = 3  # of a stage
COLOURS = 3
LIMIT = 3.0  # of a latent, softly


@dataclass(frozen=True)
class TinyDecoderConfig:
    """Widths of a tiny decoder, which its tensors tell.

    Attributes:
        channels: of the latent.
        widths: of the stages, and of what becomes pixels.
        patch: pixels of one side that a cell of the last width stands for.
    """

    channels: int
    widths: tuple[int, ...]
    patch: int

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "TinyDecoderConfig":
        """Read the widths off the shapes of all tensors, by our names.

        Raises CheckpointError for a tiny decoder of another model.
        """
        try:
            first, channels = shapes["from_latent.weight"][:2]
            widths = (first, *(shapes[f"stages.{stage}.conv.weight"][0] for stage in range(STAGES)))
            patch = math.isqrt(shapes["to_pixels.weight"][0] // COLOURS)
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"this tiny decoder lacks {error.args[0] if error.args else 'a tensor'}; download it again."
            ) from None
        scale = 2**STAGES * patch
        if channels != VIDEO_CHANNELS or scale != 32:
            raise CheckpointError(
                f"this tiny decoder is for latents of {channels} channels, each {scale} pixels wide; those of LTX-2 "
                f"have {VIDEO_CHANNELS}, each 32 wide: choose taeltx2_3."
            )
        return cls(channels, widths, patch)


RELEASED = TinyDecoderConfig(VIDEO_CHANNELS, (256, 128, 64, 64), patch=4)  # taeltx2_3


class MemoryBlock(nn.ModuleList):
    """Three convolutions of a frame beside the one before it, added to the frame."""

    def __init__(self, width: int):
        super().__init__(nn.Conv2d(wide, width, 3, padding=1) for wide in (2 * width, width, width))

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Return frames (B, F, C, H, W); ``before`` is the frame (B, 1, C, H, W) that came before them."""
        past = torch.cat((before, x[:, :-1]), dim=1)
        y = torch.cat((x, past), dim=2).flatten(0, 1)
        for number, conv in enumerate(self):
            y = conv(F.relu_(y) if number else y)
        return F.relu_(y.unflatten(0, x.shape[:2]).add_(x))


class TinyStage(nn.Module):
    """Blocks that remember, then twice the height, the width and the frames."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.blocks = nn.ModuleList(MemoryBlock(width) for _ in range(BLOCKS))
        self.grow = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.conv = nn.Conv2d(width, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor, memory: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Return frames (B, 2 F, C, 2 H, 2 W) of (B, F, C, H, W), and the last frame that each block saw."""
        kept = []
        for number, block in enumerate(self.blocks):
            kept.append(x[:, -1:].clone())
            x = block(x, torch.zeros_like(x[:, :1]) if memory is None else memory[number])
        batch, frames, width = x.shape[:3]
        grown = self.grow(x.flatten(0, 1)).unflatten(1, (2, width)).flatten(0, 1)  # before pixels are repeated: cheaper
        larger = F.interpolate(grown, scale_factor=2.0, mode="nearest")
        return self.conv(larger).unflatten(0, (batch, 2 * frames)), kept


class TinyDecoder(nn.Module):
    """The decoder of taeltx: seconds where others take minutes, with less detail.

    It decodes a few latents after another, each exactly as in one piece; tiles of a picture are never needed.
    """

    usual_tiling = Tiling(tile_size=4096, tile_overlap=0, tile_frames=16, frame_overlap=0)
    tilings = (usual_tiling,)
    denoises = False

    def __init__(self, config: TinyDecoderConfig):
        super().__init__()
        self.config = config
        self.from_latent = nn.Conv2d(config.channels, config.widths[0], 3, padding=1)
        self.stages = nn.ModuleList(map(TinyStage, config.widths, config.widths[1:]))
        self.to_pixels = nn.Conv2d(config.widths[-1], COLOURS * config.patch**2, 3, padding=1)

    def forward(self, latent: Tensor, memory: list[list[Tensor]] | None = None) -> tuple[Tensor, list[list[Tensor]]]:
        """Decode a latent (B, C, f, h, w), as the transformer makes it, to frames (B, 3, 8 f, H, W) in -1..1.

        ``memory`` is what the call for the latents before has returned beside its frames. Of the first latent of a
        clip the last frame alone is meant.
        """
        x = (latent.to(self.from_latent.weight.dtype) / LIMIT).tanh_().mul_(LIMIT).movedim(2, 1)
        x = F.relu_(self.from_latent(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        kept = []
        for number, stage in enumerate(self.stages):
            x, seen = stage(x, None if memory is None else memory[number])
            kept.append(seen)
        pixels = F.pixel_shuffle(self.to_pixels(F.relu_(x.flatten(0, 1))), self.config.patch)
        return pixels.unflatten(0, x.shape[:2]).movedim(1, 2).mul(2).sub_(1), kept

    def check(self, latent: Tensor) -> None:
        """Raise SettingError for a latent (B, C, f, h, w) of other channels."""
        check_channels(latent, self.config.channels)

    def decode(self, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Decode a few latents after another (``decoding.Decoder``), as many as its tiling has frames for."""
        latent = inputs.latent
        self.check(latent)
        memory: list[list[Tensor]] | None = None
        count, step = latent.shape[2], inputs.tiling.tile_frames // TIME_SCALE

        def next_frames(start: int) -> Tensor:
            nonlocal memory
            frames, memory = self(latent[:, :, start : start + step].to(inputs.where), memory)
            if on_tile is not None:
                on_tile(min(start + step, count), count)
            return (frames if start else frames[:, :, TIME_SCALE - 1 :]).float()

        # A loop would hold on to each piece while the next one is made.
        return map(next_frames, range(0, count, step))

    def count_tiles(self, latent: Tensor, tiling: Tiling) -> int:
        """Return 1: each piece remembers the one before."""
        return 1

    def work(self, inputs: DecoderInput) -> DecodingWork:
        """Say what ``decode`` computes of a latent of this shape."""
        batch, channels, length, height, width = inputs.latent.shape
        step = min(length, inputs.tiling.tile_frames // TIME_SCALE)
        piece, scale = inputs.latent.new_empty(batch, channels, step, height, width), 2**STAGES * self.config.patch
        frames = batch * COLOURS * step * TIME_SCALE * height * width * scale**2 * FLOAT32
        remembered = BLOCKS * sum(size * 4**stage for stage, size in enumerate(self.config.widths[:STAGES]))
        held = batch * remembered * height * width * piece.itemsize
        return DecodingWork((Work(("tiny", step), lambda: self(piece), length / step, piece.nbytes, held),), frames)

    def fitted(self, tiling: Tiling) -> Tiling:
        """Return ``tiling`` as it is: there are no seams."""
        return tiling
