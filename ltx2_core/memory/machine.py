"""How fast a machine is: from datasheets for the usual cards, from a short measurement for the present one."""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..disk_cache.remembered import Remembered
from ..errors import SettingError
from .ram import kept_free, ram
from .trace import Cost

_log = logging.getLogger(__name__)

GIB = 2**30
DISK = 3e9  # bytes per second of a middling NVMe drive

_CARDS = ("cuda", "xpu")  # kinds of devices with memory of their own that is counted

# Of a card's memory, what its driver and a desktop keep, and what the first use of CUDA takes.
OCCUPIED = 1_600_000_000
# Left free on a card in use: a browser may want some more any time. Windows moves what no longer fits into RAM, which
# nobody is told and which is a hundred times as slow.
MARGIN = 2**28
WINDOWS_MARGIN = 700_000_000

# What is reached of a datasheet's rates. Convolutions: a published decode (241 frames of 1280 x 720 in 9.4 s on an RTX
# 5090); the others are assumptions that fit the published step of an H100.
DATASHEET_EFFICIENCY = {"products": 0.80, "products8": 0.70, "convolutions": 0.20, "attention": 0.70, "bandwidth": 0.85}

_PROBE_SECONDS = 0.05  # of each rate
_SIDE8 = 1024  # of a matrix in eight bits; with smaller ones a CPU is busy starting operations
_PROBED_TOKENS = 256  # as those of a small clip
_STARTED = 100  # operations one after the other, to measure what it takes to start one
_WARM_UP_SECONDS = 0.3  # until a card and its link, which rest at a lower clock, are as fast as they get

# What it takes a program of Python to start one operation of a card.
LAUNCH = 7e-6

# A CPU computes networks of at least so many channels in bfloat16 if it multiplies them so many times as fast in it;
# narrower ones are busy with light work, which is faster in float32.
_WIDE = 1024
_FASTER = 1.3


@dataclass(frozen=True)
class Machine:
    """What a machine reaches, per second."""

    name: str
    memory: int  # bytes of the card
    products: float  # floating point operations in matrix products of bfloat16
    products8: float  # the same of float8, or of what such matrices are expanded to
    convolutions: float  # the same in convolutions of three axes
    attention: float
    bandwidth: float  # bytes of the card's own memory
    link: float  # bytes from pinned memory to the card
    disk: float  # bytes from disk, not from the system's cache
    launch: float = 0.0  # seconds in which the program starts one operation, while the card works on earlier ones
    overlaps: bool = True  # whether weights are copied while the card computes

    def seconds(self, cost: Cost) -> float:
        """Return how long ``cost`` takes when the weights are on the card."""
        return max(self.working(cost), self.starting(cost))

    def starting(self, cost: Cost) -> float:
        """Return how long the program takes to start the operations of ``cost``."""
        return cost.launches * self.launch

    def working(self, cost: Cost) -> float:
        """Return how long the card works on ``cost`` if all of it is started in time."""
        return (
            cost.products / self.products
            + cost.products8 / self.products8
            + cost.convolutions / self.convolutions
            + cost.attention / self.attention
            + cost.moved / self.bandwidth
        )

    @property
    def budget(self) -> int:
        """Bytes that a program may use of the card when no other program does."""
        return max(0, self.memory - OCCUPIED)


def _card(name: str, gib: int, tflops: float, bandwidth: float, link: float, float8: bool = True) -> Machine:
    """Return a card from its datasheet.

    Args:
        name: of the card.
        gib: its memory, in GiB.
        tflops: dense products of bfloat16 with sums in float32, in 1e12 per second.
        bandwidth: of its own memory, in GB/s.
        link: from pinned memory, as far as it is reached, in GB/s.
        float8: whether it multiplies float8, which is twice as fast.
    """
    rate = tflops * 1e12
    return Machine(
        name,
        memory=gib * GIB,
        products=rate * DATASHEET_EFFICIENCY["products"],
        products8=2 * rate * DATASHEET_EFFICIENCY["products8"] if float8 else rate * DATASHEET_EFFICIENCY["products"],
        convolutions=rate * DATASHEET_EFFICIENCY["convolutions"],
        attention=rate * DATASHEET_EFFICIENCY["attention"],
        bandwidth=bandwidth * 1e9 * DATASHEET_EFFICIENCY["bandwidth"],
        link=link * 1e9,
        disk=DISK,
        launch=LAUNCH,
    )


