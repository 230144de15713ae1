"""The weights of one network: as many blocks on the device as the budget allows, the others streamed while it runs."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .link import link_to
from .ring import Link, Ring
from .unit import Unit, mapped_files

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Store:
    """Owns where the weights of ``network`` are. Blocks are the members of its module lists; the rest is one unit.

    A block stays on the device, or comes through a ring of ``slots`` when its turn comes: from pinned host memory, or
    from the file that it is mapped from. Blocks that stay are spread evenly over the network, so that the link can work
    all the time. The part outside of the blocks is there during ``use``, and between uses if the budget allows.

    ``budget`` is how many bytes the store may take on the device, ring included, None without limit; the ring is given
    up between uses. At least one slot and the part outside of the blocks are needed whatever the budget.

    When memory runs out nevertheless, the store makes room and runs the block again. For this it holds on to the inputs
    of the block, whose tensors must be left as they were.
    """

    def __init__(self, network: nn.Module, device: torch.device | str, *, slots: int = 2, link: Link | None = None):
        self.network = network
        self.device = torch.device(device)
        self.budget: int | None = None
        self._slots = slots
        self._link = link or link_to(self.device)
        self._modules = list(_blocks(network))
        files = mapped_files()
        inside = {id(tensor) for module in self._modules for tensor in _tensors(module)}
        self._rest = Unit([tensor for tensor in _tensors(network) if id(tensor) not in inside], files)
        self._blocks = [Unit(_tensors(module), files) for module in self._modules]
        # The last ones are the first to leave the device; whatever remains is spread evenly.
        self._units = [self._rest, *(self._blocks[index] for index in spread(len(self._blocks)))]
        self._ring = Ring(self._blocks, self._link, slots)
        self._users = 0

    @property
    def wanted_bytes(self) -> int:
        """What the whole network takes on the device."""
        return sum(unit.nbytes for unit in self._units)

    @property
    def card_bytes(self) -> int:
        """What is on the device now."""
        return self._staying_bytes + sum(slot.nbytes for slot in self._ring.slots)

    def set_budget(self, budget: int | None) -> None:
        """Keep as much on the device as ``budget`` bytes allow, starting now."""
        self.budget = budget
        self._ring.size = self._slots
        if budget is not None and self._blocks:
            room = (budget - self._rest.nbytes) // self._ring.slot_bytes
            self._ring.size = max(1, min(self._slots, room))
        self._link.settle()
        staying = self._fitting()
        for unit in self._units:
            if unit not in staying:
                self._drop(unit)
        try:
            self._bring(staying)
        except torch.OutOfMemoryError:
            self.budget = self.card_bytes
            _log.warning("Only %s of %s fit on %s", _gb(self.budget), _gb(self.wanted_bytes), self.device)

    def shrink(self, nbytes: int) -> int:
        """Give back at least ``nbytes`` if possible, but nothing that is in use; returns the bytes given back."""
        before = self.card_bytes
        for unit in reversed(self._units):
            if before - self.card_bytes >= nbytes:
                break
            self._drop(unit)
        self.budget = self._staying_bytes + self._ring.nbytes
        return before - self.card_bytes

    def release(self) -> None:
        """Leave the device; the weights stay on the host."""
        self.shrink(self.wanted_bytes)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        """The network, ready to run on the device. Afterwards, whatever happened, it is as it was before."""
        self._users += 1
        try:
            if self._users == 1:
                self._begin()
            yield self.network
        finally:
            self._users -= 1
            if self._users == 0:
                self._end()

    def _begin(self) -> None:
        self._with_room(lambda: self._bring([self._rest, *self._fitting()]))
        self._link.prepare([unit for unit in self._units if unit.place is None])
        for module, unit in zip(self._modules, self._blocks):
            vars(module)["forward"] = partial(self._visit, unit, module.forward)
        self._with_room(self._ring.start)

    def _end(self) -> None:
        for module in self._modules:
            vars(module).pop("forward", None)
        self._ring.stop()
        self._link.rest(self._blocks)
        if self._rest not in self._fitting():
            self._drop(self._rest)

    def _visit(self, unit: Unit, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the forward of a block."""

        def run() -> Any:
            self._ring.use(unit)
            # A block may empty lists that it is given, so that what it has used makes room.
            return forward(*(list(arg) if isinstance(arg, list) else arg for arg in args), **kwargs)

        try:
            result = self._with_room(run)
        finally:
            self._ring.done(unit)
        self._with_room(self._ring.look_ahead)
        return result

    def _with_room(self, action: Callable[[], Result]) -> Result:
        """``action()``, again and again if memory runs out, as long as there is something to give up for it."""
        while True:
            try:
                return action()
            except torch.OutOfMemoryError as error:
                if not self._give_way():
                    raise torch.OutOfMemoryError(
                        f"{self.device} has too little memory: of the network only the {_gb(self.card_bytes)} that it "
                        "needs at once are on it, and its work does not fit beside them. Make the clip smaller or "
                        "shorter, or close other programs that use the card."
                    ) from error
            self._link.trim()  # not before the failed attempt's own tensors are gone

    def _give_way(self) -> bool:
        """First the look-ahead, then half of the blocks that stay, and half of those, and so on."""
        freed, what = self._ring.shrink(), "the look-ahead"
        if not freed:
            leaving = [unit for unit in self._units if unit.place is not None and not self._needed(unit)]
            leaving = leaving[len(leaving) // 2 :]
            freed = sum(unit.nbytes for unit in leaving)
            what = f"{len(leaving)} of {len(self._blocks)} blocks"
            for unit in leaving:
                self._drop(unit)
        if freed:
            self.budget = self._staying_bytes + self._ring.nbytes
            _log.warning("Out of memory on %s: gave up %s, %s, and try again", self.device, what, _gb(freed))
        return freed > 0

    @property
    def _staying_bytes(self) -> int:
        return sum(unit.nbytes for unit in self._units if unit.place is not None)

    def _fitting(self) -> list[Unit]:
        """What stays on the device under the budget; the ring comes first."""
        if self.budget is None or self.wanted_bytes <= self.budget:
            return self._units
        fitting, room = [], self.budget - self._ring.nbytes
        for unit in self._units:
            if unit.nbytes <= room:
                fitting.append(unit)
                room -= unit.nbytes
        return fitting

    def _needed(self, unit: Unit) -> bool:
        return unit is self._ring.running or (unit is self._rest and self._users > 0)

    def _bring(self, units: Iterable[Unit]) -> None:
        for unit in units:
            if unit.place is None and unit is not self._ring.running:
                slot = self._link.slot(unit.nbytes)
                self._link.send(unit, slot)
                self._link.arrive(unit, slot)
                unit.place = slot

    def _drop(self, unit: Unit) -> None:
        if unit.place is not None and not self._needed(unit):
            self._link.leave(unit, unit.place)
            unit.place = None


def spread(count: int) -> list[int]:
    """All indices, in an order of which every beginning, and every end, is spread evenly."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda index: f"{index:0{bits}b}"[::-1])


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of all outermost module lists; a list in a list is not a block, since nobody calls it."""
    for child in network.children():
        if isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def _tensors(module: nn.Module) -> list[Tensor]:
    return list({id(t): t for t in itertools.chain(module.parameters(), module.buffers())}.values())


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
