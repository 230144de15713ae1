"""Which unit is where on the device, which one comes next, and what may be overwritten.

This is the policy of streaming; how bytes move is the business of a ``Link``. So it runs in tests with a link that only
keeps the time.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from .unit import Slot, Unit


class Link(Protocol):
    """Moves units into slots. Nothing here waits, if the device can copy while it computes."""

    def prepare(self, units: Sequence[Unit]) -> None:
        """These will be sent again and again, the first of them most surely."""

    def slot(self, nbytes: int) -> Slot:
        """Room on the device; raises torch.OutOfMemoryError."""

    def send(self, unit: Unit, slot: Slot) -> None:
        """Begin to copy, as soon as what was started before now, which may use the same memory, is done."""

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """What is started from now on uses the unit in this slot, and starts when it is there."""

    def leave(self, unit: Unit, slot: Slot) -> None:
        """What is started from now on does not use the slot, and nobody is about to write into it."""

    def settle(self) -> None:
        """Wait until nothing is on its way."""

    def trim(self) -> None:
        """Give memory that nobody holds back to the device."""

    def rest(self, units: Sequence[Unit]) -> None:
        """These are not needed for a while."""


class Ring:
    """Streams units through one piece of memory that holds ``size`` of the largest: the one that runs, and as many of
    those that come next as find room. Each begins where the one sent before it ends, or at the start again.

    What comes next is what came next the last time, at first the order in which the units are given. It is a circle:
    behind the last unit of a step comes the first one of the next step, so the link works while a sampler does its
    part. A wrong guess costs time, never the result.
    """

    def __init__(self, units: Sequence[Unit], link: Link, size: int):
        self.link, self.size = link, size
        self.largest = max((unit.nbytes for unit in units), default=0)
        self.running: Unit | None = None
        self.memory: Slot | None = None
        self.slots: dict[Unit, Slot] = {}  # pieces of the memory, and who is there or on the way
        self._end = 0  # of the last one that was sent
        self._after = dict(zip(units, [*units[1:], *units[:1]]))
        self._first = next(iter(units), None)
        self._last: Unit | None = None

    @property
    def nbytes(self) -> int:
        """What the memory takes as soon as it is needed."""
        return self.size * self.largest

    @property
    def taken(self) -> int:
        """What it takes now."""
        return 0 if self.memory is None else self.memory.nbytes

    def start(self) -> None:
        """A run begins, with the unit that was the first one in the last run."""
        self._last = None
        self.look_ahead()

    def use(self, unit: Unit) -> None:
        """The unit is about to run."""
        self.running = unit
        if unit.place is None:
            self._send_from(unit)
            slot = self.slots.pop(unit)  # nobody shall find it there if its changes fail half-way
            install(unit, slot, self.link)
            self.slots[unit] = slot

    def done(self, unit: Unit) -> None:
        """The unit has been run."""
        if unit in self.slots and unit.place is None:
            self.link.leave(unit, self.slots[unit])
        if self._last is None:
            self._first = unit
        else:
            self._after[self._last] = unit
        self._last, self.running = unit, None

    def look_ahead(self) -> None:
        """Send what comes next; a unit that stays has made no room for it."""
        if self._last is None and self._first is not None:
            self._send_from(self._first)
        elif self._last is not None and self._last.place is None:
            self._send_from(self._after[self._last])

    def shrink(self) -> int:
        """From now on room for one unit; returns the bytes given back. What runs must be used again."""
        before, self.size = self.taken, 1
        if before > self.nbytes:
            self.clear()
        return max(0, before - self.nbytes)

    def clear(self) -> None:
        """Nothing is on its way, in a slot, or in use; the memory is given back."""
        self.link.settle()
        for unit in list(self.slots):
            self._forget(unit)
        self.memory, self._end = None, 0

    def stop(self) -> None:
        """The run is over, or was interrupted."""
        self.clear()
        self.running = None

    def _send_from(self, unit: Unit) -> None:
        """Send this unit and those that follow, unless they are there, until one finds no room."""
        if self.memory is not None and self.taken != self.nbytes:
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
        """Whether there is room beside those that are needed earlier."""
        memory = self._room()
        for start in (self._end, 0, *(slot.stop for slot in nearer)):
            stop = start + unit.nbytes
            if stop <= memory.nbytes and not any(slot.overlaps(start, stop) for slot in nearer):
                break
        else:
            return False
        for other in [other for other, slot in self.slots.items() if slot.overlaps(start, stop)]:
            self._forget(other)
        slot = memory.piece(start, unit.nbytes)
        self.link.send(unit, slot)
        self.slots[unit], self._end = slot, stop
        return True

    def _room(self) -> Slot:
        while self.memory is None:
            try:
                self.memory = self.link.slot(self.nbytes)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size -= 1  # look less far ahead
        return self.memory

    def _forget(self, unit: Unit) -> None:
        slot = self.slots.pop(unit)
        if unit.place is None:
            self.link.leave(unit, slot)


def install(unit: Unit, slot: Slot, link: Link) -> None:
    """From now on the unit is used in this slot, with its changes made."""
    link.arrive(unit, slot)
    try:
        unit.apply_patches(slot)
    except BaseException:
        link.leave(unit, slot)
        raise
