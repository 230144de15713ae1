"""May a result be written over what it was made of?"""

import torch
from torch import Tensor


def recorded(*tensors: Tensor) -> bool:
    """Whether autograd will come back to any of these. Where it will not, results are written in place.

    Weights that were loaded ask for no gradients, so inference never records; a network in training asks.
    """
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
