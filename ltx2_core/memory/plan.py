"""Before the run: does the clip fit, where will every block be, in which tiles is it decoded, how long will it take?

A plan is arithmetic on what the stages need (``stages``) and what a machine gives (``machine``). It places blocks by
the rules of the ``Store``, which then has to be given nothing but the budget of its stage.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..geometry import ClipShape, pixel_frames
from ..video_vae import Tiling
from . import stages
from .machine import Machine
from .stages import Blueprint, Need
from .store import spread

DEVICE, HOST, DISK = "device", "host", "disk"

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
    tiers: tuple[str, ...]  # of each block: where it is between its uses
    slots: int  # blocks that the ring holds; 0 where nothing is streamed
    load: float  # seconds until its weights have been read once
    run: float  # seconds of one run

    @property
    def weight_budget(self) -> int:
        """Bytes that the stage's store may take on the device, ring included."""
        weights = self.need.weights
        staying = sum(size for size, tier in zip(weights.blocks, self.tiers) if tier == DEVICE)
        return weights.rest + staying + self.slots * max(weights.blocks, default=0)

    @property
    def device_bytes(self) -> int:
        """The most that the stage takes on the device."""
        return self.weight_budget + self.need.scratch

    @property
    def host_bytes(self) -> int:
        """Pinned memory."""
        return sum(size for size, tier in zip(self.need.weights.blocks, self.tiers) if tier == HOST)

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
    tiling: Tiling
    notes: tuple[str, ...] = ()  # what is less good than it could be, and why
    refusals: tuple[str, ...] = ()  # why it does not fit

    @property
    def fits(self) -> bool:
        return not self.refusals

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.need.name == name)

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
                f"Frames are decoded in tiles of {self.tiling.pixels} pixels and {self.tiling.frames} frames.",
                f"About {_time(self.seconds)} in all, the first time; weights are read at "
                f"{self.machine.disk / 1e9:.1f} GB/s from disk and copied at {self.machine.link / 1e9:.1f} GB/s.",
            ]
        return "\n".join(lines)


def plan(
    blueprint: Blueprint,
    shape: ClipShape,
    *,
    machine: Machine,
    passes: int = 1,
    steps: int = 8,
    stg_block: int = 0,
    budget: int | None = None,
    ram: int = 0,
    tiling: Tiling | None = None,
) -> Plan:
    """Where everything goes, for a clip of this ``shape`` and ``steps`` steps of so many ``passes``.

    ``budget`` is how much of the device may be taken, by default all that ``machine`` can give; ``ram`` is how much
    may be pinned. A ``tiling`` that is given is kept. What does not fit is said in the plan's ``refusals``.
    """
    budget = machine.budget if budget is None else budget
    prompts = 1 + (passes > 1)
    needs = [
        *stages.prompt(blueprint, prompts),
        *stages.connectors(blueprint, prompts),
        stages.sampling(blueprint, shape, passes, steps, stg_block),
        *stages.sound(blueprint, shape),
    ]
    placed = [(need, place(need, machine, budget, ram)) for need in needs]
    notes, refusals = list[str](), list[str]()
    if blueprint.has("video_decoder"):
        decoding = [(stages.frames(blueprint, shape, each), each) for each in ([tiling] if tiling else TILINGS)]
        # Every tile needs all weights of the decoder, so they stay; only the smallest tiles let them stream.
        roomy = [each for each in decoding if each[0].weights.total + each[0].scratch <= budget]
        need, tiling = roomy[0] if roomy else decoding[-1]
        placed.append((need, place(need, machine, budget, ram)))
        if need is not decoding[0][0]:
            usual = decoding[0][0]
            notes.append(
                f"Tiles of {tiling.pixels} pixels and {tiling.frames} frames instead of {Tiling.pixels} and "
                f"{Tiling.frames}, which need {_gb(usual.weights.total + usual.scratch)}: there are more seams to hide."
            )
    for need, stage in placed:
        if stage is None:
            refusals.append(_refusal(need, budget, shape))
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
    )


def place(need: Need, machine: Machine, budget: int, ram: int) -> Stage | None:
    """A stage as well as it goes under ``budget``; None if it does not fit even when every block is streamed."""
    weights, room = need.weights, budget - need.scratch
    largest, count = max(weights.blocks, default=0), len(weights.blocks)
    if weights.total <= room:
        slots, staying = 0, set(range(count))
    elif count and (slots := min(2, (room - weights.rest) // largest)) > 0:
        # With a single slot there is no look-ahead, which is worth more than any block that stays.
        staying = _first(weights.blocks, range(count), room - weights.rest - 2 * largest)
    else:
        return None
    pinned = _first(weights.blocks, [i for i in range(count) if i not in staying], ram) if need.runs > 1 else set()
    tiers = tuple(DEVICE if i in staying else HOST if i in pinned else DISK for i in range(count))
    load = weights.total / min(machine.disk, machine.link)
    if need.runs == 1:
        return Stage(need, tiers, slots, load, machine.seconds(need.cost))
    size = Counter[str]()
    for tier, nbytes in zip(tiers, weights.blocks):
        size[tier] += nbytes
    copying = max((size[HOST] + size[DISK]) / machine.link, size[DISK] / machine.disk)
    computing = machine.seconds(need.cost)
    return Stage(need, tiers, slots, load, computing + copying if slots == 1 else max(computing, copying))


def _first(sizes: Sequence[int], among: Iterable[int], room: int) -> set[int]:
    """As many of these blocks as there is room for, in the order of the store: evenly spread."""
    chosen, among = set[int](), set(among)
    for index in (i for i in spread(len(sizes)) if i in among):
        room -= sizes[index]
        if room < 0:
            break
        chosen.add(index)
    return chosen


def _least(need: Need) -> int:
    """Bytes without which the stage cannot run: one block at a time."""
    return need.scratch + need.weights.rest + max(need.weights.blocks, default=0)


def _refusal(need: Need, budget: int, shape: ClipShape) -> str:
    weights = need.weights
    parts = [f"{_gb(need.scratch)} for its work", f"{_gb(weights.rest)} for weights that every block needs"]
    if weights.blocks:
        parts.append(f"{_gb(max(weights.blocks))} for one block")
    sentence = (
        f"{need.name} does not fit {_gb(budget)}, even when every block is streamed: it needs {_gb(_least(need))}, "
        f"{', '.join(parts)}."
    )
    if need.name == "sampling":
        share = (budget - _least(need) + need.scratch - stages.KERNELS) / (need.scratch - stages.KERNELS)
        latents = int(shape.video_latent[0] * share)
        if latents > 0:
            sentence += f" About {pixel_frames(latents)} frames of this size would fit."
        else:
            sentence += " Choose a smaller format of the model, or a card with more memory."
    return sentence


def _notes(stage: Stage, ram: int) -> list[str]:
    notes, blocks = [], len(stage.tiers)
    if stage.slots == 1:
        notes.append(f"{stage.need.name}: there is room for one block at a time, so copying and computing take turns.")
    if stage.need.runs > 1 and (disk := stage.tiers.count(DISK)):
        notes.append(
            f"{stage.need.name}: {disk} of {blocks} blocks are read from disk in every step, since only {_gb(ram)} of "
            "RAM may be pinned."
        )
    return notes


def _row(stage: Stage) -> tuple[str, ...]:
    tiers = Counter(stage.tiers)
    where = ", ".join(f"{tiers[tier]} {word}" for tier, word in _TIERS.items() if tiers[tier])
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
