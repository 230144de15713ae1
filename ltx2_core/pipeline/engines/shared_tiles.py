"""Several devices of one machine make the tiles of one clip: each takes the next, and the first one blends them."""

import heapq
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ...video_vae import DecoderInput, TileWork, Tiling
from ...video_vae.decoding import TiledDecoder
from ...video_vae.tiling import OnTile
from .device_thread import concerns_all, why_left_out, working_on

_log = logging.getLogger(__name__)

AHEAD = 2  # tiles for each device that are made, or being made, before the first of them is blended
_LOOK_EVERY = 0.05  # seconds, while a tile is waited for, between two looks

Network = TypeVar("Network", bound=Callable[..., object])


class SharedTiles(Generic[Network]):
    """A network whose tiles several devices make; tiles have the bits that one device gives them.

    The first device makes tiles in the thread that asks for them, so it never holds more than it does alone. Tiles
    that others made, or that it made too early, wait in the memory of the host until it is their turn to be blended.
    A device that fails is left out, unless it is the first, which blends.

    Args:
        network: on the first device.
        home: the first device.
        helpers: the others, with the network there.
    """

    def __init__(self, network: Network, home: torch.device, helpers: Sequence[tuple[torch.device, Network]]):
        self.helpers = list(helpers)
        self.network = network
        self.home = home
        self._running: list[_Clip] = []

    def close(self) -> None:
        """End what still runs, as where nobody asked for the last frames."""
        for clip in list(self._running):
            clip.stop()

    def make(self, work: Iterable[TileWork]) -> Iterator[Tensor]:
        """Yield each tile, in their order; ``work`` is asked a few tiles ahead, in this thread.

        Tiles are on the first device, or wait on the host.
        """
        clip, rest, ahead = _Clip(), iter(work), AHEAD * (1 + len(self.helpers))
        self._running.append(clip)
        try:
            for helper in list(self.helpers):
                clip.start(partial(self._help, clip, helper))
            for number in count():
                clip.add(islice(rest, number + ahead - clip.count))
                if number == clip.count:
                    return
                yield self._next(clip, number)
        finally:
            clip.stop()
            self._running.remove(clip)

    def _next(self, clip: "_Clip", number: int) -> Tensor:
        """Return a tile; while others make it, make later ones."""
        while (found := clip.found(number)) is None:
            if (own := clip.take()) is None:
                clip.wait()
                continue
            tile = clip.work[own].at(self.home).by(self.network)
            if own == number:
                del clip.work[own]
                return tile
            clip.put(own, tile.cpu())
        return found

    def _help(self, clip: "_Clip", helper: tuple[torch.device, Network]) -> None:
        device, network = helper
        with working_on(device):
            while (number := clip.wait_and_take()) is not None:
                try:
                    clip.put(number, clip.work[number].at(device).by(network).cpu())
                except BaseException as error:
                    if concerns_all(error):
                        clip.end(error)
                        return
                    clip.give_back(number)
                    self.helpers.remove(helper)
                    _log.warning("%s %s and is left out; the others make its tiles.", device, why_left_out(error))
                    return


class SharedDecoder(SharedTiles[TiledDecoder]):
    """A decoder whose tiles several devices make (``video_vae.Decoder``)."""

    @property
    def usual_tiling(self) -> Tiling:
        """The tiles where nothing is known of the memory."""
        return self.network.usual_tiling

    def decode(self, inputs: DecoderInput, on_tile: OnTile | None = None) -> Iterator[Tensor]:
        """Yield consecutive frames."""
        return self.network.decode_by(self.make, replace(inputs, device=self.home), on_tile)


class _Clip:
    """The tiles of a clip, and who makes which; all threads see it."""

    def __init__(self) -> None:
        self.work: dict[int, TileWork] = {}  # until it is done
        self.count = 0  # of all tiles so far
        self._left: list[int] = []  # a heap: the first goes first, also if it was given back
        self._found: dict[int, Tensor] = {}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def add(self, work: Iterable[TileWork]) -> None:
        """Give out more tiles."""
        for each in work:
            with self._changed:
                self.work[self.count] = each
                heapq.heappush(self._left, self.count)
                self.count += 1
                self._changed.notify_all()

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
            return self._found.pop(number, None)

    def take(self) -> int | None:
        """Return the number of a tile that is to be made; None where none is left."""
        with self._changed:
            return heapq.heappop(self._left) if self._left and not self._ended else None

    def wait_and_take(self) -> int | None:
        """Return the next tile as soon as there is one; None when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._ended)
            return None if self._ended else heapq.heappop(self._left)

    def wait(self) -> None:
        with self._changed:
            self._changed.wait(_LOOK_EVERY)

    def put(self, number: int, pixels: Tensor) -> None:
        with self._changed:
            self._found[number] = pixels
            del self.work[number]
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        with self._changed:
            heapq.heappush(self._left, number)
            self._changed.notify_all()
