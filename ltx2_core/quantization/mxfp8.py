"""Weights of one byte: float8 times a power of two for every 32 of them (see README.md, "mxfp8").

Source: OCP Microscaling Formats (MX) specification 1.0.
"""

import torch
from torch import Tensor

from .block_scales import count_scales, round_up, scales_of_rows
from .stored import Format, Shape, StoredWeight

_BLOCK = 32  # columns with one scale; rows and columns are padded to as many, too
_BIAS, _NAN = 127, 255
_MOST_CHECKED = 2**16


class Mxfp8Format(Format):
    """The row of mxfp8 in the table of formats."""

    name = "mxfp8"
    reads = "mxfp8"
    markers = ("mxfp8",)
    scale_suffixes = ("weight_scale",)
    input_suffixes = ("input_scale",)

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is float8 with scales of one byte, which are exponents."""
        scale = stored.companions.get("weight_scale")
        return stored.weight.dtype == torch.float8_e4m3fn and scale is not None and scale.dtype == torch.uint8

    def padded(self, shape: Shape) -> Shape:
        """Return ``shape`` with both sides rounded up to whole blocks."""
        return tuple(round_up(side, _BLOCK) for side in shape)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight, or are no numbers."""
        shape, scale = tuple(stored.weight.shape), stored.companions["weight_scale"]
        if len(shape) != 2 or shape[1] % _BLOCK or scale.numel() != count_scales(shape[0], shape[1] // _BLOCK):
            return f"float8_e4m3fn of shape {shape} with uint8 scales of shape {tuple(scale.shape)}"
        if not scale.is_meta and scale.numel() <= _MOST_CHECKED and bool((scale == _NAN).any()):
            return "mxfp8 with a scale that is not a number"
        return ""

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32."""
        numbers = stored.weight[start:stop].float()
        blocks = numbers.shape[1] // _BLOCK
        exponents = scales_of_rows(stored.companions["weight_scale"], blocks, start, stop).float() - _BIAS
        return numbers.unflatten(1, (blocks, _BLOCK)).mul_(exponents.exp2()[..., None]).flatten(1)[:, : shape[1]]


MXFP8 = Mxfp8Format()
