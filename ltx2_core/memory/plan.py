"""Before the run: does the clip fit, where will every block be, in which tiles is it decoded, how long will it take?

A plan is arithmetic on what the stages need (``stages``) and what a machine gives (``machine``). It places blocks by
the rules of the ``Store``, which then has to be given nothing but the budget of its stage.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ..geometry import ClipShape, pixel_frames
from ..video_vae import Tiling
from . import stages
from .link import InPlace
from .machine import Machine
from .ring import Ring
from .stages import PASSES, Blueprint, Extent, Need
from .store import spread
from .unit import Slot, Unit

DEVICE, HOST, DISK = "device", "host", "disk"

MOST_SLOTS = 4

# From the official tiling to the smallest that still looks whole; later ones need less memory and more time.
TILINGS = (
    Tiling(),
    Tiling(640, 64, 64, 24),
    Tiling(512, 64, 56, 24),
    Tiling(512, 64, 48, 24),
    Tiling(384, 64, 40, 16),
    Tiling(384, 64, 32, 16),
    Tiling(256, 64, 24, 8),
    Tiling(256, 64, 16, 8),
)


@dataclass(frozen=True)
class Stage:
    """One stage under a plan."""

    need: Need
    tiers: tuple[str, ...]  # of each block, or part of one: where it is between its uses
    slots: int  # of the ring; 0 where nothing is streamed
    load: float  # seconds until its weights have been read once
    run: float  # seconds of one run
    parts: bool = False  # whether parts of blocks are streamed instead of whole ones

    @property
    def units(self) -> tuple[int, ...]:
        """Bytes of what travels at once."""
        return self.need.weights.units(self.parts)

    @property
    def unit(self) -> str:
        """What the store streams."""
        return "part" if self.parts else "block"

    @property
    def weight_budget(self) -> int:
        """Bytes that the stage's store may take on the device, ring included."""
        staying = sum(size for size, tier in zip(self.units, self.tiers) if tier == DEVICE)
        return self.need.weights.beside(self.parts) + staying + self.slots * max(self.units, default=0)

    @property
    def device_bytes(self) -> int:
        """The most that the stage takes on the device."""
        return self.weight_budget + self.need.scratch

    @property
    def host_bytes(self) -> int:
        """Pinned memory."""
        return sum(size for size, tier in zip(self.units, self.tiers) if tier == HOST)

    @property
    def seconds(self) -> float:
        return self.load + self.run * self.need.runs


@dataclass(frozen=True)
class Plan:
    """What is going to happen, or why it cannot."""

    title: str
    shape: ClipShape
    machine: Machine
    budget: int  # bytes on the device
    ram: int  # bytes that may be pinned
    stages: tuple[Stage, ...]  # those that fit, in their order
    tiling: Tiling  # to decode in
    notes: tuple[str, ...] = ()  # what is less good than it could be, and why
    refusals: tuple[str, ...] = ()  # why it does not fit
    encode_tiling: Tiling = field(default_factory=Tiling)

    @property
    def fits(self) -> bool:
        return not self.refusals

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.need.name == name)

    def summary(self) -> str:
        """The plan in a line for each stage."""
        lines = [self.title]
        for stage in self.stages:
            name, _, _, device, host, where, time = _row(stage)
            parts = [f"{device} of the card", f"{host} of RAM" * bool(stage.host_bytes), where, time]
            lines.append(f"{name}: {', '.join(filter(None, parts))}")
        return "\n".join([*lines, *self.notes, *self.refusals])

    def explain(self) -> str:
        """The plan as a table, and what there is to say about it."""
        shape, rows = self.shape, [_row(stage) for stage in self.stages]
        header = ("stage", "weights", "work", "device", "host", "blocks", "time")
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        lines = [
            f"{self.title}: {shape.width} x {shape.height}, {shape.frames} frames ({float(shape.seconds):.1f} s)",
            f"{self.machine.name}: at most {_gb(self.budget)} of the card and {_gb(self.ram)} of pinned RAM",
            "",
            *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)),
            "",
            *self.notes,
            *self.refusals,
        ]
        if self.fits:
            lines += [
                f"Frames are decoded in tiles of {self.tiling.tile_size} pixels and {self.tiling.tile_frames} frames.",
                f"About {_time(self.seconds)} in all, the first time; weights are read at "
                f"{self.machine.disk / 1e9:.1f} GB/s from disk and copied at {self.machine.link / 1e9:.1f} GB/s.",
            ]
        return "\n".join(lines)


