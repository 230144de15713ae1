"""Convolutions on a CPU: of large weights over few positions, for which oneDNN spends its time on turning the weight
around, and of small clips, for which PyTorch does not ask it. And on a card without cuDNN, for which PyTorch lays out
what every position of the clip sees."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import needs_grad
from .linear import ONEDNN, multiply
from .operation import Function, Kernel, Operation

# Measured on a CPU in float32, with weights of 28 to 450 MB: up to one position for so many numbers of the weight, a
# product is faster than oneDNN's convolution, which writes the weight anew at every call.
WEIGHT_OF_POSITION, LEAST_WEIGHT = 2**17, 2**20
COLUMNS, SHARE = 2**20, 16  # numbers of the input that are laid out at once: so many, or this part of the weight's


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Return the convolution of x (B, C, ...), two or three axes long, of stride 1, by the fastest way.

    Args:
        x: (B, C, ...).
        weight: (C', C, ...), one number for each tap.
        bias: (C',).
        padding: zeros at either end of each axis behind C.
    """
    if is_for_product(x, weight, padding):
        return convolve_by_product(x, weight, bias, padding)
    if x.is_cuda and x.ndim == 5 and not torch.backends.cudnn.enabled and not needs_grad(x, weight):
        return convolve_by_frame(x, weight, bias, padding)
    kernel = CONVOLUTION.find(x) if x.is_cpu and not needs_grad(x, weight) else None
    return (kernel or convolve_plainly)(x, weight, bias, padding)


def convolve_plainly(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Do what ``convolve`` does with PyTorch's convolution."""
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, padding=list(padding))


def _onednn() -> Function:
    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
        once = [1] * len(padding)
        result: Tensor = torch.mkldnn_convolution(x, weight, bias, list(padding), once, once, 1)
        return result

    return convolve


def _sample(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((1, 6, 5, 5, 7), (8, 6, 3, 3, 3), (8,)))
    return x.to(device, dtype), (weight / 12).to(device, dtype), bias.to(device, dtype), (0, 1, 1)


# PyTorch takes a way of its own, three times as long, where batch, channels, frames and height multiply to 20,480 or
# less; else both are the same.
CONVOLUTION = Operation("Convolution", convolve_plainly, [Kernel(ONEDNN, _onednn, devices=("cpu",))], _sample)


def convolve_by_product(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Do what ``convolve`` does by products of the weight, as it lies in memory, with what each position sees."""
    axes = len(padding)
    windows = F.pad(x, [each for one in reversed(padding) for each in (one, one)])
    for axis, taps in enumerate(weight.shape[2:], start=2):
        windows = windows.unfold(axis, taps, 1)  # (B, C, positions, taps)
    places, seen = (0, *range(2, axes + 2)), (1, *range(axes + 2, 2 * axes + 2))
    shape, matrix = [windows.shape[axis] for axis in places], weight.flatten(1)
    positions = math.prod(shape)
    pieces = math.ceil(positions * matrix.shape[1] / _columns_at_once(weight))

    if pieces == 1:
        rows = windows.permute(*places, *seen).reshape(positions, -1)
        product = multiply(rows, matrix, bias)
    else:
        product = x.new_zeros(positions, len(weight)) if bias is None else bias.repeat(positions, 1)
        channels = max(1, x.shape[1] // pieces)
        taps = matrix.shape[1] // x.shape[1]
        for part, columns in zip(windows.split(channels, 1), matrix.split(channels * taps, 1)):
            product.addmm_(part.permute(*seen, *places).reshape(-1, positions).t(), columns.t())
    return product.view(*shape, -1).movedim(-1, 1).contiguous()


def convolve_by_frame(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Do what ``convolve`` does to a clip, one frame of the result after the other.

    Without cuDNN, which on AMD's cards is MIOpen and which ComfyUI turns off there, PyTorch multiplies copies of all
    that each position sees: 27 times the clip for three taps on each axis. Here they are those of one frame.
    """
    around, *sides = padding
    taps, seen = weight.shape[2], F.pad(x, (0, 0, 0, 0, around, around)) if around else x
    pictures = weight.flatten(1, 2)  # the frames that one sees are channels of a picture

    def convolve_frame(number: int) -> Tensor:
        return F.conv2d(seen[:, :, number : number + taps].flatten(1, 2), pictures, bias, padding=sides)

    first = convolve_frame(0)
    frames = seen.shape[2] - taps + 1
    made = first.new_empty(*first.shape[:2], frames, *first.shape[2:])
    made[:, :, 0] = first
    for number in range(1, frames):
        made[:, :, number] = convolve_frame(number)
    return made


def is_for_product(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Return whether a product is faster: on a CPU, if ``weight`` is large beside the positions of the result.

    In fewer bits than float32 the product is not divided, since sums of pieces would be rounded.
    """
    if not x.is_cpu or weight.numel() < LEAST_WEIGHT or needs_grad(x, weight):
        return False
    sides = zip(x.shape[2:], weight.shape[2:], padding)
    positions = len(x) * math.prod(side + 2 * zeros - taps + 1 for side, taps, zeros in sides)
    whole = positions * weight[0].numel() <= _columns_at_once(weight)
    return positions * WEIGHT_OF_POSITION < weight.numel() and (whole or x.dtype is torch.float32)


def _columns_at_once(weight: Tensor) -> int:
    return max(COLUMNS, weight.numel() // SHARE)
