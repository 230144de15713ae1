"""How weights reach the device: used in place, by copies that the program waits for, or while it computes."""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

from ..errors import first_line, is_out_of_memory
from .machine import shares_ram
from .pinned import PinnedMemory
from .ring import Link, Ring
from .unit import Slot, Unit

_log = logging.getLogger(__name__)

_READERS = 2
_BUFFERS = 2  # of each reader: one is filled while the other one is copied


class Plain:
    """Copies units to any device, and waits for each copy."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    def prepare(self, units: Sequence[Unit]) -> None:
        """Do nothing: plain copies need no preparation."""

    def slot(self, nbytes: int) -> Slot:
        """Allocate ``nbytes`` on the device. Raises what ``is_out_of_memory`` knows."""
        with torch.inference_mode(False):  # so that any thread may write into it
            return Slot(nbytes, torch.empty(nbytes, dtype=torch.uint8, device=self.device))

    def send(self, unit: Unit, slot: Slot) -> None:
        """Copy the unit into ``slot``, and return when it is there."""
        assert slot.buffer is not None
        if slot.buffer.is_cpu:
            unit.read(slot.buffer)
        else:
            packed = torch.empty(unit.nbytes, dtype=torch.uint8)
            unit.read(packed)
            slot.buffer.copy_(packed)

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit in ``slot``."""
        assert slot.buffer is not None
        unit.bind(slot.buffer)

    def leave(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit's home again."""
        unit.go_home()

    def settle(self) -> None:
        """Do nothing: no copy outlasts ``send``."""

    def trim(self) -> None:
        """Return memory that is no longer held to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def rest(self, units: Sequence[Unit]) -> None:
        """Do nothing: no unit has pinned memory to give up."""


class InPlace(Plain):
    """Uses weights where they lie and only counts slots; a unit whose weights are changed or converted gets a copy."""

    def slot(self, nbytes: int) -> Slot:
        """Return a slot without memory."""
        return Slot(nbytes)

    def send(self, unit: Unit, slot: Slot) -> None:
        """Copy the unit if its weights are changed or converted."""
        if unit.is_changed:
            slot.buffer = super().slot(unit.nbytes).buffer
            super().send(unit, slot)

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the copy if there is one."""
        if unit.is_changed:
            super().arrive(unit, slot)


class Readers:
    """Threads that read units while the program goes on, each through two buffers of ``chunk`` bytes."""

    def __init__(self, chunk: int = 2**25):
        self._chunk = chunk
        self._threads = ThreadPoolExecutor(_READERS, "weights")
        self._tasks: list[Future] = []
        self._lock = threading.Lock()
        self._own = threading.local()

    def submit(self, task: Callable[..., None], *arguments: object) -> Future:
        """Run ``task`` on one of the threads, and return its future."""
        future = self._threads.submit(task, *arguments)
        with self._lock:  # of several cards
            self._tasks = [*(each for each in self._tasks if not each.done()), future]
        return future

    def settle(self) -> None:
        """Wait until all tasks have ended; errors are raised where a result is asked for."""
        wait(self._tasks)

    def read(self, unit: Unit, deliver: Callable[[Tensor, int], Callable[[], object]]) -> None:
        """Read the span of a unit piece by piece, on the thread of a reader.

        Args:
            unit: what to read.
            deliver: called with each piece and where it begins in the span; returns a function that waits until the
                piece may be overwritten.
        """
        if not hasattr(self._own, "buffers"):
            self._own.buffers = [_Buffer(self._chunk) for _ in range(_BUFFERS)]
        for start, buffer in zip(range(0, unit.nbytes, self._chunk), itertools.cycle(self._own.buffers)):
            buffer.wait()
            piece = buffer.bytes[: unit.nbytes - start]
            unit.read(piece, start)
            buffer.wait = deliver(piece, start)


class _Buffer:
    def __init__(self, nbytes: int):
        self.bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self.wait: Callable[[], object] = lambda: None


# Shared by all stores.
PINNED = PinnedMemory()
READERS = Readers()


class Streamed(Plain):
    """Copies units to a CUDA card while it computes: one stream for copies, two events for each copy.

    The program waits only for a unit that the disk has not delivered yet. A unit with a span in pinned memory is copied
    from there. All others are read by threads: for the first time into their span if they were promised one, else
    through small pinned buffers that are used again and again.

    Args:
        device: the card.
        pinned: where spans are kept.
        readers: the threads.
    """

    def __init__(self, device: torch.device | str, pinned: PinnedMemory = PINNED, readers: Readers = READERS):
        super().__init__(device)
        self._pinned, self._readers = pinned, readers
        self._copies = torch.cuda.Stream(self.device)

    def prepare(self, units: Sequence[Unit]) -> None:
        """Promise pinned memory to ``units``, the first of them first."""
        self._pinned.admit(units)

    def send(self, unit: Unit, slot: Slot) -> None:
        """Start to copy the unit, or to read it, after the work already started on the card."""
        self._pinned.hold(unit)
        slot.free = torch.cuda.current_stream(self.device).record_event()
        if (span := unit.source.span) is not None:
            self._copy(span, slot)
        else:
            slot.task = self._readers.submit(self._fetch, unit, slot)

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit; the card waits for its copy, the program only for a read."""
        if slot.task is not None:
            slot.task.result()
            slot.task = None
        torch.cuda.current_stream(self.device).wait_event(slot.ready)
        super().arrive(unit, slot)

    def leave(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit's home again, after a read that is still under way."""
        if slot.task is not None:  # a wrong guess, still on its way
            wait([slot.task])
            slot.task = None
        super().leave(unit, slot)

    def settle(self) -> None:
        """Wait for all reads and copies."""
        self._readers.settle()
        self._copies.synchronize()

    def rest(self, units: Sequence[Unit]) -> None:
        """Allow the pinned memory of ``units`` to be given to others."""
        self._pinned.rest(units)

    def _fetch(self, unit: Unit, slot: Slot) -> None:
        """Read a unit and copy it, on the thread of a reader; if it fails, copies of it may be under way."""
        with torch.cuda.stream(self._copies):  # a thread begins on the first card, which may be full, or another's
            span = self._pinned.fill(unit)
            if span is not None:
                self._copy(span, slot)
            else:
                self._readers.read(unit, lambda piece, start: self._copy(piece, slot, start).synchronize)

    def _copy(self, piece: Tensor, slot: Slot, start: int = 0) -> torch.cuda.Event:
        """Copy ``piece`` to byte ``start`` of ``slot``; return the event after which it may be overwritten."""
        assert slot.buffer is not None
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.free)
            slot.buffer[start : start + len(piece)].copy_(piece, non_blocking=True)
            slot.ready = self._copies.record_event()
        return slot.ready


