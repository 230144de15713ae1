"""Kernels of our own in Triton, for what no library has. Importing this file needs Triton."""

from typing import Any

import torch
from torch import Tensor

from ..rope import Rotation

try:  # it comes with torch on Linux
    import triton
    import triton.language as tl
except ImportError as missing:
    raise ImportError("There is no Triton.") from missing


@triton.jit
def _norm_rotate_token(
    x: Any,
    weight: Any,
    cos: Any,
    sin: Any,
    eps: float,
    half: tl.constexpr,
    pairs: tl.constexpr,
    block: tl.constexpr,
):
    """All heads of one token are normalised together, in float32, and rounded once at the end.

    ``half`` of a head's channels are first ones of its ``pairs``, of which a token has so many in all; ``block`` is the
    next power of two.
    """
    token, pair = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    here = pair < pairs
    first = token * (2 * pairs) + (pair // half) * (2 * half) + pair % half
    weight_first = (pair // half) * (2 * half) + pair % half
    a = tl.load(x + first, mask=here, other=0.0).to(tl.float32)
    b = tl.load(x + first + half, mask=here, other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / (2 * pairs) + eps)
    a = a * factor * tl.load(weight + weight_first, mask=here, other=0.0).to(tl.float32)
    b = b * factor * tl.load(weight + weight_first + half, mask=here, other=0.0).to(tl.float32)
    c = tl.load(cos + token * pairs + pair, mask=here, other=0.0).to(tl.float32)
    s = tl.load(sin + token * pairs + pair, mask=here, other=0.0).to(tl.float32)
    tl.store(x + first, (a * c - b * s).to(x.dtype.element_ty), mask=here)
    tl.store(x + first + half, (b * c + a * s).to(x.dtype.element_ty), mask=here)


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
    """Do what ``light.norm_rotate`` does, for pairs (i, i + d/2), reading and writing ``x`` once and in place.

    Args:
        x: (B, N, H d), contiguous; overwritten.
        weight: (H d).
        eps: added to the mean square.
        rotation: of N tokens, not interleaved.

    Raises:
        ValueError: for another layout of tokens or angles in memory.
    """
    cos, sin, heads = rotation.cos, rotation.sin, rotation.heads
    if x.is_meta:
        return _count(x, cos, sin)
    rows = [each.transpose(1, 2) for each in (cos, sin)]  # (B or 1, N, H, d/2)
    if not all(each.is_contiguous() for each in (x, *rows)):
        raise ValueError("Tokens, cosines and sines must lie in memory token by token.")
    pairs = x.shape[-1] // 2
    for clip, c, s in zip(x, *(each.expand(len(x), -1, -1, -1) for each in rows)):
        _norm_rotate_token[(x.shape[1],)](
            clip, weight, c, s, eps, half=pairs // heads, pairs=pairs, block=triton.next_power_of_2(pairs)
        )
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _count(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Stand in for the kernel on the meta device: tokens, cosines and sines are read once, tokens written once."""
    heads = x.unflatten(2, (cos.shape[1], -1)).transpose(1, 2)
    pairs = heads.unflatten(-1, (2, -1))
    torch.addcmul(pairs, cos[:, :, :, None], sin[:, :, :, None], out=pairs)
    return heads
