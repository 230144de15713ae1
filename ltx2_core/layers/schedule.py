"""Attention to several texts, of which each counts more at some tokens than at others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .visibility import APART, padded, split_in_two


@dataclass(frozen=True, eq=False)
class TextSchedule:
    """How much each of P texts counts for each of N tokens: the log of a weight is added to the scores of its rows.

    As a matrix over 27 280 tokens and three texts this would be 168 MB in bfloat16 and keep the fastest kernels away; a
    few more channels of queries and keys say the same, as for ``Visibility``.
    """

    weight: Tensor  # (N, P), 0..1, a row sums to 1
    lengths: tuple[int, ...]  # rows of each text, which lie one behind the other in the context

    def select(self, tokens: Tensor) -> "TextSchedule":
        """Return the schedule of ``tokens`` (indices or a mask) alone."""
        return TextSchedule(self.weight[tokens], self.lengths)

    def query_channels(self, dtype: torch.dtype, scale: float) -> Tensor:
        """Return channels (N, C) behind those of the queries; arguments and C as for ``key_channels``."""
        log = self.weight.float().log().clamp(min=APART) / scale
        return padded(split_in_two(log, dtype), dtype)

    def key_channels(self, dtype: torch.dtype, scale: float) -> Tensor:
        """Return channels (M, C) behind those of the keys, which say to which text a row belongs.

        Args:
            dtype: of queries and keys.
            scale: by which scores are multiplied.
        """
        one = torch.eye(len(self.lengths), device=self.weight.device)
        rows = torch.cat([row.expand(length, -1) for row, length in zip(one, self.lengths)])
        return padded((rows, rows), dtype)
