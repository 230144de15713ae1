"""The blocks of GGUF's types: how many numbers share some bytes, and which numbers these are (see README.md, "GGUF").

Every function takes blocks (n, bytes) of uint8 on any device and returns their numbers (n, numbers) in float32, rounded
in the order in which llama.cpp does, so that both agree in every bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .gguf_codebooks import iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs
from .nibbles import as_e4m3, look_up

# What the nibbles of the IQ4 types stand for.
_CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # and those of MXFP4 and NVFP4, doubled


@dataclass(frozen=True)
class BlockType:
    """How a type of GGUF stores numbers.

    Attributes:
        numbers: how many of them a block holds; each row of a matrix is a whole number of blocks.
        nbytes: bytes of a block.
        expand: returns the numbers of blocks; None for a type that cannot be read here.
    """

    numbers: int
    nbytes: int
    expand: Callable[[Tensor], Tensor] | None = None


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte ``at`` of every block, (n, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _shifts(blocks: Tensor, count: int, step: int) -> Tensor:
    """0, ``step``, ... as a column (count, 1) that rows of bytes are shifted by."""
    return torch.arange(0, count * step, step, dtype=torch.uint8, device=blocks.device).unsqueeze(1)


def _nibbles(content: Tensor, size: int) -> Tensor:
    """The low halves of each ``size`` bytes, then their high halves; (n, 2 * bytes)."""
    groups = content.unflatten(1, (-1, size))
    return torch.stack((groups & 15, groups >> 4), dim=2).flatten(1)


def _bits(content: Tensor, size: int, count: int, step: int, mask: int) -> Tensor:
    """``count`` pieces of ``step`` bits of each ``size`` bytes, the lowest ones first; (n, count * bytes)."""
    groups = content.unflatten(1, (-1, 1, size))
    return ((groups >> _shifts(content, count, step)) & mask).flatten(1)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """One bit for each of 32 numbers, from the four bytes at ``at``, shifted to the fifth place; (n, 32)."""
    columns = blocks[:, at : at + 4].unsqueeze(2)
    return (((columns >> _shifts(blocks, 8, 1).T) & 1) << 4).flatten(1)


def _scaled(scale: Tensor, numbers: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * numbers - offset, for scales (n, groups) of equally large groups of the numbers (n, count)."""
    grouped = numbers.float().unflatten(1, (scale.shape[1], -1)) * scale.unsqueeze(2)
    return (grouped if offset is None else grouped - offset.unsqueeze(2)).flatten(1)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:], 16).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:], 16).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * ((_nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks, 2)).float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks, 4)).float() + _half(blocks, 2)


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * look_up(_nibbles(blocks[:, 2:], 16), _CURVE)


def _iq4_xs(blocks: Tensor) -> Tensor:
    low = _bits(blocks[:, 4:8], 1, 2, 4, 15)
    high = _bits(blocks[:, 2:4], 1, 4, 2, 3)
    scale = _half(blocks, 0) * ((low | high << 4).float() - 32)
    return _scaled(scale, look_up(_nibbles(blocks[:, 8:], 16), _CURVE))


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    scale, offset = _half(blocks, 80) * (scales & 15).float(), _half(blocks, 82) * (scales >> 4).float()
    return _scaled(scale, _bits(blocks[:, 16:80], 32, 4, 2, 3), offset)


def _q3_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, 96:104], 8)
    scale = _half(blocks, 108) * ((low | _bits(blocks[:, 104:108], 4, 4, 2, 3) << 4).float() - 32)
    numbers = _bits(blocks[:, 32:96], 32, 4, 2, 3) | _bits(blocks[:, :32], 32, 8, 1, 1) << 2
    return _scaled(scale, numbers.float() - 4)


