"""Weights of one byte: whole numbers from -127 to 127 times one scale, or one for each row (see README.md, "int8")."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .kept import KEPT
from .rotation import RotatedFormat, rotate
from .stored import Shape, StoredWeight, Writer, marker_of

_LARGEST = 127  # by which the scales of bitsandbytes, the largest number of each row, have to be divided
_CAST_GROUPS = (256, 64, 16)
_MARKER = "int8_tensorwise"


def _round_rows(weight: Tensor) -> dict[str, Tensor]:
    """Rows in the largest group that divides them, each with a scale of its own."""
    group = next((group for group in _CAST_GROUPS if weight.shape[1] % group == 0), 0)
    rotated = rotate(weight.float(), group)
    largest = torch.linalg.vector_norm(rotated, torch.inf, dim=1, keepdim=True)
    scale = (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    how = {"convrot": True, "convrot_groupsize": group} if group else {}
    return {
        "weight": (rotated / scale).round_().to(torch.int8),
        "weight_scale": scale,
        "comfy_quant": marker_of(format=_MARKER, **how),
    }


_WRITERS = {"int8": Writer(lambda rows, largest: _round_rows(rows))}


class Int8Format(RotatedFormat):
    """The row of int8 in the table of formats: as ComfyUI, quanto and bitsandbytes write it."""

    name = "int8"
    reads = "int8 with one scale per tensor or row"
    markers = (_MARKER,)
    scale_suffixes = ("weight_scale", "quanto_scale", "SCB")
    input_suffixes = ("input_scale", "output_scale", "weight_format")
    kept = KEPT
    writers = _WRITERS

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is int8 with a scale that is known."""
        return stored.weight.dtype == torch.int8 and stored.companion(*self.scale_suffixes) is not None

    def find_problem(self, stored: StoredWeight) -> str:
        """Name what cannot be read: another layout, or one that the header leaves open."""
        weight, scale = stored.weight, stored.companion(*self.scale_suffixes)
        assert scale is not None
        if "weight_scale" in stored.companions and stored.marker is None:
            return "int8 without a marker that says whether its columns are rotated"
        if weight.ndim != 2 or not scale.is_floating_point() or scale.numel() not in (1, len(weight)):
            return f"int8 of shape {tuple(weight.shape)} with scales of shape {tuple(scale.shape)}"
        layout = stored.companions.get("weight_format")
        if layout is not None and not layout.is_meta and layout.numel() == 1 and layout.item() != 0:
            return "bitsandbytes int8 in the order of a card"
        return self.find_group_problem(stored, weight.shape[1])

    def rotated_group(self, stored: StoredWeight) -> int:
        """Return how many columns are rotated together; 0 if none are."""
        return super().rotated_group(stored) if stored.options.get("convrot", False) else 0

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, in float32."""
        scale = row_scale(stored)
        return stored.weight[start:stop].float().mul_(scale if scale.numel() == 1 else scale[start:stop])

    def stored_matrix(self, stored: StoredWeight, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return the matrix as it is stored, in ``dtype``; whole numbers lose nothing there before they are scaled."""
        return stored.weight.to(dtype).mul_(row_scale(stored))

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Round a matrix (out, in) to int8 with a scale for each row, its columns rotated where a group divides them.

        The error is 0.79 % of a Gaussian matrix, and 0.76 % of one with columns eight times as large as others, where
        it would be 2.8 % without the rotation.
        """
        return _round_rows(weight)


def row_scale(stored: StoredWeight) -> Tensor:
    """Return the scales of a weight in float32, (1, 1) or (out, 1)."""
    companions: Mapping[str, Tensor] = stored.companions
    if "SCB" in companions:
        return companions["SCB"].float().reshape(-1, 1) / _LARGEST
    return next(companions[suffix] for suffix in INT8.scale_suffixes if suffix in companions).float().reshape(-1, 1)


INT8 = Int8Format()
