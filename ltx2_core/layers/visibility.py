"""Which tokens of a sequence see which, where some were added to it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 512


@dataclass(frozen=True, eq=False)
class Visibility:
    """Two numbers for each of N tokens instead of a matrix (spec: conditioning.md, section 4).

    Tokens of one group see each other. Between a token of group 0 and one of another group it is the ``weight`` of the
    latter that counts, both ways. Two other groups do not see each other. As a matrix in bfloat16 this would be 2.3 GB
    for a clip of 27 280 tokens and 6820 more; attention makes the rows of 512 queries at a time, 35 MB.
    """

    group: Tensor  # (N,), whole numbers
    weight: Tensor  # (N,), 0..1; 1 in group 0

    def select(self, tokens: Tensor) -> "Visibility":
        """Of some tokens only."""
        return Visibility(self.group[tokens], self.weight[tokens])

    def biases(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Queries, and what is added to their scores (n, N): log of how strongly they see each token."""
        lowest = torch.finfo(dtype).min
        weight = self.weight.float()
        log = weight.clamp(min=torch.finfo(dtype).tiny).log().to(dtype).masked_fill_(weight <= 0, lowest)
        for start in range(0, len(log), _ROWS):
            rows = slice(start, start + _ROWS)
            own, other = self.group[rows, None], self.group
            bias = torch.where(own == 0, log, log[rows, None])
            bias.masked_fill_((own != 0) & (other != 0), lowest).masked_fill_(own == other, 0)
            yield rows, bias
