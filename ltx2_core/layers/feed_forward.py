"""The channel mixer of a block."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .recorded import recorded

# Tokens whose 4 D channels exist at a time: enough for full speed, little beside what attention holds.
CHUNK = 4096

_gelu_ = torch.ops.aten.gelu_


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear; (B, N, D) to (B, N, D) through 4 D channels."""

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)
        self.chunk = CHUNK

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        if len(tokens) <= self.chunk or recorded(x):
            return _mix(x, self.up, self.down)
        up, down = _for_all_chunks(self.up, x.dtype), _for_all_chunks(self.down, x.dtype)
        mixed = torch.empty_like(tokens)
        chunks = math.ceil(len(tokens) / self.chunk)
        for some, to in zip(tokens.tensor_split(chunks), mixed.tensor_split(chunks)):
            to.copy_(_mix(some, up, down))
        return mixed.view_as(x)


Linear = Callable[[Tensor], Tensor]


def _mix(x: Tensor, up: Linear, down: Linear) -> Tensor:
    """All tokens at once, which holds 4 D channels of each."""
    return down(_gelu_(up(x), approximate="tanh"))


def _for_all_chunks(linear: nn.Module, dtype: torch.dtype) -> Linear:
    """``linear``, whose weight is expanded now and not by every call if it is stored in fewer bits."""
    expanded = getattr(linear, "expanded", None)
    return linear if expanded is None else expanded(dtype)
