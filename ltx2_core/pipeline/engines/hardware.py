"""Which devices does this machine have, what are they called, how fast are they, and in what do they compute?"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ...checkpoint.folders import files_of
from ...checkpoint.versions import VERSIONS
from ...disk_cache import cache_folder
from ...errors import SettingError
from ...memory.link import can_stream
from ...memory.machine import Machine, computing_dtype, this_machine
from ...quantization import scaled_product
from ...transformer import TransformerConfig
from .device_thread import working_on


def best_device() -> torch.device:
    """Return the fastest device of this machine."""
    counts = _device_counts()
    return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if counts[kind]))


def device_named(name: str, asked: str = "device is") -> torch.device:
    """Return the device that is called ``name``, such as "cuda:1"; ``asked`` begins the sentence of an error.

    Raises:
        SettingError: this machine has none of that name.
    """
    counts = _device_counts()
    with suppress(RuntimeError):  # for a name that PyTorch does not know
        device = torch.device(name.strip().lower())
        if (device.index or 0) < counts.get(device.type, 0):
            return device
    known = [kind if number == 0 else f"{kind}:{number}" for kind, count in counts.items() for number in range(count)]
    raise SettingError(
        f"{asked} {name[:40]!r}, which this machine, or its PyTorch, does not have: leave it out, or take one of "
        f"{', '.join(known)}."
    )


def devices_named(names: Sequence[str], asked: str = "devices has") -> tuple[torch.device, ...]:
    """Return the devices of these names, which work together; ``asked`` as for ``device_named``.

    Raises:
        SettingError: for one that this machine does not have, for one twice, and for devices of several kinds.
    """
    devices = tuple(device_named(name, asked) for name in names)
    twice = {str(device) for device in devices if device.type != "cpu" and devices.count(device) > 1}
    if twice or len({device.type for device in devices}) > 1:
        raise SettingError(
            f"devices are {', '.join(names)[:80]}: give different devices of one kind, such as cuda:0,cuda:1, so that "
            "they compute the same."
        )
    return devices


def other_devices_named(names: str, own: torch.device) -> tuple[torch.device, ...]:
    """Return the devices that share the work with ComfyUI's ``own`` one, the first of ``names``, which commas separate.

    Raises:
        SettingError: for names that are no devices of this machine, and where another one is the first.
    """
    if not names.strip():
        return ()
    first, *others = devices_named(names.split(","))
    if (first.type, first.index or 0) != (own.type, own.index or 0):
        raise SettingError(
            f"devices begin with {first}, but ComfyUI computes on {own}, and does there what is not shared: begin with "
            f"{own}, or start ComfyUI with another --cuda-device."
        )
    return tuple(others)


def _device_counts() -> dict[str, int]:
    """How many devices of each kind there are."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    others = torch.xpu.device_count() if torch.xpu.is_available() else 0
    return {"cuda": cards, "xpu": others, "mps": int(torch.backends.mps.is_available()), "cpu": 1}


def compute_dtype(device: torch.device, width: int) -> torch.dtype:
    """Return what networks compute in: bfloat16 as they were trained, on a CPU only where it is faster in it.

    Args:
        device: where.
        width: channels of the transformer's tokens; 0 where there is none.
    """
    if device.type != "cpu":
        return torch.bfloat16
    return computing_dtype(width, cache_folder())


def width_of(version: str) -> int:
    """Return how many channels the transformer's video tokens have in a release."""
    return TransformerConfig.from_json(VERSIONS[version].config["transformer"]).video.width


def current_machine(device: torch.device, path: Path | None = None, dtype: torch.dtype = torch.float32) -> Machine:
    """Return the present machine, measured once and remembered.

    Args:
        device: the card, or the CPU.
        path: the file or the folder of a model, on the disk that is measured.
        dtype: what a CPU computes in.
    """
    largest = None if path is None else max(files_of(path), key=lambda file: file.stat().st_size)
    with working_on(device):
        return this_machine(device, largest, cache_folder(), scaled_product, can_stream(device), dtype)
