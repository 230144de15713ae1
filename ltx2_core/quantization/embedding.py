"""A table, such as that of words, whose rows stay as they are stored."""

import torch
from torch import Tensor, nn

from .stored import Format, Shape, StoredWeight


class QuantizedEmbedding(nn.Embedding):
    """A table that expands those of its rows that are looked up.

    Attributes:
        format: what it is stored in; one whose rows stand for themselves (``Format.whole_rows``).
        shape: of the numbers, (rows, width), whatever the shape of the stored tensor.
    """

    def __init__(self, format: Format, shape: Shape, stored: StoredWeight):
        """Hold the stored tensor as a parameter without a gradient."""
        super().__init__(shape[0], shape[1], device="meta")
        self.format, self.shape, self._marker = format, shape, stored.marker
        self.weight = nn.Parameter(stored.weight, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of these numbers, (..., width) in float32."""
        rows = torch.nn.functional.embedding(ids.flatten(), self.weight)
        stored = StoredWeight("weight", rows, marker=self._marker)
        numbers = self.format.expand_rows(stored, (len(rows), self.shape[1]), 0, len(rows))
        return numbers.unflatten(0, ids.shape)
