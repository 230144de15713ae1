"""Attention on a CPU: for each block of queries two bfloat16 products of oneDNN, the first of which ends with the exp.

oneDNN sums a product in float32, applies a function to it, and only then rounds. It has no exp, but a sigmoid, which
below -MARGIN is one: so weights come out of the product of queries and keys if a centre that no score exceeds is taken
from every row, which two more channels do. With the mean key c, by Cauchy and Schwarz,

    q k = q c + q (k - c) <= q c + |q| max |k - c|.

The largest score of a row is at least q c, so no row vanishes if |q| max |k - c| is at most REACH.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operation import Function

LEAST_TOKENS = 512  # with fewer queries or keys, what is done for each head takes longer than is saved
PAIRS = LEAST_TOKENS**2  # so many of queries and keys for each thread: some of that work no other thread takes over
WEIGHTS = 2**20  # of a block of queries for each thread: more do not stay in the caches near a core
MARGIN = 8.0  # sigmoid(-8) is exp(-8) to 3e-4, a tenth of what bfloat16 rounds
REACH = 50.0  # weights down to exp(-MARGIN - 50), times values of 1e-6, are far from what float32 takes for zero


def is_fast() -> bool:
    """Return whether oneDNN multiplies in bfloat16 here, and PyTorch's attention does not: on AMD from Zen 4 on.

    That asks MKL, which has such products for Intel's processors alone; where there is AMX, it takes that itself.
    """
    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and not torch.cpu._is_amx_tile_supported()


def load(other: Function) -> Function:
    """Return attention in blocks, which asks ``other`` for few tokens, and for heads whose scores are out of reach."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if q.dtype is not torch.bfloat16 or not _pays(q.shape[-2], k.shape[-2]):
            return other(q, k, v, scale)
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        output = torch.empty_like(q)
        for clip in range(q.shape[0]):  # each by itself, so that those alone and in a batch are computed alike
            for head in range(q.shape[1]):
                if not _attend_head(q[clip, head], k[clip, head], v[clip, head], factor, output[clip, head]):
                    own = slice(clip, clip + 1), slice(head, head + 1)
                    output[own] = other(q[own], k[own], v[own], scale)
        return output

    return attend


def _pays(queries: int, keys: int) -> bool:
    return min(queries, keys) >= LEAST_TOKENS and queries * keys >= PAIRS * torch.get_num_threads()


def _attend_head(q: Tensor, k: Tensor, v: Tensor, scale: float, output: Tensor) -> bool:
    """Write attention of q (N, d) to k and v (M, d) into ``output``; False if scores are out of reach."""
    q, keys = q * scale, k.float()
    mean = keys.mean(0)
    radius = torch.linalg.vector_norm(q, dim=-1, dtype=torch.float32) * (keys - mean).norm(dim=-1).max()
    if not radius.max() <= REACH:  # nor is what is no number
        return False
    q, k, v = _with_centre(q, q.float() @ mean + radius + MARGIN), F.pad(k, (0, 2), value=-1), v.contiguous()
    product: Any = torch.ops.mkldnn._linear_pointwise
    queries = max(WEIGHTS * torch.get_num_threads() // len(k), 64)
    for block, result in zip(q.split(queries), output.split(queries), strict=True):
        weights = product(block, k, None, "sigmoid", [], "")
        torch.div(weights @ v, weights.sum(-1, keepdim=True, dtype=torch.float32), out=result)
    return True


def _with_centre(q: Tensor, centre: Tensor) -> Tensor:
    """Append ``centre`` (N) to q (N, d) as two channels, which together are about as good as float32."""
    high = centre.to(q.dtype)
    return torch.cat((q, torch.stack((high, (centre - high).to(q.dtype)), dim=-1)), dim=-1)
