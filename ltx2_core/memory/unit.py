"""Units: weights that travel together, laid out as one span of bytes, and the memory or file that they come from."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..disk_cache.mapped import FilePart, MappedFile, file_part, mapped_files, read_parts
from .arrival import AS_STORED, Arrival

# Of each tensor in a span, as of every tensor that CUDA's allocator gives out: kernels take their fastest path.
ALIGNMENT = 512

Patch = Callable[[Tensor], object]  # changes a weight in place
ReadFile = Callable[[FilePart, Tensor], bool]  # reads a part of a file into bytes, unless it is there no longer

_CHUNK = 2**22  # numbers that are converted together


@dataclass(frozen=True, eq=False)
class Changes:
    """What is done to copies of a network's weights, each by the name of a parameter; nothing on the host changes.

    Attributes:
        patches: functions that change a tensor in place on the device. Each is called once for each copy that arrives
            there, when all tensors of its unit have.
        read: tensors of the host that a patch reads. They come to the device with the unit, and leave it when the
            patches are made.
        beside: tensors of the host that are on the device whenever the parameter is.
        operations: floating point operations of each patch, for plans.
    """

    patches: Mapping[str, Patch] = field(default_factory=dict)
    read: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    beside: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)

    def are_those_of(self, other: "Changes", names: Sequence[str]) -> bool:
        """Return whether the parameters of these names are changed as by ``other``."""
        return all(
            self.patches.get(name) == other.patches.get(name)
            and [*map(id, self.beside.get(name, ()))] == [*map(id, other.beside.get(name, ()))]
            for name in names
        )

    def __or__(self, other: "Changes") -> "Changes":
        return Changes(
            {**self.patches, **other.patches},
            {**self.read, **other.read},
            {**self.beside, **other.beside},
            {**self.operations, **other.operations},
        )


UNCHANGED = Changes()


@dataclass(eq=False)
class Slot:
    """Memory for a unit on the device."""

    nbytes: int
    buffer: Tensor | None = None
    start: int = 0  # in the memory that the slot is a piece of
    patched: bool = False  # whether the changes of the unit in it have been made
    # What a link with streams keeps: when the bytes may come, when they have come, who brings them.
    free: Any = None
    ready: Any = None
    task: Future | None = None
    parts: list["Slot"] = field(default_factory=list)  # for each of a unit's company, if it has any

    @classmethod
    def of(cls, parts: list["Slot"]) -> "Slot":
        """Return a slot whose parts lie wherever they are."""
        return cls(sum(part.nbytes for part in parts), parts=parts) if len(parts) > 1 else parts[0]

    @property
    def pieces(self) -> list["Slot"]:
        """Its parts; where it has none, the slot itself."""
        return self.parts or [self]

    @property
    def stop(self) -> int:
        """The first byte behind it, in the memory that the slot is a piece of."""
        return self.start + self.nbytes

    def piece(self, start: int, nbytes: int) -> "Slot":
        """Return the slot of ``nbytes`` that begins at ``start`` in this one."""
        buffer = None if self.buffer is None else self.buffer[start : start + nbytes]
        return Slot(nbytes, buffer, start)

    def divide(self, sizes: Sequence[int]) -> "Slot":
        """Cut the slot into parts of these sizes, one behind the other, and return it."""
        starts = itertools.accumulate(sizes, initial=0)
        if len(sizes) > 1:
            self.parts = [self.piece(start, size) for start, size in zip(starts, sizes)]
        return self

    def overlaps(self, start: int, stop: int) -> bool:
        """Return whether the slot shares a byte with ``start`` to ``stop`` of the same memory."""
        return start < self.stop and self.start < stop


@dataclass(eq=False)
class Unit:
    """The tensors of a block, or of a part of one, which move together.

    Their homes, on the host or in a mapped file, are never written: nothing is copied back when a unit leaves the
    device. A home in a mapped file is read with plain reads, not through the mapping: the bytes go straight to where
    they are needed, pages do not pile up in this process, and a file that was cut short is an error, not a crash. To
    change such a weight, replace its tensor before the store is made; writing into it has no effect.

    A unit may have company: tensors that its patches read, and tensors that its layers read beside their weights. They
    are units of their own, so that other ones do not change its span, and come and go with it.

    Where weights are converted in copies, the span holds them converted. On a device that also uses weights where they
    lie it holds nothing else, unless there is a patch: neither weights that need no conversion, nor ``tables``.

    Attributes:
        tensors: parameters and buffers of the network.
        files: where homes may be mapped from.
        arrival: how copies differ from homes.
        tables: ids of tensors of which a network only looks up rows, which it converts itself.
        sent_bytes: of the unit with its company.
        kept_bytes: of what remains of that, once the patches are made, if the unit stays.
    """

    tensors: list[Tensor]
    files: Sequence[MappedFile] = ()
    arrival: Arrival = AS_STORED
    tables: Collection[int] = ()
    homes: list[Tensor] = field(init=False)
    dtypes: list[torch.dtype | None] = field(init=False)  # in the span; None is not in it
    offsets: list[int] = field(init=False)  # in the span
    nbytes: int = field(init=False)  # of the span
    span: Tensor | None = None  # a copy in pinned host memory
    original: "Unit | None" = None  # the same weights in the network of which this one is a twin; has the span
    place: Slot | None = None  # on the device, while the unit stays there
    patches: dict[int, Patch] = field(default_factory=dict)  # of which tensors, to be made in every copy
    beside: "Unit | None" = None  # what its layers read beside the weights
    passing: "Unit | None" = None  # what its patches read
    sent_bytes: int = field(init=False)
    kept_bytes: int = field(init=False)

    def __post_init__(self):
        self.homes = [tensor.data for tensor in self.tensors]
        self._parts = [file_part(home, self.files) for home in self.homes]
        self._lay_out()

    @property
    def source(self) -> "Unit":
        """The unit whose span holds the same weights: in a twin network that of the original, else this one."""
        return self.original or self

    @property
    def company(self) -> list["Unit"]:
        """The unit itself and those that come with it; what the patches read is the last of them."""
        return [self, *(each for each in (self.beside, self.passing) if each is not None)]

    @property
    def is_changed(self) -> bool:
        """Whether a copy differs from the homes."""
        return bool(self.patches) or any(
            dtype not in (None, home.dtype) for dtype, home in zip(self.dtypes, self.homes)
        )

    def change(self, changes: Changes, names: Sequence[str]) -> None:
        """Make these changes, and no others, in every copy from now on; there must be none at this moment.

        Args:
            changes: of the whole network.
            names: of the unit's tensors in the network.
        """
        self.patches = {index: changes.patches[name] for index, name in enumerate(names) if name in changes.patches}
        self.passing = self._companion([each for name in names for each in changes.read.get(name, ())])
        self.beside = self._companion([each for name in names for each in changes.beside.get(name, ())])
        self._lay_out()

    def _companion(self, tensors: list[Tensor]) -> "Unit | None":
        return Unit(tensors, mapped_files(), self.arrival) if tensors else None

    def _lay_out(self) -> None:
        """Find what is in the span, and where; and sum up sizes, which plans ask for in every turn of a ring."""
        stored = [home.dtype for home in self.homes]
        self.dtypes = [self.arrival.conversions.get(dtype, dtype) for dtype in stored]
        if self.arrival.in_place:
            self._leave_in_place(stored)
        self._sizes = [dtype.itemsize * home.numel() if dtype else 0 for dtype, home in zip(self.dtypes, self.homes)]
        *self.offsets, self.nbytes = itertools.accumulate(map(aligned, self._sizes), initial=0)
        self.sent_bytes = sum(each.nbytes for each in self.company)
        self.kept_bytes = self.sent_bytes - (self.passing.nbytes if self.passing else 0)

    def _leave_in_place(self, stored: Sequence[torch.dtype]) -> None:
        """Take out of the span what a device uses where it lies, if some of it has to be converted."""
        stays = [
            converted == dtype or id(tensor) in self.tables
            for converted, dtype, tensor in zip(self.dtypes, stored, self.tensors)
        ]
        partly = not all(stays)
        for index, (dtype, stay) in enumerate(zip(stored, stays)):
            if stay and index not in self.patches:
                self.dtypes[index] = None if partly else dtype

    def read(self, into: Tensor, start: int = 0) -> None:
        """Read a part of the span from the homes.

        Args:
            into: where the bytes go; its length says how many.
            start: the first byte, in the span.

        Raises:
            OSError: if a file cannot be read, or became shorter.
        """
        stop = start + len(into)
        with read_parts() as read_file:
            for index, (offset, size) in enumerate(zip(self.offsets, self._sizes)):
                first, last = max(start, offset), min(stop, offset + size)
                if first < last:
                    self._read_tensor(index, into[first - start : last - start], first - offset, read_file)

    def _read_tensor(self, index: int, into: Tensor, start: int, read_file: ReadFile) -> None:
        """Read bytes of the copy of a tensor, from its byte ``start`` on."""
        stored, dtype = self.homes[index].dtype, self.dtypes[index]
        if dtype is None or dtype == stored:
            self._read_home(index, into, start, read_file)
            return
        stop = start + len(into)
        # Numbers are converted where they go, unless a piece of memory begins or ends within one.
        whole = None if any(n % dtype.itemsize for n in (start, len(into), into.storage_offset())) else into.view(dtype)
        for first in range(start // dtype.itemsize, -(-stop // dtype.itemsize), _CHUNK):
            last = min(first + _CHUNK, -(-stop // dtype.itemsize))
            numbers = torch.empty(last - first, dtype=stored)
            self._read_home(index, numbers.view(torch.uint8), first * stored.itemsize, read_file)
            if whole is not None:
                begin = first - start // dtype.itemsize
                whole[begin : begin + len(numbers)] = numbers
                continue
            begin = max(start, first * dtype.itemsize)
            end = min(stop, last * dtype.itemsize)
            converted = numbers.to(dtype).view(torch.uint8)
            into[begin - start : end - start] = converted[begin - first * dtype.itemsize : end - first * dtype.itemsize]

    def _read_home(self, index: int, into: Tensor, start: int, read_file: ReadFile) -> None:
        """Read bytes of a tensor as it is stored, from its byte ``start`` on."""
        part = self._parts[index]
        if part is None or not read_file(part.behind(start), into):
            into.copy_(self.homes[index].reshape(-1).view(torch.uint8)[start : start + len(into)])

    def bind(self, span: Tensor) -> None:
        """Let the network use the copy in ``span``."""
        as_dtype = {dtype: span.view(dtype) for dtype in set(self.dtypes) if dtype is not None}
        for tensor, home, dtype, offset in zip(self.tensors, self.homes, self.dtypes, self.offsets):
            if dtype is not None:
                start = offset // dtype.itemsize
                tensor.data = as_dtype[dtype][start : start + home.numel()].view(home.shape)

    def apply_patches(self, slot: Slot) -> None:
        """Make the changes in the copy in ``slot``, which is bound, unless they were made before."""
        if not slot.patched:
            for index, patch in self.patches.items():
                patch(self.tensors[index].data)
            slot.patched = True

    def go_home(self) -> None:
        """Let the network use the homes again."""
        for tensor, home in zip(self.tensors, self.homes):
            tensor.data = home


def aligned(nbytes: int) -> int:
    """Return the bytes that a tensor takes in a span."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
