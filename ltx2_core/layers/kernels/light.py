"""The light operations of a block, which read and write much and compute little: the plain way, and kernels."""

import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..norms import rms_norm
from ..rope import Rope, Rotation
from . import compiled
from .operation import Function, Kernel, Operation

KITCHEN, TRITON, CUBLAS = "comfy-kitchen", "Triton", "cuBLASLt"

_gelu_ = torch.ops.aten.gelu_


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return rms_norm(x) * (1 + scale) + shift of x (..., D); scale and shift broadcast to it."""
    return torch.addcmul(shift, rms_norm(x, eps), 1 + scale)


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
    """Normalise x (B, N, H d) over all heads, scale it by ``weight``, and rotate each head; (B, H, N, d).

    ``x`` may be overwritten.
    """
    return rotation(split_heads(rms_norm(x, eps, weight), rotation.heads))


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the GELU, in its tanh form, of a linear layer."""
    return _gelu_(F.linear(x, weight, bias), approximate="tanh")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View x (B, N, H d) as (B, H, N, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _kitchen() -> ModuleType:
    return importlib.import_module("comfy_kitchen")


def _kitchen_norm_modulate() -> Function:
    fused = _kitchen().rms_adaln
    return lambda x, scale, shift, eps: fused(x, scale, shift, eps)


def _kitchen_norm_rotate() -> Function:
    rotate_ = _kitchen().apply_rope_split_half1_

    def norm_and_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
        normal = rms_norm(x, eps, weight).unflatten(2, (rotation.heads, -1))
        rotate_(normal, rotation.matrices)
        return normal.transpose(1, 2)

    return norm_and_rotate


def _is_kitchen_fast(operation: str) -> bool:
    return bool(_kitchen().registry.get_capable_backend(operation) != "eager")


def _triton_norm_rotate() -> Function:
    return importlib.import_module(".fused", __package__).norm_rotate


def _cublas_linear_gelu() -> Function:
    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added = weight.new_zeros(weight.shape[0]) if bias is None else bias
        product = torch._addmm_activation(added, x.flatten(0, -2), weight.t(), use_gelu=True)
        return product.unflatten(0, x.shape[:-1])

    return multiply


def _draw(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def _sample_modulation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
    x, scale, shift = (_draw(device, dtype, 1, 1, tokens, 512) for tokens in (37, 1, 1))  # one group of tokens
    return x, scale, shift + 1, 1e-6


def _sample_rotation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, Rotation]:
    x, weight, positions = (_draw(device, dtype, *shape) for shape in ((1, 37, 512), (512,), (1, 3, 37)))
    return x, weight, 1e-6, Rope(4, 128, (1.0, 1.0, 1.0))(positions.float(), dtype)


def _sample_linear(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = (_draw(device, dtype, *shape) for shape in ((1, 37, 256), (512, 256), (512,)))
    return x, weight / 16, bias


NORM_MODULATE = Operation(
    "Norm and modulation",
    norm_modulate,
    [Kernel(KITCHEN, _kitchen_norm_modulate, is_fast=lambda: _is_kitchen_fast("rms_adaln"))],
    _sample_modulation,
    form=compiled.norm_modulate,
)
NORM_ROTATE = Operation(
    "Norm and rotation",
    norm_rotate,
    [
        Kernel(TRITON, _triton_norm_rotate),
        Kernel(KITCHEN, _kitchen_norm_rotate, is_fast=lambda: _is_kitchen_fast("apply_rope_split_half1_")),
    ],
    _sample_rotation,
    form=compiled.norm_rotate,
)
LINEAR_GELU = Operation("Product and GELU", linear_gelu, [Kernel(CUBLAS, _cublas_linear_gelu)], _sample_linear)
