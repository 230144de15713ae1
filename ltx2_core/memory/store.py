"""The weights of one network: as many blocks on the device as the budget allows, the others streamed while it runs."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..layers import FeedForward
from .link import link_to
from .ring import Link, Ring, install
from .unit import Change, MappedFile, Unit, mapped_files

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Fewer tokens at a time would not save much beside what attention holds.
LEAST_CHUNK = 512


class Cut:
    """A network as units, in the order in which their modules are called, and the rest, that several of them need."""

    def __init__(self, network: nn.Module, modules: Iterable[nn.Module], files: Sequence[MappedFile]):
        self.modules = [module for module in modules if _tensors(module)]
        inside = {id(tensor) for module in self.modules for tensor in _tensors(module)}
        self.units = [Unit(_tensors(module), files) for module in self.modules]
        self.rest = Unit([tensor for tensor in _tensors(network) if id(tensor) not in inside], files)
        # The last ones are the first to leave the device; whatever remains is spread evenly.
        self.ranked = [self.rest, *(self.units[index] for index in spread(len(self.units)))]


class Store:
    """Owns where the weights of ``network`` are. Blocks are the members of its module lists; the rest is one unit.

    A block stays on the device, or comes through a ring of ``slots`` when its turn comes: from pinned host memory, or
    from the file that it is mapped from. Blocks that stay are spread evenly over the network, so that the link can work
    all the time. The part outside of the blocks is there during ``use``, and between uses if the budget allows.

    ``stream_by("part")`` does so with what modules name as their ``streamable_modules``, which needs less room; blocks
    without parts remain whole.

    ``budget`` is how many bytes the store may take on the device, ring included, None without limit; the ring is given
    up between uses. At least one slot and the part outside of the blocks are needed whatever the budget.

    When memory runs out nevertheless, the store makes room and runs the block again. For this it holds on to the inputs
    of the block, whose tensors must be left as they were.
    """

    def __init__(self, network: nn.Module, device: torch.device | str, *, slots: int = 2, link: Link | None = None):
        self.network = network
        self.device = torch.device(device)
        self.budget: int | None = None
        self.unit = "block"
        self.slots = slots
        self._link = link or link_to(self.device)
        self._cuts = cuts(network)
        self._rings = {unit: Ring(cut.units, self._link, slots) for unit, cut in self._cuts.items()}
        self._changes: Mapping[str, Change] = {}
        self._made: Mapping[str, Change] = {}  # those that the units have
        self._chunks: dict[FeedForward, int] = {}  # as they were before memory ran out
        self._users = 0
        self._ready = False

    @property
    def _cut(self) -> Cut:
        return self._cuts[self.unit]

    @property
    def _ring(self) -> Ring:
        return self._rings[self.unit]

    @property
    def wanted_bytes(self) -> int:
        """What the whole network takes on the device."""
        return sum(unit.nbytes for unit in self._cut.ranked)

    @property
    def card_bytes(self) -> int:
        """What is on the device now."""
        return self._staying_bytes + self._ring.taken

    @property
    def rest_bytes(self) -> int:
        """What must be on the device throughout a use."""
        return self._cut.rest.nbytes

    @property
    def unit_bytes(self) -> list[int]:
        """Of each block, or part."""
        return [unit.nbytes for unit in self._cut.units]

    @property
    def ring_bytes(self) -> int:
        """What the ring takes while something is streamed: so many times the largest unit as it has slots."""
        return self._ring.nbytes

    @property
    def staying(self) -> list[bool]:
        """Of each block, or part: whether it is on the device to stay."""
        return [unit.place is not None for unit in self._cut.units]

    def stream_by(self, unit: str, slots: int = 2) -> None:
        """What comes and goes, blocks or parts, and how many of the largest the ring holds from the next budget on.

        The unit cannot be changed while the network is in use.
        """
        if unit not in self._cuts:
            raise ValueError(f"unit is {unit!r}; a network is streamed by {' or '.join(self._cuts)}.")
        if unit != self.unit:
            if self._users:
                raise RuntimeError("The network is in use; choose the unit before that, or afterwards.")
            self._change_cut(unit)
        self.slots = slots

    def set_budget(self, budget: int | None) -> None:
        """Keep as much on the device as ``budget`` bytes allow, starting now."""
        self.budget = budget
        self._ring.size = self.slots
        if budget is not None and self._ring.largest:
            room = budget - self._cut.rest.nbytes
            self._ring.size = max(1, min(self.slots, room // self._ring.largest))
        self._link.settle()
        if not self._users:
            self._renew()
        staying = self._fitting()
        for unit in self._cut.ranked:
            if unit not in staying:
                self._drop(unit)
        try:
            self._bring(staying)
        except torch.OutOfMemoryError:
            self.budget = self.card_bytes
            _log.warning("Only %s of %s fit on %s", _gb(self.budget), _gb(self.wanted_bytes), self.device)

    def patch(self, changes: Mapping[str, Change]) -> None:
        """From the next use on the network runs with these changes, and no others, made in its weights.

        By the names of parameters, functions that change a tensor in place on the device. They are called whenever a
        copy has arrived there, all tensors of its unit with it, once for each copy. What is on the host stays as it is.
        """
        if changes is not self._changes:
            known = set(_names(self.network).values())
            if unknown := [name for name in changes if name not in known]:
                found = f"{unknown[0]} and {len(unknown) - 1} others" if unknown[1:] else unknown[0]
                raise ValueError(f"Weights are to be changed that the network does not have: {found}.")
            self._changes = changes

    def shrink(self, nbytes: int) -> int:
        """Give back at least ``nbytes`` if possible, but nothing that is in use; returns the bytes given back."""
        before = self.card_bytes
        for unit in reversed(self._cut.ranked):
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
        if not self._users:
            self._renew()
        self._users += 1
        try:
            if self._users == 1:
                self._with_room(lambda: self._ring.start())
            yield self.network
        finally:
            self._users -= 1
            if self._users == 0:
                self._end()

    def _renew(self) -> None:
        """Units that are to have other changes than before leave the device."""
        if self._made is self._changes:
            return
        names = _names(self.network)
        for cut in self._cuts.values():
            for unit in cut.ranked:
                named = [names[id(tensor)] for tensor in unit.tensors]
                changes = {i: self._changes[name] for i, name in enumerate(named) if name in self._changes}
                if changes != unit.changes:
                    self._drop(unit)
                    unit.changes = changes
        self._made = self._changes

    def _stand_ready(self) -> None:
        """What stays is there, and the link and the modules know what is streamed."""
        if not self._ready:
            cut = self._cut
            self._bring([cut.rest, *self._fitting()])
            self._link.prepare([unit for unit in cut.ranked if unit.place is None])
            for module, unit in zip(cut.modules, cut.units):
                vars(module)["forward"] = partial(self._visit, self._ring, unit, module.forward)
            self._ready = True

    def _end(self) -> None:
        self._stand_down()
        for mixer, chunk in self._chunks.items():
            mixer.chunk = chunk
        self._chunks.clear()
        if self._cut.rest not in self._fitting():
            self._drop(self._cut.rest)

    def _stand_down(self) -> None:
        for module in self._cut.modules:
            vars(module).pop("forward", None)
        self._ring.stop()
        self._link.rest(self._cut.units)
        self._ready = False

    def _change_cut(self, unit: str) -> None:
        """The units of the other cut are the same weights, so first everything goes home."""
        self._stand_down()
        for each in self._cut.ranked:
            self._take_away(each)
        self.unit = unit

    def _visit(self, ring: Ring, unit: Unit, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the forward of a block, or of a part of one."""

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
        """``action()``, again and again if memory runs out, as long as there is something to give up for it."""
        while True:
            try:
                self._stand_ready()
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
        """What costs least goes first."""
        for give_up in (self._look_less_far_ahead, self._halve_chunks, self._stream_parts, self._demote):
            if how := give_up():
                _log.warning("Out of memory on %s; trying again %s", self.device, how)
                return True
        return False

    def _look_less_far_ahead(self) -> str:
        if not (freed := self._ring.shrink()):
            return ""
        self.budget = self._staying_bytes + self._ring.nbytes
        return f"without look-ahead, which frees {_gb(freed)}"

    def _halve_chunks(self) -> str:
        mixers = [m for m in self.network.modules() if isinstance(m, FeedForward) and m.chunk > LEAST_CHUNK]
        for mixer in mixers:
            self._chunks.setdefault(mixer, mixer.chunk)
            mixer.chunk //= 2
        return f"with {mixers[0].chunk} tokens at a time in feed-forwards" if mixers else ""

    def _stream_parts(self) -> str:
        whole, part = self._ring, self._rings["part"]
        if len(self._fitting()) == len(self._cut.ranked) or part.largest >= whole.largest:
            return ""
        part.size = min(self.slots, whole.nbytes // part.largest)
        self.budget = self._staying_bytes + part.nbytes
        self._change_cut("part")
        return f"by parts of blocks, for which {_gb(part.nbytes)} replace {_gb(whole.nbytes)}"

    def _demote(self) -> str:
        """Half of what stays, then half of that, and so on."""
        leaving = [unit for unit in self._cut.ranked if unit.place is not None and not self._needed(unit)]
        leaving = leaving[len(leaving) // 2 :]
        if not leaving:
            return ""
        for unit in leaving:
            self._drop(unit)
        self.budget = self._staying_bytes + self._ring.nbytes
        freed = sum(unit.nbytes for unit in leaving)
        return f"with {len(leaving)} more {self.unit}s that do not stay, which frees {_gb(freed)}"

    @property
    def _staying_bytes(self) -> int:
        return sum(unit.nbytes for unit in self._cut.ranked if unit.place is not None)

    def _fitting(self) -> list[Unit]:
        """What stays on the device under the budget; ring and rest come first."""
        if self.budget is None or self.wanted_bytes <= self.budget:
            return self._cut.ranked
        room = self.budget - self._ring.nbytes - self._cut.rest.nbytes
        if room < 0:
            return []
        fitting = [self._cut.rest]
        for unit in self._cut.ranked[1:]:
            if unit.nbytes <= room:
                fitting.append(unit)
                room -= unit.nbytes
        return fitting

    def _needed(self, unit: Unit) -> bool:
        return unit is self._ring.running or (unit is self._cut.rest and self._users > 0)

    def _bring(self, units: Iterable[Unit]) -> None:
        for unit in units:
            if unit.nbytes and unit.place is None and unit is not self._ring.running:
                slot = self._link.slot(unit.nbytes)
                self._link.send(unit, slot)
                install(unit, slot, self._link)
                unit.place = slot

    def _drop(self, unit: Unit) -> None:
        if not self._needed(unit):
            self._take_away(unit)

    def _take_away(self, unit: Unit) -> None:
        if unit.place is not None:
            self._link.leave(unit, unit.place)
            unit.place = None


def cuts(network: nn.Module) -> dict[str, Cut]:
    """By what a store may stream."""
    files = mapped_files()
    return {"block": Cut(network, _blocks(network), files), "part": Cut(network, _parts(network), files)}


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


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """What modules name as their parts, and the blocks that name none."""
    for child in network.children():
        if isinstance(parts := getattr(child, "streamable_modules", None), list):
            yield from parts
        elif isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _parts(child)


def _tensors(module: nn.Module) -> list[Tensor]:
    return list({id(t): t for t in itertools.chain(module.parameters(), module.buffers())}.values())


def _names(network: nn.Module) -> dict[int, str]:
    """Of every parameter and buffer, by its id."""
    return {id(tensor): name for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers())}


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
