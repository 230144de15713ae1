"""The thread that works for one of several devices: what it computes with, and what its errors mean for the others."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from ...errors import LTX2Error, first_line, is_out_of_memory


@contextmanager
def working_on(device: torch.device) -> Iterator[None]:
    """Compute on ``device``: a thread knows neither the mode nor the card of the one that started it."""
    with torch.inference_mode(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def concerns_all(error: BaseException) -> bool:
    """Return whether every other device would fail with ``error``, too."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, LTX2Error) or not isinstance(error, RuntimeError)


def why_left_out(error: BaseException) -> str:
    """Return what a device did that is left out because of ``error``, such as "failed (no kernel image)"."""
    return "has too little memory" if is_out_of_memory(error) else f"failed ({first_line(error)})"
