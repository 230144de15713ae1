"""Weights of four bits as bitsandbytes writes them: a table of 16 values, and the largest number of each block (see
README.md, "NF4")."""

import math

import torch
from torch import Tensor

from ..errors.foreign import Fields
from .nibbles import look_up, unpack
from .stored import Format, Shape, StoredWeight

_BLOCK, _NESTED_BLOCK = 64, 256


class Nf4Format(Format):
    """The row of NF4 in the table of formats, and of the FP4 of the same library, which differs in the table alone."""

    name = "nf4"
    reads = "bitsandbytes NF4"
    markers = ("nf4", "fp4")
    scale_suffixes = ("weight_absmax", "weight_nested_absmax")
    other_suffixes = ("weight_quant_map", "weight_nested_quant_map")

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is bytes with its table and its largest numbers."""
        needed = (self.scale_suffixes[0], self.other_suffixes[0])
        return stored.weight.dtype == torch.uint8 and all(name in stored.companions for name in needed)

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix, which only the marker says."""
        shape = stored.options.get("shape")
        return tuple(shape) if isinstance(shape, list) and all(map(_is_side, shape)) else ()

    def find_problem(self, stored: StoredWeight) -> str:
        """Name tensors that do not fit each other."""
        numbers, table = 2 * stored.weight.numel(), stored.companions["weight_quant_map"]
        shape = self.matrix_shape(stored)
        if len(shape) != 2 or math.prod(shape) != numbers or shape[1] % 2:
            return (
                f"bitsandbytes four bits, {numbers:,} numbers that are to be a matrix of {stored.options.get('shape')}"
            )
        absmax, blocks = stored.companions["weight_absmax"], math.ceil(numbers / stored.whole("blocksize", _BLOCK))
        if absmax.numel() != blocks or table.numel() != 16:
            return f"bitsandbytes four bits with {absmax.numel():,} scales where {blocks:,} were expected"
        return "" if absmax.is_floating_point() else self._find_nested_problem(stored, blocks)

    def _find_nested_problem(self, stored: StoredWeight, blocks: int) -> str:
        """Name scales that do not fit those of the blocks, which are bytes."""
        nested, table = (stored.companions.get(f"weight_nested_{name}") for name in ("absmax", "quant_map"))
        expected = math.ceil(blocks / stored.whole("nested_blocksize", _NESTED_BLOCK))
        if nested is None or table is None or nested.numel() != expected or table.numel() != 256:
            return f"bitsandbytes four bits whose {blocks:,} scales lack the {expected:,} that they are stored with"
        return ""

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32; blocks run on from row to row."""
        first, last = start * shape[1], stop * shape[1]
        packed = stored.weight.reshape(1, -1)[:, first // 2 : last // 2]
        numbers = look_up(unpack(packed, high_first=True), stored.companions["weight_quant_map"].float())[0]
        block = stored.whole("blocksize", _BLOCK)
        which = torch.arange(first // block, math.ceil(last / block), device=packed.device)
        of_blocks, offset = self._absmax(stored, which).repeat_interleave(block), first % block
        return numbers.mul_(of_blocks[offset : offset + len(numbers)]).unflatten(0, (stop - start, shape[1]))

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32."""
        packed = stored.weight.reshape(shape[0], -1)[rows]
        numbers = look_up(unpack(packed, high_first=True), stored.companions["weight_quant_map"].float())
        places = rows[:, None] * shape[1] + torch.arange(shape[1], device=rows.device)
        return numbers.mul_(self._absmax(stored, places // stored.whole("blocksize", _BLOCK)))

    def _absmax(self, stored: StoredWeight, which: Tensor) -> Tensor:
        """The largest numbers of ``which`` blocks in float32; they may be stored in bytes with scales themselves."""
        absmax = stored.companions["weight_absmax"].reshape(-1)
        if absmax.is_floating_point():
            return absmax[which].float()
        scales = stored.companions["weight_nested_absmax"].float()
        of_blocks = scales[which // stored.whole("nested_blocksize", _NESTED_BLOCK)]
        offset = Fields(stored.options, "A marker").number("nested_offset", 0.0, -1e9)
        return look_up(absmax[which], stored.companions["weight_nested_quant_map"]) * of_blocks + offset


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


NF4 = Nf4Format()
