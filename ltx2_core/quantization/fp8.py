"""Weights of one byte: float8 times a float32 scale (see README.md, "fp8")."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fp8_products import multiplies, row_scales, scaled_linear

_DTYPES = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
_CAST_DTYPE = torch.float8_e4m3fn

# Matrices of a transformer whose names begin so stay as they are stored, and why.
_KEPT = {
    r"(?!blocks\.)": "the ends of both streams, AdaLN and captions: few bytes, on which every token of a step depends",
    r"blocks\.(0|{last})\.": "the first and the last block: what they get wrong all others inherit, or none can mend",
    r"blocks\.\d+\.audio\.": "the sound: it turns metallic or choppy long before a picture turns soft",
    r"blocks\.\d+\.(audio_to_video|video_to_audio)\.": "where picture and sound meet: lips and impacts stay on time",
    r"blocks\.\d+\.video\.\w+\.gate\.": "one number per head: nothing to save",
}


class Fp8Linear(nn.Module):
    """A linear layer stored in float8. It expands its weight at use and computes in the dtype of its input; or, after
    ``use_scaled_products``, it rounds the input to float8 too and multiplies float8 by float8.

    Move it with ``.to(device)``; ``.to(dtype)`` would expand the stored bytes.
    """

    scaled_on: Collection[str] = ()  # the types of device on which it multiplies float8 by float8, if they can

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, input_scale: Tensor | None = None
    ):
        """Hold these tensors as parameters without gradients.

        Args:
            weight: float8, (out, in).
            weight_scale: float32, () or (out, 1).
            bias: (out,), in the dtype that the network computes in.
            input_scale: float32, (), as measured by whoever made the file; None scales each token by itself.
        """
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.input_scale = None if input_scale is None else nn.Parameter(input_scale, requires_grad=False)
        self.exact = False  # whether the file asks that inputs are never rounded

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to (..., out) in the dtype of ``x``."""
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return this layer for several calls with inputs of ``dtype``.

        It may hold the expanded weight, so drop it soon.
        """
        weight, scale, bias = self.weight, self.weight_scale, self.bias
        if weight.device.type in self.scaled_on and multiplies(weight, dtype):
            return partial(scaled_linear, weight=weight, weight_scale=scale, bias=bias, input_scale=self.input_scale)
        return partial(F.linear, weight=self.expand_weight(dtype), bias=bias)

    def expand_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) as a new tensor of ``dtype``."""
        return dequantize(self.weight, self.weight_scale, dtype)


@dataclass(frozen=True)
class Fp8Format:
    """The row of float8 in the table of formats; ``formats.Format`` says what its members mean."""

    name: str = "fp8"
    reads: str = "fp8 with one scale per tensor or row"
    markers: Collection[str] = tuple(_DTYPES)
    scale_suffixes: tuple[str, ...] = ("weight_scale", "scale_weight")
    input_suffixes: tuple[str, ...] = ("input_scale", "scale_input")
    file_marker: str = "scaled_fp8"
    linear: type[nn.Module] = Fp8Linear
    kept: Mapping[str, str] | None = None
    operation: Any = torch.ops.aten._scaled_mm
    rate: str = "products8"

    def stores(self, dtype: torch.dtype, companions: Collection[str]) -> bool:
        """Return whether a tensor of ``dtype`` is in this format: every float8 is, with a scale or without."""
        return dtype in _DTYPES.values()

    def find_problem(self, weight: Tensor, companions: Mapping[str, Tensor]) -> str:
        """Name a layout of scales that cannot be read; empty if there is one number, or one per row."""
        scale = self._scale_in(companions)
        if scale is None or (scale.is_floating_point() and scale.numel() in (1, len(weight))):
            return ""
        stored, scales = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, scale.dtype))
        return f"{stored} with {scales} scales of shape {tuple(scale.shape)}"

    def dequantize(self, weight: Tensor, companions: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return ``weight`` times its scale in ``dtype``."""
        return dequantize(weight, self._float_scale(companions), dtype)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Round a matrix (out, in) to float8_e4m3fn with the float32 scale (out, 1) that makes the largest number of
        each row the largest float8.

        With one scale per tensor the error is 2.65 % of a Gaussian matrix either way, but 4.8 % instead of 2.9 % of the
        worst row of a heavy-tailed one (Student's t with 3 degrees of freedom), at the price of 4 bytes a row.
        """
        scale = row_scales(weight)
        return {"weight": (weight / scale).to(_CAST_DTYPE), "weight_scale": scale}

    def make_linear(
        self, linear: nn.Linear, weight: Tensor, companions: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> Fp8Linear:
        """Return the layer in place of ``linear``, with the shapes that are expected and the scales that are there."""
        input_scale = next((companions[suffix] for suffix in self.input_suffixes if suffix in companions), None)
        if input_scale is not None and (input_scale.numel() != 1 or input_scale.item() == 1):
            input_scale = None  # 1 stands for "not measured"
        if input_scale is not None:
            input_scale = input_scale.float().reshape(())
        layer = Fp8Linear(linear.weight.to(weight.dtype), self._float_scale(companions), linear.bias, input_scale)
        layer.exact = options.get("full_precision_matrix_mult", False)
        return layer

    def lay_out(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = _CAST_DTYPE,
        companions: Mapping[str, tuple[int, ...]] | None = None,
    ) -> dict[str, Tensor]:
        """Return a weight and its scale as tensors on the meta device; without companions the scale is one number."""
        scales = [each for suffix, each in (companions or {}).items() if suffix in self.scale_suffixes]
        return {
            "weight": torch.empty(shape, dtype=dtype, device="meta"),
            "weight_scale": torch.empty(scales[0] if scales else (), dtype=torch.float32, device="meta"),
        }

    def wants_exact_products(self, shape: tuple[int, ...]) -> bool:
        """Return whether a file marker of ``shape`` asks that inputs are not rounded: old ComfyUI files do so by two
        elements."""
        return shape == (2,)

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return the product of a square matrix with itself, both in float8, to time a device; None if it has none."""
        stored, one = matrix.to(_CAST_DTYPE), torch.ones((), device=matrix.device)
        if not multiplies(stored, matrix.dtype):
            return None
        return lambda: scaled_linear(matrix, stored, one, None, one)

    def _scale_in(self, companions: Mapping[str, Tensor]) -> Tensor | None:
        return next((companions[suffix] for suffix in self.scale_suffixes if suffix in companions), None)

    def _float_scale(self, companions: Mapping[str, Tensor]) -> Tensor:
        """The scale in float32, () or (out, 1); 1 if there is none."""
        if (scale := self._scale_in(companions)) is None:
            return torch.ones(())
        return scale.float().reshape(() if scale.numel() == 1 else (-1, 1))


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float8 times scale, () or one for each row, in ``dtype``; multiplied in float32 and rounded once."""
    # Every float8 is a bfloat16 and a float16. A scale with axes makes the product, even in place, one of float32.
    return weight.to(dtype, copy=True).mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)))


FP8 = Fp8Format(kept=_KEPT)
