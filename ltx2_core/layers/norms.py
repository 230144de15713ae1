"""Root-mean-square normalisation."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autograd import needs_grad


def rms_norm(x: Tensor, eps: float = 1e-6, weight: Tensor | None = None) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) over the last axis, times ``weight`` for each channel if there is one."""
    if not x.is_cpu:  # on a CPU torch needs several steps, with a copy of x for each
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    if needs_grad(x):
        normal = (x * (norm.square() / x.shape[-1] + eps).rsqrt()).to(x.dtype)
    else:  # the same in place: small clips are busy making tensors
        square = norm.square_().div_(_number(x.shape[-1]))
        normal = x * square.add_(_number(eps)).rsqrt_() if x.dtype == square.dtype else _divide(x, square, eps)
    return normal if weight is None else normal.mul_(weight)


@lru_cache(maxsize=64)
def _number(value: float) -> Tensor:
    """``value`` in float32 on the CPU, where torch makes a tensor of a plain number, and casts it, at every call."""
    with torch.inference_mode(False):  # since it outlives a run
        return torch.tensor(value, dtype=torch.float32, device="cpu")


def _divide(x: Tensor, square: Tensor, eps: float) -> Tensor:
    """Return x (..., D) in fewer bits / sqrt(square + eps), ``square`` (..., 1) in float32.

    A batch norm whose channels are the tokens does that in one go, without a copy of x in float32.
    """
    variance = square.flatten()
    return F.batch_norm(x.flatten(0, -2)[None], torch.zeros_like(variance), variance, eps=eps).view_as(x)


class RMSNorm(nn.Module):
    """``rms_norm`` with a weight for each channel."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D) over its last axis and scale each channel."""
        return rms_norm(x, self.eps, self.weight)
