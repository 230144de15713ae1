"""Multi-head attention as LTX-2 has it everywhere (see ltx2_core/transformer/README.md, "Attention")."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .autograd import needs_grad
from .kernels import GATE_ROUND, NORM_ROTATE, attend
from .kernels.light import split_heads
from .linear import Linear
from .norms import RMSNorm
from .rope import Rotation
from .schedule import TextSchedule
from .sharing import find_rounding, shared_input
from .visibility import Visibility

HEADS_AT_ONCE = 4  # of attention between groups


@dataclass(frozen=True, eq=False)
class Query:
    """Normalised and rotated queries of N tokens, with the gates that scale what each head returns for them."""

    q: Tensor  # (B, H, N, d)
    gates: Tensor | None  # (B, H, N, 1), 0..2; None without gated attention


@dataclass(frozen=True, eq=False)
class KeyValue:
    """Keys and values of M context tokens."""

    k: Tensor  # (B, H, M, d), normalised and rotated
    v: Tensor  # (B, H, M, d)

    def by_head(self) -> "KeyValue":
        """Return the same with the tokens of each head behind each other, which pays where many queries read them."""
        return KeyValue(self.k.contiguous(), self.v.contiguous())


class Attention(nn.Module):
    """The projections of multi-head attention, and the steps from a query to an output.

    q and k are normalised over all heads together, before the split into heads. With ``gated`` each head's output is
    multiplied by 2 sigmoid(gate(x)) before the output projection. There is no ``forward``: the modules that own or
    extend this one combine the steps, because queries, keys and values come from different tensors everywhere.

    Args:
        width: Channels of the tokens that query, and of the output.
        heads: Number of heads H.
        head_dim: Channels of each head d.
        context_width: Channels of the context; None for ``width``.
        gated: Whether heads have gates (LTX-2.3).
        eps: Added to the mean square in the norms of q and k.
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
        self.q = Linear(width, inner)
        self.k = Linear(context_width, inner)
        self.v = Linear(context_width, inner)
        self.q_norm = RMSNorm(inner, eps)
        self.k_norm = RMSNorm(inner, eps)
        self.gate = Linear(width, heads) if gated else None
        self.out = Linear(inner, width)

    def project_query(self, x: Tensor, rotation: Rotation | None = None) -> Query:
        """Project tokens ``x`` (B, N, D) to queries and gates; ``x`` is not needed afterwards."""
        with shared_input(x):
            return Query(self._place(self.q(x), self.q_norm, rotation), self._gates(x))

    def project_key_value(self, context: Tensor, rotation: Rotation | None = None) -> KeyValue:
        """Project ``context`` (B, M, C) to keys and values, which several queries may share."""
        context = _round_for((self.k, self.v), context)
        with shared_input(context):
            k = self._place(self.k(context), self.k_norm, rotation)
            return KeyValue(k, split_heads(self.v(context), self.heads))

    def project_self(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Query, KeyValue]:
        """Project ``x`` (B, N, D) to all that attention of tokens to each other needs."""
        with shared_input(x):
            return self.project_query(x, rotation), self.project_key_value(x, rotation)

    def attend(
        self,
        query: Query,
        key_value: KeyValue,
        seen: Visibility | TextSchedule | None = None,
        may_be_sparse: bool = False,
    ) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v for each head, (B, H, N, d).

        Args:
            query: Queries of N tokens.
            key_value: Keys and values of M tokens.
            seen: What tokens see where it is not all: the ``Visibility`` of N = M tokens, or the ``TextSchedule`` of N
                tokens. It is the bias of scores by a matrix that is never made.
            may_be_sparse: whether what matters little may be left out, where that is asked for and all is seen.
        """
        q, k, v = query.q, key_value.k, key_value.v
        if seen is not None:
            return self._attend_by_groups(q, k, v, seen)
        return attend(q, k, v, may_be_sparse=may_be_sparse)

    def _attend_by_groups(self, q: Tensor, k: Tensor, v: Tensor, seen: Visibility | TextSchedule) -> Tensor:
        """Attend without a mask, which the fastest kernels do not know: what tokens see is in channels of q and k."""
        scale = q.shape[-1] ** -0.5
        own, other = seen.query_channels(q.dtype, scale), seen.key_channels(q.dtype, scale)

        def attend_widely(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            wide_v = F.pad(v, (0, own.shape[-1]))  # the fastest kernels want all three of one width
            wide = F.scaled_dot_product_attention(_append(q, own), _append(k, other), wide_v, scale=scale)
            return wide[..., : v.shape[-1]]

        output = torch.empty_like(q)
        for start in range(0, q.shape[1], HEADS_AT_ONCE):  # so that there is no second copy of everything
            heads = slice(start, start + HEADS_AT_ONCE)
            output[:, heads] = attend_widely(q[:, heads], k[:, heads], v[:, heads])
        return output

    def pass_values(self, x: Tensor) -> Tensor:
        """Return what attention gives if every token of ``x`` (B, N, D) attends to itself alone, (B, N, D).

        This is the perturbation of spatio-temporal guidance (STG, arXiv 2411.18664); gates and output projection
        still apply.
        """
        with shared_input(x):
            values, gates = split_heads(self.v(x), self.heads), self._gates(x)
        return self.project_out(values, gates)

    def project_out(self, heads: Tensor, gates: Tensor | None) -> Tensor:
        """Apply the gates and the output projection; (B, H, N, d) to (B, N, D).

        ``heads`` is overwritten unless autograd needs it.
        """
        kernel = None if needs_grad(heads) else find_rounding(GATE_ROUND.find, heads, (self.out,))
        if kernel is not None:
            return self.out(kernel(heads, gates))
        if gates is not None:
            heads = heads * gates if needs_grad(heads, gates) else heads.mul_(gates)
        return self.out(heads.transpose(1, 2).flatten(2))

    def _gates(self, x: Tensor) -> Tensor | None:
        return None if self.gate is None else (2 * self.gate(x).sigmoid()).mT.unsqueeze(-1)

    def _place(self, x: Tensor, norm: RMSNorm, rotation: Rotation | None) -> Tensor:
        """Normalise x (B, N, H d) over all heads, and rotate each head; (B, H, N, d)."""
        if rotation is None:
            return split_heads(norm(x), self.heads)
        kernel = None if rotation.interleaved or needs_grad(x) else NORM_ROTATE.find(x)
        return (kernel or NORM_ROTATE.plain)(x, norm.weight, norm.eps, rotation)


def _round_for(readers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Return x (B, N, D), rounded by a kernel for ``readers`` where there is one, unless it is rounded or shared."""
    kernel = None if "rounded" in vars(x) or needs_grad(x) else find_rounding(GATE_ROUND.find, x, readers)
    return x if kernel is None else kernel(split_heads(x.contiguous(), 1), None)


def _append(x: Tensor, channels: Tensor) -> Tensor:
    """Append ``channels`` (N, C) to those of every head of ``x`` (B, H, N, d)."""
    return torch.cat((x, channels.expand(*x.shape[:2], -1, -1)), dim=-1)
