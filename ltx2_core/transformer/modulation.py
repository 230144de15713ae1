"""Shift, scale and gate from the noise level (see README.md, "Modulation")."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import needs_grad

_FREQUENCIES = 128

# Above this many, runs of equal noise level cost more than looking up the rows of every token.
_MOST_RUNS = 16

Runs = list[tuple[slice, Tensor]]  # tokens, and the index of their noise level, (B, 1 or n)


@dataclass(frozen=True, eq=False)
class TokenModulation:
    """One shift, scale or gate for every token, stored once per distinct noise level."""

    of_level: Tensor  # (levels, D)
    runs: Runs

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield runs of tokens with their values, (B, 1 or n, D)."""
        return ((tokens, self.of_level[level]) for tokens, level in self.runs)


@dataclass(frozen=True, eq=False)
class Modulation:
    """Modulation rows for every token, stored once per distinct noise level.

    An image as first frame means two noise levels, not thousands; the rows of a token are looked up on use.
    """

    rows: Tensor  # (levels, R, D)
    level: Tensor  # (B, N), or (B, 1) where all tokens of a clip share one level: indices into rows

    def __call__(self, table: Tensor, *which: int) -> tuple[TokenModulation, ...]:
        """Add rows ``which`` of ``table`` (R, D) to those of the noise level."""
        table, rows = table.to(self.rows.dtype), self.rows.expand(-1, len(table), -1)
        return tuple(TokenModulation(table[i] + rows[:, i], self._runs) for i in which)

    @cached_property
    def _runs(self) -> Runs:
        """Runs of tokens that share one noise level in every clip; if there are too many, one run of all tokens."""
        if self.level.shape[1] == 1:
            return [(slice(None), self.level)]
        changes = (self.level.diff(dim=1) != 0).any(dim=0).nonzero()[:, 0]
        bounds = [0, *(changes + 1).tolist(), self.level.shape[1]]
        if len(bounds) > _MOST_RUNS:
            return [(slice(None), self.level)]
        return [(slice(start, end), self.level[:, start : start + 1]) for start, end in zip(bounds, bounds[1:])]


def modulate(x: Tensor, shift: TokenModulation, scale: TokenModulation) -> Tensor:
    """Return x * (1 + scale) + shift, written into ``x`` (B, N, D) unless autograd needs it."""
    if needs_grad(x, shift.of_level):
        runs = [torch.addcmul(a, x[:, tokens], 1 + b) for (tokens, a), (_, b) in zip(shift, scale)]
        return torch.cat(runs, dim=1)
    for (tokens, summand), (_, factor) in zip(shift, scale):
        run = x[:, tokens]
        torch.addcmul(summand, run, 1 + factor, out=run)
    return x


def gated_sum(x: Tensor, gate: TokenModulation, change: Tensor) -> Tensor:
    """Return x + gate * change, written into ``change`` (B, N, D) unless autograd needs it."""
    if needs_grad(x, gate.of_level, change):
        return torch.cat([torch.addcmul(x[:, tokens], factor, change[:, tokens]) for tokens, factor in gate], dim=1)
    for tokens, factor in gate:
        run = change[:, tokens]
        torch.addcmul(x[:, tokens], factor, run, out=run)
    return change


class AdaLN(nn.Module):
    """Maps noise levels to ``rows`` modulation rows of ``width`` channels (adaptive layer norm, PixArt-alpha)."""

    def __init__(self, width: int, rows: int):
        super().__init__()
        self.rows = rows
        self.embed_in = nn.Linear(2 * _FREQUENCIES, width)
        self.embed_out = nn.Linear(width, width)
        self.project = nn.Linear(width, rows * width)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Map noise levels (M,), scaled to 0..1000, to embeddings (M, D) and rows (M, rows, D)."""
        embedded = self.embed_out(F.silu(self.embed_in(sinusoid(timesteps).to(dtype))))
        return embedded, self.project(F.silu(embedded)).unflatten(-1, (self.rows, -1))


def sinusoid(timesteps: Tensor) -> Tensor:
    """Map (M,) to (M, 256) float32: cosines, then sines, of the argument at 128 frequencies from 1 to 1/10000."""
    exponents = torch.arange(_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) * exponents / _FREQUENCIES)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
