"""Multi-head attention as LTX-2 has it everywhere (spec: transformer.md, section 7)."""

from dataclasses import dataclass

import torch.nn as nn
from einops import rearrange
from torch import Tensor

from ..kernels.attention import attend
from .rope import Rotation


@dataclass(frozen=True)
class Seen:
    """Keys and values of a context, (B, H, M, d) each."""

    keys: Tensor
    values: Tensor


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
    ) -> Tensor:
        """(B, N, D) attends to ``context`` (B, M, C), by default to itself; returns (B, N, D)."""
        seen = self.see(x if context is None else context, context_rotation or rotation)
        return self.finish(x, self.look(x, seen, rotation, bias))

    def see(self, context: Tensor, rotation: Rotation | None = None) -> Seen:
        """Keys and values of ``context`` (B, M, C), which several queries may share."""
        k = self._split(self.k_norm(self.k(context)))
        return Seen(k if rotation is None else rotation(k), self._split(self.v(context)))

    def look(self, x: Tensor, seen: Seen, rotation: Rotation | None = None, bias: Tensor | None = None) -> Tensor:
        """What ``x`` (B, N, D) finds in ``seen``, head by head: (B, H, N, d)."""
        q = self._split(self.q_norm(self.q(x)))
        return attend(q if rotation is None else rotation(q), seen.keys, seen.values, bias)

    def pass_values(self, x: Tensor) -> Tensor:
        """The perturbation of STG: every token finds its own value; gates and output projection still apply."""
        return self.finish(x, self._split(self.v(x)))

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        """Gate what ``x`` found (B, H, N, d), and project it to (B, N, D)."""
        if self.gate is not None:
            found = found * (2 * self.gate(x).sigmoid()).mT.unsqueeze(-1)
        return self.out(rearrange(found, "b h n d -> b n (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)
