"""Where the weights of one stage lie while it runs: on the device, in pinned memory, or on disk.

A ``Placement`` is a value. It is computed once, shown to the user, and obeyed by the ``Store``; both use the rule
``partition.rank_units``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .link import InPlace
from .machine import Machine
from .partition import BLOCK, PART, Units, Weights, choose_resident, choose_units
from .ring import Ring
from .trace import Cost
from .unit import Slot, Unit

DEVICE, HOST, DISK = "device", "host", "disk"

MAX_SLOTS = 4  # of a ring; with more, nothing became faster in the clocked runs of tests/core/memory/test_placement.py

# Bytes of a kernel's own workspace; and the gaps that the allocator leaves, which grow with what it holds.
KERNEL_WORKSPACE_BYTES = 300_000_000
FRAGMENTED_SHARE = 0.08

# Fewer slots win unless more of them are faster by this share: what they free can hold weights.
_SLOT_GAIN = 0.97


@dataclass(frozen=True)
class StageNeed:
    """What one stage needs.

    Attributes:
        name: of the stage.
        weights: bytes of its networks.
        cost: memory and operations of one run.
        input_bytes: bytes of what else lies on the device meanwhile.
        runs: how many runs there are.
        graph_bytes: bytes that CUDA graphs of a run keep beside that; 0 without graphs.
        walks: how many of the runs are one step.
    """

    name: str
    weights: Weights
    cost: Cost
    input_bytes: int = 0
    runs: int = 1
    graph_bytes: int = 0
    walks: int = 1

    @property
    def workspace_bytes(self) -> int:
        """Bytes that kernels and the allocator take beside the tensors."""
        return KERNEL_WORKSPACE_BYTES + int(FRAGMENTED_SHARE * self.cost.peak)

    @property
    def work_bytes(self) -> int:
        """Bytes on the device beside the weights."""
        return self.cost.peak + self.input_bytes + self.graph_bytes + self.workspace_bytes

    @property
    def peak(self) -> int:
        """Bytes on the device when all weights are there."""
        return self.weights.total + self.work_bytes

    def with_inputs(self, nbytes: int) -> "StageNeed":
        """Return the need with ``nbytes`` more lying on the device."""
        return replace(self, input_bytes=self.input_bytes + nbytes)


@dataclass(frozen=True)
class Room:
    """What a stage may take.

    Attributes:
        machine: its rates and sizes.
        budget: bytes of the device for weights and work; None without limit, where weights are used where they lie.
        ram: bytes that may be pinned.
        in_ram: whether the memory of the device is the RAM, as that of a CPU: the budget is of RAM, nothing can wait
            outside of it, and what is streamed comes from disk.
        free: bytes of RAM that frames and latents may take once weights that rest there have made room.
    """

    machine: Machine
    budget: int | None
    ram: int = 0
    in_ram: bool = False
    free: int = 0

    @property
    def where(self) -> str:
        """Whose memory the budget is of, in words."""
        return "RAM" if self.in_ram else "the card"

    def within(self, device: int | None, ram: int | None) -> "Room":
        """Return the room with at most so many bytes of the device and of RAM; None is no limit."""
        limits = [each for each in (self.budget, device, ram if self.in_ram else None) if each is not None]
        pinned, free = ((each if ram is None else min(each, ram)) for each in (self.ram, self.free))
        return replace(self, budget=min(limits, default=None), ram=pinned, free=free)


# Where nobody counts bytes, nothing is placed and no rate is needed.
UNLIMITED = Room(Machine("this machine", 0, 1, 1, 1, 1, 1, 1, 1, overlaps=False), None)


@dataclass(frozen=True)
class Rate:
    """How fast a device runs a stage.

    Attributes:
        seconds: of computing one run.
        least: that a run takes however little of it is computed, since weights are streamed.
    """

    seconds: float = 1.0
    least: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Where the weights of a stage are between their uses, and how long it takes.

    Attributes:
        need: of the stage.
        tiers: of each unit: DEVICE, HOST or DISK.
        slots: of the ring; 0 where nothing is streamed.
        load: seconds until its weights have been read once.
        run: seconds of one run.
        parts: whether parts of blocks are streamed instead of whole ones.
    """

    need: StageNeed
    tiers: tuple[str, ...]
    slots: int
    load: float
    run: float
    parts: bool = False

    @property
    def units(self) -> Units:
        """What travels at once."""
        return self.need.weights.units(self.parts)

    @property
    def unit(self) -> str:
        """What the store streams: "block" or "part"."""
        return PART if self.parts else BLOCK

    @property
    def weight_budget(self) -> int:
        """Bytes that the stage's store may take on the device, ring included."""
        resident = sum(size for size, tier in zip(self.units.sizes, self.tiers) if tier == DEVICE)
        streamed = (size for size, tier in zip(self.units.sent, self.tiers) if tier != DEVICE)
        return self.units.rest + resident + self.slots * max(streamed, default=0)

    @property
    def device_bytes(self) -> int:
        """The most that the stage takes on the device."""
        return self.weight_budget + self.need.work_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of pinned memory."""
        return sum(size for size, tier in zip(self.units.sent, self.tiers) if tier == HOST)

    def rate(self, machine: Machine) -> Rate:
        """Return how fast ``machine`` runs the stage, placed so."""
        from_disk = sum(size for size, tier in zip(self.units.sent, self.tiers) if tier == DISK)
        least = max((from_disk + self.host_bytes) / machine.link, from_disk / machine.disk)
        return Rate(machine.seconds(self.need.cost), least)

    def loaded_again(self, room: Room) -> "Placement":
        """Return it for a stage whose weights an earlier one has read: what RAM holds of them, at most as much as may
        be pinned, is copied to the device once more and not read from disk. What patches read may be other files."""
        weights, machine = self.need.weights, room.machine
        free = (room.budget or 0) - self.need.work_bytes if room.in_ram else room.ram
        kept = min(weights.total, max(0, free))
        read = (weights.sent_total - kept) / min(machine.disk, machine.link)
        return replace(self, load=kept / machine.link + read)

    @property
    def seconds(self) -> float:
        """All runs, the first reading of the weights included."""
        return self.load + self.run * self.need.runs


def place(need: StageNeed, room: Room) -> Placement | None:
    """Place the weights of a stage as well as possible.

    Whole blocks are streamed where two of them have room, else parts of blocks, or where these are faster.

    Args:
        need: of the stage.
        room: what it may take; its budget must be a number.

    Returns:
        The placement; None if the stage does not fit even when every part is streamed.
    """
    machine, weights = room.machine, need.weights
    assert room.budget is not None
    if weights.total <= room.budget - need.work_bytes:
        return Placement(
            need, (DEVICE,) * len(weights.blocks.sizes), 0, _load_seconds(need, machine), machine.seconds(need.cost)
        )
    blocks = _streamed(need, room, parts=False)
    if blocks is not None and (blocks.slots > 2 or _takes_turns(room) or not _can_gain(blocks, machine)):
        return blocks  # with room to spare, or as fast as can be
    parts = _streamed(need, room, parts=True)
    if blocks is None or (parts is not None and parts.run < _SLOT_GAIN * blocks.run):
        return parts
    return blocks


def _takes_turns(room: Room) -> bool:
    """Return whether nothing is copied while the device computes, so that looking ahead would only take room."""
    return not room.machine.overlaps


def _load_seconds(need: StageNeed, machine: Machine) -> float:
    return need.weights.sent_total / min(machine.disk, machine.link)


def _streamed(need: StageNeed, room: Room, parts: bool) -> Placement | None:
    """Place weights of which blocks, or ``parts`` of them, are streamed; None if there is no room for that."""
    assert room.budget is not None
    machine, units = room.machine, need.weights.units(parts)
    spare = room.budget - need.work_bytes - units.rest
    # With a single slot there is no look-ahead, which is worth more than anything that stays.
    most = min(_most_slots(units, spare), 1 if _takes_turns(room) else MAX_SLOTS)
    least = 1 if parts or _takes_turns(room) else 2
    computing, patching = machine.seconds(need.cost), _patching_seconds(units, machine)
    best: Placement | None = None
    for slots in range(max(least, min(2, most)), most + 1):
        resident = choose_resident(units.sizes, spare, slots, units.passing) or set()
        tiers = _tiers(units.sent, resident, room.ram if need.runs > 1 else 0)
        run = computing
        if need.runs > 1:
            run = step_seconds(units.sent, tiers, slots, computing, machine, patching)
        if best is None or run < _SLOT_GAIN * best.run:
            best = Placement(need, tiers, slots, _load_seconds(need, machine), run, parts)
        if not _can_gain(best, machine):
            break
    return best


def _can_gain(placement: Placement, machine: Machine) -> bool:
    """Return whether a step could be noticeably faster, which takes as long as its computing at least."""
    return machine.seconds(placement.need.cost) < _SLOT_GAIN * placement.run


def _most_slots(units: Units, room: int) -> int:
    """Return how many slots a ring may have, at most ``MAX_SLOTS``; 0 if there is nothing to stream, or no room."""
    possible = range(1, MAX_SLOTS + 1) if units.sizes else ()
    fitting = (slots for slots in possible if choose_resident(units.sizes, room, slots, units.passing) is not None)
    return max(fitting, default=0)


def _patching_seconds(units: Units, machine: Machine) -> list[float]:
    """Return how long the patches of each unit take in a copy of it, which is read and written."""
    return [
        machine.seconds(Cost(products=each.operations, moved=2 * size + each.nbytes)) if each.nbytes else 0.0
        for size, each in zip(units.sizes, units.patches)
    ]


def _tiers(sizes: Sequence[int], resident: set[int], host_room: int) -> tuple[str, ...]:
    """Return the tier of every unit; ``sizes`` are bytes as they travel."""
    others = [index for index in range(len(sizes)) if index not in resident]
    pinned = choose_units(sizes, others, host_room)
    return tuple(DEVICE if i in resident else HOST if i in pinned else DISK for i in range(len(sizes)))


def step_seconds(
    units: Sequence[int],
    tiers: Sequence[str],
    slots: int,
    computing: float,
    machine: Machine,
    patching: Sequence[float] = (),
) -> float:
    """Return the seconds of one step in a run of many.

    The ring itself is turned, with a link that only keeps the time. ``computing`` seconds are spread over the units as
    their bytes are; ``patching`` seconds are those of each unit when it comes.
    """
    made = [Unit([torch.empty(size, dtype=torch.uint8, device="meta")]) for size in units]
    for unit, tier in zip(made, tiers):
        unit.place = Slot(0) if tier == DEVICE else None
    clock = _Clock(machine, {unit for unit, tier in zip(made, tiers) if tier == DISK})
    ring, before, total = Ring(made, clock, slots), 0.0, sum(units)
    ring.start()
    for _ in range(3):  # the third step is like all later ones
        before = clock.now
        for unit, patched in zip(made, patching or [0.0] * len(made)):
            ring.use(unit)
            clock.now += computing * unit.nbytes / total + (0 if unit.place else patched)
            ring.done(unit)
            ring.look_ahead()
    return clock.now - before


class _Clock(InPlace):
    """Copies one after the other, beside the computing; what is ``on_disk`` is read before, as it is copied."""

    def __init__(self, machine: Machine, on_disk: set[Unit]):
        self.now = 0.0
        self._machine, self._on_disk = machine, on_disk
        self._copied = self._read = 0.0
        self._ready: dict[Unit, float] = {}

    def send(self, unit: Unit, slot: Slot) -> None:
        copying, begin = unit.nbytes / self._machine.link, max(self.now, self._copied)
        if unit in self._on_disk:
            self._read = max(self.now, self._read) + unit.nbytes / self._machine.disk
            begin = max(begin, self._read - copying)
        self._copied = self._ready[unit] = begin + copying

    def arrive(self, unit: Unit, slot: Slot) -> None:
        self.now = max(self.now, self._ready[unit])


def least_bytes(need: StageNeed) -> int:
    """Return the bytes of the device without which a stage cannot run, everything streamed."""
    units = need.weights.smallest
    return need.work_bytes + units.rest + max(units.sent, default=0)


def fitting_share(need: StageNeed, budget: int) -> float:
    """Return the share of a stage's work that would fit ``budget`` bytes, with everything streamed; may be negative."""
    work = need.work_bytes - KERNEL_WORKSPACE_BYTES
    return (budget - least_bytes(need) + work) / work if work else 0.0


