"""Normalisation without weights."""

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis (spec: transformer.md, section 1)."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)
