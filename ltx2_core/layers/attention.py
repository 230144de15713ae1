"""Multi-head attention as LTX-2 has it everywhere (spec: transformer.md, section 7)."""

from dataclasses import dataclass

import torch
import torch.nn as nn
from einops import rearrange
from torch import Tensor

from ..kernels.attention import attend
from .norms import RMSNorm
from .recorded import recorded
from .rope import Rotation
from .visibility import Visibility


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries (B, H, N, d), and how much of what they find passes the gates, (B, H, N, 1)."""

    queries: Tensor
    gates: Tensor | None


@dataclass(frozen=True, eq=False)
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
        self.q_norm = RMSNorm(inner, eps)
        self.k_norm = RMSNorm(inner, eps)
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
        asked = self.ask(x, rotation)
        seen = self.see(x if context is None else context, context_rotation or rotation)
        return self.finish(self.look(asked, seen, bias), asked.gates)

    def ask(self, x: Tensor, rotation: Rotation | None = None) -> Asked:
        """All that attention needs of ``x`` (B, N, D), which may be dropped then."""
        q = self._split(self.q_norm(self.q(x)))
        return Asked(q if rotation is None else rotation(q), self._gates(x))

    def see(self, context: Tensor, rotation: Rotation | None = None) -> Seen:
        """Keys and values of ``context`` (B, M, C), which several queries may share."""
        k = self._split(self.k_norm(self.k(context)))
        return Seen(k if rotation is None else rotation(k), self._split(self.v(context)))

    def look(self, asked: Asked, seen: Seen, bias: Tensor | Visibility | None = None) -> Tensor:
        """What the queries find in ``seen``, head by head: (B, H, N, d)."""
        q, k, v = asked.queries, seen.keys, seen.values
        if not isinstance(bias, Visibility):
            return attend(q, k, v, bias)
        found = torch.empty_like(q)
        for rows, some in bias.biases(q.dtype):
            found[:, :, rows] = attend(q[:, :, rows], k, v, some)
        return found

    def pass_values(self, x: Tensor) -> Tensor:
        """The perturbation of STG: every token finds its own value; gates and output projection still apply."""
        return self.finish(self._split(self.v(x)), self._gates(x))

    def finish(self, found: Tensor, gates: Tensor | None) -> Tensor:
        """Gate what was found (B, H, N, d), in place unless autograd needs it, and project it to (B, N, D)."""
        if gates is not None:
            found = found * gates if recorded(found, gates) else found.mul_(gates)
        return self.out(rearrange(found, "b h n d -> b n (h d)"))

    def _gates(self, x: Tensor) -> Tensor | None:
        return None if self.gate is None else (2 * self.gate(x).sigmoid()).mT.unsqueeze(-1)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)
