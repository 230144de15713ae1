"""Weights in the blocks of GGUF, each matrix in a type of its own (see README.md, "GGUF")."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from .gguf_blocks import BLOCKS, READABLE_BLOCKS, expand_blocks
from .gguf_rounding import round_q4_k, round_q8_0
from .stored import Format, Shape, StoredWeight, Writer, marker_of

_MARKER = "GGUF {}"


def gguf_marker(type: str) -> str:
    """Return the name by which a marker says that a weight is in blocks of ``type``, readable or not."""
    return _MARKER.format(type)


def _type_of(stored: StoredWeight) -> str:
    return str(stored.format_name).removeprefix(_MARKER.format(""))


def _encode(type: str, round_blocks: Callable[[Tensor], Tensor], rows: Tensor, largest: Tensor) -> dict[str, Tensor]:
    """Rows in blocks, with the marker that the reader puts beside them."""
    blocks = round_blocks(rows.reshape(-1, BLOCKS[type].numbers))
    return {"weight": blocks.reshape(len(rows), -1), "comfy_quant": marker_of(format=gguf_marker(type))}


_WRITERS = {
    type.lower(): Writer(partial(_encode, type, round_blocks), BLOCKS[type].numbers)
    for type, round_blocks in (("Q8_0", round_q8_0), ("Q4_K", round_q4_k))
}


class GGUFFormat(Format):
    """The row of GGUF in the table of formats. The marker of a weight names its type; the stored tensor has the bytes
    of each row, (out, bytes)."""

    name = "gguf"
    reads = f"GGUF in every type but {', '.join(type for type in BLOCKS if type not in READABLE_BLOCKS)}"
    markers = tuple(map(gguf_marker, READABLE_BLOCKS))
    file_end = ".gguf"
    writers = _WRITERS

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is marked with a type that can be read, and has rows of whole blocks."""
        if stored.format_name not in self.markers or stored.weight.ndim != 2 or stored.companions:
            return False
        return stored.weight.itemsize == 1 and stored.weight.shape[1] % BLOCKS[_type_of(stored)].nbytes == 0

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the numbers, (out, in)."""
        rows, nbytes = stored.weight.shape
        block = BLOCKS[_type_of(stored)]
        return rows, nbytes // block.nbytes * block.numbers

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return the rows ``start`` to ``stop`` of the matrix in float32."""
        return expand_blocks(_type_of(stored), stored.weight[start:stop]).view(stop - start, shape[1])


GGUF = GGUFFormat()
