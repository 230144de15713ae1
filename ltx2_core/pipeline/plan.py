"""The plan of a list of stages: does the clip fit, where will every weight be, how long will it take?

A plan is arithmetic on what stages need and what a machine gives. The placements that it shows are those that engines
use.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..checkpoint.unfilled import uncollected
from ..errors import DoesNotFitError, counted
from ..geometry import ClipShape
from ..memory.machine import Machine
from ..memory.placement import DEVICE, DISK, HOST, Placement, Room, explain_refusal, gigabytes, place
from ..memory.ram import ram as all_ram
from .messages import duration
from .needs.blueprint import Blueprint
from .stage import NO_LOAD, Load, NetworkKey, Stage, StageT, need_of

_WHERE = {DEVICE: "resident", HOST: "streamed", DISK: "from disk"}
_HEADER = ("stage", "weights", "work", "device", "host", "blocks", "time")
_TOLD_SECONDS = 0.1  # of reading that is hidden; less is not said


@dataclass(frozen=True)
class Plan:
    """What is going to happen, or why it cannot.

    Attributes:
        title: of the model.
        room: what may be taken.
        stages: with their tiles chosen, in their order.
        placements: of those stages that fit, in the same order.
        shape: of the finished clip; None where a single stage is planned.
        notes: what is less good than it could be, and why.
        refusals: why the clip does not fit.
    """

    title: str
    room: Room
    stages: tuple[Stage, ...] = ()
    placements: tuple[Placement, ...] = ()
    shape: ClipShape | None = None
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it in a line for each stage."""
        return self.summary()

    @property
    def machine(self) -> Machine:
        """Whose rates were taken."""
        return self.room.machine

    def as_limits(self, vram: int | None, ram: int | None) -> "Plan":
        """Return the plan as limits for later runs: its room is all that the machine has, within the user's limits.

        What was free while it was made may be less than what is free then.

        Args:
            vram: bytes of the device that may be taken; None for all of them.
            ram: bytes of RAM that may be taken; None for all of them.
        """
        everything, _ = all_ram()
        room = replace(self.room, budget=self.machine.memory, ram=everything, free=everything)
        return replace(self, room=room.within(vram, ram))

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return not self.refusals

    @property
    def seconds(self) -> float:
        """All stages, the first time."""
        return sum(placement.seconds for placement in self.placements)

    def stage(self, stage: StageT) -> StageT | None:
        """Return the planned stage of the same name, whose tiles are chosen; None if there is none."""
        return next((each for each in self.stages if each.name == stage.name), None)  # type: ignore[return-value]

    def placement(self, name: str) -> Placement | None:
        """Return the placement of the stage called ``name``; None if there is none."""
        return next((each for each in self.placements if each.need.name == name), None)

    def networks_after(self, name: str) -> list[NetworkKey[Any]]:
        """Return what the stages behind that called ``name`` work with, in their order; empty if there is none."""
        names = [stage.name for stage in self.stages]
        later = self.stages[names.index(name) + 1 :] if name in names else ()
        return [key for stage in later for key in stage.networks]

    def check(self) -> None:
        """Raise DoesNotFitError with the first refusal, if there is one."""
        if self.refusals:
            raise DoesNotFitError(self.refusals[0])

    def summary(self) -> str:
        """Return the plan in a line for each stage."""
        lines = [self.title]
        for placement in self.placements:
            name, _, _, device, host, where, time = _row(placement)
            parts = [f"{device} of {self.room.where}", f"{host} of RAM" if placement.host_bytes else "", where, time]
            lines.append(f"{name}: {', '.join(filter(None, parts))}")
        return "\n".join([*lines, *self.notes, *self.refusals])

    def explain(self) -> str:
        """Return the plan as a table, and what there is to say about it."""
        rows = [_HEADER, *map(_row, self.placements)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        kind = "pinned RAM" if self.machine.overlaps else "RAM"  # only cards that weights are streamed to pin any
        beside = "" if self.room.in_ram else f" and {gigabytes(self.room.ram)} of {kind}"
        lines = [
            self._headline(),
            f"{self.machine.name}: at most {gigabytes(self.room.budget or 0)} of {self.room.where}{beside}",
            "",
            *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
            "",
            *self.notes,
            *self.refusals,
        ]
        if self.fits:
            lines += [remark for stage in self.stages if (remark := stage.describe_tiles())]
            lines.append(
                f"About {_time(self.seconds)} in all, the first time; weights are read at "
                f"{self.machine.disk / 1e9:.1f} GB/s from disk and copied at {self.machine.link / 1e9:.1f} GB/s."
            )
            if (hidden := seconds_hidden(self.stages, self.placements, self.room)) >= _TOLD_SECONDS:
                lines.append(
                    f"Of that, {_time(hidden)} of reading are saved where the disk is otherwise idle: what the next "
                    "stages need is read ahead while one runs, as far as RAM is free."
                )
        return "\n".join(lines)

    def _headline(self) -> str:
        if (shape := self.shape) is None:
            return self.title
        size = f"{shape.width} x {shape.height}, {counted(shape.frames, 'frame')} ({float(shape.seconds):.1f} s)"
        return f"{self.title}: {size}"


@uncollected()
def plan_stages(
    stages: Iterable[Stage],
    blueprint: Blueprint,
    room: Room,
    shape: ClipShape | None = None,
    load: Load = NO_LOAD,
) -> Plan:
    """Choose the tiles of every stage and place its weights; nothing is loaded.

    Args:
        stages: in their order.
        blueprint: of the model.
        room: what may be taken; without a budget nothing has to be placed.
        shape: of the finished clip.
        load: adds to the need of a stage what comes with its weights, such as LoRAs.

    Returns:
        The plan; what does not fit is said in its ``refusals``.
    """
    fitted = [stage.fit(blueprint, room, load) for stage in stages]
    if room.budget is None:
        return Plan(blueprint.title, room, tuple(fitted), shape=shape)
    placements, notes, refusals = list[Placement](), list[str](), list[str]()
    used = set[NetworkKey[Any]]()
    for stage in fitted:
        need = load.with_graphs(stage, load(stage, need_of(stage, blueprint)), room)
        placement = place(need, room)
        if placement is None:
            refusals.append(explain_refusal(need, room, stage.advise(need, room.budget)))
        else:
            notes += [*stage.remarks(blueprint, room.machine), *load.remarks(stage, need, room.machine)]
            placements.append(placement.loaded_again(room) if used.issuperset(stage.networks) else placement)
            notes += _notes(placement, room)
        refusals += filter(None, [stage.refuse(room)])
        used.update(stage.networks)
    return Plan(blueprint.title, room, tuple(fitted), tuple(placements), shape, tuple(notes), tuple(refusals))


def place_stage(stage: Stage, blueprint: Blueprint, room: Room, load: Load) -> Placement | None:
    """Place a single stage as it fits now, with what its LoRAs add; None without a budget.

    Raises:
        DoesNotFitError: if it does not fit.
    """
    if room.budget is None:
        return None
    need = load.with_graphs(stage, load(stage, need_of(stage, blueprint)), room)
    if (placement := place(need, room)) is None:
        raise DoesNotFitError(explain_refusal(need, room, stage.advise(need, room.budget)))
    return placement


def seconds_hidden(stages: Sequence[Stage], placements: Sequence[Placement], room: Room) -> float:
    """Return by how long the first reading of weights is hidden behind the work of the stages before.

    Args:
        stages: in their order.
        placements: of all of them.
        room: what they were placed in; of RAM no more is taken to be free than may be pinned.
    """
    early = [0.0] * len(stages)
    used = set[NetworkKey[Any]]()
    for number, placement in enumerate(placements):
        used.update(stages[number].networks)
        reads_itself = DISK in placement.tiers
        rest = 0.0 if reads_itself else placement.run * placement.need.runs * room.machine.disk
        free = float((room.budget or 0) - placement.device_bytes if room.in_ram else room.ram - placement.host_bytes)
        for later in range(number + 1, len(stages)):
            if used.isdisjoint(stages[later].networks):
                free -= early[later]
                more = max(0.0, min(placements[later].need.weights.total - early[later], free, rest))
                early[later], free, rest = early[later] + more, free - more, rest - more
    return sum(early) / room.machine.disk


def _notes(placement: Placement, room: Room) -> list[str]:
    notes, name = [], placement.need.name
    if placement.slots == 1 and room.machine.overlaps:
        notes.append(f"{name}: there is room for one part of a block at a time, so copying and computing take turns.")
    if placement.need.runs > 1 and (disk := placement.tiers.count(DISK)):
        what = "parts of blocks" if placement.parts else "blocks"
        ram = (room.budget or 0) if room.in_ram else room.ram
        may_be = "pinned" if room.machine.overlaps and not room.in_ram else "taken"
        notes.append(
            f"{name}: {disk} of {len(placement.tiers)} {what} are read from disk in every step, since only "
            f"{gigabytes(ram)} of RAM may be {may_be}."
        )
    return notes


def _row(placement: Placement) -> tuple[str, ...]:
    tiers, need = Counter(placement.tiers), placement.need
    where = ", ".join(f"{tiers[tier]} {word}" for tier, word in _WHERE.items() if tiers[tier])
    if placement.parts:
        where += " (parts)"
    time = _time(placement.seconds)
    if need.runs > 1:
        time = f"{_time(placement.load)} + {need.runs} x {placement.run:.2f} s"
    sizes = need.weights.total, need.work_bytes, placement.device_bytes, placement.host_bytes
    return (need.name, *map(gigabytes, sizes), where, time)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else duration(seconds)
