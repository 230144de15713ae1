"""A network as units that travel: whole blocks, or the parts that blocks name as streamable."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..disk_cache.mapped import MappedFile, mapped_files
from .arrival import AS_STORED, Arrival
from .unit import UNCHANGED, Changes, Unit, aligned

BLOCK, PART = "block", "part"  # what may be streamed

_MUCH_LARGER, _FEW = 1.25, 0.25  # than the usual unit; share of all units


class Partition:
    """The units of a network in the order in which their modules are called, and the rest, which several of them need.

    Attributes:
        modules: the modules that own the units, in order.
        units: one unit for each of these modules.
        rest: all other tensors as one unit.
        ranked: the rest first, then the units in the order in which they move to the device when there is room; the
            last ones are the first to leave, and whatever remains is spread evenly over the network.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        tensors: Sequence[Tensor],
        files: Sequence[MappedFile],
        arrival: Arrival,
        tables: Collection[int],
    ):
        owned, rest = _divide(modules, tensors)
        self.modules = [module for module, _ in owned]
        self.units = [Unit(own, files, arrival, tables) for _, own in owned]
        self.rest = Unit(rest, files, arrival, tables)
        self.ranked = [self.rest, *(self.units[index] for index in rank_units([unit.nbytes for unit in self.units]))]

    def change(self, changes: Changes, names: Mapping[int, str]) -> list["Patching"]:
        """Let all units have these changes, and return what the patches of each take; ``names`` are by id of tensor."""
        named = [[names[id(tensor)] for tensor in unit.tensors] for unit in (self.rest, *self.units)]
        for unit, each in zip((self.rest, *self.units), named):
            unit.change(changes, each)
        return [Patching.of(unit, changes, each) for unit, each in zip(self.units, named[1:])]


def partitions_of(network: nn.Module, arrival: Arrival) -> dict[str, Partition]:
    """Return the partitions of ``network`` by what a store may stream, "block" or "part", as weights arrive."""
    files, tensors = mapped_files(), tensors_of(network)
    tables = tables_of(network) if arrival.in_place else ()  # which are copied like all others elsewhere
    return {
        BLOCK: Partition(_blocks(network), tensors, files, arrival, tables),
        PART: Partition(_parts(network), tensors, files, arrival, tables),
    }


def _divide(
    modules: Iterable[nn.Module], tensors: Sequence[Tensor]
) -> tuple[list[tuple[nn.Module, list[Tensor]]], list[Tensor]]:
    """The modules that have tensors, with these, and all others of ``tensors``."""
    owned = [(module, own) for module in modules if (own := tensors_of(module))]
    inside = {id(tensor) for _, own in owned for tensor in own}
    return owned, [tensor for tensor in tensors if id(tensor) not in inside]


@dataclass(frozen=True)
class Patching:
    """What the patches of a unit take each time that it comes.

    Attributes:
        nbytes: bytes that come with it, and leave when the patches are made.
        operations: floating point operations of the patches.
    """

    nbytes: int = 0
    operations: float = 0

    @classmethod
    def of(cls, unit: Unit, changes: Changes, names: Sequence[str]) -> "Patching":
        """Measure a unit that has its ``changes``; ``names`` are those of its tensors."""
        return cls(unit.sent_bytes - unit.kept_bytes, sum(changes.operations.get(name, 0) for name in names))


@dataclass(frozen=True)
class Units:
    """Bytes of a network that travels in units.

    Attributes:
        rest: bytes of all that is in no unit, which stays on the device whatever is streamed.
        sizes: bytes of each unit.
        patches: what comes with each unit for its patches; empty where there are none.
    """

    rest: int = 0
    sizes: tuple[int, ...] = ()
    patches: tuple[Patching, ...] = ()

    @property
    def passing(self) -> tuple[int, ...]:
        """The bytes that come with each unit and do not stay."""
        return tuple(each.nbytes for each in self.patches) or (0,) * len(self.sizes)

    @property
    def sent(self) -> tuple[int, ...]:
        """The bytes of each unit as it comes."""
        return tuple(size + more for size, more in zip(self.sizes, self.passing))

    def __add__(self, other: "Units") -> "Units":
        return Units(self.rest + other.rest, self.sizes + other.sizes, self.patches + other.patches)


@dataclass(frozen=True)
class Weights:
    """Bytes of a network, as it travels in whole blocks, and in parts of them."""

    blocks: Units = Units()
    parts: Units = Units()

    @property
    def total(self) -> int:
        """Bytes of the whole network."""
        return self.blocks.rest + sum(self.blocks.sizes)

    @property
    def sent_total(self) -> int:
        """Bytes of the whole network as it comes."""
        return self.blocks.rest + sum(self.blocks.sent)

    def units(self, parts: bool) -> Units:
        """Return what travels at once."""
        return self.parts if parts else self.blocks

    @property
    def smallest(self) -> Units:
        """The units for which there is room where there is for any: parts, as far as there are some."""
        return self.units(parts=bool(self.parts.sizes))

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.blocks + other.blocks, self.parts + other.parts)

    @classmethod
    def of(
        cls, network: nn.Module, tables: bool = True, changes: Changes = UNCHANGED, arrival: Arrival = AS_STORED
    ) -> "Weights":
        """Measure ``network``, which may lie on the meta device.

        Args:
            network: as its weights arrive.
            tables: whether tables, of which rows are looked up, travel, too.
            changes: of its weights.
            arrival: of what comes with the changes.
        """
        left = 0 if tables else sum(aligned(table.nbytes) for table in _tables_in(network))
        found: list[Units] = []
        if changes is UNCHANGED and arrival is AS_STORED:  # of thousands of tensors, sums are enough
            tensors = tensors_of(network)
            for modules in (_blocks(network), _parts(network)):
                owned, others = _divide(modules, tensors)
                sizes = tuple(_span_bytes(own) for _, own in owned)
                found.append(Units(_span_bytes(others) - left, sizes, (Patching(),) * len(owned)))
        else:
            for partition in partitions_of(network, arrival).values():
                patches = tuple(partition.change(changes, names_of(network)))
                sizes = tuple(unit.kept_bytes for unit in partition.units)
                found.append(Units(partition.rest.kept_bytes - left, sizes, patches))
        return cls(*found)


