"""Weights of four or six bits that stand for int8, with scales of groups and of rows (see README.md, "w4a8")."""

from dataclasses import replace

import torch
from torch import Tensor

from .nibbles import as_e4m3, look_up, unpack
from .rotation import RotatedFormat
from .stored import Shape, StoredWeight, pick

_GROUP = 16  # columns with one scale, where a marker does not say
_LARGEST = 127
_BYTE_DTYPES = (torch.int8, torch.uint8)


class W4a8Format(RotatedFormat):
    """The row of w4a8 in the table of formats."""

    name = "w4a8"
    reads = "w4a8"
    markers = ("asym_w4a8_int8",)
    scale_suffixes = ("weight_s_rel", "weight_s_channel")
    other_suffixes = ("weight_codebook", "weight_correction")

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is bytes with both scales."""
        return stored.weight.dtype in _BYTE_DTYPES and all(name in stored.companions for name in self.scale_suffixes)

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix: as many columns as the scales of groups are for."""
        return stored.weight.shape[0], stored.companions["weight_s_rel"].shape[-1] * self._group(stored)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight."""
        relative, channel = (stored.companions[suffix] for suffix in self.scale_suffixes)
        if stored.weight.ndim != 2 or relative.ndim != 2:
            return f"w4a8 of shape {tuple(stored.weight.shape)} with scales of shape {tuple(relative.shape)}"
        rows, columns = self.matrix_shape(stored)
        if 8 * stored.weight.shape[1] not in (4 * columns, 6 * columns):
            return f"w4a8 of shape {tuple(stored.weight.shape)}, which is neither 4 nor 6 bits of {columns:,} columns"
        codebook, correction = (stored.companions.get(suffix) for suffix in self.other_suffixes)
        if (
            len(relative) != rows
            or channel.numel() != rows
            or (correction is not None and correction.shape != relative.shape[::-1])
            or (codebook is not None and codebook.numel() != 16)
        ):
            return f"w4a8 of {rows:,} rows with scales of shapes {tuple(relative.shape)} and {tuple(channel.shape)}"
        return self.find_group_problem(stored, columns)

    def kept_companions(self, stored: StoredWeight) -> StoredWeight:
        """Return a weight with those companions alone that a layer holds, scales of groups as what they are."""
        kept = super().kept_companions(stored)
        companions = {**kept.companions, "weight_s_rel": as_e4m3(kept.companions["weight_s_rel"])}
        return replace(kept, companions=companions)

    def stored_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix as it is stored, in float32; that the product is a whole number is the format's."""
        group = self._group(stored)
        relative = as_e4m3(stored.companions["weight_s_rel"])[start:stop].float()
        numbers = self._numbers(stored, shape[1], start, stop).unflatten(1, (-1, group))
        numbers = (numbers * relative[..., None]).round_().clamp_(-_LARGEST, _LARGEST)
        numbers.mul_(stored.companions["weight_s_channel"].float().reshape(-1, 1, 1)[start:stop])
        if (correction := stored.companions.get("weight_correction")) is not None:
            numbers.add_(correction.float().T[start:stop, :, None])
        return numbers.flatten(1)

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32; of its companions, the correction has rows as its last axis."""
        companions = dict(stored.companions)
        companions |= {suffix: pick(companions[suffix].reshape(shape[0], -1), rows) for suffix in self.scale_suffixes}
        if (correction := companions.get("weight_correction")) is not None:
            companions["weight_correction"] = correction[:, rows]
        picked = replace(stored, weight=stored.weight[rows], companions=companions)
        return self.expand_rows(picked, (len(rows), shape[1]), 0, len(rows))

    def _numbers(self, stored: StoredWeight, columns: int, start: int, stop: int) -> Tensor:
        """What the bits stand for, without scales."""
        packed = stored.weight[start:stop]
        codebook = stored.companions.get("weight_codebook")
        if 2 * packed.shape[1] == columns:
            codes = unpack(packed)
            return codes.float().sub_(8) if codebook is None else look_up(codes, codebook.float())
        low, top = unpack(packed[:, : columns // 2]), packed[:, columns // 2 :].contiguous().view(torch.uint8)
        pairs = torch.stack([top >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(1)
        return (low | pairs << 4).float().sub_(32)

    def _group(self, stored: StoredWeight) -> int:
        return stored.whole("group_size", _GROUP)


W4A8 = W4a8Format()