_SHOWN = 10**8  # bytes, of which ``gigabytes`` shows whole ones

SMALLER = "Choose a smaller size or format of the model, or a device with more memory."


# Where there may be a card that torch does not see.
_NO_CUDA = (
    "No graphics card is used, because your torch has no CUDA: if there is an NVIDIA card, install torch with CUDA as "
    "pytorch.org says."
)


def explain_refusal(need: StageNeed, room: Room, advice: str = SMALLER) -> str:
    """Say why a stage does not fit the budget of ``room``, and what to do."""
    units = need.weights.smallest
    taken = {
        "its work": need.work_bytes,
        "weights that are always needed": units.rest,
        f"one {'part of a block' if units is need.weights.parts else 'block'}": max(units.sent, default=0),
    }
    reasons = [f"{gigabytes(nbytes)} for {what}" for what, nbytes in taken.items() if nbytes > _SHOWN // 2]
    needed = -(-least_bytes(need) // _SHOWN) * _SHOWN  # rounded up, so that it does not look like what is there
    return (
        f"{need.name} does not fit {gigabytes(room.budget or 0)}{' of RAM' if room.in_ram else ''}, even when "
        f"everything is streamed: it needs {', '.join([gigabytes(needed), *reasons])}. {advice}"
        f"{f' {_NO_CUDA}' if room.in_ram and lacks_cuda() else ''}"
    )


def lacks_cuda() -> bool:
    """Return whether this torch is one that no NVIDIA or AMD card can be used with, on a system that may have one."""
    return torch.version.cuda is None and torch.version.hip is None and sys.platform != "darwin"


def gigabytes(nbytes: float) -> str:
    """Return a number of bytes as people read it, such as "1.5 GB", or "21 MB" where GB would say nothing."""
    if 5e5 <= nbytes < _SHOWN / 2:
        return f"{nbytes / 1e6:.0f} MB"
    return f"{nbytes / 1e9:.1f} GB"
