"""Root-mean-square normalisation."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autograd import needs_grad

AT_ONCE = 2**17  # numbers for each thread of a CPU, whose copy in float32 stays in the caches near a core


def rms_norm(x: Tensor, eps: float = 1e-6, weight: Tensor | None = None) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) over the last axis, times ``weight`` for each channel if there is one."""
    if not x.is_cpu:  # on a CPU torch needs several steps, with a copy of x for each
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    if needs_grad(x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        normal = (x * (norm.square() / x.shape[-1] + eps).rsqrt()).to(x.dtype)
    elif x.numel() <= AT_ONCE:
        normal = _normalize(x, eps).to(x.dtype)
    else:
        normal = torch.empty(x.shape, dtype=x.dtype)
        rows = max(1, AT_ONCE * torch.get_num_threads() // x.shape[-1])
        for piece, out in zip(*(each.flatten(0, -2).split(rows) for each in (x, normal))):
            _normalize(piece, eps, out)
    return normal if weight is None else normal.mul_(weight)


def _normalize(x: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """Return ``rms_norm`` of x (..., D) in float32, or write it into ``out``; small clips are busy making tensors."""
    exact = x.float()
    square = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(_number(x.shape[-1]))
    return torch.mul(exact, square.add_(_number(eps)).rsqrt_(), out=out)


@lru_cache(maxsize=64)
def _number(value: float) -> Tensor:
    """``value`` in float32 on the CPU, where torch makes a tensor of a plain number, and casts it, at every call."""
    with torch.inference_mode(False):  # since it outlives a run
        return torch.tensor(value, dtype=torch.float32, device="cpu")


class RMSNorm(nn.Module):
    """``rms_norm`` with a weight for each channel."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D) over its last axis and scale each channel."""
        return rms_norm(x, self.eps, self.weight)
