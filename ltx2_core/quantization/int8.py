"""Weights of one byte: whole numbers from -127 to 127 times one scale, or one for each row or block (see README.md,
"int8")."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .kitchen import KitchenFormat
from .rotation import GROUP, RotatedFormat, rotate
from .stored import QuantizedLinear, Shape, StoredWeight, Writer, marker_of

_LARGEST = 127  # by which the scales of bitsandbytes, the largest number of each row, have to be divided
_CAST_GROUPS = (256, 64, 16)
_MARKER = "int8_tensorwise"
_OF_BLOCKS = ("int8_blockwise", "int8_lodewise")  # the latter's blocks are of one row


def _round_rows(weight: Tensor) -> dict[str, Tensor]:
    """Rows in the largest group that divides them, each with a scale of its own."""
    group = _group(weight.shape[1])
    rotated = rotate(weight.float(), group)
    largest = torch.linalg.vector_norm(rotated, torch.inf, dim=1, keepdim=True)
    scale = (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = (rotated / scale).round_().to(torch.int8)
    return {"weight": rounded, "weight_scale": scale, "comfy_quant": _marker(group)}


def _group(columns: int) -> int:
    return next((group for group in _CAST_GROUPS if columns % group == 0), 0)


def _marker(group: int) -> Tensor:
    how = {"convrot": True, "convrot_groupsize": group} if group else {}
    return marker_of(format=_MARKER, **how)


_WRITERS = {"int8": Writer(lambda rows, largest: _round_rows(rows))}


class Int8Format(KitchenFormat, RotatedFormat):
    """The row of int8 in the table of formats: as ComfyUI, convert_to_quant, quanto, bitsandbytes and torchao write
    it."""

    name = "int8"
    reads = "int8 with one scale per tensor, row or block"
    markers = (_MARKER, *_OF_BLOCKS)
    scale_suffixes = ("weight_scale", "quanto_scale", "SCB", "torchao_scale")
    other_suffixes = ("torchao_zero_point",)
    input_suffixes = ("input_scale", "output_scale", "weight_format")
    is_cast_to = True
    scaled_on = ("cuda", "cpu")
    tolerance = 0.02
    rounds_apart = False  # kernels of cards rotate, round and scale inside the product; CPUs do not
    gelu_on = ("cuda", "meta")
    writers = _WRITERS

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is int8 with a scale that is known."""
        return stored.weight.dtype == torch.int8 and stored.companion(*self.scale_suffixes) is not None

    def find_problem(self, stored: StoredWeight) -> str:
        """Name what cannot be read: another layout, or one that the header leaves open."""
        weight, scale = stored.weight, stored.companion(*self.scale_suffixes)
        assert scale is not None
        if "weight_scale" in stored.companions and stored.marker is None:
            return "int8 without a marker that says whether its columns are rotated"
        fits = _divides(scale, weight) if stored.format_name in _OF_BLOCKS else scale.numel() in (1, len(weight))
        if weight.ndim != 2 or not scale.is_floating_point() or not fits:
            return f"int8 of shape {tuple(weight.shape)} with scales of shape {tuple(scale.shape)}"
        return _find_library_problem(stored, scale) or self.find_group_problem(stored, weight.shape[1])

    def rotated_group(self, stored: StoredWeight) -> int:
        """Return how many columns are rotated together; 0 if none are."""
        return super().rotated_group(stored) if stored.options.get("convrot", False) else 0

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, in float32."""
        numbers = _shift(stored, stored.weight[start:stop].float(), start)
        return _scale(numbers, _scales_of(stored, torch.arange(start, stop, device=numbers.device)))

    def stored_matrix(self, stored: StoredWeight, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return the matrix as it is stored, in ``dtype``; whole numbers lose nothing there before they are scaled."""
        numbers, scale = _shift(stored, stored.weight.to(dtype)), row_scale(stored)
        blocks = numbers.unflatten(1, (scale.shape[1], -1)).unflatten(0, (len(scale), -1))
        blocks.mul_(scale[:, None, :, None])
        return numbers

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32."""
        if stored.format_name not in _OF_BLOCKS:
            return super().expand_picked(stored, shape, rows)
        return _scale(stored.weight[rows].float(), _scales_of(stored, rows))

    def rounding(self, stored: StoredWeight) -> str:
        """Name how inputs of a weight are rounded: as many columns are rotated as in the weight."""
        return f"{self.name} {self.rotated_group(stored)}"

    def round_input(self, library: ModuleType, x: Tensor, stored: StoredWeight) -> tuple[Tensor, ...]:
        """On a CPU rotate x (tokens, in) as the weight is and round each token to int8; for a card return it."""
        if x.device.type != "cpu":
            return (x,)
        group = self.rotated_group(stored)
        return library.quantize_int8_rowwise(rotate(x, group) if group else x)

    def multiply(
        self, library: ModuleType, rounded: tuple[Tensor, ...], stored: StoredWeight, bias: Tensor | None, like: Tensor
    ) -> Tensor:
        """Multiply whole numbers and scale the sums; of inputs that are not rounded yet, do both in one kernel."""
        if len(rounded) == 1:
            return self._multiply_at_once(library, rounded[0], stored, bias)
        numbers, scales = rounded
        sums = library.mm_int8(numbers, stored.weight.T).float().mul_(scales).mul_(row_scale(stored).T)
        return (sums if bias is None else sums.add_(bias)).to(like.dtype)

    def multiply_gelu(self, library: ModuleType, x: Tensor, stored: StoredWeight, bias: Tensor | None) -> Tensor:
        """Multiply the GELU of x, which is rounded where it is made."""
        return self._multiply_at_once(library, x, stored, bias, input_act="gelu_tanh")

    def _multiply_at_once(
        self, library: ModuleType, x: Tensor, stored: StoredWeight, bias: Tensor | None, **how: Any
    ) -> Tensor:
        if group := self.rotated_group(stored):
            how |= {"convrot": True, "convrot_groupsize": group}
        return library.int8_linear(x, stored.weight, row_scale(stored), bias, x.dtype, **how)

    def find_gelu_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product with the GELU of inputs; of columns that are rotated otherwise, or not, the library would
        make it in a second copy of them."""
        return super().find_gelu_product(layer, dtype) if self.rotated_group(layer.stored) == GROUP else None

    def make_sample(self, shape: Shape) -> StoredWeight:
        """Return a weight of ``shape`` with rotated columns."""
        made = self.quantize(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        return StoredWeight("weight", made["weight"], {"weight_scale": made["weight_scale"]}, made["comfy_quant"])

    def can_multiply(self, stored: StoredWeight, shape: Shape) -> bool:
        """Return whether zero stands for itself, and rows have one scale."""
        return "torchao_zero_point" not in stored.companions and stored.format_name not in _OF_BLOCKS

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Round a matrix (out, in) to int8 with a scale for each row, its columns rotated where a group divides them.

        The error is 0.79 % of a Gaussian matrix, and 0.76 % of one with columns eight times as large as others, where
        it would be 2.8 % without the rotation.
        """
        return _round_rows(weight)

    def outline(self, shape: Shape) -> dict[str, Tensor]:
        """Return what a matrix of ``shape`` becomes, as shapes; nothing is computed."""
        weight = torch.empty(shape, dtype=torch.int8, device="meta")
        scale = torch.empty(shape[0], 1, dtype=torch.float32, device="meta")
        return {"weight": weight, "weight_scale": scale, "comfy_quant": _marker(_group(shape[1]))}


def row_scale(stored: StoredWeight) -> Tensor:
    """Return the scales of a weight in float32, (1, 1), (out, 1) or (a, b) for blocks of out / a rows and in / b
    columns."""
    companions: Mapping[str, Tensor] = stored.companions
    if "SCB" in companions:
        return companions["SCB"].float().reshape(-1, 1) / _LARGEST
    scale = next(companions[suffix] for suffix in INT8.scale_suffixes if suffix in companions).float()
    return scale if stored.format_name in _OF_BLOCKS else scale.reshape(-1, 1)


def _divides(scale: Tensor, weight: Tensor) -> bool:
    """Whether a weight has as many rows and columns for each scale as for any other."""
    return scale.ndim == 2 and all(count and side % count == 0 for side, count in zip(weight.shape, scale.shape))


def _scales_of(stored: StoredWeight, rows: Tensor) -> Tensor:
    """The scales of rows with these numbers, (len(rows), b), in float32."""
    scale = row_scale(stored)
    return scale[rows * len(scale) // len(stored.weight)]


def _scale(numbers: Tensor, scale: Tensor) -> Tensor:
    """Multiply ``numbers`` (n, in) in place by ``scale`` (n, b), each of which is that of in / b columns."""
    numbers.unflatten(1, (scale.shape[1], -1)).mul_(scale[..., None])
    return numbers


def _find_library_problem(stored: StoredWeight, scale: Tensor) -> str:
    """Name what torchao or bitsandbytes say of a weight that cannot be read; empty if all can."""
    zero, layout = (stored.companions.get(name) for name in ("torchao_zero_point", "weight_format"))
    if zero is not None and (zero.numel() != scale.numel() or zero.dtype != torch.int8):
        return f"int8 of shape {tuple(stored.weight.shape)} with zero points of shape {tuple(zero.shape)}"
    if layout is not None and not layout.is_meta and layout.numel() == 1 and layout.item() != 0:
        return "bitsandbytes int8 in the order of a card"
    return ""


def _shift(stored: StoredWeight, numbers: Tensor, start: int = 0) -> Tensor:
    """Subtract in place what stands for zero in rows from ``start`` on, if that is not zero itself."""
    if (zero := stored.companions.get("torchao_zero_point")) is None:
        return numbers
    return numbers.sub_(zero.reshape(-1, 1) if zero.numel() == 1 else zero.reshape(-1, 1)[start : start + len(numbers)])


INT8 = Int8Format()
