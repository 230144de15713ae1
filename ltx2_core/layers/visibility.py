"""Attention between groups of tokens, where references were added to a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

APART = -1000.0  # as a score it leaves nothing of a weight, and no number format overflows
_MULTIPLE = 8  # channels that fast kernels want


@dataclass(frozen=True, eq=False)
class Visibility:
    """An attention mask as two numbers for each of N tokens (see ltx2_core/transformer/README.md, "Masks").

    Tokens of one group attend to each other. Between a token of group 0 and one of another group, the ``weight`` of
    the latter counts in both directions. Two groups other than 0 do not attend to each other. As a matrix in bfloat16
    this would be 2.3 GB for a clip of 27 280 tokens and 6820 more; a few more channels of queries and keys say the
    same.
    """

    group: Tensor  # (N,), whole numbers
    weight: Tensor  # (N,), 0..1; 1 in group 0
    groups: int  # beside group 0; the highest number

    def select(self, tokens: Tensor) -> "Visibility":
        """Return the visibility of ``tokens`` (indices or a mask) alone."""
        return Visibility(self.group[tokens], self.weight[tokens], self.groups)

    def query_channels(self, dtype: torch.dtype, scale: float) -> Tensor:
        """Return channels (N, C) behind those of the queries; arguments and C as for ``key_channels``."""
        own, log = self._own, self._log(dtype, scale)
        apart = APART * (1 - self._members) * (1 - own)
        return padded([own, own, *(each * (1 - own) for each in log), apart], dtype)

    def key_channels(self, dtype: torch.dtype, scale: float) -> Tensor:
        """Return channels (N, C) behind those of the keys.

        Their products with ``query_channels`` are the log of the weights, divided by ``scale``; each is the sum of two
        numbers, so that a short ``dtype`` does not round it.

        Args:
            dtype: of queries and keys.
            scale: by which scores are multiplied.
        """
        own = self._own
        return padded([*self._log(dtype, scale), own, own, self._members / scale], dtype)

    @cached_property
    def _own(self) -> Tensor:
        """1 in group 0, else 0; (N, 1)."""
        return (self.group == 0).float()[:, None]

    @cached_property
    def _members(self) -> Tensor:
        """1 for the group that a token belongs to, of those beside group 0; (N, groups)."""
        return (self.group[:, None] == torch.arange(1, self.groups + 1, device=self.group.device)).float()

    def _log(self, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
        """Return the log of the weights, divided by ``scale``, as the sum of two tensors (N, 1)."""
        return split_in_two(self.weight.float().log().clamp(min=APART)[:, None] / scale, dtype)


def split_in_two(whole: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return two tensors whose sum a short ``dtype`` does not round to less than ``whole`` says."""
    rounded = whole.to(dtype).float()
    return rounded, whole - rounded


def padded(channels: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return ``channels`` (N, ...) side by side, and zeros up to a width that fast kernels know."""
    joined = torch.cat(list(channels), dim=1).to(dtype)
    return torch.nn.functional.pad(joined, (0, -joined.shape[1] % _MULTIPLE))
