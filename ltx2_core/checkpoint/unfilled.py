"""Networks without weights: shapes on the meta device, which files fill or plans measure."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from ..quantization import check_stored, matrix_shapes, split_companion
from .files import called, named_errors
from .loading import check_shapes
from .stored import StoredNetwork

Network = TypeVar("Network", bound=nn.Module)

# What layers call for their first weights; on the meta device there are none, but every call would take its time.
_DRAWS = {value for name, value in vars(init).items() if callable(value) and name.endswith("_") and name[0] != "_"}


class _NothingDrawn(TorchFunctionMode):
    """Leaves new weights as they are."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``function``, unless it draws weights."""
        kwargs = kwargs or {}
        if function in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make the networks within on the meta device, in a third of the time that PyTorch takes by itself.

    No weights are drawn, and Python's search for garbage waits: thousands of modules are made at once, all to stay.
    """
    with torch.device("meta"), _NothingDrawn(), uncollected():
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's search for garbage wait while many objects are made that stay; each search would visit them all."""
    waits = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if waits:
            gc.enable()


def outline_network(
    make: Callable[[], Network], stored: StoredNetwork, title: str, official: Callable[[str], str]
) -> Network:
    """Make a network without weights, if what is stored will fill it; headers alone are read.

    Args:
        make: Makes it.
        stored: Its tensors.
        title: Begins the sentence of an error, such as "The transformer in x.safetensors".
        official: Gives the name of a tensor in the official file.

    Raises:
        CheckpointError: Tensors are missing, unknown, of the wrong shape, or in a format that cannot be read.
    """
    file, names = stored.file, stored.names
    with named_errors(called(file.path)):
        check_stored(file.outlines(names.values()))
    with unfilled():
        network = make()
    wanted = matrix_shapes(network)
    shapes = {ours: file.shape(key, wanted.get(ours)) for ours, key in names.items() if not split_companion(ours)[1]}
    check_shapes(network, shapes, title, official)
    return network
