"""Weights of four bits with a scale for each row, and rotated columns (see README.md, "w4a4")."""

import torch
from torch import Tensor

from .nibbles import unpack, unpacked_shape
from .rotation import RotatedFormat
from .stored import Shape, StoredWeight


class W4a4Format(RotatedFormat):
    """The row of w4a4 in the table of formats. Inputs are never rounded, which four bits are too few for."""

    name = "w4a4"
    reads = "w4a4"
    markers = ("convrot_w4a4",)
    scale_suffixes = ("weight_scale",)

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is bytes that are marked so: nothing else tells them from int8."""
        return stored.weight.dtype == torch.int8 and stored.marker is not None and "weight_scale" in stored.companions

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix, of which two columns share a byte."""
        return unpacked_shape(stored.weight)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight."""
        shape, scale = self.matrix_shape(stored), stored.companions["weight_scale"]
        if len(shape) != 2 or not scale.is_floating_point() or scale.numel() != shape[0]:
            return f"w4a4 of shape {shape} with scales of shape {tuple(scale.shape)}"
        return self.find_group_problem(stored, shape[1])

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, in float32."""
        numbers = (unpack(stored.weight[start:stop]).float() + 8).remainder_(16).sub_(8)  # two's complement
        return numbers.mul_(stored.companions["weight_scale"].float().reshape(-1, 1)[start:stop])


W4A4 = W4a4Format()
