"""Attention between groups of tokens, where references were added to a sequence."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

QUERIES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Visibility:
    """An attention mask as two numbers for each of N tokens (see ltx2_core/transformer/README.md, "Masks").

    Tokens of one group attend to each other. Between a token of group 0 and one of another group, the ``weight`` of
    the latter counts in both directions. Two groups other than 0 do not attend to each other. As a matrix in bfloat16
    this would be 2.3 GB for a clip of 27 280 tokens and 6820 more; 512 queries at a time need 35 MB.
    """

    group: Tensor  # (N,), whole numbers
    weight: Tensor  # (N,), 0..1; 1 in group 0

    def select(self, tokens: Tensor) -> "Visibility":
        """Return the visibility of ``tokens`` (indices or a mask) alone."""
        return Visibility(self.group[tokens], self.weight[tokens])

    def biases(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of n queries with the bias of their attention scores (n, N), the log of a weight in 0..1."""
        lowest = torch.finfo(dtype).min
        weight = self.weight.float()
        log = weight.clamp(min=torch.finfo(dtype).tiny).log().to(dtype).masked_fill_(weight <= 0, lowest)
        for start in range(0, len(log), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            own, other = self.group[rows, None], self.group
            bias = torch.where(own == 0, log, log[rows, None])
            bias.masked_fill_((own != 0) & (other != 0), lowest).masked_fill_(own == other, 0)
            yield rows, bias
