"""Get networks ready to run: LoRAs, placement and stores, in one order for every engine."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import nn

from ...checkpoint import Models, build
from ...checkpoint.components import ComponentNetwork
from ...checkpoint.loading import find_broken
from ...errors import NotANumberError
from ...lora import LoraAdapter, Stack, fold_loras
from ...lora.stack import for_component
from ...memory.arrival import arrival_on
from ...memory.machine import Machine
from ...memory.partition import Weights
from ...memory.placement import Placement, Room, StageNeed, gigabytes
from ...memory.store import Store
from ...memory.trace import Cost
from ...memory.twin import twin_of
from ...memory.unit import UNCHANGED, Changes
from ...quantization import format_of, plain_dtype
from ...settings import Resources
from ...transformer import compiling_pays
from ..needs.blueprint import Blueprint
from ..stage import TRANSFORMER, Load, NetworkKey, Networks, Stage, need_of
from .captured import describe_graphs, find_obstacle, with_graphs

Value = TypeVar("Value")


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
    def changes(self) -> Changes:
        """Changes of all components, by the names of the store's network."""
        prefixes = [""] if len(self.modules) == 1 else [f"{number}." for number in range(len(self.modules))]
        return reduce(or_, map(changes_of, self.adapters, prefixes), UNCHANGED)


def changes_of(adapter: LoraAdapter, prefix: str = "") -> Changes:
    """Return what an adapter does to its network, for a store of a network that holds it under ``prefix``."""
    return Changes(
        _below(prefix, adapter.weight_patches),
        _below(prefix, adapter.read),
        _below(prefix, adapter.beside),
        _below(prefix, adapter.operations),
    )


