"""The weights of one network: as many units on the device as the budget allows, the others streamed while it runs."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import OutOfMemoryError, SettingError, counted, is_out_of_memory
from ..layers import FeedForward
from .arrival import AS_STORED, Arrival
from .link import link_to
from .partition import BLOCK, PART, Partition, choose_resident, names_of, partitions_of
from .ring import Link, Ring, install, leave, send
from .unit import UNCHANGED, Changes, Slot, Unit

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

SENT_AHEAD = 3  # units that are read and copied while one is installed, of those that come to stay
MIN_CHUNK_TOKENS = 512  # of a feed-forward; fewer would not save much beside what attention holds


class Store:
    """Owner of the weights of ``network``.

    Blocks are the members of its module lists; everything else is one unit, the rest. A block stays on the device, or
    comes through a ring of ``slots`` when its turn comes: from pinned host memory, or from the file that it is mapped
    from. Blocks that stay are spread evenly over the network, so that the link can work all the time. The rest is there
    during ``use``, and between uses if the budget allows.

    When memory runs out nevertheless, the store makes room and runs the block again. For this it holds on to the inputs
    of the block, whose tensors must be left as they were.

    Attributes:
        network: the module whose weights these are.
        device: where it runs.
        budget: bytes that the store may take on the device, ring included; None without limit. At least one slot and
            the rest are needed whatever the budget. The ring is given up between uses.
        unit: what is streamed, "block" or "part": what modules name as streamable; blocks without parts remain whole.
        slots: how many of the largest unit the ring holds from the next budget on.
        link: what moves the bytes.
        exchanges: counts what was exchanged with other processes. A block that did so before memory ran out is not run
            again, since these would take what it sends once more for something else.

    What ``arrival`` converts is converted in every copy, unit by unit; the network keeps it as it is stored.
    The store of a twin names that of its ``original``, whose pinned memory it copies from.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device | str,
        *,
        slots: int = 2,
        link: Link | None = None,
        arrival: Arrival = AS_STORED,
        original: "Store | None" = None,
    ):
        self.network = network
        self.device = torch.device(device)
        self.budget: int | None = None
        self.unit = BLOCK
        self.slots = slots
        self.link = link or link_to(self.device)
        self.exchanges: Callable[[], int] = int
        self._partitions = partitions_of(network, arrival)
        if original is not None:
            for unit, partition in self._partitions.items():
                for own, first in zip(partition.ranked, original._partitions[unit].ranked, strict=True):
                    own.original = first
        self._rings = {unit: Ring(each.units, self.link, slots) for unit, each in self._partitions.items()}
        self._changes = self._made = UNCHANGED  # those of the next use, and those that the units carry
        self._chunks: dict[FeedForward, int] = {}  # tokens at a time, as they were before memory ran out
        self._users = 0
        self._ready = False

    @property
    def partition(self) -> Partition:
        """The network as the units that are streamed."""
        return self._partitions[self.unit]

    @property
    def _ring(self) -> Ring:
        return self._rings[self.unit]

    @property
    def wanted_bytes(self) -> int:
        """Bytes that the whole network takes on the device."""
        return sum(unit.kept_bytes for unit in self.partition.ranked)

    @property
    def card_bytes(self) -> int:
        """Bytes that are on the device now."""
        return self._resident_bytes + self._ring.taken

    @property
    def copied_bytes(self) -> int:
        """Bytes of those on the device that are copies: what leaving it gives back, where others are used in place."""
        pieces = (piece for unit in self.partition.ranked if unit.place for piece in unit.place.pieces)
        return sum(piece.nbytes for piece in pieces if piece.buffer is not None) + self._ring.taken

    @property
    def rest_bytes(self) -> int:
        """Bytes that must be on the device throughout a use."""
        return self.partition.rest.kept_bytes

    @property
    def unit_bytes(self) -> list[int]:
        """Bytes of each block, or part, while it stays."""
        return [unit.kept_bytes for unit in self.partition.units]

    @property
    def staying(self) -> list[bool]:
        """Whether each block, or part, is on the device to stay."""
        return [unit.place is not None for unit in self.partition.units]

    def stream_by(self, unit: str, slots: int = 2) -> None:
        """Choose what comes and goes, "block" or "part", and the slots of the ring from the next budget on.

        Raises:
            SettingError: for another word.
            RuntimeError: while the network is in use, unless the unit stays the same.
        """
        if unit not in self._partitions:
            raise SettingError(f"unit is {unit!r}; a network is streamed by {' or '.join(self._partitions)}.")
        if unit != self.unit:
            if self._users:
                raise RuntimeError("The network is in use; choose the unit before that, or afterwards.")
            self._change_unit(unit)
        self.slots = slots

    def set_budget(self, budget: int | None) -> None:
        """Keep as much on the device as ``budget`` bytes allow, starting now."""
        self.budget = budget
        if not self._users:
            self._apply_patches()
        self._ring.size = self.slots
        while self._ring.size > 1 and budget is not None and self._resident_within(budget) is None:
            self._ring.size -= 1
        resident = self._fitting()
        for unit in self.partition.ranked:
            if unit not in resident:
                self._drop(unit)
        try:
            self._bring(resident)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.budget = self.card_bytes
            _log.warning("Only %s of %s fit on %s", _gb(self.budget), _gb(self.wanted_bytes), self.device)

    def patch(self, changes: Changes) -> None:
        """Run the network with these changes, and no others, from the next use on.

        Raises:
            SettingError: if the network has no parameter of such a name.
        """
        if changes is self._changes:
            return
        known = set(names_of(self.network).values())
        if unknown := [name for name in (*changes.patches, *changes.beside) if name not in known]:
            names = f"{unknown[0]} and {len(unknown) - 1} more" if unknown[1:] else unknown[0]
            raise SettingError(f"Weights are to be changed that the network does not have: {names}.")
        self._changes = changes

    def shrink(self, nbytes: int) -> int:
        """Give back at least ``nbytes`` if possible, but nothing that is in use; return the bytes given back."""
        before = self.card_bytes
        for unit in reversed(self.partition.ranked):
            if before - self.card_bytes >= nbytes:
                break
            self._drop(unit)
        self.budget = self._resident_bytes + self._ring.nbytes
        return before - self.card_bytes

    def release(self) -> None:
        """Leave the device; the weights stay on the host."""
        self.shrink(self.wanted_bytes)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        """Yield the network, ready to run on the device; afterwards it is as it was before, whatever happened."""
        if not self._users:
            self._apply_patches()
        self._users += 1
        try:
            if self._users == 1:
                self._with_room(lambda: self._ring.start())
            yield self.network
        finally:
            self._users -= 1
            if self._users == 0:
                self._end()

    def _apply_patches(self) -> None:
        """Drop units whose patches have changed, so that their next copies carry the new ones."""
        if self._made is self._changes:
            return
        names = names_of(self.network)
        for partition in self._partitions.values():
            for unit in partition.ranked:
                named = [names[id(tensor)] for tensor in unit.tensors]
                if not self._made.are_those_of(self._changes, named):
                    self._drop(unit)
                    unit.change(self._changes, named)
        self._made = self._changes

    def _stand_ready(self) -> None:
        """Bring what stays, and let link and modules know what is streamed."""
        if not self._ready:
            partition = self.partition
            self._bring([partition.rest, *self._fitting()])
            self.link.prepare(_company(unit for unit in partition.ranked if unit.place is None))
            for module, unit in zip(partition.modules, partition.units):
                vars(module)["forward"] = partial(self._visit, self._ring, unit, module.forward)
            self._ready = True

    def _end(self) -> None:
        self._stand_down()
        for feed_forward, chunk in self._chunks.items():
            feed_forward.chunk = chunk
        self._chunks.clear()
        if self.partition.rest not in self._fitting():
            self._drop(self.partition.rest)

    def _stand_down(self) -> None:
        for module in self.partition.modules:
            vars(module).pop("forward", None)
        self._ring.stop()
        self.link.rest(_company(self.partition.units))
        self._ready = False

    def _change_unit(self, unit: str) -> None:
        """Send everything home first: the units of the other partition are the same weights."""
        self._stand_down()
        for each in self.partition.ranked:
            self._take_away(each)
        self.unit = unit

    def _visit(self, ring: Ring, unit: Unit, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for the forward of a block, or of a part of one."""

        def run() -> Any:
            if ring is self._ring:  # else its parts come by themselves since memory ran out
                ring.use(unit)
            # A block may empty lists that it is given, so that what it has used makes room.
            return forward(*(list(arg) if isinstance(arg, list) else arg for arg in args), **kwargs)

        try:
            result = self._with_room(run)
        finally:
            ring.done(unit)
        self._with_room(lambda: self._ring.look_ahead())
        return result

    def _with_room(self, action: Callable[[], Result]) -> Result:
        """Call ``action``, again and again while memory runs out and there is something to give up for it."""
        before = self.exchanges()
        while True:
            try:
                self._stand_ready()
                return action()
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.exchanges() != before:
                    raise
                if not self._give_way():
                    raise OutOfMemoryError(
                        f"{self.device} has too little memory: of the network only the {_gb(self.card_bytes)} that it "
                        "needs at once are on it, and its work does not fit beside them. Make the clip smaller or "
                        "shorter, or close other programs that use the card."
                    ) from error
            self.link.trim()  # not before the failed attempt's own tensors are gone

    def _give_way(self) -> bool:
        """Give something up, what costs least first; return whether there was anything."""
        for give_up in (self._look_less_far_ahead, self._halve_chunks, self._stream_parts, self._demote):
            if how := give_up():
                _log.warning("Out of memory on %s; trying again %s", self.device, how)
                return True
        return False

    def _look_less_far_ahead(self) -> str:
        if not (freed := self._ring.shrink()):
            return ""
        self.budget = self._resident_bytes + self._ring.nbytes
        return f"without look-ahead, which frees {_gb(freed)}"

    def _halve_chunks(self) -> str:
        large = [m for m in self.network.modules() if isinstance(m, FeedForward) and m.chunk > MIN_CHUNK_TOKENS]
        for feed_forward in large:
            self._chunks.setdefault(feed_forward, feed_forward.chunk)
            feed_forward.chunk //= 2
        return f"with {large[0].chunk} tokens at a time in feed-forwards" if large else ""

    def _stream_parts(self) -> str:
        whole, part = self._ring, self._rings[PART]
        if len(self._fitting()) == len(self.partition.ranked) or part.largest >= whole.largest:
            return ""
        part.size = min(self.slots, whole.nbytes // part.largest)
        self.budget = self._resident_bytes + part.nbytes
        self._change_unit(PART)
        return f"by parts of blocks, for which {_gb(part.nbytes)} replace {_gb(whole.nbytes)}"

    def _demote(self) -> str:
        """Give up half of what stays, then half of that, and so on."""
        leaving = [unit for unit in self.partition.ranked if unit.place is not None and not self._needed(unit)]
        leaving = leaving[len(leaving) // 2 :]
        if not leaving:
            return ""
        for unit in leaving:
            self._drop(unit)
        self.budget = self._resident_bytes + self._ring.nbytes
        freed = sum(unit.kept_bytes for unit in leaving)
        return f"with {counted(len(leaving), f'more {self.unit}')} that cannot stay, which frees {_gb(freed)}"

    @property
    def _resident_bytes(self) -> int:
        return sum(unit.kept_bytes for unit in self.partition.ranked if unit.place is not None)

    def _fitting(self) -> list[Unit]:
        """Return what stays on the device under the budget; ring and rest come first."""
        partition = self.partition
        if self.budget is None or self.wanted_bytes <= self.budget:
            return partition.ranked
        if (chosen := self._resident_within(self.budget)) is None:
            return []
        resident = {partition.units[index] for index in chosen}
        return [unit for unit in partition.ranked if unit is partition.rest or unit in resident]

    def _resident_within(self, budget: int) -> set[int] | None:
        """Return which units stay under ``budget`` beside rest and ring; None if there is no room for these."""
        passing = [unit.sent_bytes - unit.kept_bytes for unit in self.partition.units]
        return choose_resident(self.unit_bytes, budget - self.rest_bytes, self._ring.size, passing)

    def _needed(self, unit: Unit) -> bool:
        return unit is self._ring.running or (unit is self.partition.rest and self._users > 0)

    def _bring(self, units: Iterable[Unit]) -> None:
        brought, arriving = list[Unit](), deque[tuple[Unit, Slot]]()

        def install_first() -> None:
            unit, slot = arriving.popleft()
            install(unit, slot, self.link)
            if unit.passing is not None:
                self.link.leave(unit.passing, slot.parts.pop())
            unit.place = slot

        try:
            for unit in dict.fromkeys(units):
                if unit.sent_bytes and unit.place is None and unit is not self._ring.running:
                    slot = Slot.of([self.link.slot(each.nbytes) for each in unit.company])
                    brought.append(unit)
                    send(unit, slot, self.link)
                    arriving.append((unit, slot))
                    if len(arriving) > SENT_AHEAD:
                        install_first()
        finally:
            try:
                while arriving:  # also those that were sent before memory ran out
                    install_first()
            finally:  # whatever failed: the slot of a unit that did not come is given back now
                self.link.settle()
                self.link.rest(_company(brought))  # others may have their pinned memory

    def _drop(self, unit: Unit) -> None:
        if not self._needed(unit):
            self._take_away(unit)

    def _take_away(self, unit: Unit) -> None:
        if unit.place is not None:
            leave(unit, unit.place, self.link)
            unit.place = None


def _company(units: Iterable[Unit]) -> list[Unit]:
    return [each for unit in units for each in unit.company]


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
