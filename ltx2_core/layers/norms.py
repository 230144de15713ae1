"""Root-mean-square normalisation."""

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
        factor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = x * factor if x.dtype == factor.dtype else torch.mul(x, factor, out=torch.empty_like(x))
    return normal if weight is None else normal.mul_(weight)


class RMSNorm(nn.Module):
    """``rms_norm`` with a weight for each channel."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D) over its last axis and scale each channel."""
        return rms_norm(x, self.eps, self.weight)
