"""Weights whose columns are rotated in groups, so that no outlier widens the scale of its neighbours (ConvRot; see
README.md, "Rotated columns")."""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stored import Format, QuantizedLinear, Shape, StoredWeight

GROUP = 256  # columns, where a marker does not say
_GROUPS = (4, 16, 64, 256, 1024)

_FOUR = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


class RotatedFormat(Format):
    """What formats with rotated columns share: the input is rotated, which costs less than to rotate the weight."""

    def rotated_group(self, stored: StoredWeight) -> int:
        """Return how many columns are rotated together; 0 if none are."""
        return stored.whole("convrot_groupsize", GROUP)

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, still rotated; arguments and result as for ``expand_rows``."""
        raise NotImplementedError

    def stored_matrix(self, stored: StoredWeight, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return the matrix (out, in) as it is stored, still rotated, in ``dtype``."""
        return self.dequantize(stored, shape, dtype, self.stored_rows)

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32."""
        return rotate(self.stored_rows(stored, shape, start, stop), self.rotated_group(stored))

    def make_linear(self, linear: nn.Linear, stored: StoredWeight) -> "RotatedLinear":
        """Return the layer in place of ``linear``, filled with the stored tensors."""
        return RotatedLinear(self, tuple(linear.weight.shape), self.kept_companions(stored), linear.bias)

    def find_group_problem(self, stored: StoredWeight, columns: int) -> str:
        """Name what is wrong with the groups of a matrix with so many columns; empty if nothing is."""
        group = self.rotated_group(stored)
        if group == 0 or (group in _GROUPS and columns % group == 0):
            return ""
        return f"{self.name} with {columns:,} columns rotated in groups of {group}, which cannot be"


class RotatedLinear(QuantizedLinear):
    """A linear layer that rotates its input and multiplies it by the weight as it is stored."""

    format: RotatedFormat

    def __init__(self, format: RotatedFormat, shape: Shape, stored: StoredWeight, bias: Tensor | None = None):
        """Hold the stored tensors; arguments as for ``QuantizedLinear``."""
        super().__init__(format, shape, stored, bias)
        self.group = format.rotated_group(stored)

    def widened(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return the product of the rotated input with the weight as it is stored, in ``dtype``."""
        weight = self.format.stored_matrix(self.stored, self.shape, dtype)
        return partial(rotated_linear, weight=weight, bias=self.bias, group=self.group)


def rotated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """Rotate x (..., in) and multiply by the rotated ``weight`` (out, in)."""
    return F.linear(rotate(x, group), weight, bias)


def rotate(x: Tensor, group: int) -> Tensor:
    """Rotate the last axis of ``x`` in groups of so many numbers; 0 leaves it. Done twice, it changes nothing."""
    if group == 0:
        return x
    return (x.unflatten(-1, (-1, group)) @ _rotation(group, x.dtype, x.device)).flatten(-2)


@cache
def _rotation(group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (group, group): symmetric, orthogonal, and its own inverse; exact in every kind of numbers."""
    with torch.inference_mode(False):  # since it outlives a run
        four = torch.tensor(_FOUR, dtype=torch.float32, device="cpu")
        matrix = four
        while len(matrix) < group:
            matrix = torch.kron(matrix, four)
        return (matrix / group**0.5).to(device, dtype)
