"""Numbers of four bits, two in a byte, and the scales of eight that such formats have."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WITHOUT_FLOAT8 = ("mps",)


def unpack(packed: Tensor, high_first: bool = False) -> Tensor:
    """Return the codes from 0 to 15 in rows of bytes, (rows, 2 * bytes) as uint8.

    Args:
        packed: uint8 or int8, (rows, bytes).
        high_first: whether the first of a pair is in the upper four bits.
    """
    if packed.dtype == torch.int8:
        packed = packed.view(torch.uint8)
    low, high = packed & 15, packed >> 4
    return torch.stack((high, low) if high_first else (low, high), dim=-1).flatten(-2)


def unpacked_shape(packed: Tensor) -> tuple[int, ...]:
    """Return the shape of a matrix of which two columns share a byte of ``packed``, whatever that has for a shape."""
    rows, *columns = packed.shape
    return rows, *(2 * each for each in columns)


def look_up(codes: Tensor, table: Sequence[float] | Tensor) -> Tensor:
    """Return the entry of ``table`` for each code, in float32."""
    values = torch.as_tensor(table, dtype=torch.float32, device=codes.device)
    return values[codes.int()]


def as_e4m3(scales: Tensor) -> Tensor:
    """Return bytes as the float8 that they are, in float32 where there is none; what else arrives on a device stays."""
    if scales.dtype != torch.uint8:
        return scales
    if scales.device.type in _WITHOUT_FLOAT8:
        return look_up(scales, torch.arange(256, dtype=torch.uint8, device="cpu").view(torch.float8_e4m3fn).float())
    return scales.view(torch.float8_e4m3fn)


def pack(codes: Tensor, high_first: bool = False) -> Tensor:
    """Return rows of bytes (rows, columns / 2) with two of the ``codes`` (rows, columns; uint8 from 0 to 15) in each;
    the inverse of ``unpack``."""
    first, second = codes[:, ::2], codes[:, 1::2]
    return first << 4 | second if high_first else first | second << 4
