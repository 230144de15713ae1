"""Get networks ready to run: LoRAs, placement and stores, in one order for every engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checkpoint.loading import find_broken
from ..errors import NotANumberError
from ..lora import LoraAdapter, Stack
from ..lora.stack import for_component
from ..memory.placement import Placement
from ..memory.store import Store
from ..memory.unit import Patch
from .blueprint import Blueprint
from .stage import NetworkKey, Networks, Stage


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network that was built: the modules of its components, one store, and the LoRAs of each component."""

    modules: tuple[nn.Module, ...]
    store: Store
    adapters: tuple[LoraAdapter, ...] = ()

    @property
    def value(self) -> nn.Module | tuple[nn.Module, ...]:
        """What the network's key stands for: a module, or several."""
        return self.modules[0] if len(self.modules) == 1 else self.modules

    @property
    def patches(self) -> Mapping[str, Patch]:
        """Patches of all components, by the names of the store's network."""
        if len(self.modules) == 1:
            return self.adapters[0].weight_patches if self.adapters else {}
        return {
            f"{number}.{name}": patch
            for number, adapter in enumerate(self.adapters)
            for name, patch in adapter.weight_patches.items()
        }


def joined(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module of the components of a network, for its store."""
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def adapters_of(modules: Sequence[nn.Module], key: NetworkKey[Any], loras: Stack, *, fuse: bool) -> list[LoraAdapter]:
    """Return the LoRAs on each component of a network; networks that are no components have none."""
    pairs = zip(modules, key.components)
    return [LoraAdapter(module, for_component(loras, name), name, fuse=fuse) for module, name in pairs]


def fuses(device: torch.device) -> bool:
    """Return whether LoRAs change copies of weights.

    On a CPU weights are used where they lie, so a changed one would be a second copy.
    """
    return device.type != "cpu"


def lora_bytes(stage: Stage, blueprint: Blueprint, loras: Stack, device: torch.device) -> int:
    """Return the bytes that the LoRAs beside a stage's layers take on the device, without building it."""
    if not loras:
        return 0
    nbytes = 0
    for key in stage.networks:
        modules = [blueprint.network(name) for name in key.components]
        nbytes += sum(adapter.card_bytes for adapter in adapters_of(modules, key, loras, fuse=fuses(device)))
    return nbytes


@contextmanager
def ready(
    networks: Mapping[NetworkKey[Any], Prepared],
    placement: Placement | None,
    make_room: Callable[[Placement | None], None],
) -> Iterator[Networks]:
    """Yield ``networks`` ready to run.

    The order matters: patches decide what a copy holds, so they come first; then the placement, of which the first
    network is streamed; then whoever owns the card makes room; LoRAs stand beside the layers before the store stands
    before the blocks.

    Args:
        networks: built.
        placement: of the first of them; None keeps weights where they are used.
        make_room: called with the placement when all patches are known.

    Raises:
        NotANumberError: what the networks made is not a number; if a weight is to blame, it is named.
    """
    first = next(iter(networks.values()))
    for each in networks.values():
        each.store.patch(each.patches)
    if placement is not None:
        first.store.stream_by(placement.unit, placement.slots or 2)
    make_room(placement)
    try:
        with ExitStack() as stack:
            for each in networks.values():
                for adapter in each.adapters:
                    stack.enter_context(adapter.attached())
                stack.enter_context(each.store.use())
            yield Networks({key: each.value for key, each in networks.items()})
    except NotANumberError as error:
        if broken := find_broken(module for each in networks.values() for module in each.modules):
            raise NotANumberError(error.fact, broken, in_file=True) from error
        raise