def link_to(device: torch.device, pinned: PinnedMemory = PINNED) -> Link:
    """Return the link to ``device``: in place on a CPU, streamed on an NVIDIA card that passes a trial, else plain.

    Nothing is pinned for a card that shares the RAM, where it would lie twice.
    """
    if device.type == "cpu":
        return InPlace(device)
    if not can_stream(device):
        return Plain(device)
    return Streamed(device, PinnedMemory(0) if shares_ram(device) else pinned)


def can_stream(device: torch.device) -> bool:
    """Return whether weights go to ``device`` while it computes: it is an NVIDIA card that passes a trial."""
    try:
        return device.type == "cuda" and torch.version.cuda is not None and _passes_trial(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _log.warning(
            "%s has no memory left to try streaming beside the work (%s); these weights are copied one by one.",
            device,
            first_line(error),
        )
        return False


@cache
def _passes_trial(device: torch.device) -> bool:
    """Return whether streamed weights give bit for bit what weights give that are copied one by one.

    This takes some milliseconds, once, unless there is no memory for it: six units go through room for two while the
    card multiplies, most of them read by threads, so that a copy that comes too late, or too early, shows.
    """
    generator = torch.Generator().manual_seed(0)
    units = [Unit([torch.randn(1024, 1024, generator=generator)]) for _ in range(6)]
    matrix = torch.randn(1024, 1024, generator=generator).to(device)

    def result(link: Link) -> Tensor:
        ring, x = Ring(units, link, 2), matrix
        link.prepare(units[:2])
        ring.start()
        for _ in range(4):
            for unit in units:
                ring.use(unit)
                x = torch.tanh(unit.tensors[0] @ x)
                ring.done(unit)
                ring.look_ahead()
        ring.stop()
        return x.cpu()

    try:
        passed = torch.equal(result(Streamed(device, PinnedMemory(2 * units[0].nbytes))), result(Plain(device)))
    except Exception as error:  # a driver can fail in any way, and the plain way remains
        if is_out_of_memory(error):
            raise
        _log.warning("Streaming beside the work failed its trial on %s: %s", device, error)
        return False
    if not passed:
        _log.warning("Streaming beside the work gave wrong numbers on %s; weights are copied one by one.", device)
    return passed
