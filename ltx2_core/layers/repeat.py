"""Many layers that are made alike."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def repeat(make: Callable[[], Layer], count: int) -> Iterator[Layer]:
    """Yield ``count`` layers as ``make`` makes them, each with tensors of its own.

    On the meta device, where no weight is drawn, all but the first are copies of it: constructors take PyTorch twice
    as long, and plans make networks whose layers they never run.
    """
    if count < 1:
        return
    yield (first := make())
    copied = all(tensor.is_meta for tensor in (*first.parameters(), *first.buffers()))
    for _ in range(count - 1):
        if copied:
            with torch._C.DisableTorchFunction():  # each attribute of a tensor would ask for the device to make it on
                other = _copy(first)
            yield other
        else:
            yield make()


def _copy(module: Layer) -> Layer:
    """A module on the meta device once more; what is no module, tensor or dictionary is shared."""
    other = module.__new__(type(module))
    vars(other).update({name: each.copy() if isinstance(each, dict) else each for name, each in vars(module).items()})
    other._modules.update({name: each and _copy(each) for name, each in module._modules.items()})
    for name, each in module._parameters.items():
        if each is not None:
            empty = torch.empty(each.shape, dtype=each.dtype, device="meta")
            other._parameters[name] = nn.Parameter(empty, each.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            other._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    return other
