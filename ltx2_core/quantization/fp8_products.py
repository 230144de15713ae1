"""Float8 times float8, on devices that have it (see README.md, "Products")."""

from functools import cache

import torch
from torch import Tensor

from ..errors import ran_out
from .stored import round_once

_LARGEST = torch.finfo(torch.float8_e4m3fn).max
_SIDE = 16  # of which both sides of a weight must be multiples, on cards


def row_scales(matrix: Tensor) -> Tensor:
    """Return the scales that make the largest number of each row the largest float8: float32, (rows, 1)."""
    largest = torch.linalg.vector_norm(matrix, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    return (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)


def multiplies(weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the device of ``weight`` supports its float8 product, with a result of ``dtype``."""
    return all(side % _SIDE == 0 for side in weight.shape) and has_products(weight.device, weight.dtype, dtype)


def has_products(device: torch.device, stored: torch.dtype, dtype: torch.dtype) -> bool:
    """Return whether ``device`` multiplies by float8 of the kind ``stored``, with a result of ``dtype``."""
    return _has(device, stored, dtype, rows=False)


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    rounding: str = "fp8",
) -> Tensor:
    """Round x (..., in) to float8 and multiply by ``weight`` (out, in), summed in float32; (..., out) as ``x``.

    ``weight_scale`` is () or (out, 1). ``input_scale`` () holds for all of ``x``, and what is too large for it is
    clamped; if it is None each token gets its own scale. So nothing depends on which tokens come together. Layers that
    share ``x`` round it once for each ``rounding``, which names the scale.
    """

    def round_tokens() -> tuple[Tensor, Tensor]:
        tokens = x.flatten(0, -2)
        scale = row_scales(tokens) if input_scale is None else input_scale
        return _rounded(tokens, scale), scale

    rounded, scale = round_once(x, rounding, round_tokens)
    return _product(rounded, scale, weight, weight_scale, bias, x.dtype).unflatten(0, x.shape[:-1])


def _rounded(x: Tensor, scale: Tensor) -> Tensor:
    """Return x / scale in float8. A scale for all divides in the dtype of ``x``, as the official code does."""
    if scale.ndim == 0:  # above its largest number this float8 has but "not a number"
        return torch.div(x, scale).clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return torch.div(x, scale, out=torch.empty_like(x, dtype=torch.float8_e4m3fn))


def _product(
    x: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Multiply float8 matrices; ``scale`` is () or (tokens, 1), ``weight_scale`` () or (out, 1)."""
    if scale.ndim == weight_scale.ndim == 0:
        return torch._scaled_mm(x, weight.t(), scale, weight_scale, bias, out_dtype=dtype)
    if _has(weight.device, weight.dtype, dtype, rows=True):
        of_rows = scale.expand(len(x), 1).contiguous()
        of_columns = weight_scale.t().expand(1, len(weight)).contiguous()
        return torch._scaled_mm(x, weight.t(), of_rows, of_columns, bias, out_dtype=dtype)
    one = torch.ones((), device=x.device)  # what has rows is multiplied afterwards
    product = torch._scaled_mm(x, weight.t(), one, one, out_dtype=dtype)
    product.mul_(scale.reshape(-1, 1)).mul_(weight_scale.reshape(1, -1))
    return product if bias is None else product.add_(bias)


@cache
def _has(device: torch.device, stored: torch.dtype, dtype: torch.dtype, rows: bool) -> bool:
    """Whether ``device`` has this kind of product, with one scale for all or one for each row.

    Tried once: it depends on the card, its driver and on torch, and no list of them would stay true.
    """
    if device.type == "meta":  # where only shapes are asked for
        return True
    side = 4 * _SIDE
    shapes = ((side, 1), (1, side)) if rows else ((), ())
    of_left, of_right = (torch.full(shape, 0.5, device=device) for shape in shapes)
    numbers, bias = torch.full((side, side), _LARGEST, device=device), torch.ones(side, dtype=dtype, device=device)
    right = numbers.to(stored)
    try:
        left = _rounded(numbers.to(dtype), torch.ones(side, 1, device=device))
        found = torch._scaled_mm(left, right.t(), of_left, of_right, bias, out_dtype=dtype)
    except Exception as error:  # newer PyTorch raises ValueError for what a card does not have
        if ran_out(error):  # which says nothing about the device, and is not remembered
            raise
        return False
    expected = (left.float() @ right.float().t()) / 4 + 1
    return torch.allclose(found.float(), expected, rtol=0.01)
