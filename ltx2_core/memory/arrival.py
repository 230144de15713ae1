"""How stored weights arrive on a device: as they are, or as other kinds of numbers, converted when their turn comes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Arrival:
    """How stored weights arrive on a device.

    Attributes:
        conversions: what kinds of numbers become, each time that they are copied; all others stay what they are.
        in_place: whether the device computes with weights where they lie, so that only converted ones are copied.
    """

    conversions: Mapping[torch.dtype, torch.dtype] = field(default_factory=dict)
    in_place: bool = False

    @property
    def deferred(self) -> Collection[torch.dtype]:
        """Kinds of numbers that a network may keep as its file has them, although it computes in another one."""
        return self.conversions.keys()


AS_STORED = Arrival()

# Apple's GPUs know neither of these; every float8 is a bfloat16, so nothing is lost.
_UNKNOWN_TO_MPS = {
    torch.float8_e4m3fn: torch.bfloat16, torch.float8_e5m2: torch.bfloat16, torch.float64: torch.float32,
}  # fmt: skip


def arrival_on(device: torch.device, dtype: torch.dtype) -> Arrival:
    """Return how weights arrive on ``device`` that are to compute in ``dtype``.

    On a CPU those of 16 bits become float32 when their turn comes, because all of them at once would take twice the
    bytes of their file. Float8 and float64 never reach an MPS device.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return Arrival({torch.bfloat16: dtype, torch.float16: dtype}, in_place=True)
    return Arrival(_UNKNOWN_TO_MPS) if device.type == "mps" else AS_STORED
