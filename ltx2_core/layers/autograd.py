"""Decides whether a result may be written over its input."""

import torch
from torch import Tensor


def needs_grad(*tensors: Tensor) -> bool:
    """Return whether autograd records operations on ``tensors``; where it does not, results are written in place.

    Loaded weights require no gradients, so inference always writes in place; a network in training never does.
    """
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
