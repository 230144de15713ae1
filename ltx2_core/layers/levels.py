"""Which tokens of a stream share a noise level."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenLevels:
    """The noise levels of tokens as shares of sigma, which hold for all steps of a clip.

    To find them, the host has to wait for the device; so they are found once, and not in every step.
    """

    shares: Tensor  # (M,), rising: those that occur
    index: Tensor  # (B, N): which of them each token has

    @classmethod
    def of(cls, shares: Tensor) -> "TokenLevels":
        """Find the distinct ones of ``shares`` (B, N), one for each token."""
        return cls(*torch.unique(shares.float(), return_inverse=True))

    def select(self, tokens: Tensor) -> "TokenLevels":
        """Return those of some ``tokens``, by their numbers (n)."""
        return TokenLevels(self.shares, self.index.index_select(1, tokens))

    @cached_property
    def doubled(self) -> "TokenLevels":
        """The same for two batches behind each other."""
        return TokenLevels(self.shares, torch.cat((self.index, self.index)))