def _span_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors, one behind the other."""
    return sum(aligned(tensor.nbytes) for tensor in tensors)


def bit_reversed_order(count: int) -> list[int]:
    """Return the indices 0 .. count - 1 by their reversed bits.

    Every beginning of this order, and every end, is spread evenly over the indices (van der Corput sequence).
    """
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda index: f"{index:0{bits}b}"[::-1])


def rank_units(sizes: Sequence[int]) -> list[int]:
    """Return the indices of units in the order in which they move to where there is room.

    A few that are much larger than the others come first: slots of a ring are as large as the largest unit that passes
    through them. So do the ends of a transformer whose other blocks are quantised. All others are spread evenly.
    """
    order = bit_reversed_order(len(sizes))
    usual = sorted(sizes)[len(sizes) // 2] if sizes else 0
    large = [index for index in order if sizes[index] > _MUCH_LARGER * usual]
    if len(large) > len(sizes) * _FEW:
        return order
    return [*large, *(index for index in order if index not in large)]


def choose_resident(sizes: Sequence[int], room: int, slots: int, passing: Sequence[int]) -> set[int] | None:
    """Choose the units that stay on the device: as many as fit beside a ring for the others.

    Args:
        sizes: bytes of every unit of the network.
        room: bytes for those that stay, and for the ring.
        slots: how many of the largest unit that does not stay the ring holds.
        passing: bytes that come with each unit and do not stay.

    Returns:
        Indices, a beginning of ``rank_units``; None if there is no room for such a ring.
    """
    order = rank_units(sizes)
    sums = list(itertools.accumulate((sizes[index] for index in order), initial=0))
    sent = [size + more for size, more in zip(sizes, passing)]
    largest = list(itertools.accumulate((sent[index] for index in reversed(order)), max, initial=0))[::-1]
    fitting = [count for count in range(len(order) + 1) if sums[count] + slots * largest[count] <= room]
    return set(order[: fitting[-1]]) if fitting else None


def choose_units(sizes: Sequence[int], candidates: Iterable[int], room: int) -> set[int]:
    """Choose the units that have pinned memory: candidates in the order of ``rank_units`` until one does not fit.

    Args:
        sizes: bytes of every unit of the network.
        candidates: indices of the units to choose from.
        room: bytes.
    """
    chosen, allowed = set[int](), set(candidates)
    for index in rank_units(sizes):
        if index not in allowed:
            continue
        room -= sizes[index]
        if room < 0:
            break
        chosen.add(index)
    return chosen


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Return every parameter and buffer of ``module`` once."""
    modules, found = _modules_of(module), dict[int, Tensor]()
    for kind in ("_parameters", "_buffers"):
        for each in modules:
            for tensor in getattr(each, kind).values():
                if tensor is not None:
                    found[id(tensor)] = tensor
    return list(found.values())


def _modules_of(module: nn.Module) -> list[nn.Module]:
    """The same as ``module.modules()``, in the same order, without a generator inside of another for each level."""
    found, waiting = dict[int, nn.Module](), [module]
    while waiting:
        if id(each := waiting.pop()) not in found:
            found[id(each)] = each
            if each._modules:
                waiting.extend(child for child in reversed(each._modules.values()) if child is not None)
    return list(found.values())


def tables_of(network: nn.Module) -> set[int]:
    """Return the ids of tensors of which ``network`` only looks up rows."""
    return set(map(id, _tables_in(network)))


def _tables_in(network: nn.Module) -> list[Tensor]:
    tables = (module for module in _modules_of(network) if isinstance(module, nn.Embedding))
    return list({id(each): each for table in tables for each in table.parameters()}.values())


def names_of(network: nn.Module) -> dict[int, str]:
    """Map the id of every parameter and buffer to its name."""
    names: dict[int, str] = {}
    for path, module in network.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), f"{path}.{leaf}" if path else leaf)
    return names


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of all outermost module lists; a list in a list is not a block, since nobody calls it."""
    for child in network.children():
        if isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield what modules name as their streamable modules, and the blocks that name none."""
    if isinstance(parts := getattr(network, "streamable_modules", None), list):
        yield from parts
        return
    for child in network.children():
        if isinstance(parts := getattr(child, "streamable_modules", None), list):
            yield from parts
        elif isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _parts(child)
