"""The feed-forward network of a block."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .autograd import needs_grad
from .linear import Linear, apply_gelu

# Tokens whose 4 D channels exist at a time: enough for full speed, little beside what attention holds.
CHUNK = 4096


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear, through 4 D channels.

    There is no ``forward``: blocks call ``transform`` on what they have normalised and modulated.

    Args:
        width: Channels of a token D.
        bias: Whether the linear layers have one.
    """

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.up = Linear(width, 4 * width, bias=bias)
        self.down = Linear(4 * width, width, bias=bias)
        self.chunk = CHUNK

    def transform(self, x: Tensor, combine: "Combine | None" = None) -> Tensor:
        """Transform each token of ``x`` (B, N, D) by itself; ``chunk`` tokens at a time bound the memory.

        Args:
            x: the tokens.
            combine: what is returned instead of the transformed tokens, from their first and last place and
                themselves; it may be told to write it into a tensor.
        """
        if len(x) > 1 and combine is not None:
            return combine(0, x.shape[1], self.transform(x), None)
        tokens = x.flatten(0, -2)
        if len(tokens) <= self.chunk or needs_grad(x):
            change = _transform(x, self.up, self.down)
            return change if combine is None else combine(0, len(tokens), change, None)
        up, down = _for_all_chunks(self.up, x.dtype), _for_all_chunks(self.down, x.dtype)
        output, start = torch.empty_like(tokens), 0
        chunks = math.ceil(len(tokens) / self.chunk)
        for source, target in zip(tokens.tensor_split(chunks), output.tensor_split(chunks)):
            stop = start + len(source)
            if combine is None:
                target.copy_(_transform(source, up, down))
            else:
                combine(start, stop, _transform(source, up, down)[None], target[None])
            start = stop
        return output.view_as(x)


Layer = Callable[[Tensor], Tensor]
Combine = Callable[[int, int, Tensor, Tensor | None], Tensor]


def _transform(x: Tensor, up: Layer, down: Layer) -> Tensor:
    """All tokens at once, which holds 4 D channels of each."""
    return down(apply_gelu(up, x))


def _for_all_chunks(linear: nn.Module, dtype: torch.dtype) -> Layer:
    """``linear``, whose weight is expanded now and not by every call if it is stored in fewer bits."""
    expanded = getattr(linear, "expanded", None)
    return linear if expanded is None else expanded(dtype)
