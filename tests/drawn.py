"""Random numbers that are the same each time, and whether two latents are alike to the bit."""

import torch
from torch import Tensor

from ltx2_core.latents import AVLatent


def randn(*shape: int, seed: int = 1) -> Tensor:
    """Return normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of a seed for one clip, (1, ...)."""
    return randn(1, *shape, seed=seed)


def same(a: AVLatent, b: AVLatent) -> bool:
    """Return whether both streams are equal, bit for bit."""
    return torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio)
