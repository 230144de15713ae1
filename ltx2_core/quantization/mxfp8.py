"""Weights of one byte: float8 times a power of two for every 32 of them (see README.md, "mxfp8").

Source: OCP Microscaling Formats (MX) specification 1.0.
"""

from types import ModuleType

import torch
from torch import Tensor

from .block_scales import count_scales, round_up, scales_of_picked, scales_of_rows
from .kitchen import KitchenFormat
from .stored import Shape, StoredWeight, pick

_BLOCK = 32  # columns with one scale; rows and columns are padded to as many, too
_BIAS, _NAN = 127, 255


class Mxfp8Format(KitchenFormat):
    """The row of mxfp8 in the table of formats."""

    name = "mxfp8"
    reads = "mxfp8"
    markers = ("mxfp8", "hybrid_mxfp8")
    scale_suffixes = ("weight_scale",)
    input_suffixes = ("input_scale", "weight_scalar")  # the latter for products of cards that know no blocks
    tolerance = 0.06

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is float8 with scales of one byte, which are exponents."""
        scale = stored.companions.get("weight_scale")
        return stored.weight.dtype == torch.float8_e4m3fn and scale is not None and scale.dtype == torch.uint8

    def padded(self, shape: Shape) -> Shape:
        """Return ``shape`` with both sides rounded up to whole blocks."""
        return tuple(round_up(side, _BLOCK) for side in shape)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight."""
        shape, scale = tuple(stored.weight.shape), stored.companions["weight_scale"]
        if len(shape) != 2 or shape[1] % _BLOCK or scale.numel() != count_scales(shape[0], shape[1] // _BLOCK):
            return f"float8_e4m3fn of shape {shape} with uint8 scales of shape {tuple(scale.shape)}"
        return ""

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32."""
        exponents = scales_of_rows(stored.companions["weight_scale"], _blocks(stored), start, stop)
        return _expand(stored.weight[start:stop], exponents, shape[1])

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32."""
        exponents = scales_of_picked(stored.companions["weight_scale"], _blocks(stored), rows)
        return _expand(pick(stored.weight, rows), exponents, shape[1])

    def used_scales(self, stored: StoredWeight, suffix: str, shape: Shape) -> Tensor | None:
        """Return the scales that a matrix of ``shape`` needs as numbers: not those that only fill up tiles."""
        exponents = scales_of_rows(stored.companions[suffix], _blocks(stored), 0, shape[0])
        return _scales(exponents[:, : round_up(shape[1], _BLOCK) // _BLOCK])

    def round_input(self, library: ModuleType, x: Tensor, stored: StoredWeight) -> tuple[Tensor, ...]:
        """Round x to mxfp8, which scales each token by itself."""
        return library.quantize_mxfp8(x)

    def multiply(
        self, library: ModuleType, rounded: tuple[Tensor, ...], stored: StoredWeight, bias: Tensor | None, like: Tensor
    ) -> Tensor:
        """Multiply mxfp8 by mxfp8."""
        numbers, scales = rounded
        own = stored.companions["weight_scale"]
        own = own.reshape(-1, round_up(_blocks(stored), 4)).view(torch.float8_e8m0fnu)
        return library.scaled_mm_mxfp8(numbers, stored.weight, scales, own, bias, like.dtype)

    def make_sample(self, shape: Shape) -> StoredWeight:
        """Return a weight of ``shape`` with scales of several sizes."""
        draw = torch.Generator().manual_seed(1)
        weight = torch.randn(shape, generator=draw).to(torch.float8_e4m3fn)
        scales = torch.randint(120, 124, (count_scales(shape[0], shape[1] // _BLOCK),), generator=draw).byte()
        return StoredWeight("weight", weight, {"weight_scale": scales})


def _blocks(stored: StoredWeight) -> int:
    """How many blocks a row has, padding included."""
    return stored.weight.shape[1] // _BLOCK


def _scales(exponents: Tensor) -> Tensor:
    """The powers of two that bytes stand for, in float32; the largest byte stands for "not a number"."""
    return (exponents.float() - _BIAS).exp2().masked_fill(exponents == _NAN, torch.nan)


def _expand(numbers: Tensor, exponents: Tensor, columns: int) -> Tensor:
    """Rows in float32, of their float8 and the exponents of their blocks."""
    blocks = numbers.float().unflatten(1, (-1, _BLOCK))
    return blocks.mul_(_scales(exponents)[..., None]).flatten(1)[:, :columns]


MXFP8 = Mxfp8Format()
