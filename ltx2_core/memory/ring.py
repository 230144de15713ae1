"""Streaming: which unit is where on the device, which one comes next, and which may be overwritten.

A ``Ring`` decides, a ``Link`` moves the bytes. So tests run the ring with a link that only counts time.
"""

from collections.abc import Sequence
from typing import Protocol

from ..errors import is_out_of_memory
from .unit import Slot, Unit


class Link(Protocol):
    """Moves units into slots; where the device can copy while it computes, only ``arrive`` and ``settle`` may wait."""

    def prepare(self, units: Sequence[Unit]) -> None:
        """Get ready to send ``units`` again and again, those first in the list most often."""

    def slot(self, nbytes: int) -> Slot:
        """Allocate ``nbytes`` on the device. Raises what ``is_out_of_memory`` knows."""

    def send(self, unit: Unit, slot: Slot) -> None:
        """Start to copy a unit into ``slot``, after the work already started, which may still use that memory."""

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit in ``slot``: work started from now on waits until its bytes are there."""

    def leave(self, unit: Unit, slot: Slot) -> None:
        """Let the network use the unit's home again, and make sure that nothing still writes into ``slot``."""

    def settle(self) -> None:
        """Wait until no copy is under way."""

    def trim(self) -> None:
        """Return memory that is no longer held to the device."""

    def rest(self, units: Sequence[Unit]) -> None:
        """Note that ``units``, which have settled, are not sent for a while, so others may have their pinned memory."""


