"""Several layers with one input."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def shared_input(x: Tensor) -> Iterator[None]:
    """Let layers that are called with ``x`` itself share what they make of it: quantised ones round it once.

    Nobody may change ``x`` meanwhile. What they keep lies in the dict ``x.rounded``, which is gone afterwards; whoever
    shares ``x`` already keeps it longer.
    """
    if "rounded" in vars(x):
        yield
        return
    vars(x)["rounded"] = {}
    try:
        yield
    finally:
        del vars(x)["rounded"]
