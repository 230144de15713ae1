"""Networks without weights: shapes on the meta device, which files fill or plans measure."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

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
