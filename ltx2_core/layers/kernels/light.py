"""The light operations of a block, which read and write much and compute little: the plain way, and kernels."""

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..norms import rms_norm
from ..rope import Rope, Rotation
from ..sharing import Rounding, expand_rounded, with_rounded
from . import compiled
from .linear import gelu_
from .operation import Function, Kernel, Operation, Sample

KITCHEN, TRITON = "comfy-kitchen", "Triton"
FRAMES_AT_ONCE = 8  # while they are normalised; keeps the copies small


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return rms_norm(x) * (1 + scale) + shift of x (..., D); scale and shift broadcast to it."""
    return torch.addcmul(shift, rms_norm(x, eps), 1 + scale)


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
    """Normalise x (B, N, H d) over all heads, scale it by ``weight``, and rotate each head; (B, H, N, d).

    ``x`` may be overwritten.
    """
    return rotation(split_heads(rms_norm(x, eps, weight), rotation.heads))


def norm_round(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, rounding: Rounding) -> Tensor:
    """Return rms_norm(x) * (1 + scale) + shift, or rms_norm(x) alone; kernels round it, too, and return a stand-in
    unless ``rounding`` keeps it."""
    return rms_norm(x, eps) if scale is None or shift is None else norm_modulate(x, scale, shift, eps)


def sum_norm(
    x: Tensor,
    gate: Tensor | None,
    change: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rounding: Rounding | None,
) -> Tensor:
    """Write x + gate * change into ``change``, and return the norm of that, modulated if there are scale and shift;
    kernels round it, too, as ``norm_round`` says, if there is a ``rounding``."""
    total = change.add_(x) if gate is None else torch.addcmul(x, gate, change, out=change)
    return rms_norm(total, eps) if scale is None or shift is None else norm_modulate(total, scale, shift, eps)


def norm_silu(x: Tensor, out: Tensor, eps: float) -> Tensor:
    """Write silu(rms_norm(x)) into ``out``, and return it; the norm is over the channels of x (B, C, F, H, W)."""
    for source, target in zip(x.split(FRAMES_AT_ONCE, dim=2), out.split(FRAMES_AT_ONCE, dim=2)):
        torch.ops.aten.silu.out(norm_pixels(source, eps), out=target)
    return out


def norm_pixels(x: Tensor, eps: float) -> Tensor:
    """Divide x (B, C, F, H, W) by the root mean square over the channels (ProGAN, arXiv 1710.10196)."""
    return F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)


def gelu_round(x: Tensor, rounding: Rounding) -> Tensor:
    """Return the GELU of x in its tanh form, which is written into x; kernels round it, too, as ``norm_round`` says."""
    return gelu_(x)


def gate_round(heads: Tensor, gates: Tensor | None, rounding: Rounding) -> Tensor:
    """Return heads (B, H, N, d) times gates (B, H, N, 1) as (B, N, H d), written into heads; kernels round it, too, as
    ``norm_round`` says."""
    heads = heads if gates is None else heads.mul_(gates)
    return heads.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View x (B, N, H d) as (B, H, N, d)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


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


def _kitchen_round(plain: Function, norm_modulate: Callable[[], Function] | None = None) -> Function:
    """Make what ``plain`` does, and round it where one scale is that of all tokens; layers do the rest."""
    quantize, fused = _kitchen().quantize_per_tensor_fp8, None if norm_modulate is None else norm_modulate()

    def make_and_round(*arguments: Any) -> Tensor:
        *given, rounding = arguments
        made = plain(*arguments) if fused is None or given[1] is None else fused(*given)
        tokens, scales = made.flatten(0, -2), {name: each for name, each in rounding.scales.items() if each is not None}
        # Kernels may not know how to take a parameter of a layer.
        return with_rounded(made, {name: (quantize(tokens, each.detach()), each) for name, each in scales.items()})

    return make_and_round


def _is_kitchen_fast(operation: str) -> bool:
    return bool(_kitchen().registry.get_capable_backend(operation) != "eager")


def _ours(name: str) -> Function:
    function: Function = getattr(importlib.import_module(".fused", __package__), name)
    return function


def _draw(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def _sample_modulation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
    x, scale, shift = (_draw(device, dtype, 1, 1, tokens, 512) for tokens in (37, 1, 1))  # one group of tokens
    return x, scale, shift + 1, 1e-6


def _sample_rotation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, Rotation]:
    x, weight, positions = (_draw(device, dtype, *shape) for shape in ((1, 37, 512), (512,), (1, 3, 37)))
    return x, weight, 1e-6, Rope(4, 128, (1.0, 1.0, 1.0))(positions.float(), dtype)


def _sample_norm(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float, Rounding]:
    x, scale, shift = (_draw(device, dtype, *shape) for shape in ((2, 2, 3, 512), (2, 2, 1, 512), (1, 2, 1, 512)))
    return x, scale, (shift + 1).expand_as(scale), 1e-6, _both_ways(device)


def _sample_sum(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    x, *modulation, eps, _ = _sample_norm(device, dtype)
    return x, modulation[0] - 1, x.flip(2), *modulation, eps, None


def _sample_gelu(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Rounding]:
    return _draw(device, dtype, 7, 1024), _both_ways(device)


def _sample_gates(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Rounding]:
    heads, gates = (_draw(device, dtype, 1, 7, 4, channels).transpose(1, 2) for channels in (64, 1))
    return heads, gates, _both_ways(device)


def _sample_pixels(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """Of a clip, and the middle of a larger one; both in memory pixel by pixel."""
    x, larger = (_draw(device, dtype, 1, *size, 64).movedim(-1, 1) for size in ((3, 5, 7), (5, 7, 9)))
    return x, larger[:, :, 1:-1, 1:-1, 1:-1], 1e-8


def _both_ways(device: torch.device) -> Rounding:
    return Rounding({"fp8": None, "fp8 by 0.05": torch.tensor(0.05, device=device)})


# Of a token that is rounded to float8: 2.65 % of Gaussian numbers.
_OF_FLOAT8 = 0.04


def _rounding(
    name: str, plain: Function, kernel: str, sample: Sample, norm_modulate: Callable[[], Function] | None = None
) -> Operation:
    kernels = [
        Kernel(TRITON, partial(_ours, kernel)),
        Kernel(
            KITCHEN,
            partial(_kitchen_round, plain, norm_modulate),
            is_fast=lambda: _is_kitchen_fast("quantize_per_tensor_fp8"),
        ),
    ]
    return Operation(name, plain, kernels, sample, _OF_FLOAT8, expand_rounded)


NORM_MODULATE = Operation(
    "Norm and modulation",
    norm_modulate,
    [
        Kernel(KITCHEN, _kitchen_norm_modulate, is_fast=lambda: _is_kitchen_fast("rms_adaln")),
        Kernel(TRITON, partial(_ours, "norm_modulate")),
    ],
    _sample_modulation,
    form=compiled.norm_modulate,
)
NORM_ROTATE = Operation(
    "Norm and rotation",
    norm_rotate,
    [
        Kernel(TRITON, partial(_ours, "norm_rotate")),
        Kernel(KITCHEN, _kitchen_norm_rotate, is_fast=lambda: _is_kitchen_fast("apply_rope_split_half1_")),
    ],
    _sample_rotation,
    form=compiled.norm_rotate,
)
SUM_NORM = Operation("Sum and norm", sum_norm, [Kernel(TRITON, partial(_ours, "sum_norm"))], _sample_sum)
NORM_SILU = Operation("Norm and SiLU", norm_silu, [Kernel(TRITON, partial(_ours, "norm_silu"))], _sample_pixels)
NORM_ROUND = _rounding("Norm and rounding", norm_round, "norm_round", _sample_norm, _kitchen_norm_modulate)
GELU_ROUND = _rounding("GELU and rounding", gelu_round, "gelu_round", _sample_gelu)
GATE_ROUND = _rounding("Gates and rounding", gate_round, "gate_round", _sample_gates)
