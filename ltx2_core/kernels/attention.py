"""Scaled dot-product attention over heads."""

import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for q, k, v of shape (B, H, N, d); bias broadcasts to (B, H, Nq, Nk)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
