"""The weights of one network: as many blocks on the device as the budget allows, the others copied when they run."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Unit:
    """Weights that travel together; the originals stay on the host, so leaving the device copies nothing back."""

    tensors: list[Tensor]  # parameters and buffers of the network
    originals: list[Tensor] = field(init=False)
    nbytes: int = field(init=False)
    stays: bool = True  # on the device between uses
    loaded: bool = False

    def __post_init__(self):
        self.originals = [tensor.data for tensor in self.tensors]
        self.nbytes = sum(tensor.nbytes for tensor in self.originals)

    def load(self, device: torch.device) -> None:
        if not self.loaded:
            for tensor, original in zip(self.tensors, self.originals):
                tensor.data = original.to(device)
            self.loaded = True

    def leave(self) -> None:
        """Go back to the originals, unless this unit stays."""
        if self.stays or not self.loaded:
            return
        for tensor, original in zip(self.tensors, self.originals):
            tensor.data = original
        self.loaded = False


class Store:
    """Owns where the weights of ``network`` are. Blocks are the members of its module lists; the rest is one unit.

    ``budget`` is how many bytes may stay on the device, None without limit. What exceeds it is copied block by block
    while the network runs, and the part outside of the blocks is there at least during ``use``.
    """

    def __init__(self, network: nn.Module, device: torch.device | str):
        self.network = network
        self.device = torch.device(device)
        self.budget: int | None = None
        self._users = 0
        blocks = list(_blocks(network))
        inside = {id(tensor) for block in blocks for tensor in _tensors(block)}
        self._rest = Unit([tensor for tensor in _tensors(network) if id(tensor) not in inside])
        self._blocks = [Unit(_tensors(block)) for block in blocks]
        for block, unit in zip(blocks, self._blocks):
            # The hooks hold no reference to the store, so that a network that is dropped is freed at once.
            block.register_forward_pre_hook(lambda module, inputs, unit=unit, to=self.device: unit.load(to))
            block.register_forward_hook(lambda module, inputs, output, unit=unit: unit.leave())

    @property
    def wanted_bytes(self) -> int:
        """What the whole network takes on the device."""
        return sum(unit.nbytes for unit in self._units)

    @property
    def card_bytes(self) -> int:
        """What is on the device now."""
        return sum(unit.nbytes for unit in self._units if unit.loaded)

    def set_budget(self, budget: int | None) -> None:
        """Keep as much on the device as ``budget`` bytes allow, starting now."""
        self.budget = budget
        totals = itertools.accumulate(unit.nbytes for unit in self._units)
        for unit, total in zip(self._units, totals):
            unit.stays = budget is None or total <= budget
            if unit.stays:
                unit.load(self.device)
        self._leave()

    def shrink(self, nbytes: int) -> int:
        """Give back at least ``nbytes`` if possible, last blocks first; returns the bytes given back."""
        before = self.card_bytes
        for unit in reversed(self._units):
            if before - self.card_bytes >= nbytes:
                break
            unit.stays = False
            self._leave()
        self.budget = self.card_bytes
        return before - self.card_bytes

    def release(self) -> None:
        """Leave the device; the weights stay on the host."""
        self.shrink(self.wanted_bytes)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        """The network, ready to run on the device."""
        self._users += 1
        try:
            for unit in self._units:
                if unit.stays or unit is self._rest:
                    unit.load(self.device)
            yield self.network
        finally:
            self._users -= 1
            self._leave()  # an interrupted block is still there

    @property
    def _units(self) -> list[Unit]:
        return [self._rest, *self._blocks]

    def _leave(self) -> None:
        """Drop what does not stay; the part outside of the blocks is needed throughout ``use``."""
        for unit in self._blocks if self._users else self._units:
            unit.leave()


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of all outermost module lists; a list in a list is not a block, since nobody calls it."""
    for child in network.children():
        if isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def _tensors(module: nn.Module) -> list[Tensor]:
    return list({id(t): t for t in itertools.chain(module.parameters(), module.buffers())}.values())
