"""How weights reach the device: not at all, by copies that the program waits for, or beside its work."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from .pinned import PinnedMemory
from .ring import Link
from .unit import Slot, Unit

_READERS = 2
_BUFFERS = 2  # of each reader: one is filled while the other one is copied


def link_to(device: torch.device) -> Link:
    """None on the CPU, plain copies to everything else.

    ``Streamed`` copies beside the work of a CUDA card. It has been run against stand-ins only, not on a card, so it
    must be asked for: ``Store(network, device, link=Streamed(device))``.
    """
    return InPlace() if device.type == "cpu" else Plain(device)


class InPlace:
    """For weights that lie where they are used: slots are only counted."""

    def prepare(self, units: Sequence[Unit]) -> None: ...

    def slot(self, nbytes: int) -> Slot:
        return Slot(nbytes)

    def send(self, unit: Unit, slot: Slot) -> None: ...

    def arrive(self, unit: Unit, slot: Slot) -> None: ...

    def leave(self, unit: Unit, slot: Slot) -> None: ...

    def settle(self) -> None: ...

    def trim(self) -> None: ...

    def rest(self, units: Sequence[Unit]) -> None: ...


class Plain(InPlace):
    """Copies that the program waits for, to any device."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    def slot(self, nbytes: int) -> Slot:
        with torch.inference_mode(False):  # so that any thread may write into it
            return Slot(nbytes, torch.empty(nbytes, dtype=torch.uint8, device=self.device))

    def send(self, unit: Unit, slot: Slot) -> None:
        assert slot.buffer is not None
        into = slot.buffer[: unit.nbytes]
        if into.is_cpu:
            unit.read(into)
        else:
            packed = torch.empty(unit.nbytes, dtype=torch.uint8)
            unit.read(packed)
            into.copy_(packed)

    def arrive(self, unit: Unit, slot: Slot) -> None:
        assert slot.buffer is not None
        if unit not in slot.views:
            slot.views[unit] = unit.views(slot.buffer)
        unit.bind(slot.views[unit])

    def leave(self, unit: Unit, slot: Slot) -> None:
        unit.go_home()

    def trim(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Readers:
    """Threads that read units off the launching thread, each through two buffers of ``chunk`` bytes."""

    def __init__(self, chunk: int = 2**25):
        self._chunk = chunk
        self._threads = ThreadPoolExecutor(_READERS, "weights")
        self._tasks: list[Future] = []
        self._own = threading.local()

    def submit(self, task: Callable[..., None], *arguments) -> Future:
        self._tasks = [each for each in self._tasks if not each.done()]
        self._tasks.append(self._threads.submit(task, *arguments))
        return self._tasks[-1]

    def settle(self) -> None:
        """Wait for all of them; whoever asks for a result will hear of its errors."""
        wait(self._tasks)

    def read(self, unit: Unit, deliver: Callable[[Tensor, int], Callable[[], object]]) -> None:
        """On a reader's thread: the span of ``unit``, piece by piece.

        ``deliver(piece, start)`` returns a function that waits until the piece may be overwritten.
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
    """CUDA: one stream for copies, and two events for each slot. The launching thread neither copies, reads nor waits,
    unless it needs a unit that the disk has not delivered yet.

    A unit with a span in pinned memory is copied from there. All others are read by threads, for the first time into
    their span if they were promised one, else through small pinned buffers that are used again and again.
    """

    def __init__(self, device: torch.device | str, pinned: PinnedMemory = PINNED, readers: Readers = READERS):
        super().__init__(device)
        self._pinned, self._readers = pinned, readers
        self._copies = torch.cuda.Stream(self.device)

    def prepare(self, units: Sequence[Unit]) -> None:
        self._pinned.admit(units)

    def slot(self, nbytes: int) -> Slot:
        slot = super().slot(nbytes)
        slot.ready, slot.free = torch.cuda.Event(), torch.cuda.Event()
        # The allocator may give out memory that is still read by what was started before.
        slot.free.record(torch.cuda.current_stream(self.device))
        return slot

    def send(self, unit: Unit, slot: Slot) -> None:
        if slot.task is not None:  # a wrong guess, still on its way
            wait([slot.task])
            slot.task = None
        if unit.span is not None:
            self._copy(unit.span, slot)
        else:
            slot.task = self._readers.submit(self._fetch, unit, slot)

    def arrive(self, unit: Unit, slot: Slot) -> None:
        if slot.task is not None:
            slot.task.result()
            slot.task = None
        torch.cuda.current_stream(self.device).wait_event(slot.ready)
        super().arrive(unit, slot)

    def leave(self, unit: Unit, slot: Slot) -> None:
        super().leave(unit, slot)
        slot.free.record(torch.cuda.current_stream(self.device))

    def settle(self) -> None:
        self._readers.settle()
        self._copies.synchronize()

    def rest(self, units: Sequence[Unit]) -> None:
        self._pinned.rest(units)

    def _fetch(self, unit: Unit, slot: Slot) -> None:
        """On a reader's thread. When it fails, nothing of the unit is on its way."""
        try:
            span = self._pinned.fill(unit)
            if span is not None:
                self._copy(span, slot)
            else:
                self._readers.read(unit, lambda piece, start: self._copy(piece, slot, start).synchronize)
        except BaseException:
            self._copies.synchronize()
            raise

    def _copy(self, piece: Tensor, slot: Slot, start: int = 0) -> torch.cuda.Event:
        """Returns the event after which ``piece`` may be written again."""
        assert slot.buffer is not None
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.free)
            slot.buffer[start : start + len(piece)].copy_(piece, non_blocking=True)
            slot.ready.record(self._copies)
            copied.record(self._copies)
        return copied
