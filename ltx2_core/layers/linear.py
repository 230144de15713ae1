"""A linear layer that multiplies as is fastest where it is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .kernels import gelu_, multiply, multiply_gelu
from .sharing import is_adapted


class Linear(nn.Linear):
    """``nn.Linear`` with the fastest product that gives its numbers (see kernels/README.md)."""

    def reset_parameters(self) -> None:
        """Fill a new weight at random as ``nn.Linear`` does, unless it is but a shape."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of ``x`` (..., D) to D' channels."""
        return multiply(x, self.weight, self.bias)


def apply_gelu(linear: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the GELU, in its tanh form, of ``linear(x)``; by one kernel if the layer does nothing but multiply."""
    if isinstance(linear, Linear) and not is_adapted(linear):
        return multiply_gelu(x, linear.weight, linear.bias)
    return gelu_(linear(x))


def find_gelu_product(layer: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """Return the product of ``layer`` with the GELU, in its tanh form, of inputs of ``dtype``; None if it does not make
    that itself, or if something else is computed beside it."""
    if not hasattr(type(layer), "find_gelu_product") or is_adapted(layer):
        return None
    quantised: Any = layer
    found: Callable[[Tensor], Tensor] | None = quantised.find_gelu_product(dtype)
    return found