def _scales_and_offsets(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the eight groups of Q4_K and Q5_K, six bits each in the twelve bytes from 4 on."""
    first, second, third = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=1)
    offsets = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return _half(blocks, 0) * scales.float(), _half(blocks, 2) * offsets.float()


def _q4_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(blocks)
    return _scaled(scale, _nibbles(blocks[:, 16:], 32), offset)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(blocks)
    return _scaled(scale, _nibbles(blocks[:, 48:], 32) | _bits(blocks[:, 16:48], 32, 8, 1, 1) << 4, offset)


def _q6_k(blocks: Tensor) -> Tensor:
    scale = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    numbers = _nibbles(blocks[:, :128], 64) | _bits(blocks[:, 128:192], 32, 4, 2, 3) << 4
    return _scaled(scale, numbers.float() - 32)


def _mxfp4(blocks: Tensor) -> Tensor:
    exponents = blocks[:, :1].int()
    scale = (exponents << 23 | (exponents == 0).int() << 22).view(torch.float32)  # 2 ** (exponent - 127), in every bit
    return _scaled(0.5 * scale, look_up(_nibbles(blocks[:, 1:], 16), _E2M1))


def _nvfp4(blocks: Tensor) -> Tensor:
    scale = as_e4m3(blocks[:, :4] & 127).float().nan_to_num(0)
    return _scaled(0.5 * scale, look_up(_nibbles(blocks[:, 4:], 8), _E2M1))


def _trits(content: Tensor, size: int, count: int) -> Tensor:
    """``count`` digits of base 3 of each ``size`` bytes, the highest ones first; (n, count * bytes).

    A byte is 256/243 of the number that its digits write, rounded up.
    """
    powers = 3 ** torch.arange(count, dtype=torch.int32, device=content.device).unsqueeze(1)
    groups = content.unflatten(1, (-1, 1, size))
    return ((groups * powers & 255) * 3 >> 8).flatten(1)


def _tq1_0(blocks: Tensor) -> Tensor:
    pieces = _trits(blocks[:, :32], 32, 5), _trits(blocks[:, 32:48], 16, 5), _trits(blocks[:, 48:52], 4, 4)
    return _half(blocks, 52) * (torch.cat(pieces, dim=1).float() - 1)


def _tq2_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 64) * (_bits(blocks[:, :64], 32, 4, 2, 3).float() - 1)


# By the name that GGUF gives a type; those of plain numbers, such as F16, are dtypes and not here.
BLOCKS = {
    "Q8_0": BlockType(32, 34, _q8_0),
    "Q6_K": BlockType(256, 210, _q6_k),
    "Q5_K": BlockType(256, 176, _q5_k),
    "Q5_1": BlockType(32, 24, _q5_1),
    "Q5_0": BlockType(32, 22, _q5_0),
    "Q4_K": BlockType(256, 144, _q4_k),
    "Q4_1": BlockType(32, 20, _q4_1),
    "Q4_0": BlockType(32, 18, _q4_0),
    "IQ4_NL": BlockType(32, 18, _iq4_nl),
    "IQ4_XS": BlockType(256, 136, _iq4_xs),
    "Q3_K": BlockType(256, 110, _q3_k),
    "Q2_K": BlockType(256, 84, _q2_k),
    "MXFP4": BlockType(32, 17, _mxfp4),
    "NVFP4": BlockType(64, 36, _nvfp4),
    "IQ3_S": BlockType(256, 110, iq3_s),
    "IQ3_XXS": BlockType(256, 98, iq3_xxs),
    "IQ2_S": BlockType(256, 82, iq2_s),
    "IQ2_XS": BlockType(256, 74, iq2_xs),
    "IQ2_XXS": BlockType(256, 66, iq2_xxs),
    "IQ1_M": BlockType(256, 56, iq1_m),
    "IQ1_S": BlockType(256, 50, iq1_s),
    "TQ2_0": BlockType(256, 66, _tq2_0),
    "TQ1_0": BlockType(256, 54, _tq1_0),
    "Q8_1": BlockType(32, 40),
    "Q8_K": BlockType(256, 292),
    "Q1_0": BlockType(128, 18),
}

READABLE_BLOCKS = tuple(name for name, block in BLOCKS.items() if block.expand is not None)


def expand_blocks(type: str, content: Tensor) -> Tensor:
    """Return the numbers of blocks in float32, flat.

    Args:
        type: one of READABLE_BLOCKS.
        content: whole blocks, uint8, of any shape, on any device.
    """
    block = BLOCKS[type]
    assert block.expand is not None
    return block.expand(content.reshape(-1, block.nbytes)).flatten()