def plan(
    blueprint: Blueprint,
    shape: ClipShape,
    *,
    machine: Machine,
    passes: Sequence[str] = PASSES[:1],
    steps: int = 8,
    stg_block: int = 0,
    prompts: int | None = None,
    budget: int | None = None,
    ram: int = 0,
    tiling: Tiling | None = None,
    sampled: Extent | None = None,
    encoded: Extent | None = None,
    later: Sequence[Need] = (),
) -> Plan:
    """Where everything goes, for a clip of this ``shape`` and ``steps`` steps of these ``passes``.

    ``sampled`` is what the transformer has before it at once, by default the whole clip; ``encoded`` is the largest
    that is given and has to be encoded. ``later`` is what happens between sampling and decoding.

    ``budget`` is how much of the device may be taken, by default all that ``machine`` can give; ``ram`` is how much
    may be pinned. ``prompts`` is how many are to be read, by default all that the passes need. A ``tiling`` that is
    given is kept. What does not fit is said in the plan's ``refusals``.
    """
    budget = machine.budget if budget is None else budget
    prompts = 1 + ("negative" in passes) if prompts is None else prompts
    extent, encoded, encode_tiling = Extent.of_clip(shape), encoded or Extent(None, None), Tiling()
    sampled = sampled or extent
    needs = [
        *(stages.prompt(blueprint, prompts) if prompts else ()),
        *(stages.connectors(blueprint, prompts) if prompts else ()),
    ]
    if encoded.video is not None:
        need, encode_tiling = encoding(blueprint, Extent(encoded.video, None), budget)
        needs.append(need)
    if encoded.audio is not None:
        needs.append(stages.hearing(blueprint, Extent(None, encoded.audio)))
    needs += [stages.sampling(blueprint, sampled, tuple(passes), steps, stg_block), *later]
    if sampled.audio is not None and blueprint.has("audio_decoder", "vocoder"):
        needs += [stages.mel(blueprint, extent), stages.sound(blueprint, stages.mel_frames(blueprint, extent))]
    placed = [(need, place(need, machine, budget, ram)) for need in needs]
    notes, refusals = list[str](), list[str]()
    if sampled.video is not None and blueprint.has("video_decoder"):
        need, tiling = decoding(blueprint, extent, budget, tiling)
        placed.append((need, place(need, machine, budget, ram)))
        usual = stages.frames(blueprint, extent, TILINGS[0])
        if need.scratch < usual.scratch:
            notes.append(
                f"Tiles of {tiling.tile_size} pixels and {tiling.tile_frames} frames instead of {Tiling.tile_size} and "
                f"{Tiling.tile_frames}, which need {_gb(usual.weights.total + usual.scratch)}: there are more seams to "
                "hide."
            )
    for need, stage in placed:
        if stage is None:
            refusals.append(refusal(need, budget, sampled if need.name == "sampling" else None))
        else:
            notes += _notes(stage, ram)
    return Plan(
        title=blueprint.title,
        shape=shape,
        machine=machine,
        budget=budget,
        ram=ram,
        stages=tuple(stage for _, stage in placed if stage is not None),
        tiling=tiling or Tiling(),
        notes=tuple(notes),
        refusals=tuple(refusals),
        encode_tiling=encode_tiling,
    )


def encoding(blueprint: Blueprint, extent: Extent, budget: int) -> tuple[Need, Tiling]:
    """The video encoder with the largest tiles that fit ``budget``, of those whose overlap hides their seams."""
    for each in TILINGS[:-2]:
        need = stages.pictures(blueprint, extent, each)
        if need.weights.total + need.scratch <= budget:
            break
    return need, each


def decoding(blueprint: Blueprint, extent: Extent, budget: int, tiling: Tiling | None = None) -> tuple[Need, Tiling]:
    """The video decoder with the largest tiles that fit ``budget``, or with ``tiling`` if one is given.

    Every tile needs all weights of the decoder, so they stay; only the smallest tiles let them stream.
    """
    for each in [tiling] if tiling else TILINGS:
        need = stages.frames(blueprint, extent, each)
        if need.weights.total + need.scratch <= budget:
            break
    return need, each


