"""A second network of the same weights, which another device moves by itself: no byte is copied on the host."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from .partition import tensors_of

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def twin_of(network: NetworkT) -> NetworkT:
    """Return a network with modules of its own whose parameters and buffers lie where those of ``network`` do.

    Stores of both move their weights independently. What is on a device already is shared there, too, so make the twin
    while the weights are at home.
    """
    with torch.inference_mode(False):
        return deepcopy(network, {id(tensor): _same_bytes(tensor) for tensor in tensors_of(network)})


def _same_bytes(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor.data, requires_grad=False) if isinstance(tensor, nn.Parameter) else tensor.data
