"""Shift, scale and gate from the noise level (spec: transformer.md, section 6)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FREQUENCIES = 128


@dataclass(frozen=True)
class Modulation:
    """Modulation rows for every token, kept once per distinct noise level.

    An image as first frame means two noise levels, not thousands: what a token gets is looked up when it is used.
    """

    rows: Tensor  # (levels, R, D)
    level: Tensor  # (B, N), or (B, 1) where all tokens of a clip share one level: indices into rows

    def __call__(self, table: Tensor, *which: int) -> tuple[Tensor, ...]:
        """Rows ``which`` of ``table`` (R, D) plus those of the noise level, each (B, N or 1, D)."""
        rows = table.to(self.rows.dtype) + self.rows
        return tuple(rows[:, i][self.level] for i in which)


class AdaLN(nn.Module):
    """Maps noise levels to ``rows`` modulation rows of ``width`` channels."""

    def __init__(self, width: int, rows: int):
        super().__init__()
        self.rows = rows
        self.embed_in = nn.Linear(2 * _FREQUENCIES, width)
        self.embed_out = nn.Linear(width, width)
        self.project = nn.Linear(width, rows * width)

    def embed(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """(M,) noise levels, scaled to 0..1000, to (M, D) embeddings."""
        return self.embed_out(F.silu(self.embed_in(sinusoid(timesteps).to(dtype))))

    def modulate(self, embedded: Tensor) -> Tensor:
        """(M, D) embeddings to (M, rows, D)."""
        return self.project(F.silu(embedded)).unflatten(-1, (self.rows, -1))

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        return self.modulate(self.embed(timesteps, dtype))


def sinusoid(timesteps: Tensor) -> Tensor:
    """(M,) to (M, 256): cosines, then sines, of the argument at 128 frequencies from 1 down to 1/10000; float32."""
    exponents = torch.arange(_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) * exponents / _FREQUENCIES)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