def place(need: Need, machine: Machine, budget: int, ram: int) -> Stage | None:
    """A stage as well as it goes under ``budget``; None if it does not fit even when every part is streamed.

    Whole blocks are streamed where two of them have room, else parts of blocks.
    """
    weights, room = need.weights, budget - need.scratch
    load = weights.total / min(machine.disk, machine.link)
    computing = machine.seconds(need.cost)
    if weights.total <= room:
        return Stage(need, (DEVICE,) * len(weights.blocks), 0, load, computing)
    for parts in (False, True):
        units = weights.units(parts)
        spare = room - weights.beside(parts)
        largest = max(units, default=0)
        # With a single slot there is no look-ahead, which is worth more than anything that stays.
        most = min(MOST_SLOTS, spare // largest) if units else 0
        if most < (1 if parts else 2):
            continue
        best: Stage | None = None
        for slots in range(min(2, most), most + 1):
            staying = _first(units, range(len(units)), spare - slots * largest)
            others = [index for index in range(len(units)) if index not in staying]
            pinned = _first(units, others, ram) if need.runs > 1 else set()
            tiers = tuple(DEVICE if i in staying else HOST if i in pinned else DISK for i in range(len(units)))
            run = computing if need.runs == 1 else step_seconds(units, tiers, slots, computing, machine)
            if best is None or run < 0.97 * best.run:  # fewer slots leave more for what stays
                best = Stage(need, tiers, slots, load, run, parts)
        return best
    return None


def step_seconds(units: Sequence[int], tiers: Sequence[str], slots: int, computing: float, machine: Machine) -> float:
    """How long a step takes in a run of many: the ring turns as it will, with a link that only keeps the time.

    The time of ``computing`` is spread over the units as their bytes are.
    """
    made = [Unit([torch.empty(size, dtype=torch.uint8, device="meta")]) for size in units]
    for unit, tier in zip(made, tiers):
        unit.place = Slot(0) if tier == DEVICE else None
    clock = _Clock(machine, {unit for unit, tier in zip(made, tiers) if tier == DISK})
    ring, before = Ring(made, clock, slots), 0.0
    ring.start()
    for _ in range(3):  # the third step is like all later ones
        before = clock.now
        for unit in made:
            ring.use(unit)
            clock.now += computing * unit.nbytes / sum(units)
            ring.done(unit)
            ring.look_ahead()
    return clock.now - before


class _Clock(InPlace):
    """Copies go one after the other, beside the computing; what is ``on_disk`` is read before, as it is copied."""

    def __init__(self, machine: Machine, on_disk: set[Unit]):
        self.now = 0.0
        self._machine, self._on_disk = machine, on_disk
        self._copied = self._read = 0.0
        self._there: dict[Unit, float] = {}  # since when

    def send(self, unit: Unit, slot: Slot) -> None:
        copying, begin = unit.nbytes / self._machine.link, max(self.now, self._copied)
        if unit in self._on_disk:
            self._read = max(self.now, self._read) + unit.nbytes / self._machine.disk
            begin = max(begin, self._read - copying)
        self._copied = self._there[unit] = begin + copying

    def arrive(self, unit: Unit, slot: Slot) -> None:
        self.now = max(self.now, self._there[unit])


def _first(sizes: Sequence[int], among: Iterable[int], room: int) -> set[int]:
    """As many of these units as there is room for, in the order of the store: evenly spread."""
    chosen, among = set[int](), set(among)
    for index in (i for i in spread(len(sizes)) if i in among):
        room -= sizes[index]
        if room < 0:
            break
        chosen.add(index)
    return chosen


def refusal(need: Need, budget: int, extent: Extent | None = None) -> str:
    """Why a stage does not fit, and what to do: how long a clip may be, if ``extent`` says what does not fit."""
    weights = need.weights
    parts = bool(weights.parts)
    least = max(weights.units(parts), default=0)
    total = need.scratch + weights.beside(parts) + least
    reasons = [f"{_gb(need.scratch)} for its work", f"{_gb(weights.beside(parts))} for weights that are always needed"]
    if least:
        reasons.append(f"{_gb(least)} for one {'part of a block' if parts else 'block'}")
    sentence = (
        f"{need.name} does not fit {_gb(budget)}, even when everything is streamed: it needs {_gb(total)}, "
        f"{', '.join(reasons)}."
    )
    share = (budget - total + need.scratch - stages.KERNELS) / (need.scratch - stages.KERNELS)
    latents = 0 if extent is None or extent.video is None else int(0.97 * share * extent.video[0])
    if latents > 0:
        return f"{sentence} About {pixel_frames(latents)} frames of this size would fit."
    return f"{sentence} Choose a smaller size or format of the model, or a card with more memory."


def _notes(stage: Stage, ram: int) -> list[str]:
    notes, name = [], stage.need.name
    if stage.slots == 1:
        notes.append(f"{name}: there is room for one part of a block at a time, so copying and computing take turns.")
    if stage.need.runs > 1 and (disk := stage.tiers.count(DISK)):
        what = "parts of blocks" if stage.parts else "blocks"
        notes.append(
            f"{name}: {disk} of {len(stage.tiers)} {what} are read from disk in every step, since only {_gb(ram)} of "
            "RAM may be pinned."
        )
    return notes


def _row(stage: Stage) -> tuple[str, ...]:
    tiers = Counter(stage.tiers)
    where = ", ".join(f"{tiers[tier]} {word}" for tier, word in _TIERS.items() if tiers[tier])
    where += " (parts)" * stage.parts
    time = _time(stage.seconds)
    if stage.need.runs > 1:
        time = f"{_time(stage.load)} + {stage.need.runs} x {stage.run:.2f} s"
    sizes = stage.need.weights.total, stage.need.scratch, stage.device_bytes, stage.host_bytes
    return (stage.need.name, *map(_gb, sizes), where, time)


_TIERS = {DEVICE: "resident", HOST: "streamed", DISK: "from disk"}


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
