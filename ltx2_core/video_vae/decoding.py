"""What a decoder is to whoever wants frames: the convolutional and the diffusion decoder look the same from there."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor

from ..errors import SettingError
from ..fields import Checked, Switch, Whole, zero
from ..geometry import Keyframes
from .tiling import MakeTiles, OnTile, TileWork, Tiling

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Denoising(Checked):
    """How a decoder that denoises is run; others take no notice."""

    decoder_seed: Annotated[
        int,
        Whole(0, 999_999, advanced=True),
        "Noise from which the diffusion decoder of LTX-2.5 makes the frames: fine detail depends on it, a little. "
        "Other decoders take no notice.",
    ] = 0
    decoder_steps: Annotated[
        int,
        Whole(0, 20, 1, "steps", advanced=True, instead=zero("as the file says", usual=2)),
        "Steps in which the diffusion decoder of LTX-2.5 denoises. 0 takes as many as it was made for, which is 1; "
        "each more takes as long again. Other decoders take no notice.",
    ] = 0
    decoder_keyframes: Annotated[
        bool,
        Switch(advanced=True),
        "Lets the diffusion decoder of LTX-2.5 look at keyframes that were generated beside the clip, which takes more "
        "memory and time. Other decoders take no notice.",
    ] = True


@dataclass(frozen=True, eq=False)
class DecoderInput:
    """A video latent to decode, and how.

    Attributes:
        latent: (B, C, f, h, w).
        tiling: size and overlap of tiles.
        denoising: seed and steps of a decoder that denoises.
        keyframes: that were generated beside the clip, of its height and width; only decoders that denoise look.
        device: where tiles are made; None for where the latent is. What waits for later tiles lies where the latent is.
    """

    latent: Tensor
    tiling: Tiling = Tiling()
    denoising: Denoising = Denoising()
    keyframes: Keyframes | None = None
    device: torch.device | None = None

    @property
    def where(self) -> torch.device:
        """Where tiles are made."""
        return self.device or self.latent.device


@dataclass(frozen=True)
class Work:
    """One part of what decoding takes.

    Attributes:
        key: parts of one latent with the same key cost the same.
        run: computes it, on the device of the latent that was asked about.
        times: how often it is computed.
        given: bytes of its input.
        held: bytes of what waits meanwhile, its input among them.
    """

    key: Hashable
    run: Callable[[], object]
    times: float = 1
    given: int = 0
    held: int = 0


@dataclass(frozen=True)
class DecodingWork:
    """What decoding a latent takes.

    Attributes:
        parts: what is computed.
        interval: bytes of the frames that are blended at once, in float32.
        kept: bytes that wait until the last frame.
        before_tiles: how many of the parts look at the whole clip before it is divided.
    """

    parts: tuple[Work, ...]
    interval: int
    kept: int = 0
    before_tiles: int = 0

    @property
    def finishing(self) -> int:
        """Bytes that wait while a finished interval is checked for numbers, which takes half as much again."""
        return self.kept + 5 * self.interval // 2

    @property
    def waiting(self) -> int:
        """The most bytes that wait."""
        return max(self.finishing, *(part.held for part in self.parts))


class Decoder(Protocol):
    """From latents to frames, in tiles.

    Attributes:
        tilings: from the largest to the smallest that still looks whole.
        usual_tiling: where nothing is known of the memory.
        denoises: whether frames depend on ``Denoising``.
    """

    tilings: tuple[Tiling, ...]
    usual_tiling: Tiling
    denoises: bool

    def check(self, latent: Tensor) -> None:
        """Raise SettingError for a latent (B, C, f, h, w) that cannot be decoded."""

    def decode(self, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Yield consecutive frames (B, 3, F, H, W), nominally -1..1, blended in float32.

        ``on_tile`` is called with (done, total) after every tile; it may raise to interrupt.
        """

    def count_tiles(self, latent: Tensor, tiling: Tiling) -> int:
        """Return in how many tiles that need not wait for each other a latent of this shape is decoded."""

    def work(self, inputs: DecoderInput) -> DecodingWork:
        """Say what ``decode`` computes of latents of these shapes, which may be without content."""

    def fitted(self, tiling: Tiling) -> Tiling:
        """Return ``tiling`` enlarged to the least that hides its seams."""


def check_channels(latent: Tensor, expected: int) -> None:
    """Raise SettingError for a latent (B, C, f, h, w) of other channels than a decoder reads."""
    if latent.shape[1] != expected:
        raise SettingError(
            f"This latent has {latent.shape[1]} channels, the video VAE expects {expected}. Was it made by another "
            "model?"
        )


class TiledDecoder(Decoder, Protocol):
    """A decoder whose tiles others may make."""

    def __call__(self, *tensors: Tensor) -> object:
        """Compute what a tile is made of."""

    def decode_by(self, make: MakeTiles, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Decode with the tiles that ``make`` makes, in their order; other arguments as for ``decode``."""


class DecodesInTiles:
    """What decoders have in common that make their tiles themselves unless others do."""

    def decode(self: TiledDecoder, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Decode in tiles, one after the other; arguments as for ``Decoder``."""

        def make(work: Iterable[TileWork]) -> Iterator[Tensor]:
            return (each.at(inputs.where).by(self) for each in work)

        return self.decode_by(make, inputs, on_tile)
