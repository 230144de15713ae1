"""Who is on the device, when nobody else (a host) decides."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..disk_cache import cache_folder
from .link import Plain, link_to
from .machine import Machine, pinnable, this_machine, usable
from .pinned import PinnedMemory, ram
from .plan import place, refusal
from .stages import Need
from .store import Store
from .unit import Patch


class Residency:
    """One stage on the device at a time, as much of its weights as ``budget`` allows.

    ``vram`` and ``ram`` are the most that may be taken of the card, and pinned, in bytes; None is all that is free.
    ``file`` is one of the weights, whose disk is measured. A CPU has no budget, unless ``vram`` gives it one: then
    weights are copied on it as onto a card of that size.
    """

    def __init__(
        self,
        device: torch.device | str | None = None,
        vram: int | None = None,
        ram: int | None = None,
        file: Path | None = None,
    ):
        self.device = best_device() if device is None else torch.device(device)
        self._vram, self._ram, self._file = vram, ram, file
        self._pinned = PinnedMemory(ram)

    @cached_property
    def machine(self) -> Machine:
        return this_machine(self.device, self._file, cache_folder())

    @property
    def budget(self) -> int | None:
        """Bytes of the device that may be taken now, for weights and work; None without limit."""
        free = usable(self.device)
        return free if self._vram is None else self._vram if free is None else min(free, self._vram)

    @property
    def ram(self) -> int:
        """Bytes that may be pinned."""
        return pinnable(*ram()) if self._ram is None else min(self._ram, pinnable(*ram()))

    @contextmanager
    def use(
        self, *networks: nn.Module, need: Need | None = None, patches: Mapping[str, Patch] | None = None
    ) -> Iterator[Sequence[Any]]:
        """``networks`` on the device for the time of the block.

        ``patches`` are made in their weights, by the names of an ``nn.Sequential`` of them. Raises ValueError if
        ``need``, what they need together, does not fit what is free now.
        """
        store = Store(nn.Sequential(*networks), self.device, link=self._link())
        store.patch(patches or {})
        budget = self.budget
        if need is not None and budget is not None:
            stage = place(need, self.machine, budget, self.ram)
            if stage is None:
                raise ValueError(refusal(need, budget))
            store.stream_by(stage.unit, stage.slots or 2)
            store.set_budget(stage.weight_budget)
        try:
            with store.use():
                yield networks
        finally:
            store.release()

    def _link(self) -> Any:
        if self.device.type == "cpu" and self._vram is not None:
            return Plain(self.device)
        return link_to(self.device, self._pinned)


def best_device() -> torch.device:
    """The fastest device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """What networks compute in: bfloat16 as they were trained, float32 on a CPU."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
