"""Which clips fit which card, as the planner sees it: the tables of ltx2_core/memory/README.md and of README.md.

python -m benchmarks.plan_table --version 2.3 --ram 64
python -m benchmarks.plan_table --minutes
"""

import argparse

from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS, GIB, Machine
from ltx2_core.memory.placement import DISK, HOST, Placement, Room
from ltx2_core.memory.ram import free_ram, pinnable
from ltx2_core.pipeline.needs.blueprint import PLANNED_FORMATS, Blueprint
from ltx2_core.pipeline.plan import Plan, plan_stages
from ltx2_core.pipeline.sample import Sampling
from ltx2_core.pipeline.stages import guidance_of_passes, stages_of_clip

from .markdown import markdown

COLUMNS = ("RTX 5090", "RTX 4090", "RTX 5080", "RTX 4070", "RTX 4060")
SIZES = {"512p": [(768, 512)], "720p": [(1280, 704)], "1080p in two stages": [(960, 544), (1920, 1088)]}
STEPS = 8  # as distilled models take
LENGTHS = {"5 s": 121, "10 s": 241, "20 s": 481}
MINUTES_OF = {"distilled": (8, 1), "dev": (30, 4)}  # steps, and passes of each, by the recipes of that version
MINUTES_VERSION, MINUTES_FORMAT = "2.5", "int8"


def main() -> None:
    """Print a table for each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="2.3")
    parser.add_argument("--ram", type=int, default=64, metavar="GB", help="of the machine (default 64)")
    parser.add_argument("--passes", type=int, default=1, help="of a step (default 1, as distilled models have)")
    parser.add_argument("--minutes", action="store_true", help="of whole clips at 720p instead")
    options = parser.parse_args()
    if options.minutes:
        print(minutes_table(Blueprint.of_version(MINUTES_VERSION, MINUTES_FORMAT), options.ram * GIB))
        return
    for format in PLANNED_FORMATS:
        each = "step" if options.passes == 1 else f"step of {options.passes} passes"
        print(f"**LTX-{options.version} {format}**, seconds per {each}, {options.ram} GB of RAM\n")
        print(table(Blueprint.of_version(options.version, format), options.ram * GIB, options.passes), end="\n\n")


def table(blueprint: Blueprint, ram: int, passes: int) -> str:
    """Return the table in Markdown: a row for each clip, a column for each card."""
    cards = [CARDS[name] for name in COLUMNS]
    columns, rows = ["clip", *(f"{card.name}, {card.memory // GIB} GB" for card in cards)], []
    for name, sizes in SIZES.items():
        for length, frames in LENGTHS.items():
            shapes = [ClipShape(width, height, frames, 24) for width, height in sizes]
            rows.append([f"{name}, {length}", *(cell(blueprint, shapes, card, ram, passes) for card in cards)])
    return markdown(columns, rows)


def minutes_table(blueprint: Blueprint, ram: int) -> str:
    """Return the table in Markdown of how long whole clips at 720p take."""
    cards = [CARDS[name] for name in reversed(COLUMNS)]
    columns, rows = ["clip", *(f"{card.memory // GIB} GB ({card.name})" for card in cards)], []
    for kind in MINUTES_OF:
        for length in LENGTHS:
            rows.append([f"{kind}, {length}", *minutes(blueprint, kind, length, ram)])
    return markdown(columns, rows)


def minutes(blueprint: Blueprint, kind: str, length: str, ram: int) -> list[str]:
    """Return how long a clip at 720p takes on each card, small cards first, from the loading of files to its frames."""
    ((width, height),) = SIZES["720p"]
    shape = ClipShape(width, height, LENGTHS[length], 24)
    steps, passes = MINUTES_OF[kind]
    cells = []
    for name in reversed(COLUMNS):
        card = CARDS[name]
        plan = plan_clip(
            blueprint, shape, Room(card, card.budget, pinnable(ram, ram), free=free_ram(ram, ram)), passes, steps
        )
        cells.append(f"{max(1, round(plan.seconds / 60))} min" if plan.fits else "no")
    return cells


def plan_clip(blueprint: Blueprint, shape: ClipShape, room: Room, passes: int, steps: int = STEPS) -> Plan:
    """Plan a clip of ``shape`` whose steps have so many passes."""
    sigmas = tuple(1 - step / steps for step in range(steps + 1))
    stages = stages_of_clip(blueprint, shape, Sampling(sigmas, guidance_of_passes(passes)))
    return plan_stages(stages, blueprint, room, shape)


def cell(blueprint: Blueprint, shapes: list[ClipShape], card: Machine, ram: int, passes: int) -> str:
    """Return the seconds of a step of each stage and the share of streamed weights in the last one, or "no"."""
    room = Room(card, card.budget, pinnable(ram, ram), free=free_ram(ram, ram))
    plans = [plan_clip(blueprint, shape, room, passes) for shape in shapes]
    if not all(plan.fits for plan in plans):
        return "no"
    placements = [placement for plan in plans if (placement := plan.placement("sampling"))]
    seconds = " + ".join(f"{placement.run:.1f}" for placement in placements)
    streamed, from_disk = share(placements[-1], HOST, DISK), share(placements[-1], DISK)
    where = f"{streamed:.0%} streamed" if streamed else "resident"
    return f"{seconds} s, {where}" + (f", {from_disk:.0%} from disk" if from_disk else "")


def share(placement: Placement, *tiers: str) -> float:
    """Return the share of a placement's streamable bytes that lie on these tiers."""
    sizes = placement.units.sizes
    return sum(size for size, tier in zip(sizes, placement.tiers) if tier in tiers) / sum(sizes)


if __name__ == "__main__":
    main()
