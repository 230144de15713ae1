"""Several devices of one machine decode the tiles of one clip: each takes the next, and the first one blends them."""

import heapq
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from ..errors import LTX2Error, is_out_of_memory
from ..video_vae import Denoising, Tiling, VideoDecoder
from ..video_vae.tiling import OnTile

_log = logging.getLogger(__name__)

AHEAD = 2  # tiles for each device that are made, or being made, before the first of them is blended
_LOOK_EVERY = 0.05  # seconds, while a tile is waited for, between two looks

Ask = Callable[[Tensor], Tensor]
Helper = tuple[torch.device, Ask]


class SharedDecoder:
    """A decoder whose tiles several devices make; frames have the bits that one device gives them.

    The first device makes tiles in the thread that asks for frames, so it never holds more than it does alone. Tiles
    that others made, or that it made too early, wait in the memory of the host until it is their turn to be blended.
    A device that fails is left out, unless it is the first, which blends.

    Args:
        decoder: on the first device.
        home: the first device.
        helpers: the others, and what makes a tile (B, C, f, h, w) to pixels there.
    """

    def __init__(self, decoder: VideoDecoder, home: torch.device, helpers: Sequence[Helper]):
        self.helpers = list(helpers)
        self.usual_tiling = decoder.usual_tiling
        self._decoder, self._home = decoder, home
        self._running: list[_Clip] = []

    def close(self) -> None:
        """End what still runs, as where nobody asked for the last frames."""
        for clip in list(self._running):
            clip.stop()

    def decode(
        self,
        latent: Tensor,
        tiling: Tiling,
        denoising: Denoising | None = None,
        on_tile: OnTile | None = None,
        keyframes: object = None,
    ) -> Iterator[Tensor]:
        """Yield consecutive frames (``video_vae.Decoder``)."""
        return self._decoder.decode_by(self.ask, latent, tiling, on_tile)

    def ask(self, tiles: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the pixels of each tile, in their order, on the first device."""
        clip = _Clip(tiles, AHEAD * (1 + len(self.helpers)))
        self._running.append(clip)
        try:
            for helper in list(self.helpers):
                clip.start(partial(self._help, clip, helper))
            for number in range(len(tiles)):
                yield self._next(clip, number)
        finally:
            clip.stop()
            self._running.remove(clip)

    def _next(self, clip: "_Clip", number: int) -> Tensor:
        """Return a tile; while others make it, make later ones."""
        while (found := clip.found(number)) is None:
            if (own := clip.take()) is None:
                clip.wait()
            elif own == number:
                return self._decoder(clip.tiles[own])
            else:
                clip.put(own, self._decoder(clip.tiles[own]).cpu())
        return found.to(self._home)

    def _help(self, clip: "_Clip", helper: Helper) -> None:
        device, ask = helper
        with torch.inference_mode(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            while (number := clip.wait_and_take()) is not None:
                try:
                    clip.put(number, ask(clip.tiles[number].to(device)).cpu())
                except BaseException as error:
                    if _is_for_all(error):
                        clip.end(error)
                        return
                    clip.give_back(number)
                    self.helpers.remove(helper)
                    why = "has too little memory" if is_out_of_memory(error) else f"failed ({line_of(error)})"
                    _log.warning("%s %s and is left out; the clip is decoded without it.", device, why)
                    return


class _Clip:
    """The tiles of a clip, and who makes which; all threads see it."""

    def __init__(self, tiles: Sequence[Tensor], ahead: int):
        self.tiles = tiles
        self._ahead, self._wanted = ahead, 0
        self._left = list(range(len(tiles)))  # a heap: the first goes first, also if it was given back
        self._found: dict[int, Tensor] = {}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, name="tiles", daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        """Let every thread end after its tile, and wait for it."""
        self.end(None)
        for thread in self._threads:
            thread.join()

    def end(self, error: BaseException | None) -> None:
        """Give out no tile any more; who waits for one fails with ``error``."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def found(self, number: int) -> Tensor | None:
        """Return the tile that is to be blended now, if it is there."""
        with self._changed:
            if self._error is not None:
                raise self._error
            self._wanted = number
            self._changed.notify_all()
            return self._found.pop(number, None)

    def take(self) -> int | None:
        """Return the number of a tile that is to be made; None where none is left, or only later ones."""
        with self._changed:
            return self._take()

    def _take(self) -> int | None:
        may = not self._ended and self._left and self._left[0] < self._wanted + self._ahead
        return heapq.heappop(self._left) if may else None

    def wait_and_take(self) -> int | None:
        """Return the next tile as soon as it may be made; None where all are made, or it is over."""
        with self._changed:
            while (number := self._take()) is None and self._left and not self._ended:
                self._changed.wait()
            return number

    def wait(self) -> None:
        with self._changed:
            self._changed.wait(_LOOK_EVERY)

    def put(self, number: int, pixels: Tensor) -> None:
        with self._changed:
            self._found[number] = pixels
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        with self._changed:
            heapq.heappush(self._left, number)
            self._changed.notify_all()


def _is_for_all(error: BaseException) -> bool:
    """Whether every other device would fail with it, too."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, LTX2Error) or not isinstance(error, RuntimeError)


def line_of(error: BaseException) -> str:
    """Return the first line of what an error says, or else its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
