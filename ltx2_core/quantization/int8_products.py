"""Int8 times int8, on devices that have it (see README.md, "Products")."""

from functools import cache

import torch
from torch import Tensor

from ..errors import is_out_of_memory
from .rotation import rotate

_LARGEST = 127
_SIDE = 8  # of which both sides of a weight must be multiples, on cards
_ROWS = 32  # of which the tokens must be a multiple, on cards
_TOKENS = 4096  # that are multiplied together: their sums take four bytes each


def multiplies(weight: Tensor) -> bool:
    """Return whether the device of ``weight`` supports its int8 product."""
    return all(side % _SIDE == 0 for side in weight.shape) and _has(weight.device)


def scaled_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """Round x (..., in) to int8, each token by its own scale, and multiply by ``weight``; (..., out) as ``x``.

    Args:
        x: the input.
        weight: int8, (out, in).
        weight_scale: float32, (1, 1) or (out, 1).
        bias: (out,), in the dtype of ``x``.
        group: how many columns of the weight are rotated together, as those of ``x`` then are; 0 if none are.
    """
    tokens = x.flatten(0, -2)
    result = torch.empty(len(tokens), len(weight), dtype=x.dtype, device=x.device)
    for given, product in zip(tokens.split(_TOKENS), result.split(_TOKENS)):
        rounded, scale = _rounded(rotate(given, group))
        sums = torch._int_mm(rounded, weight.t())[: len(given)]
        torch.mul(sums * scale, weight_scale.reshape(1, -1), out=product)
    if bias is not None:
        result.add_(bias)
    return result.unflatten(0, x.shape[:-1])


def _rounded(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens as int8, with rows of zeros behind them up to a whole number of tiles, and their scales (tokens, 1)."""
    largest = torch.linalg.vector_norm(tokens, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    scale = (largest / _LARGEST).clamp(min=1e-30)
    rows = -(-len(tokens) // _ROWS) * _ROWS
    rounded = torch.zeros(rows, tokens.shape[1], dtype=torch.int8, device=tokens.device)
    rounded[: len(tokens)] = (tokens / scale).round_().clamp_(-_LARGEST, _LARGEST)
    return rounded, scale


@cache
def _has(device: torch.device) -> bool:
    """Whether ``device`` has this product. Tried once: it depends on the card, its driver and on torch."""
    if device.type == "meta":  # where only shapes are asked for
        return True
    left = torch.arange(-_LARGEST, _LARGEST + 2, device=device).to(torch.int8).reshape(-1, _ROWS)
    left = left.repeat(_ROWS, 1)[: 2 * _ROWS]
    try:
        found = torch._int_mm(left, left[:_ROWS].t())
    except RuntimeError as error:
        if is_out_of_memory(error):  # which says nothing about the device, and is not remembered
            raise
        return False
    return torch.equal(found.float(), left.float() @ left[:_ROWS].float().t())
