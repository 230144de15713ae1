"""Numbers into the blocks of GGUF's types: the inverse of ``gguf_blocks`` (see README.md, "GGUF").

Every function takes blocks of numbers (n, numbers) in float32 on any device and returns their bytes (n, bytes).
"""

import torch
from torch import Tensor

_GROUP = 32  # numbers of Q4_K with one scale and one offset
_MOST = 15  # of a code of four bits
_LARGEST_SCALE = 63  # of six bits
_TRIES = 21  # scales that are tried for a group of Q4_K


def round_q8_0(blocks: Tensor) -> Tensor:
    """Return blocks (N, 34) of Q8_0: a float16 scale and 32 whole numbers, with the bits of llama.cpp's own tool.

    ``blocks`` are the numbers (N, 32).
    """
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(scale == 0, 0, 1 / scale)
    scaled = blocks * inverse
    whole = torch.where(scaled < 0, -1, 1) * (scaled.abs() + 0.5).floor()  # halves away from zero
    return torch.cat((_half_bytes(scale), whole.to(torch.int8).view(torch.uint8)), dim=1)


def round_q4_k(blocks: Tensor) -> Tensor:
    """Return blocks (N, 144) of Q4_K: eight groups of 32 codes from 0 to 15, a number being ``scale * code - offset``.

    ``blocks`` are the numbers (N, 256).

    Several scales of each group are tried, each with the codes that it gives and then the scale and the offset that are
    best for these codes by least squares, in which large numbers count more.
    """
    groups = blocks.unflatten(1, (-1, _GROUP))
    scale, offset = _fit_groups(groups)
    step, offset_step = (each.amax(dim=1, keepdim=True) / _LARGEST_SCALE for each in (scale, offset))
    six, six_offset = (_six_bits(each, unit) for each, unit in ((scale, step), (offset, offset_step)))
    step, offset_step = step.half(), offset_step.half()
    exact, exact_offset = (step.float() * six).unsqueeze(2), (offset_step.float() * six_offset).unsqueeze(2)
    codes = torch.where(exact > 0, (groups + exact_offset) / exact, 0).round().clamp(0, _MOST).to(torch.uint8)
    low, high = codes[:, ::2], codes[:, 1::2]
    packed = _pack_six_bits(six.to(torch.uint8), six_offset.to(torch.uint8))
    return torch.cat((_half_bytes(step), _half_bytes(offset_step), packed, (low | high << 4).flatten(1)), dim=1)


def _fit_groups(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and offsets, none below 0, (n, groups) each."""
    weight = groups.abs() + groups.square().mean(dim=2, keepdim=True).sqrt()
    least = groups.amin(dim=2, keepdim=True).clamp(max=0)
    spread = groups.amax(dim=2, keepdim=True) - least
    best = torch.full_like(spread, torch.inf)
    scale, offset = spread / _MOST, -least
    for number in range(_TRIES):
        first = (spread / (_MOST - 1 + 0.1 * number)).clamp(min=torch.finfo(torch.float32).tiny)
        codes = ((groups - least) / first).round().clamp(0, _MOST)
        tried, shift = _least_squares(groups, codes, weight)
        error = (weight * (tried * codes - shift - groups).square()).sum(dim=2, keepdim=True)
        better = (error < best) & (tried > 0)
        best, scale, offset = (torch.where(better, *pair) for pair in ((error, best), (tried, scale), (shift, offset)))
    return scale.squeeze(2), offset.squeeze(2)


def _least_squares(groups: Tensor, codes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the offset, not below 0, with which ``scale * codes - offset`` is nearest to the groups."""
    total, ones, twos = (each.sum(dim=2, keepdim=True) for each in (weight, weight * codes, weight * codes.square()))
    numbers, products = ((each * weight).sum(dim=2, keepdim=True) for each in (groups, groups * codes))
    divisor = total * twos - ones.square()
    scale = (total * products - ones * numbers) / divisor
    offset = (ones * products - twos * numbers) / divisor
    alone = products / twos  # the best scale without an offset
    usable = (divisor > 0) & (offset >= 0)
    return torch.where(usable, scale, torch.where(twos > 0, alone, 0)), torch.where(usable, offset, 0)


def _six_bits(values: Tensor, unit: Tensor) -> Tensor:
    return torch.where(unit > 0, values / unit, 0).round().clamp(0, _LARGEST_SCALE)


def _pack_six_bits(scales: Tensor, offsets: Tensor) -> Tensor:
    """Eight scales and eight offsets of six bits each in twelve bytes, (n, 12)."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = offsets[:, :4] | offsets[:, 4:] >> 4 << 6
    third = scales[:, 4:] & 15 | (offsets[:, 4:] & 15) << 4
    return torch.cat((first, second, third), dim=1)


def _half_bytes(numbers: Tensor) -> Tensor:
    return numbers.half().view(torch.uint8)