CARDS = {
    card.name: card
    for card in (
        _card("RTX 5090", 32, 209.5, 1792, 54),
        _card("RTX 5080", 16, 112.6, 960, 54),
        _card("RTX 5070 Ti", 16, 87.9, 896, 54),
        _card("RTX 5070", 12, 61.7, 672, 54),
        _card("RTX 5060 Ti 16 GB", 16, 47.4, 448, 27),
        _card("RTX 5060 Ti 8 GB", 8, 47.4, 448, 27),
        _card("RTX 5060", 8, 38.4, 448, 27),
        _card("RTX 4090", 24, 165.2, 1008, 25),
        _card("RTX 4080 SUPER", 16, 104.4, 736, 25),
        _card("RTX 4080", 16, 97.5, 717, 25),
        _card("RTX 4070 Ti SUPER", 16, 88.2, 672, 25),
        _card("RTX 4070 Ti", 12, 80.2, 504, 25),
        _card("RTX 4070 SUPER", 12, 71.0, 504, 25),
        _card("RTX 4070", 12, 58.3, 504, 25),
        _card("RTX 4060 Ti 16 GB", 16, 44.1, 288, 12.5),
        _card("RTX 4060 Ti 8 GB", 8, 44.1, 288, 12.5),
        _card("RTX 4060", 8, 30.2, 272, 12.5),
        _card("RTX 3090 Ti", 24, 80.0, 1008, 25, float8=False),
        _card("RTX 3090", 24, 71.0, 936, 25, float8=False),
        _card("RTX 3080 Ti", 12, 68.2, 912, 25, float8=False),
        _card("RTX 3080 12 GB", 12, 61.3, 912, 25, float8=False),
        _card("RTX 3080 10 GB", 10, 59.5, 760, 25, float8=False),
        _card("RTX 3070", 8, 40.6, 448, 25, float8=False),
        _card("RTX 3060 Ti", 8, 32.4, 448, 25, float8=False),
        _card("RTX 3060", 12, 25.5, 360, 25, float8=False),
        _card("RTX PRO 6000", 96, 503.8, 1792, 54),
        _card("RTX 6000 Ada", 48, 364.2, 960, 25),
        _card("RTX A6000", 48, 154.8, 768, 25, float8=False),
        _card("L40S", 48, 362.0, 864, 25),
        _card("A100 80 GB", 80, 312.0, 2039, 25, float8=False),
        _card("A100 40 GB", 40, 312.0, 1555, 25, float8=False),
        _card("H100", 80, 989.4, 3350, 54),
        _card("H200", 141, 989.4, 4800, 54),
        _card("B200", 180, 2250.0, 8000, 54),
    )
}


