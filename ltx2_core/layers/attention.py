"""Multi-head attention as LTX-2 has it everywhere (spec: transformer.md, section 7)."""

import torch.nn as nn
from einops import rearrange
from torch import Tensor

from ..kernels.attention import attend
from .rope import Rotation


class Attention(nn.Module):
    """Queries from ``x``, keys and values from ``context``; q and k are normalised over all heads together.

    With ``gated`` every head's result is multiplied by 2 sigmoid(gate(x)) before the output projection.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        context_width: int | None = None,
        gated: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        inner, context_width = heads * head_dim, context_width or width
        self.heads = heads
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(context_width, inner)
        self.v = nn.Linear(context_width, inner)
        self.q_norm = nn.RMSNorm(inner, eps=eps)
        self.k_norm = nn.RMSNorm(inner, eps=eps)
        self.gate = nn.Linear(width, heads) if gated else None
        self.out = nn.Linear(inner, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
        bias: Tensor | None = None,
        pass_values: bool = False,
    ) -> Tensor:
        """(B, N, D) attends to ``context`` (B, M, C), by default to itself; returns (B, N, D).

        ``pass_values`` replaces the attention by its own value projection (the STG perturbation); gates and output
        projection still apply.
        """
        context = x if context is None else context
        values = self._split(self.v(context))
        if pass_values:
            result = values
        else:
            q, k = self._split(self.q_norm(self.q(x))), self._split(self.k_norm(self.k(context)))
            if rotation is not None:
                q, k = rotation(q), (context_rotation or rotation)(k)
            result = attend(q, k, values, bias)
        if self.gate is not None:
            result = result * (2 * self.gate(x).sigmoid()).mT.unsqueeze(-1)
        return self.out(rearrange(result, "b h n d -> b n (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)
