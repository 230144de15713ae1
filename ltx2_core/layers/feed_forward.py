"""The feed-forward network of a block."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .autograd import needs_grad
from .kernels import GELU_ROUND
from .linear import Linear, apply_gelu
from .sharing import find_rounding, split_tokens

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
            x: the tokens, which may have been rounded for ``up`` already.
            combine: what is returned instead of the transformed tokens, from their first and last place and
                themselves; it may be told to write it into a tensor.
        """
        if len(x) > 1 and combine is not None:
            return combine(0, x.shape[1], self.transform(x), None)
        gelu = None if needs_grad(x) else find_rounding(GELU_ROUND.find, x, (self.down,))
        tokens = x.shape[:-1].numel()
        if tokens <= self.chunk or needs_grad(x):
            change = _transform(x, self.up, self.down, gelu)
            return change if combine is None else combine(0, tokens, change, None)
        up, down = _for_all_chunks(self.up, x.dtype), _for_all_chunks(self.down, x.dtype)
        output, start = x.new_empty(tokens, x.shape[-1]), 0
        chunks = math.ceil(tokens / self.chunk)
        for source, target in zip(split_tokens(x, chunks), output.tensor_split(chunks)):
            stop = start + len(source)
            if combine is None:
                target.copy_(_transform(source, up, down, gelu))
            else:
                combine(start, stop, _transform(source, up, down, gelu)[None], target[None])
            start = stop
        return output.view_as(x)


Layer = Callable[[Tensor], Tensor]
Combine = Callable[[int, int, Tensor, Tensor | None], Tensor]


def _transform(x: Tensor, up: Layer, down: Layer, gelu_round: Layer | None) -> Tensor:
    """All tokens at once, which holds 4 D channels of each; ``gelu_round`` rounds them for ``down`` as well."""
    return down(apply_gelu(up, x) if gelu_round is None else gelu_round(up(x)))


def _for_all_chunks(linear: nn.Module, dtype: torch.dtype) -> Layer:
    """``linear``, whose weight is expanded now and not by every call if it is stored in fewer bits."""
    expanded = getattr(linear, "expanded", None)
    return linear if expanded is None else expanded(dtype)
