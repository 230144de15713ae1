"""Products of linear layers: PyTorch's own, and kernels that multiply sooner or end the product with the GELU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import needs_grad
from .operation import Function, Kernel, Operation

CUBLAS, ONEDNN = "cuBLASLt", "oneDNN"

# On a CPU smaller products gain nothing, or lose: so many rows of each clip, and numbers of the weight. It is the rows
# of a clip that count, so that clips by themselves and in a batch are computed alike.
LEAST_ROWS, LEAST_WEIGHT = 64, 2**20

# In these oneDNN is asked itself: F.linear asks MKL in float32, and in bfloat16 writes the bias before the product.
_MULTIPLIED = (torch.float32, torch.bfloat16)

_gelu_ = torch.ops.aten.gelu_.default


def gelu_(x: Tensor) -> Tensor:
    """Write the GELU of ``x``, in its tanh form, into ``x``; returns it."""
    return _gelu_(x, approximate="tanh")


def multiply_plainly(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (..., D) times ``weight`` (D', D), plus ``bias``."""
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the GELU, in its tanh form, of a linear layer."""
    return gelu_(F.linear(x, weight, bias))


def _cublas_linear_gelu() -> Function:
    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added = weight.new_zeros(weight.shape[0]) if bias is None else bias
        product = torch._addmm_activation(added, x.flatten(0, -2), weight.t(), use_gelu=True)
        return product.unflatten(0, x.shape[:-1])

    return multiply


def _onednn(ending: str, form: str) -> Function:
    product: Any = torch.ops.mkldnn._linear_pointwise

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = product(x, weight, bias, ending, [], form)
        return result

    return multiply


def _sample(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((1, 37, 256), (512, 256), (512,)))
    return x.to(device, dtype), (weight / 16).to(device, dtype), bias.to(device, dtype)


LINEAR = Operation(
    "Product", multiply_plainly, [Kernel(ONEDNN, lambda: _onednn("none", ""), devices=("cpu",))], _sample
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
    if not (x.is_cpu and x.dtype in _MULTIPLIED and _is_large(x, weight)) or needs_grad(x, weight):
        return F.linear(x, weight, bias)  # which is the fastest on cards
    return (LINEAR.find(x) or F.linear)(x, weight, bias)


def multiply_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Do what ``linear_gelu`` does, with the fastest kernel that is right here."""
    if (x.is_cpu and not _is_large(x, weight)) or needs_grad(x, weight):
        return linear_gelu(x, weight, bias)
    return (LINEAR_GELU.find(x) or linear_gelu)(x, weight, bias)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return weight.numel() >= LEAST_WEIGHT and x.ndim > 1 and x.shape[-2] >= LEAST_ROWS
