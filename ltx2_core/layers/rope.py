"""Rotary position embedding over several axes (see ltx2_core/transformer/README.md, "Rotary positions")."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..errors import SettingError


@dataclass(frozen=True, eq=False)
class Rotation:
    """The angle of every pair of channels, as cosine and sine of shape (B, H, N, d/2)."""

    cos: Tensor
    sin: Tensor
    interleaved: bool

    @property
    def heads(self) -> int:
        """The number of heads H."""
        return self.cos.shape[1]

    @cached_property
    def matrices(self) -> Tensor:
        """The same as matrices (B, N, H, d/2, 2, 2), which some kernels want; twice as much to hold and read."""
        rows = torch.stack((self.cos, -self.sin, self.sin, self.cos), dim=-1)
        return rows.transpose(1, 2).unflatten(-1, (2, 2)).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x (B, H, N, d), which may be overwritten: pairs are (i, i + d/2), or (2i, 2i + 1) if interleaved."""
        first, second = self._pairs(x)
        cos, sin = self.cos, self.sin
        if cos.dtype != x.dtype:
            cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        first_sin = first * sin
        first.mul_(cos).addcmul_(second, sin, value=-1)
        second.mul_(cos).add_(first_sin)
        return x

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second of each pair, (B, H, N, d/2)."""
        half = x.shape[-1] // 2
        return (x[..., ::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])


@dataclass(frozen=True)
class Rope:
    """Turns positions into rotations of ``heads`` heads of ``head_dim`` channels; each head has its own frequencies."""

    heads: int
    head_dim: int
    max_positions: tuple[float, ...]  # per axis, in its unit (seconds, pixels, tokens): mapped to the end of the grid
    theta: float = 10000.0  # ratio of the highest to the lowest frequency
    interleaved: bool = False  # the layout of pairs of channels, see ``Rotation``
    double: bool = True  # whether frequencies are computed in float64 before they are rounded to float32

    def __call__(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotation:
        """Compute rotations in float32 and return them as ``dtype``.

        Args:
            positions: One float32 number per axis and token, (B, axes, N).
            dtype: Of cosines and sines.

        Raises:
            SettingError: The positions have another number of axes.
        """
        if positions.shape[1] != len(self.max_positions):
            raise SettingError(
                f"Positions have {positions.shape[1]} axes, this rotary embedding expects {len(self.max_positions)}."
            )
        grid = _frequencies(self.heads * self.head_dim, len(self.max_positions), self.theta, self.double)
        limits = torch.tensor(self.max_positions, dtype=torch.float32, device=positions.device)
        # Position 0 lies at -1 and the maximum at +1; frequencies vary slowest, axes fastest.
        centred = (positions.float() / limits[:, None]) * 2 - 1
        angles = (centred.mT.unsqueeze(2) * grid.to(positions.device)[:, None]).flatten(2)
        angles = angles.contiguous()  # whatever the layout of the positions: channels of a token are read together
        # What the axes do not fill stays unrotated, at the front of the first head.
        padding = self.heads * self.head_dim // 2 - angles.shape[-1]
        angles = torch.nn.functional.pad(angles, (padding, 0))
        angles = angles.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return Rotation(angles.cos().to(dtype), angles.sin_().to(dtype), self.interleaved)


@lru_cache(maxsize=16)
def _frequencies(width: int, axes: int, theta: float, double: bool) -> Tensor:
    """pi/2 * theta^(j/(n-1)) for j = 0..n-1, rounded to float32; made on the CPU, where float64 always exists."""
    count = width // (2 * axes)
    exponents = torch.linspace(0, 1, count, dtype=torch.float64 if double else torch.float32, device="cpu")
    return (theta**exponents * (math.pi / 2)).float()
