"""The feed-forward network of a block."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .autograd import needs_grad
from .kernels import GELU_ROUND
from .linear import Linear, apply_gelu, find_gelu_product
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
        tokens = x.shape[:-1].numel()
        if tokens <= self.chunk or needs_grad(x):
            up, down = self._with_gelu(x, self.up, self.down)
            return down(up(x)) if combine is None else combine(0, tokens, down(up(x)), None)
        up, down = self._with_gelu(x, *(_for_all_chunks(each, x.dtype) for each in (self.up, self.down)))
        output, start = x.new_empty(tokens, x.shape[-1]), 0
        chunks = math.ceil(tokens / self.chunk)
        for source, target in zip(split_tokens(x, chunks), output.tensor_split(chunks)):
            stop = start + len(source)
            if combine is None:
                target.copy_(down(up(source)))
            else:
                combine(start, stop, down(up(source))[None], target[None])
            start = stop
        return output.view_as(x)

    def _with_gelu(self, x: Tensor, up: "Layer", down: "Layer") -> tuple["Layer", "Layer"]:
        """Both layers, the GELU where it costs least: behind ``up``, rounded for ``down``, or in ``down`` itself."""
        if needs_grad(x):
            return partial(apply_gelu, up), down
        if (gelu_round := find_rounding(GELU_ROUND.find, x, (self.down,))) is not None:
            return lambda x: gelu_round(up(x)), down
        gelu_product = find_gelu_product(self.down, x.dtype)
        return (partial(apply_gelu, up), down) if gelu_product is None else (up, gelu_product)


Layer = Callable[[Tensor], Tensor]
Combine = Callable[[int, int, Tensor, Tensor | None], Tensor]


def _for_all_chunks(linear: nn.Module, dtype: torch.dtype) -> Layer:
    """``linear``, whose weight is expanded now and not by every call if it is stored in fewer bits."""
    expanded = getattr(linear, "expanded", None)
    return linear if expanded is None else expanded(dtype)
