"""Tokens of a stream that several processes share, and how attention finds all of them (see README.md).

Heads are exchanged for tokens and back (DeepSpeed-Ulysses, arXiv 2309.14509).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import KeyValue, Query, Visibility

Attend = Callable[..., Tensor]  # Attention.attend, for all heads or for some of them


class Peers(Protocol):
    """The processes that compute one pass together; all of them call the same in the same order."""

    rank: int  # the number of this one
    size: int  # how many there are: P

    def exchange(self, x: Tensor) -> Tensor:
        """Send ``x[i]`` of (P, ...) to process i, and return what each sent to this one, (P, ...)."""

    def gather(self, x: Tensor) -> Tensor:
        """Return the ``x`` of every process, (P, ...)."""


@dataclass
class ImaginedPeers:
    """Peers of a plan, where tensors are shapes: nothing is sent, and what would be is counted.

    Attributes:
        size: how many there are.
        sent: bytes that this one would have sent to others.
    """

    size: int
    rank: int = 0
    sent: int = 0

    def exchange(self, x: Tensor) -> Tensor:
        """Return what would come back for ``x``."""
        self.sent += x.nbytes // self.size * (self.size - 1)
        return torch.empty_like(x)

    def gather(self, x: Tensor) -> Tensor:
        """Return what would come together of ``x``."""
        self.sent += x.nbytes * (self.size - 1)
        return x.new_empty(self.size, *x.shape)


class Whole:
    """A stream of which this process has all tokens."""

    def attend_within(self, attend: Attend, query: Query, key_value: KeyValue, visibility: Visibility | None) -> Tensor:
        """Return what its tokens find in each other, (B, H, N, d); ``attend`` is ``Attention.attend``."""
        return attend(query, key_value, visibility)

    def attend_to(self, attend: Attend, query: Query, key_value: KeyValue) -> Tensor:
        """Return what M tokens of the other stream find in its tokens, (B, H, M, d)."""
        return attend(query, key_value)


WHOLE = Whole()


@dataclass(frozen=True, eq=False)
class Shard(Whole):
    """A stream of ``tokens`` tokens, of which each process has an equal share, padded at the end of the last ones.

    Padding never is a key, so nothing has to be masked.
    """

    peers: Peers
    tokens: int

    @property
    def length(self) -> int:
        """Tokens of a share, padding included."""
        return -(-self.tokens // self.peers.size)

    def own(self, device: torch.device) -> Tensor:
        """Return the numbers of the tokens of this process; padding repeats the last one."""
        first = self.peers.rank * self.length
        return torch.arange(first, first + self.length, device=device).clamp_(max=self.tokens - 1)

    def attend_within(self, attend: Attend, query: Query, key_value: KeyValue, visibility: Visibility | None) -> Tensor:
        """Return what the tokens of this share find in those of all shares, (B, H, n, d)."""
        q, k, v = map(self._to_heads, (query.q, key_value.k, key_value.v))
        return self._to_tokens(attend(Query(q, None), KeyValue(k, v), visibility))

    def attend_to(self, attend: Attend, query: Query, key_value: KeyValue) -> Tensor:
        """Return what M tokens, which every process has, find in those of all shares, (B, H, M, d)."""
        k, v = map(self._to_heads, (key_value.k, key_value.v))
        q = query.q.chunk(self.peers.size, dim=1)[self.peers.rank]
        return self.peers.gather(attend(Query(q, None), KeyValue(k, v))).transpose(0, 1).flatten(1, 2)

    def joined(self, x: Tensor) -> Tensor:
        """Return all tokens (B, N, C) of shares x (B, n, C)."""
        return self.peers.gather(x).transpose(0, 1).flatten(1, 2)[:, : self.tokens]

    def _to_heads(self, x: Tensor) -> Tensor:
        """All heads of this share (B, H, n, d) to all tokens of some heads (B, H / P, N, d)."""
        groups = x.unflatten(1, (self.peers.size, -1)).transpose(0, 1)
        return self.peers.exchange(groups.contiguous()).movedim(0, 2).flatten(2, 3)[:, :, : self.tokens]

    def _to_tokens(self, x: Tensor) -> Tensor:
        """All tokens of some heads (B, H / P, N, d) to all heads of this share (B, H, n, d)."""
        padding = self.length * self.peers.size - self.tokens
        shares = F.pad(x, (0, 0, 0, padding)).unflatten(2, (self.peers.size, -1)).movedim(2, 0)
        return self.peers.exchange(shares.contiguous()).transpose(0, 1).flatten(1, 2)
