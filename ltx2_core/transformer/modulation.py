"""Shift, scale and gate from the noise level (see README.md, "Modulation")."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import find_rounding, merge_axes, needs_grad, rms_norm
from ..layers.kernels import NORM_MODULATE, NORM_ROUND, SUM_NORM

_FREQUENCIES = 128

# Above this many, runs of equal noise level cost more than looking up the rows of every token.
_MOST_RUNS = 16
_LEAST_GROUP = 32  # tokens that share a row, so that the rows are few beside them

_ALL = slice(None)  # tokens: a view of all of them would only take its time

Runs = list[tuple[slice, Tensor | int]]  # tokens, and the index of their noise level: one, or (B, 1 or n)


@dataclass(frozen=True, eq=False)
class LevelRows:
    """The modulation rows of one block for each noise level, and one plus them, each computed once."""

    values: Tensor  # (levels, R, D)

    @cached_property
    def factors(self) -> "LevelRows":
        """One plus the rows: what a scale multiplies by."""
        return LevelRows(1 + self.values)

    @cached_property
    def first(self) -> tuple[Tensor, ...]:
        """Each row (D) of the first noise level, as views that are made once."""
        return self.values[0].unbind()

    def at(self, level: Tensor | int, row: int) -> Tensor:
        """Return a row of a noise level, (D), or of several."""
        return self.values[level, row] if isinstance(level, Tensor) else self.first[row]


@dataclass(frozen=True, eq=False)
class TokenModulation:
    """One shift, scale or gate for every token, stored once per distinct noise level.

    Attributes:
        rows: of a modulation, for each level.
        row: which of them it is.
        runs: tokens that follow each other at one level.
    """

    rows: LevelRows
    row: int
    runs: Runs

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield runs of tokens with their values, (D) or (B, 1 or n, D)."""
        return ((tokens, self.rows.at(level, self.row)) for tokens, level in self.runs)

    @property
    def factors(self) -> Iterator[tuple[slice, Tensor]]:
        """Runs of tokens with one plus their values."""
        return ((tokens, self.rows.factors.at(level, self.row)) for tokens, level in self.runs)

    @property
    def needs_grad(self) -> bool:
        """Whether autograd records what is done with it."""
        return needs_grad(self.rows.values)

    def count_groups(self, tokens: int) -> int:
        """Return into how many groups of equal length ``tokens`` can be divided, each of one run; 0 if too many."""
        if len(self.runs) == 1:
            ((_, level),) = self.runs
            return 1 if isinstance(level, int) or level.shape[1] == 1 else 0
        length = math.gcd(*(bound for run, _ in self.runs for bound in (run.start, run.stop)))
        return tokens // length if length >= _LEAST_GROUP else 0

    def of_groups(self, groups: int, x: Tensor) -> Tensor:
        """Return the values of every group of the tokens of x (B, N, D), (B or 1, groups or 1, 1, D)."""
        if len(self.runs) == 1:
            ((_, value),) = self
            return value.view(-1, 1, 1, value.shape[-1])
        length = x.shape[1] // groups
        each = [value.expand(len(x), (run.stop - run.start) // length, -1) for run, value in self]
        return torch.cat(each, dim=1)[:, :, None]

    def within(self, start: int, stop: int) -> "TokenModulation":
        """Return the modulation of the tokens from ``start`` to ``stop`` alone."""
        runs: Runs = []
        for tokens, level in self.runs:
            if tokens == _ALL:
                runs.append((tokens, level if isinstance(level, int) or level.shape[1] == 1 else level[:, start:stop]))
            elif max(tokens.start, start) < min(tokens.stop, stop):
                runs.append((slice(max(tokens.start - start, 0), min(tokens.stop, stop) - start), level))
        return TokenModulation(self.rows, self.row, runs)


@dataclass(frozen=True, eq=False)
class Modulation:
    """Modulation rows for every token, stored once per distinct noise level.

    An image as first frame means two noise levels, not thousands; the rows of a token are looked up on use.
    """

    rows: Tensor  # (levels, R, D)
    level: Tensor  # (B, N), or (B, 1) where all tokens of a clip share one level: indices into rows

    def __call__(self, table: Tensor, *which: int) -> tuple[TokenModulation, ...]:
        """Add rows ``which`` of ``table`` (R, D) to those of the noise level."""
        rows = self._rows_of(table)
        return tuple(TokenModulation(rows, each, self._runs) for each in which)

    @cached_property
    def _rows_of(self) -> Callable[[Tensor], LevelRows]:
        """The sums with a table, which several layers of a block ask for one after the other."""
        rows = self.rows

        @lru_cache(maxsize=1)
        def add(table: Tensor) -> LevelRows:
            own = table if rows.shape[1] == 1 else table[: rows.shape[1]]
            return LevelRows(own.to(rows.dtype) + rows)

        return add

    @property
    def bounds(self) -> tuple[tuple[int | None, int | None], ...]:
        """Where the runs of tokens with one noise level begin and end; None stands for all tokens."""
        return tuple((tokens.start, tokens.stop) for tokens, _ in self._runs)

    @cached_property
    def _runs(self) -> Runs:
        """Runs of tokens that share one noise level in every clip; if there are too many, one run of all tokens."""
        if len(self.rows) == 1:
            return [(_ALL, 0)]
        if self.level.shape[1] == 1:
            return [(_ALL, self.level)]
        if (runs := _RUNS.get(self.level)) is None:
            _RUNS[self.level] = runs = _runs_of(self.level)
        if runs == [_ALL]:
            return [(_ALL, self.level)]
        return [(tokens, self.level[:, tokens.start : tokens.start + 1]) for tokens in runs]


# By the tensor of levels, as long as it lives: to find runs the host waits for the device, so steps share them.
_RUNS = WeakTensorKeyDictionary()


def _runs_of(level: Tensor) -> list[slice]:
    """Runs of tokens with one ``level`` (B, N) each; if they are too many, one of all tokens, without an end."""
    changes = (level.diff(dim=1) != 0).any(dim=0).nonzero()[:, 0]
    bounds = [0, *(changes + 1).tolist(), level.shape[1]]
    if len(bounds) > _MOST_RUNS:
        return [_ALL]
    return [slice(start, end) for start, end in zip(bounds, bounds[1:])]


Readers = Sequence[nn.Module | None]  # layers that read what is made; None stands for no layer


def norm(x: Tensor, eps: float, readers: Readers) -> Tensor:
    """Return rms_norm(x) of x (B, N, D) for ``readers``, rounded as well if a kernel can do that for them."""
    kernel = None if needs_grad(x) else find_rounding(NORM_ROUND.find, x, readers)
    return rms_norm(x, eps) if kernel is None else kernel(x, None, None, eps)


def norm_modulate(
    x: Tensor, eps: float, readers: Readers, shift: TokenModulation | None, scale: TokenModulation | None
) -> Tensor:
    """Return rms_norm(x) * (1 + scale) + shift of x (B, N, D), or rms_norm(x), for ``readers`` as ``norm`` does."""
    if shift is None or scale is None:
        return norm(x, eps, readers)
    plain = needs_grad(x) or shift.needs_grad
    kernel = None if plain else find_rounding(NORM_ROUND.find, x, readers) or NORM_MODULATE.find(x)
    groups = 0 if kernel is None else shift.count_groups(x.shape[1])
    if kernel is None or not groups:
        return modulate(rms_norm(x, eps), shift, scale)
    grouped = x.unflatten(1, (groups, -1))  # (B, groups, n, D): kernels know one row for each group of equal length
    return merge_axes(kernel(grouped, scale.of_groups(groups, x), shift.of_groups(groups, x), eps))


def modulate(x: Tensor, shift: TokenModulation, scale: TokenModulation) -> Tensor:
    """Return x * (1 + scale) + shift, written into ``x`` (B, N, D) unless autograd needs it."""
    runs = zip(shift, scale.factors)
    if needs_grad(x) or shift.needs_grad:
        return torch.cat([torch.addcmul(a, x[:, tokens], b) for (tokens, a), (_, b) in runs], dim=1)
    for (tokens, summand), (_, factor) in runs:
        run = x if tokens == _ALL else x[:, tokens]
        torch.addcmul(summand, run, factor, out=run)
    return x


def gated_sum(x: Tensor, gate: TokenModulation, change: Tensor, out: Tensor | None = None) -> Tensor:
    """Return x + gate * change, written into ``out``, or else into ``change`` (B, N, D) unless autograd needs it."""
    if needs_grad(x, change) or gate.needs_grad:
        return torch.cat([torch.addcmul(x[:, tokens], factor, change[:, tokens]) for tokens, factor in gate], dim=1)
    out = change if out is None else out
    for tokens, factor in gate:
        here = (x, change, out) if tokens == _ALL else (x[:, tokens], change[:, tokens], out[:, tokens])
        torch.addcmul(here[0], factor, here[1], out=here[2])
    return out


@dataclass(frozen=True, eq=False)
class Residual:
    """What a layer adds to tokens, gate * change, as long as nobody has read their sum."""

    change: Tensor  # (B, N, D), which becomes the sum
    gate: TokenModulation | None

    def add_to(self, x: Tensor) -> Tensor:
        """Return x + gate * change, written into ``change`` unless autograd needs it."""
        return self.change.add_(x) if self.gate is None else gated_sum(x, self.gate, self.change)

    def can_wait(self, x: Tensor) -> bool:
        """Return whether a kernel adds and normalises in one go, so that the sum is better left to it."""
        grad = needs_grad(x, self.change) or (self.gate is not None and self.gate.needs_grad)
        return not grad and SUM_NORM.find(x) is not None

    def norm_modulate(
        self, x: Tensor, eps: float, readers: Readers, shift: TokenModulation | None, scale: TokenModulation | None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum and what the function ``norm_modulate`` makes of it, in one go where a kernel can."""
        kernel = find_rounding(SUM_NORM.find, x, readers) or _find_sum_norm(x)
        rows = self.gate, scale, shift
        counts = {1 if each is None else each.count_groups(x.shape[1]) for each in rows}
        groups = max(counts)
        if kernel is None or not counts <= {1, groups}:
            total = self.add_to(x)
            return total, norm_modulate(total, eps, readers, shift, scale)
        gate, scales, shifts = (None if each is None else each.of_groups(groups, x) for each in rows)
        grouped, change = (each.unflatten(1, (groups, -1)) for each in (x, self.change))
        return self.change, merge_axes(kernel(grouped, gate, change, scales, shifts, eps))


def _find_sum_norm(x: Tensor) -> Callable[..., Tensor] | None:
    """The kernel for readers that take no float8, without its last argument."""
    kernel = SUM_NORM.find(x)
    return None if kernel is None else lambda *arguments: kernel(*arguments, None)


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
