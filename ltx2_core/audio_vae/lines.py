"""Convolutions along a line of numbers, such as a waveform, in pieces where a device makes no longer ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The most numbers of a line that a type of device makes at once: PyTorch refuses more on Apple's GPUs, as if they were
# channels (pytorch/pytorch#144445).
LONGEST = {"mps": 2**16}


def convolve_line(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Return what ``F.conv1d`` makes of x (B, C, N) without padding."""
    seen = dilation * (weight.shape[2] - 1) + 1
    count, longest = (x.shape[2] - seen) // stride + 1, LONGEST.get(x.device.type)
    if longest is None or count <= longest:
        return F.conv1d(x, weight, bias, stride, 0, dilation, groups)
    firsts = range(0, count, longest)
    pieces = (x[..., first * stride : (min(first + longest, count) - 1) * stride + seen] for first in firsts)
    return torch.cat([F.conv1d(piece, weight, bias, stride, 0, dilation, groups) for piece in pieces], dim=2)


class Conv1d(nn.Conv1d):
    """A convolution of stride 1 that pads with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to (B, C', N')."""
        if x.device.type not in LONGEST:
            return super().forward(x)
        padded = F.pad(x, self._reversed_padding_repeated_twice)
        return convolve_line(padded, self.weight, self.bias, dilation=self.dilation[0])
