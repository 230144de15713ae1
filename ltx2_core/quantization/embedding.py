"""A table, such as that of words, whose rows stay as they are stored."""

from torch import Tensor, nn

from .stored import Format, Shape, StoredWeight


class QuantizedEmbedding(nn.Embedding):
    """A table that expands those of its rows that are looked up.

    Attributes:
        format: what it is stored in.
        shape: of the numbers, (rows, width), whatever the shape of the stored tensor.
    """

    def __init__(self, format: Format, shape: Shape, stored: StoredWeight):
        """Hold the stored tensors as parameters without gradients, under their suffixes."""
        super().__init__(shape[0], shape[1], device="meta")
        self.format, self.shape, self._marker = format, shape, stored.marker
        kept = format.kept_companions(stored)
        self._suffixes = tuple(kept.companions)
        for name, tensor in {"weight": kept.weight, **kept.companions}.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of these numbers, (..., width) in float32."""
        companions = {suffix: self.get_parameter(suffix) for suffix in self._suffixes}
        stored = StoredWeight("weight", self.weight, companions, self._marker)
        return self.format.expand_picked(stored, self.shape, ids.flatten()).unflatten(0, ids.shape)
