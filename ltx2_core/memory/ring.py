"""Which unit is in which slot of the device, which one comes next, and what may be overwritten.

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
        """Begin to copy, as soon as nothing that was started before reads the slot any more."""

    def arrive(self, unit: Unit, slot: Slot) -> None:
        """What is started from now on uses the unit in this slot, and starts when it is there."""

    def leave(self, unit: Unit, slot: Slot) -> None:
        """What was started before now is the last to read the slot."""

    def settle(self) -> None:
        """Wait until nothing is on its way."""

    def trim(self) -> None:
        """Give memory that nobody holds back to the device."""

    def rest(self, units: Sequence[Unit]) -> None:
        """These are not needed for a while."""


class Ring:
    """Streams units through a few slots. As many as there are slots are always on the device or on their way: the one
    that runs, and those that come next.

    What comes next is what came next the last time, at first the order in which the units are given. It is a circle:
    behind the last unit of a step comes the first one of the next step, so the link works while a sampler does its
    part. A wrong guess costs time, never the result.
    """

    def __init__(self, units: Sequence[Unit], link: Link, size: int):
        self.link, self.size = link, size
        self.slots: list[Slot] = []
        self.running: Unit | None = None
        self.slot_bytes = max((unit.nbytes for unit in units), default=0)
        self._after = dict(zip(units, [*units[1:], *units[:1]]))
        self._first = next(iter(units), None)
        self._last: Unit | None = None

    @property
    def nbytes(self) -> int:
        """What all slots take."""
        return self.size * self.slot_bytes

    def start(self) -> None:
        """A run begins, with the unit that was the first one in the last run."""
        self._last = None
        self.look_ahead()

    def use(self, unit: Unit) -> None:
        """The unit is about to run."""
        self.running = unit
        if unit.place is None:
            self._send(self._from(unit))
            slot = self._slot_of(unit)
            assert slot is not None
            self.link.arrive(unit, slot)

    def done(self, unit: Unit) -> None:
        """The unit has been run."""
        if (slot := self._slot_of(unit)) is not None and unit.place is None:
            self.link.leave(unit, slot)
        if self._last is None:
            self._first = unit
        else:
            self._after[self._last] = unit
        self._last, self.running = unit, None

    def look_ahead(self) -> None:
        """Send what comes next."""
        upcoming = self._first if self._last is None else self._after[self._last]
        if upcoming is not None:
            self._send(self._from(upcoming))

    def shrink(self) -> int:
        """From now on one slot; gives back those that nobody uses now, and returns their bytes."""
        self.link.settle()
        before, self.size = len(self.slots), 1
        self.slots = [slot for slot in self.slots if slot.unit is not None and slot.unit is self.running]
        return (before - len(self.slots)) * self.slot_bytes

    def stop(self) -> None:
        """The run is over, or was interrupted: nothing is on its way, in a slot, or in use."""
        self.link.settle()
        if self.running is not None and self.running.place is None:
            self.running.go_home()
        self.slots.clear()
        self.running = None

    def _from(self, unit: Unit) -> list[Unit]:
        """The units to stream from this one on, itself included, as many as there are slots."""
        coming: list[Unit] = []
        seen: set[Unit] = set()
        while unit not in seen and len(coming) < self.size:
            seen.add(unit)
            if unit.place is None:
                coming.append(unit)
            unit = self._after[unit]
        return coming

    def _send(self, wanted: list[Unit]) -> None:
        """Whatever of these is not in a slot yet, in this order; it takes the place of what is not among them."""
        here = {slot.unit for slot in self.slots}
        others = [slot for slot in self.slots if slot.unit not in wanted]
        for unit in wanted:
            if unit in here:
                continue
            try:
                slot = others.pop(0) if others else self._new_slot()
            except torch.OutOfMemoryError:
                if not self.slots:
                    raise
                self.size = len(self.slots)  # look less far ahead
                return self._send(wanted[: self.size])
            slot.unit = None  # in case that sending fails
            self.link.send(unit, slot)
            slot.unit = unit

    def _new_slot(self) -> Slot:
        slot = self.link.slot(self.slot_bytes)
        self.slots.append(slot)
        return slot

    def _slot_of(self, unit: Unit) -> Slot | None:
        return next((slot for slot in self.slots if slot.unit is unit), None)
