"""Weights of one byte: whole numbers from -127 to 127 times one scale, or one for each row (see README.md, "int8")."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from .int8_products import multiplies, scaled_linear
from .rotation import RotatedFormat, RotatedLinear, rotated_linear
from .stored import Shape, StoredWeight

_BITSANDBYTES = 127  # by which its scales, the largest number of each row, have to be divided


class Int8Format(RotatedFormat):
    """The row of int8 in the table of formats: as ComfyUI, quanto and bitsandbytes write it."""

    name = "int8"
    reads = "int8 with one scale per tensor or row"
    markers = ("int8_tensorwise",)
    scale_suffixes = ("weight_scale", "quanto_scale", "SCB")
    input_suffixes = ("input_scale", "output_scale", "weight_format")
    operation = torch.ops.aten._int_mm
    rate = "products8"

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is int8 with a scale that is known."""
        return stored.weight.dtype == torch.int8 and stored.companion(*self.scale_suffixes) is not None

    def find_problem(self, stored: StoredWeight) -> str:
        """Name what cannot be read: another layout, or one that the header leaves open."""
        weight, scale = stored.weight, stored.companion(*self.scale_suffixes)
        assert scale is not None
        if "weight_scale" in stored.companions and stored.marker is None:
            return "int8 without a marker that says whether its columns are rotated"
        if weight.ndim != 2 or not scale.is_floating_point() or scale.numel() not in (1, len(weight)):
            return f"int8 of shape {tuple(weight.shape)} with scales of shape {tuple(scale.shape)}"
        layout = stored.companions.get("weight_format")
        if layout is not None and not layout.is_meta and layout.numel() == 1 and layout.item() != 0:
            return "bitsandbytes int8 in the order of a card"
        return self.find_group_problem(stored, weight.shape[1])

    def rotated_group(self, stored: StoredWeight) -> int:
        """Return how many columns are rotated together; 0 if none are."""
        return super().rotated_group(stored) if stored.options.get("convrot", False) else 0

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, in float32."""
        scale = row_scale(stored)
        return stored.weight[start:stop].float().mul_(scale if scale.numel() == 1 else scale[start:stop])

    def make_linear(self, linear: nn.Linear, stored: StoredWeight) -> "Int8Linear":
        """Return the layer in place of ``linear``, filled with the stored tensors."""
        layer = Int8Linear(self, tuple(linear.weight.shape), self.kept_companions(stored), linear.bias)
        layer.exact = bool(stored.options.get("full_precision_matrix_mult", False))
        return layer

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return the product of a square matrix with itself, both in int8, to time a device; None if it has none."""
        stored, one = matrix.to(torch.int8), torch.ones(1, 1, device=matrix.device)
        return partial(scaled_linear, matrix, stored, one, None, 0) if multiplies(stored) else None


class Int8Linear(RotatedLinear):
    """A linear layer of int8: it multiplies by the whole numbers, which lose nothing in bfloat16, and then by the
    scales; or, after ``use_scaled_products``, it rounds the input to int8 too and multiplies int8 by int8."""

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return this layer for several calls with inputs of ``dtype``; it may hold the expanded weight."""
        scale = row_scale(self.stored)
        if self.weight.device.type in self.scaled_on and multiplies(self.weight):
            return partial(scaled_linear, weight=self.weight, weight_scale=scale, bias=self.bias, group=self.group)
        if dtype == torch.float16:  # in which sums of whole numbers would be infinite
            return super().expanded(dtype)
        return partial(_scaled, weight=self.weight.to(dtype), scale=scale, bias=self.bias, group=self.group)


def _scaled(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, group: int) -> Tensor:
    y = rotated_linear(x, weight, None, group).mul_(scale.reshape(-1))
    return y if bias is None else y.add_(bias)


def row_scale(stored: StoredWeight) -> Tensor:
    """Return the scales of a weight in float32, (1, 1) or (out, 1)."""
    companions: Mapping[str, Tensor] = stored.companions
    if "SCB" in companions:
        return companions["SCB"].float().reshape(-1, 1) / _BITSANDBYTES
    return next(companions[suffix] for suffix in INT8.scale_suffixes if suffix in companions).float().reshape(-1, 1)


INT8 = Int8Format()
