"""The feed-forward network of a block."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .autograd import needs_grad

# Tokens whose 4 D channels exist at a time: enough for full speed, little beside what attention holds.
CHUNK = 4096

_gelu_ = torch.ops.aten.gelu_


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear, through 4 D channels.

    There is no ``forward``: blocks call ``transform`` on what they have normalised and modulated.

    Args:
        width: Channels of a token D.
        bias: Whether the linear layers have one.
    """

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)
        self.chunk = CHUNK

    def transform(self, x: Tensor) -> Tensor:
        """Transform each token of ``x`` (B, N, D) by itself; ``chunk`` tokens at a time bound the memory."""
        tokens = x.flatten(0, -2)
        if len(tokens) <= self.chunk or needs_grad(x):
            return _transform(x, self.up, self.down)
        up, down = _for_all_chunks(self.up, x.dtype), _for_all_chunks(self.down, x.dtype)
        output = torch.empty_like(tokens)
        chunks = math.ceil(len(tokens) / self.chunk)
        for source, target in zip(tokens.tensor_split(chunks), output.tensor_split(chunks)):
            target.copy_(_transform(source, up, down))
        return output.view_as(x)


Linear = Callable[[Tensor], Tensor]


def _transform(x: Tensor, up: Linear, down: Linear) -> Tensor:
    """All tokens at once, which holds 4 D channels of each."""
    return down(_gelu_(up(x), approximate="tanh"))


def _for_all_chunks(linear: nn.Module, dtype: torch.dtype) -> Linear:
    """``linear``, whose weight is expanded now and not by every call if it is stored in fewer bits."""
    expanded = getattr(linear, "expanded", None)
    return linear if expanded is None else expanded(dtype)
