"""Products of linear layers: PyTorch's own, and kernels that multiply sooner or end the product with the GELU."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import needs_grad
from .operation import Function, Kernel, Operation

CUBLAS, ONEDNN = "cuBLASLt", "oneDNN"

# On a CPU products with a smaller weight gain nothing, or lose, and so do those of fewer rows of each clip; in float32
# few rows gain most, the other way around. It is the rows of a clip that count, so that clips by themselves and in a
# batch are computed alike. F.linear asks MKL in float32, and in bfloat16 writes the bias before the product.
LEAST_WEIGHT = 2**18
MANY_ROWS = {torch.float32: 128, torch.bfloat16: 64}
FEW_ROWS = {torch.float32: 16}
AMX_ROWS = 2048  # from so many on, AMX gains more by a weight in the order of its tiles than that takes

_gelu_ = torch.ops.aten.gelu_.default


def gelu_(x: Tensor) -> Tensor:
    """Write the GELU of ``x``, in its tanh form, into ``x``; returns it."""
    return _gelu_(x, approximate="tanh")


def multiply_plainly(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (..., D) times ``weight`` (D', D), plus ``bias``."""
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the GELU, in its tanh form, of x (..., D) times ``weight`` (D', D), plus ``bias``."""
    return gelu_(F.linear(x, weight, bias))


def _cublas_linear_gelu() -> Function:
    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added = weight.new_zeros(weight.shape[0]) if bias is None else bias
        product = torch._addmm_activation(added, x.flatten(0, -2), weight.t(), use_gelu=True)
        return product.unflatten(0, x.shape[:-1])

    return multiply


def _onednn(ending: str, form: str) -> Function:
    product: Any = torch.ops.mkldnn._linear_pointwise
    in_order: Any = torch.ops.mkldnn._reorder_linear_weight
    has_tiles = torch.cpu._is_amx_tile_supported()

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if has_tiles and x.dtype is torch.bfloat16 and x.shape[-2] >= AMX_ROWS:
            weight = in_order(weight)
        result: Tensor = product(x, weight, bias, ending, [], form)
        return result

    return multiply


def _onednn_turned() -> Function:
    product = _onednn("none", "")

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = x.new_empty(*x.shape[:-1], len(weight))
        clips = (each.reshape(-1, *each.shape[-2:]) for each in (x, result))
        for clip, out in zip(*clips):  # as many rows at a time as a clip by itself has, for the same bits
            turned = product(weight, clip, None).t()
            if bias is None:
                out.copy_(turned)
            else:
                torch.add(turned, bias, out=out)
        return result

    return multiply


def _sample(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((1, 37, 256), (512, 256), (512,)))
    return x.to(device, dtype), (weight / 16).to(device, dtype), bias.to(device, dtype)


LINEAR = Operation(
    "Product", multiply_plainly, [Kernel(ONEDNN, lambda: _onednn("none", ""), devices=("cpu",))], _sample
)
# The weight, as it lies, times the rows: oneDNN turns around what it multiplies by, which is little here.
LINEAR_FEW = Operation(
    "Product of few rows", multiply_plainly, [Kernel(ONEDNN, _onednn_turned, devices=("cpu",))], _sample
)
LINEAR_GELU = Operation(
    "Product and GELU",
    linear_gelu,
    [
        Kernel(CUBLAS, _cublas_linear_gelu),
        Kernel(ONEDNN, lambda: _onednn("gelu", "tanh"), devices=("cpu",)),
    ],
    _sample,
)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Do what ``multiply_plainly`` does, with the fastest kernel that is right here."""
    operation = find_product(x, weight)  # on cards PyTorch's own is the fastest
    if operation is LINEAR and x.dtype is torch.float32 and torch.cpu._is_amx_tile_supported():
        operation = None  # on such processors of Intel MKL multiplies sooner
    return (F.linear if operation is None else operation.find(x) or F.linear)(x, weight, bias)


def multiply_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Do what ``linear_gelu`` does, with the fastest kernel that is right here."""
    if needs_grad(x, weight) or (x.is_cpu and find_product(x, weight) is not LINEAR):
        return gelu_(multiply(x, weight, bias))
    return (LINEAR_GELU.find(x) or linear_gelu)(x, weight, bias)


def find_product(x: Tensor, weight: Tensor) -> Operation | None:
    """Return what is faster than PyTorch's product of x (..., rows, D) with ``weight``; None if nothing is."""
    if not x.is_cpu or x.ndim < 2 or weight.numel() < LEAST_WEIGHT or needs_grad(x, weight):
        return None
    if x.shape[-2] >= MANY_ROWS.get(x.dtype, math.inf):
        return LINEAR
    return LINEAR_FEW if x.shape[-2] >= FEW_ROWS.get(x.dtype, math.inf) else None
