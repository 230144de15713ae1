"""Units: weights that travel together, laid out as one span of bytes, and the memory or file that they come from."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..disk_cache.mapped import FilePart, MappedFile, file_part, read_part

# Of each tensor in a span, as of every tensor that CUDA's allocator gives out: kernels take their fastest path.
ALIGNMENT = 512

Patch = Callable[[Tensor], object]  # changes a weight in place


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

    @property
    def stop(self) -> int:
        """The first byte behind it, in the memory that the slot is a piece of."""
        return self.start + self.nbytes

    def piece(self, start: int, nbytes: int) -> "Slot":
        """Return the slot of ``nbytes`` that begins at ``start`` in this one."""
        buffer = None if self.buffer is None else self.buffer[start : start + nbytes]
        return Slot(nbytes, buffer, start)

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
    """

    tensors: list[Tensor]  # parameters and buffers of the network
    files: Sequence[MappedFile] = ()
    homes: list[Tensor] = field(init=False)
    offsets: list[int] = field(init=False)  # in the span
    nbytes: int = field(init=False)  # of the span
    span: Tensor | None = None  # a copy in pinned host memory
    place: Slot | None = None  # on the device, while the unit stays there
    patches: dict[int, Patch] = field(default_factory=dict)  # of which tensors, to be made in every copy

    def __post_init__(self):
        self.homes = [tensor.data for tensor in self.tensors]
        ends = itertools.accumulate((-(-home.nbytes // ALIGNMENT) * ALIGNMENT for home in self.homes), initial=0)
        *self.offsets, self.nbytes = ends
        self._parts = [file_part(home, self.files) for home in self.homes]

    def read(self, into: Tensor, start: int = 0) -> None:
        """Read a part of the span from the homes.

        Args:
            into: where the bytes go; its length says how many.
            start: the first byte, in the span.

        Raises:
            OSError: if a file cannot be read, or became shorter.
        """
        stop = start + len(into)
        for home, part, offset in zip(self.homes, self._parts, self.offsets):
            first, last = max(start, offset), min(stop, offset + home.nbytes)
            if first < last:
                piece = into[first - start : last - start]
                if part is not None:
                    read_part(FilePart(part.path, part.offset + first - offset), piece)
                else:
                    piece.copy_(home.reshape(-1).view(torch.uint8)[first - offset : last - offset])

    def bind(self, span: Tensor) -> None:
        """Let the network use the copy in ``span``."""
        as_dtype = {dtype: span.view(dtype) for dtype in {home.dtype for home in self.homes}}
        for tensor, home, offset in zip(self.tensors, self.homes, self.offsets):
            start = offset // home.itemsize
            tensor.data = as_dtype[home.dtype][start : start + home.numel()].view(home.shape)

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
