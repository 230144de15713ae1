"""Who is on the device, when nobody else (a host) decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from .store import Store

Network = TypeVar("Network", bound=nn.Module)

# Left for activations, the driver and other programs.
RESERVE = 3 * 2**30


class Residency:
    """One network on the device at a time, as much of it as is free."""

    def __init__(self, device: torch.device | str | None = None):
        self.device = best_device() if device is None else torch.device(device)

    @contextmanager
    def use(self, network: Network) -> Iterator[Network]:
        """``network`` on the device for the time of the block."""
        if self.device.type == "cpu":
            yield network
            return
        store = Store(network, self.device)
        store.set_budget(self._free())
        try:
            with store.use():
                yield network
        finally:
            store.release()

    def _free(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return max(0, torch.cuda.mem_get_info(self.device)[0] - RESERVE)


def best_device() -> torch.device:
    """The fastest device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """What networks compute in: bfloat16 as they were trained, float32 on a CPU."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