def machine_named(name: str) -> Machine:
    """Return the card called ``name``, in upper or lower case, with or without its maker, "RTX" and its memory.

    Raises:
        SettingError: for a card that is not in ``CARDS``, or of which there are several that differ in memory.
    """
    called, gib = _parts(name)
    alike = [card for card in CARDS.values() if _parts(card.name)[0] == called]
    found = [card for card in alike if gib in (None, str(card.memory // GIB))]
    if len(found) == 1:
        return found[0]
    if alike:
        raise SettingError(f"For {name} say which card is meant: {' or '.join(card.name for card in alike)}.")
    raise SettingError(
        f"The card {name} is not known here; known are {', '.join(CARDS)}. Take the one that is most like it."
    )


def _parts(name: str) -> tuple[str, str | None]:
    """Return what the name of a card calls it, without what many have in common, and its GiB if the name says them."""
    name = name.lower()
    for common in ("nvidia", "geforce", "rtx"):
        name = name.replace(common, " ")
    for suffix in ("ti", "super", "gb"):
        name = name.replace(suffix, f" {suffix} ")
    words = name.split()
    if words[-1:] == ["gb"]:
        return "".join(words[:-2]), "".join(words[-2:-1])
    return "".join(words), None


ScaledProduct = Callable[[Tensor], Callable[[], object] | None]


def this_machine(
    device: torch.device,
    file: Path | None = None,
    folder: Path | None = None,
    scaled_product: ScaledProduct | None = None,
    overlaps: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Machine:
    """Return the present machine, measured once in 0.7 s and then remembered.

    Args:
        device: the card, or the CPU.
        file: a large one on the disk that holds the models; without one the disk is taken to give 3 GB/s.
        folder: where measurements are kept; None keeps nothing.
        scaled_product: returns, for a square matrix on the device, a function that multiplies it by itself in eight
            bits, or None where the device cannot.
        overlaps: whether weights are copied to the device while it computes.
        dtype: what a CPU computes in; cards are measured in bfloat16.
    """
    narrow = f" in {str(dtype).removeprefix('torch.')}" if device.type == "cpu" and dtype != torch.float32 else ""
    disk = "" if file is None else file.stat().st_dev
    bits8 = "" if scaled_product is None else "8 bits"
    key = f"{identity_of(device)} torch {torch.__version__} {disk} {overlaps} {bits8}{narrow}"

    def probe() -> dict[str, Any]:
        computed_in = torch.bfloat16 if device.type == "cuda" else dtype
        return asdict(_probe(_name(device) + narrow, device, file, scaled_product, overlaps, computed_in))

    return Machine(**_remembered(folder, key, set(Machine.__dataclass_fields__), probe))


def computing_dtype(width: int, folder: Path | None) -> torch.dtype:
    """Return what this CPU computes a network in: bfloat16, as it was trained, where its products are faster.

    That is measured once for each width, in half a second, and then remembered.

    Args:
        width: channels of the network's tokens.
        folder: where measurements are kept; None keeps nothing.
    """
    if width < _WIDE:
        return torch.float32
    device, dtypes = torch.device("cpu"), {str(each): each for each in (torch.float32, torch.bfloat16)}
    key = f"{identity_of(device)} torch {torch.__version__} products of {width} channels"

    def probe() -> dict[str, Any]:
        return {name: _product_rate(width, dtype) for name, dtype in dtypes.items()}

    rates = _remembered(folder, key, set(dtypes), probe)
    slow, fast = (rates[name] for name in dtypes)
    faster = fast > _FASTER * slow
    said = "The CPU computes in %s: its products of %d channels are %.1f times as fast in bfloat16 as in float32"
    _log.info(said, "bfloat16" if faster else "float32", width, fast / slow)
    return torch.bfloat16 if faster else torch.float32


def _product_rate(width: int, dtype: torch.dtype) -> float:
    """Products of some tokens with a matrix, per second."""
    tokens, matrix = torch.ones(_PROBED_TOKENS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    return _runs_per_second(lambda: F.linear(tokens, matrix), torch.device("cpu"))


def _remembered(
    folder: Path | None, key: str, names: set[str], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What was measured before under ``key``, if it has these ``names``; else what is measured now."""
    measured = _measured(folder)
    known = measured.find(key)
    if isinstance(known, dict) and known.keys() == names:
        return known
    rates = measure()
    measured.keep(key, rates)
    return rates


def forget_machine(device: torch.device, folder: Path | None) -> None:
    """Forget what was measured of ``device``, so that it is measured anew; arguments as for ``this_machine``."""
    _measured(folder).forget(f"{identity_of(device)} torch ")


def _measured(folder: Path | None) -> Remembered:
    return Remembered(folder, "machine.json", "rates")


def _name(device: torch.device) -> str:
    if device.type in _CARDS:
        return str(torch.get_device_module(device).get_device_name(device))
    return f"{device.type} {os.cpu_count()} threads"


def identity_of(device: torch.device) -> str:
    """Return the name of the device, its driver, and the place in the machine that its link depends on."""
    if device.type != "cuda":
        return _name(device)
    properties = torch.cuda.get_device_properties(device)
    where = [getattr(properties, f"pci_{name}_id", "") for name in ("domain", "bus", "device")]
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "")()
    return f"{_name(device)} {properties.total_memory} at {where} driver {driver}"


def is_integrated(device: torch.device) -> bool:
    """Return whether ``device`` is a card without memory of its own: it takes the RAM (DGX Spark, Jetson, Strix Halo).

    What the BIOS has set apart for a chip of AMD is memory of its own. More than the system has left is certainly that.
    """
    if device.type not in _CARDS:
        return False
    facts = torch.get_device_module(device).get_device_properties(device)
    integrated = any(getattr(facts, name, False) for name in ("is_integrated", "is_integrated_gpu"))
    return integrated and (torch.version.hip is None or facts.total_memory <= ram()[0])


def shares_ram(device: torch.device) -> bool:
    """Return whether what lies on ``device`` lies in the RAM: a CPU, Apple's GPUs, and integrated cards."""
    return device.type not in _CARDS or is_integrated(device)


def usable(device: torch.device) -> int | None:
    """Return the bytes that this process may still take, a little left for others; None where they are not counted."""
    if device.type in _CARDS:
        card = torch.get_device_module(device)
        held = card.memory_reserved(device) - card.memory_allocated(device)
        if is_integrated(device):
            return max(0, _free_of_ram(device) + held - kept_free(ram()[0]))
        return max(0, _free(device) + held - _margin())
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory() - MARGIN)
    return None


def _free(device: torch.device) -> int:
    """Bytes of a card that no program has; where a driver (Intel) counts no others, those that this one has not."""
    card = torch.get_device_module(device)
    try:
        return int(card.mem_get_info(device)[0])
    except (RuntimeError, AttributeError):  # the latter of older PyTorch, for xpu
        if device.type == "cuda":
            raise
        return int(card.get_device_properties(device).total_memory) - OCCUPIED - int(card.memory_reserved(device))


def free_of(device: torch.device, counted: float) -> float:
    """Return the bytes of a card that are free by what somebody else ``counted``, who knows no integrated ones."""
    return (usable(device) or 0) if is_integrated(device) else counted


def _free_of_ram(device: torch.device) -> int:
    """Bytes of the RAM that an integrated card may take. CUDA counts pages of files as taken, which the system gives
    back when they are wanted; the others count no program but those that use the card."""
    free, (_, available) = _free(device), ram()
    if torch.version.cuda is None:
        return min(free, available)
    return max(free, min(available, torch.get_device_module(device).get_device_properties(device).total_memory))


def _margin() -> int:
    return WINDOWS_MARGIN if sys.platform == "win32" else MARGIN


def _probe(
    name: str,
    device: torch.device,
    file: Path | None,
    scaled_product: ScaledProduct | None,
    overlaps: bool,
    dtype: torch.dtype,
) -> Machine:
    card = torch.get_device_module(device) if device.type in _CARDS else None
    side, tokens, size = (4096, 4096, 2**26) if card else (512, 256, 2**22)

    def rate(work: float, run: Callable[[], object]) -> float:
        return work * _runs_per_second(run, device)

    matrix = torch.randn(side, side, device=device, dtype=dtype)
    side8 = max(side, _SIDE8)
    matrix8 = torch.randn(side8, side8, device=device, dtype=dtype)
    multiply8 = None if scaled_product is None else scaled_product(matrix8)
    clip = torch.randn(1, 128, 8, side // 32, side // 32, device=device, dtype=dtype)
    kernel = torch.randn(128, 128, 3, 3, 3, device=device, dtype=dtype)
    heads = torch.randn(1, 16, tokens, 128, device=device, dtype=dtype)
    block = torch.empty(size, dtype=torch.uint8, device=device)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=overlaps)
    few = torch.zeros(1, device=device)
    if card:
        _runs_per_second(lambda: (matrix @ matrix, block.copy_(host, non_blocking=True)), device, _WARM_UP_SECONDS)
    return Machine(
        name,
        memory=card.get_device_properties(device).total_memory if card else ram()[0],
        products=(products := rate(2 * side**3, lambda: matrix @ matrix)),
        products8=products if multiply8 is None else rate(2 * side8**3, multiply8),
        convolutions=rate(2 * clip.numel() * kernel[0].numel(), lambda: F.conv3d(clip, kernel, padding=1)),
        attention=rate(4 * heads.numel() * tokens, lambda: F.scaled_dot_product_attention(heads, heads, heads)),
        bandwidth=rate(2 * size, block.clone),
        link=rate(size, lambda: block.copy_(host, non_blocking=True)),
        disk=DISK if file is None else _disk_rate(file),
        launch=1 / rate(_STARTED, lambda: [few.add_(1) for _ in range(_STARTED)]) if card else 0.0,
        overlaps=overlaps,
    )


def _runs_per_second(run: Callable[[], object], device: torch.device, seconds: float | None = None) -> float:
    seconds = _PROBE_SECONDS if seconds is None else seconds

    run()
    _wait_for(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        _wait_for(device)
        count += 1
    return count / (time.perf_counter() - start)


def _wait_for(device: torch.device) -> None:
    """Return when ``device`` has done all that was started on it."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def _disk_rate(file: Path) -> float:
    """Return the bytes per second of reading ``file`` from its disk.

    The system is asked to drop what it holds of the file. Windows takes no such wish and may hold what was read lately,
    so what comes faster than from a middling disk is taken for its memory.
    """
    piece, done = 8 * 2**20, 0
    with file.open("rb", buffering=0) as stream:
        start_at = file.stat().st_size // 2
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), start_at, 0, os.POSIX_FADV_DONTNEED)
        stream.seek(start_at)
        start = time.perf_counter()
        while time.perf_counter() - start < _PROBE_SECONDS and (read := len(stream.read(piece))):
            done += read
    rate = max(done, 1) / (time.perf_counter() - start)
    return rate if hasattr(os, "posix_fadvise") else min(rate, DISK)
