"""Noise that depends on a seed and a place alone, so that overlapping tiles of a clip see the same.

A generator's numbers depend on the order in which they are drawn, and those of a whole clip fill gigabytes.
"""

import math

import torch
from torch import Tensor

_WORD = 2**32 - 1
_STEP = 0x9E3779B9  # 2^32 divided by the golden ratio: neighbours begin far apart
_FRAMES = 4  # at a time, which bounds the memory of whole numbers


def place_noise(seed: int, shape: tuple[int, int, int, int, int], start: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return normally distributed noise for a part of a clip.

    Args:
        seed: any number from 0 on.
        shape: (B, C, F, H, W), of the part; all clips of a batch see the same noise, that of each by itself.
        start: frame, row and column of the clip at which the part begins.
        like: gives dtype and device.

    Returns:
        (B, C, F, H, W), with mean 0 and deviation 1.
    """
    _, channels, frames, height, width = shape
    device = like.device
    clip = _hash(_hash(torch.full((), seed & _WORD, device=device)) + (seed >> 32))
    rows, columns = (_counter(begin, length, device) for begin, length in zip(start[1:], (height, width)))
    columns = columns * channels + torch.arange(channels, device=device)[:, None, None, None]
    noise = torch.empty(shape, dtype=like.dtype, device=device)
    for first in range(0, frames, _FRAMES):
        part = noise[:, :, first : first + _FRAMES]
        times = _counter(start[0] + first, part.shape[2], device)[:, None, None]
        bits = _hash(_hash(_hash(clip + times * _STEP) + rows[:, None] * _STEP) + columns * _STEP)
        part.copy_(_normal(bits))
    return noise


def _counter(begin: int, length: int, device: torch.device) -> Tensor:
    return torch.arange(begin, begin + length, device=device)


def _hash(x: Tensor) -> Tensor:
    """Mix 32 bits so that each depends on all (xorshift-multiply, "lowbias32" by C. Wellons)."""
    x = x & _WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def _normal(bits: Tensor) -> Tensor:
    """Turn 32 random bits into normally distributed numbers, by the inverse of their distribution."""
    uniform = (((bits >> 8).float() + 0.5) / 2**24).clamp_(max=1 - 2**-24)  # one in 16 million would round to 1
    return torch.erfinv(2 * uniform - 1).mul_(math.sqrt(2))
