"""Weights of one byte: float8 times a float32 scale (see README.md, "fp8")."""

from collections.abc import Callable
from functools import partial
from math import isfinite

import torch
from torch import Tensor, nn

from .fp8_products import has_products, multiplies, row_scales, scaled_linear
from .stored import ExpandRows, Format, QuantizedLinear, Shape, StoredWeight, Writer, marker_of, pick

_DTYPES = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
_CAST_DTYPE = torch.float8_e4m3fn


class Fp8Linear(QuantizedLinear):
    """A linear layer stored in float8; its scale has the form that products want."""

    weight_scale: nn.Parameter

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, input_scale: Tensor | None = None
    ):
        """Hold these tensors as parameters without gradients.

        Args:
            weight: float8, (out, in).
            weight_scale: float32, (), (out, 1), or one for each block (a, b), of out / a rows and in / b columns.
            bias: (out,), in the dtype that the network computes in.
            input_scale: float32, (), as measured by whoever made the file; None scales each token by itself.
        """
        stored = StoredWeight("weight", weight, {"weight_scale": weight_scale})
        super().__init__(FP8, tuple(weight.shape), stored, bias)
        self.input_scale = None if input_scale is None else nn.Parameter(input_scale, requires_grad=False)
        # Layers that share an input round it once if their scales are equal, which shapes alone do not tell.
        if input_scale is None:
            self.rounding = "fp8"
        else:
            self.rounding = f"fp8 by {id(self) if input_scale.is_meta else input_scale.item()}"

    def expand_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) as a new tensor of ``dtype``."""
        return dequantize(self.weight, self.weight_scale, dtype)


def _encode(rows: Tensor, largest: Tensor) -> dict[str, Tensor]:
    """Rows as ComfyUI reads them: float8_e4m3fn with one scale for the whole matrix."""
    scale = (largest / torch.finfo(_CAST_DTYPE).max).clamp(min=torch.finfo(torch.float32).tiny)
    marker = marker_of(format="float8_e4m3fn")
    return {"weight": (rows / scale).to(_CAST_DTYPE), "weight_scale": scale, "comfy_quant": marker}


_WRITERS = {"fp8": Writer(_encode)}


class Fp8Format(Format):
    """The row of float8 in the table of formats."""

    name = "fp8"
    reads = "fp8 with one scale per tensor, row or block"
    markers = (*_DTYPES, *(f"float8_e4m3fn_{kind}" for kind in ("rowwise", "blockwise", "block3d")))
    scale_suffixes = ("weight_scale", "scale_weight", "weight_scale_inv", "quanto_scale", "torchao_scale")
    input_suffixes = ("input_scale", "scale_input", "output_scale")
    file_marker = "scaled_fp8"
    is_cast_to = True
    writers = _WRITERS
    operation = torch.ops.aten._scaled_mm
    rate = "products8"

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is float8, without a scale or with one that is a number, not an exponent."""
        scale = stored.companion(*self.scale_suffixes)
        return stored.weight.dtype in _DTYPES.values() and (scale is None or scale.dtype != torch.uint8)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name a layout of scales that cannot be read; empty if there is one number, or one per row or block."""
        scale = stored.companion(*self.scale_suffixes)
        if scale is None or (scale.is_floating_point() and _scale_shape(scale, stored.weight) is not None):
            return ""
        kind, scales = (str(dtype).removeprefix("torch.") for dtype in (stored.weight.dtype, scale.dtype))
        return f"{kind} with {scales} scales of shape {tuple(scale.shape)}"

    def dequantize(
        self, stored: StoredWeight, shape: Shape, dtype: torch.dtype, expand_rows: ExpandRows | None = None
    ) -> Tensor:
        """Return the weight times its scale in ``dtype``."""
        return dequantize(stored.weight, self._float_scale(stored), dtype)

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32."""
        numbers, scale = pick(stored.weight, rows).float(), self._float_scale(stored)
        if scale.ndim:  # of so many rows and columns each
            rows_of_one, columns_of_one = shape[0] // len(scale), shape[1] // scale.shape[1]
            scale = scale[rows // rows_of_one].repeat_interleave(columns_of_one, dim=1)
        return numbers.mul_(scale)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Round a matrix (out, in) to float8_e4m3fn with the float32 scale (out, 1) that makes the largest number of
        each row the largest float8.

        With one scale per tensor the error is 2.65 % of a Gaussian matrix either way, but 4.8 % instead of 2.9 % of the
        worst row of a heavy-tailed one (Student's t with 3 degrees of freedom), at the price of 4 bytes a row.
        """
        scale = row_scales(weight)
        return {"weight": (weight / scale).to(_CAST_DTYPE), "weight_scale": scale}

    def outline(self, shape: Shape) -> dict[str, Tensor]:
        """Return what a matrix of ``shape`` becomes, as shapes; nothing is computed."""
        weight = torch.empty(shape, dtype=_CAST_DTYPE, device="meta")
        return {"weight": weight, "weight_scale": torch.empty(shape[0], 1, dtype=torch.float32, device="meta")}

    def make_linear(self, linear: nn.Linear, stored: StoredWeight) -> Fp8Linear:
        """Return the layer in place of ``linear``, filled with the stored tensors."""
        input_scale = _measured(stored.companion("input_scale", "scale_input"))
        layer = Fp8Linear(stored.weight, self._float_scale(stored), linear.bias, input_scale)
        layer.exact = bool(stored.options.get("full_precision_matrix_mult", False))
        return layer

    def multiplies(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Return whether ``device`` multiplies float8, with results of ``dtype``."""
        return has_products(device, _CAST_DTYPE, dtype)

    def find_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product of a layer in float8; None if its device has none, or none for its blocks of scales."""
        assert isinstance(layer, Fp8Linear)
        weight, scale = layer.weight, layer.weight_scale
        by_rows = scale.ndim == 0 or scale.shape == (len(weight), 1)
        if not by_rows or not multiplies(weight, dtype):
            return None
        return partial(
            scaled_linear, weight=weight, weight_scale=scale, bias=layer.bias, input_scale=layer.input_scale,
            rounding=layer.rounding,
        )  # fmt: skip

    def float8_input(self, layer: QuantizedLinear, dtype: torch.dtype) -> tuple[str, Tensor | None] | None:
        """Return how a layer takes inputs in float8; None if it does not multiply in float8."""
        assert isinstance(layer, Fp8Linear)
        return None if self.find_product(layer, dtype) is None else (layer.rounding, layer.input_scale)

    def wants_exact_products(self, shape: Shape) -> bool:
        """Return whether a file marker of ``shape`` asks that inputs are not rounded: old ComfyUI files do so by two
        elements."""
        return shape == (2,)

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return the product of a square matrix with itself, both in float8, to time a device; None if it has none."""
        stored, one = matrix.to(_CAST_DTYPE), torch.ones((), device=matrix.device)
        if not multiplies(stored, matrix.dtype):
            return None
        return lambda: scaled_linear(matrix, stored, one, None, one)

    def _float_scale(self, stored: StoredWeight) -> Tensor:
        """The scale in float32, (), (out, 1) or one for each block; 1 if there is none."""
        if (scale := stored.companion(*self.scale_suffixes)) is None:
            return torch.ones(())
        return scale.float().reshape(_scale_shape(scale, stored.weight) or ())


def _measured(scale: Tensor | None) -> Tensor | None:
    """A scale of inputs as a float32 number (); None for what nobody measured: 1, which stands for that, and whatever
    cannot divide."""
    if scale is None or scale.numel() != 1:
        return None
    if not scale.is_meta and not (isfinite(number := scale.item()) and number > 0 and number != 1):
        return None
    return scale.float().reshape(())


def _scale_shape(scale: Tensor, weight: Tensor) -> Shape | None:
    """The axes of a scale as they stretch over those of a weight: none, (out, 1), or blocks; None if they do not."""
    if scale.numel() == 1:
        return ()
    if scale.numel() == len(weight) and scale.shape[0] == len(weight):
        return len(weight), 1
    if scale.ndim == 3 and scale.shape[2] == 1:
        scale = scale[..., 0]
    if scale.ndim != 2 or weight.ndim != 2 or not all(scale.shape):
        return None
    return tuple(scale.shape) if all(side % n == 0 for side, n in zip(weight.shape, scale.shape)) else None


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float8 times scale in ``dtype``; multiplied in float32 and rounded once.

    ``scale`` is (), or (a, b) for blocks of out / a rows and in / b columns.
    """
    # Every float8 is a bfloat16 and a float16. A scale with axes makes the product, even in place, one of float32.
    expanded = weight.to(dtype, copy=True)
    if scale.numel() == 1 or scale.shape == (len(weight), 1):
        return expanded.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)))
    rows, columns = scale.shape
    blocks = expanded.view(rows, len(weight) // rows, columns, weight.shape[1] // columns)
    blocks.mul_(scale[:, None, :, None])
    return expanded


FP8 = Fp8Format()