class Ring:
    """Streams units through one piece of memory: the unit that runs, and as many of the next ones as find room.

    Each unit begins where the one sent before it ends, or at the start again. The next unit is the one that came next
    the last time, at first the next of the list. The order is a circle: after the last unit of a step comes the first
    of the next step, so the link copies while a sampler works. A wrong guess costs time, never the result.

    Args:
        units: in the order in which they run first.
        link: moves them.
        size: how many of the largest unit that does not stay on the device the memory holds.
    """

    def __init__(self, units: Sequence[Unit], link: Link, size: int):
        self.link, self.size = link, size
        self.running: Unit | None = None
        self.memory: Slot | None = None
        self.slots: dict[Unit, Slot] = {}  # pieces of the memory, and who is there or on the way
        self._end = 0  # of the last one that was sent
        self._after = dict(zip(units, [*units[1:], *units[:1]]))
        self._first = next(iter(units), None)
        self._last: Unit | None = None
        self._by_size: list[Unit] = []  # the largest first; sizes change between runs only

    @property
    def largest(self) -> int:
        """Bytes of the largest unit that does not stay on the device."""
        return max((unit.sent_bytes for unit in self._after if unit.place is None), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes that the memory takes once it is needed."""
        return self.size * self.largest

    @property
    def taken(self) -> int:
        """Bytes that it takes now."""
        return 0 if self.memory is None else self.memory.nbytes

    def start(self) -> None:
        """Begin a run: send the unit that the last run began with, and those after it."""
        self._last = None
        self._by_size = sorted(self._after, key=lambda unit: unit.sent_bytes, reverse=True)
        self.look_ahead()

    def use(self, unit: Unit) -> None:
        """Bring ``unit`` to the device and bind it, because it is about to run."""
        self.running = unit
        if unit.place is None:
            if unit not in self.slots:  # else the last look ahead was right
                self._send_from(unit)
            slot = self.slots.pop(unit)  # nobody shall find it there if its changes fail half-way
            install(unit, slot, self.link)
            self.slots[unit] = slot

    def done(self, unit: Unit) -> None:
        """Release ``unit`` after it ran, and remember which unit it came after."""
        if unit in self.slots and unit.place is None:
            leave(unit, self.slots[unit], self.link)
        if self._last is None:
            self._first = unit
        else:
            self._after[self._last] = unit
        self._last, self.running = unit, None

    def look_ahead(self) -> None:
        """Send the units that come next; does nothing after a unit that stays on the device, which freed no room."""
        if self._last is None and self._first is not None:
            self._send_from(self._first)
        elif self._last is not None and self._last.place is None:
            self._send_from(self._after[self._last])

    def shrink(self) -> int:
        """Keep room for one unit only, and return the bytes given back; the running unit must be used again."""
        before, self.size = self.taken, 1
        if before > self.nbytes:
            self.clear()
        return max(0, before - self.nbytes)

    def clear(self) -> None:
        """Wait for all copies, take every unit out of its slot, and give the memory back."""
        self.link.settle()
        for unit in list(self.slots):
            self._forget(unit)
        self.memory, self._end = None, 0

    def stop(self) -> None:
        """End a run that is over or was interrupted, and give the memory back."""
        self.clear()
        self.running = None

    def _send_from(self, unit: Unit) -> None:
        """Send ``unit`` and those that follow, as far as they are not there, until one finds no room."""
        if self.memory is not None and self.taken != self.size * self._largest_now():
            self.clear()
        nearer: list[Slot] = []
        seen: set[Unit] = set()
        while unit not in seen:
            seen.add(unit)
            if unit.place is None:
                if unit not in self.slots and not self._send(unit, nearer):
                    break
                nearer.append(self.slots[unit])
            unit = self._after[unit]

    def _send(self, unit: Unit, nearer: Sequence[Slot]) -> bool:
        """Send ``unit`` if there is room beside those that are needed earlier; return whether there was."""
        memory, nbytes = self._room(), unit.sent_bytes
        gaps = _gaps(nearer, memory.nbytes, nbytes)
        if not gaps:
            return False
        possible = (self._end, 0, *(slot.stop for slot in nearer))
        start = next(start for start in possible if any(first <= start <= last for first, last in gaps))
        stop = start + nbytes
        for other in [other for other, slot in self.slots.items() if slot.overlaps(start, stop)]:
            self._forget(other)
        slot = memory.piece(start, nbytes).divide([each.nbytes for each in unit.company])
        send(unit, slot, self.link)
        self.slots[unit], self._end = slot, stop
        return True

    def _largest_now(self) -> int:
        """The same as ``largest`` while a run lasts, without a look at every unit."""
        return next((unit.sent_bytes for unit in self._by_size if unit.place is None), 0)

    def _room(self) -> Slot:
        while self.memory is None:
            try:
                self.memory = self.link.slot(self.nbytes)
            except RuntimeError as error:
                if self.size == 1 or not is_out_of_memory(error):
                    raise
                self.size -= 1  # look less far ahead
        return self.memory

    def _forget(self, unit: Unit) -> None:
        slot = self.slots.pop(unit)
        if unit.place is None:
            leave(unit, slot, self.link)


def _gaps(taken: Sequence[Slot], memory: int, nbytes: int) -> list[tuple[int, int]]:
    """The first and last places between slots of a memory at which ``nbytes`` can begin."""
    if sum([slot.nbytes for slot in taken]) + nbytes > memory:
        return []
    edges = sorted((slot.start, slot.stop) for slot in taken)
    between = zip([0, *(stop for _, stop in edges)], [*(start for start, _ in edges), memory])
    return [(begin, end - nbytes) for begin, end in between if end - begin >= nbytes]


def send(unit: Unit, slot: Slot, link: Link) -> None:
    """Start to copy ``unit`` and its company into the pieces of ``slot``."""
    for each, piece in zip(unit.company, slot.pieces):
        link.send(each, piece)


def install(unit: Unit, slot: Slot, link: Link) -> None:
    """Let the network use ``unit`` in ``slot``, and make its changes there; if they fail, it leaves the slot."""
    try:
        for each, piece in zip(unit.company, slot.pieces):
            link.arrive(each, piece)
        unit.apply_patches(slot)
    except BaseException:
        leave(unit, slot, link)
        raise


def leave(unit: Unit, slot: Slot, link: Link) -> None:
    """Let the network use the home of ``unit`` again, and those who read its company theirs."""
    for each, piece in zip(unit.company, slot.pieces):
        link.leave(each, piece)