def _below(prefix: str, table: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{prefix}{name}": each for name, each in table.items()}


def joined(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module of the components of a network, for its store."""
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def build_modules(
    models: Models, key: NetworkKey[Any], dtype: torch.dtype, format: str | None, folded: Stack,
    device: torch.device, deferred: Collection[torch.dtype],
    made: Callable[[str], ComponentNetwork | None] = lambda name: None
) -> list[nn.Module]:  # fmt: skip
    """Build the components of a network of a model.

    Args:
        models: the files.
        key: of the network.
        dtype: that it computes in.
        format: that its weights are cast to; None keeps that of the file.
        folded: LoRAs that its weights hold.
        device: where it will run.
        deferred: dtypes of weights that stay as they are stored until they are used.
        made: gives away the network of a component that is there without weights.
    """
    on = cast_device(device)
    modules = [build(models, name, dtype, "cpu", format, deferred, on, made(name)) for name in key.components]
    if folded:
        fold_loras(modules[0], folded)
    return modules


def adapters_of(
    modules: Sequence[nn.Module], key: NetworkKey[Any], loras: Stack, device: torch.device
) -> tuple[LoraAdapter, ...]:
    """Return the LoRAs on each component of a network on ``device``; networks that are no components have none."""
    if not loras:
        return ()
    pairs, fuse = zip(modules, key.components), fuses(device)
    return tuple(LoraAdapter(module, for_component(loras, name), name, fuse=fuse) for module, name in pairs)


def fuses(device: torch.device) -> bool:
    """Return whether LoRAs change copies of weights.

    On a CPU weights are used where they lie, so a changed one would be a second copy.
    """
    return device.type != "cpu"


def cast_device(device: torch.device) -> torch.device | None:
    """Return where weights are rounded that are cast while they are loaded; None is where they lie.

    A card does it as fast as they come; Apple's GPUs know no float8.
    """
    return device if device.type == "cuda" else None


def folded_stack(key: NetworkKey[Any], loras: Stack, fold: bool) -> Stack:
    """Return which LoRAs the weights of a network hold: where they are folded, those of the transformer."""
    return for_component(loras, TRANSFORMER.name) if fold and key == TRANSFORMER else ()


_COMPILING = (
    "light work of the blocks is compiled (torch_compile) before the first step: up to a minute the first time, "
    "later some seconds; neither these nor what is gained are counted here."
)


_NOT_COMPILING = "nothing is compiled (torch_compile), since there is nothing to gain in this precision here."


@dataclass(frozen=True)
class RunLoad(Load):
    """What LoRAs, compiling and CUDA graphs add to the needs of stages; known without building a network.

    What they bring travels with the units that they change. What layers compute beside their weights is counted in
    proportion to the numbers that are multiplied. Where LoRAs are folded into quantised weights, the need is that of
    weights which are wide.

    Attributes:
        loras: of the model, for stages that have none of their own.
        device: where the networks run.
        blueprint: the networks as shapes.
        how: the transformer computes: whether its quantised weights are widened where LoRAs change them, its light work
            is compiled, which takes time before the first step, and its steps are to be CUDA graphs where that pays.
    """

    loras: Stack
    device: torch.device
    blueprint: Blueprint
    how: Resources = Resources()

    def __call__(self, stage: Stage, need: StageNeed) -> StageNeed:
        """Return the need of a stage with its LoRAs."""
        return self._with_loras(stage, need, self.how.fold_loras)

    def remarks(self, stage: Stage, need: StageNeed, machine: Machine) -> Sequence[str]:
        """Say what is not counted of compiling; what LoRAs beside quantised weights take, and would take folded into a
        wide copy of them; and whether steps are CUDA graphs."""
        said = [*self._lora_remarks(stage, machine), self.describe_graphs(stage, need, machine)]
        if self.how.torch_compile and TRANSFORMER in stage.networks:
            pays = compiling_pays(self.device, plain_dtype(self.blueprint.network(TRANSFORMER.name)))
            said.insert(0, f"{stage.name}: {_COMPILING if pays else _NOT_COMPILING}")
        return [*filter(None, said)]

    def with_graphs(self, stage: Stage, need: StageNeed, room: Room) -> StageNeed:
        """Return the need of a stage with the CUDA graphs of its steps, if they were asked for and pay in ``room``."""
        if not self._wants_graphs(stage) or self._graph_obstacle(stage, need, room.machine):
            return need
        return with_graphs(need, room)

    def describe_graphs(self, stage: Stage, need: StageNeed, machine: Machine) -> str:
        """Say whether steps are CUDA graphs, and why not; empty if nobody asked for them."""
        if not self._wants_graphs(stage):
            return ""
        return describe_graphs(need, self._graph_obstacle(stage, need, machine), machine)

    def _wants_graphs(self, stage: Stage) -> bool:
        return self.how.cuda_graphs and TRANSFORMER in stage.networks

    def _graph_obstacle(self, stage: Stage, need: StageNeed, machine: Machine) -> str:
        stack = self._stacks(stage).get(TRANSFORMER.name, ())
        if stack and self._load(TRANSFORMER.name, stack, self.how.fold_loras).beside:
            return "LoRAs are computed beside its layers"
        return find_obstacle(stage, need, self.blueprint, self.device, machine)

    def _lora_remarks(self, stage: Stage, machine: Machine) -> Sequence[str]:
        stack = self._stacks(stage).get(TRANSFORMER.name, ())
        if not stack or not (load := self._load(TRANSFORMER.name, stack, True)).folded:
            return ()
        beside, folded = (self._with_loras(stage, need_of(stage, self.blueprint), fold) for fold in (False, True))
        times = machine.seconds(folded.cost) / machine.seconds(beside.cost)
        sizes = [gigabytes(need.weights.total) for need in (folded, beside)]
        matrices = f"{len(load.folded):,} quantised matrices"
        if self.how.fold_loras:
            how = f"LoRAs are folded into a wide copy of {matrices}: {sizes[0]} in place of {sizes[1]} beside them"
            return (f"{stage.name}: {how}, and computing takes {times:.2f} x the time.",)
        how = f"LoRAs are computed beside {matrices}. Folded into a wide copy of them (fold_loras)"
        what = f"weights would take {sizes[0]} in place of {sizes[1]}, and computing {times:.2f} x the time"
        return (f"{stage.name}: {how}, {what}.",)

    def _with_loras(self, stage: Stage, need: StageNeed, fold: bool) -> StageNeed:
        stacks = self._stacks(stage)
        if not any(stacks.values()):
            return need
        loads = [self._load(name, stack, fold) for name, stack in stacks.items()]
        if folded := frozenset(name for load in loads for name in load.folded):
            need = self._widened(stage, need, folded)
        share = sum(load.beside for load in loads) / sum(load.numbers for load in loads)
        more = Cost(products=(need.cost.products + need.cost.products8) * share)
        return replace(need, weights=sum((load.weights for load in loads), Weights()), cost=need.cost + more)

    def _widened(self, stage: Stage, need: StageNeed, folded: frozenset[str]) -> StageNeed:
        """The need of a stage whose weights are wide; its work is that with every block like those, in proportion."""
        network = self.blueprint.network(TRANSFORMER.name)
        leaves = {_leaf(name) for name in folded}
        alike = frozenset(
            name
            for module, layer in network.named_modules()
            if format_of(layer) is not None and _leaf(name := f"{module}.weight") in leaves
        )
        wide = need_of(stage, self.blueprint.widened(alike))
        share = len(folded) / len(alike)
        return replace(wide, cost=need.cost + (wide.cost - need.cost) * share)

    def _stacks(self, stage: Stage) -> dict[str, Stack]:
        """The LoRAs of each component of a stage."""
        names = [name for key in stage.networks for name in key.components]
        return {name: for_component(self.loras if stage.loras is None else stage.loras, name) for name in names}

    def _load(self, name: str, stack: Stack, fold: bool) -> "_Load":
        fold = fold and name == TRANSFORMER.name
        held = tuple((ref(lora), strengths) for lora, strengths in stack)  # whoever remembers keeps no file open
        key = "loras", name, held, self.device.type, fold
        return self.blueprint.remember(key, lambda: self._measure(name, stack, fold))

    def _measure(self, name: str, stack: Stack, fold: bool) -> "_Load":
        network = self.blueprint.network(name)
        dtype, folded = plain_dtype(network), []
        if fold:
            network = twin_of(network)
            folded = fold_loras(network, stack, name)
        adapter = LoraAdapter(network, stack, name, fuse=fuses(self.device))
        arrival = replace(arrival_on(self.device, dtype), in_place=False)
        weights = Weights.of(network, self.blueprint.tables, changes_of(adapter), arrival)
        beside = sum(tensor.numel() for each in adapter.beside.values() for tensor in each)
        numbers = sum(parameter.numel() for parameter in network.parameters())
        return _Load(weights, beside, numbers, tuple(folded))


def _leaf(name: str) -> str:
    """The name of a weight without the number of its block."""
    return re.sub(r"^blocks\.\d+\.", "", name)


@dataclass(frozen=True)
class _Load:
    """A component with LoRAs."""

    weights: Weights
    beside: int  # numbers that its layers multiply beside the weights
    numbers: int  # of its weights
    folded: tuple[str, ...]  # names of those that hold their LoRAs


@contextmanager
def ready(
    networks: Mapping[NetworkKey[Any], Prepared],
    placement: Placement | None,
    make_room: Callable[[Placement | None], None] | None = None,
) -> Iterator[Networks]:
    """Yield ``networks`` ready to run.

    The order matters: patches decide what a copy holds, so they come first; then the placement, of which the first
    network is streamed; then whoever owns the card makes room; LoRAs stand beside the layers before the store stands
    before the blocks.

    Args:
        networks: built.
        placement: of the first of them; None keeps weights where they are used.
        make_room: called with the placement when all patches are known; None gives the first network what that says.

    Raises:
        NotANumberError: what the networks made is not a number; if a weight is to blame, it is named.
        CheckpointError: a LoRA is to blame for that.
    """
    first = next(iter(networks.values()))
    for each in networks.values():
        each.store.patch(each.changes)
    if placement is not None:
        first.store.stream_by(placement.unit, placement.slots or 2)
    if make_room is not None:
        make_room(placement)
    elif placement is not None:
        first.store.set_budget(placement.weight_budget)
    try:
        with ExitStack() as stack:
            for each in networks.values():
                for adapter in each.adapters:
                    stack.enter_context(adapter.attached())
                stack.enter_context(each.store.use())
            yield Networks({key: each.value for key, each in networks.items()})
    except NotANumberError as error:
        _blame(networks.values(), error)
        raise


def _blame(networks: Iterable[Prepared], error: NotANumberError) -> None:
    """Raise what names the LoRA, else the weight, that made something that is not a number, if one did."""
    for each in networks:
        for adapter in each.adapters:
            adapter.check_numbers()
    if broken := find_broken(module for each in networks for module in each.modules):
        raise NotANumberError(error.fact, broken, in_file=True) from error
