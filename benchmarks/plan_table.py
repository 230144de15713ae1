"""Which clips fit which card, as the planner sees it: the table of the README.

python -m benchmarks.plan_table --version 2.3 --ram 64
"""

import argparse

from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS, GIB, Machine, pinnable
from ltx2_core.memory.plan import DISK, HOST, Plan, plan
from ltx2_core.memory.stages import FORMATS, Blueprint

COLUMNS = ("RTX 5090", "RTX 4090", "RTX 5080", "RTX 4070", "RTX 4060")
SIZES = {"512p": (768, 512), "720p": (1280, 704), "1080p": (1920, 1088)}
LENGTHS = {"5 s": 121, "10 s": 241, "20 s": 481}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="2.3")
    parser.add_argument("--ram", type=int, default=64, metavar="GB", help="of the machine (default 64)")
    parser.add_argument("--passes", type=int, default=1, help="of a step (default 1, as distilled models have)")
    options = parser.parse_args()
    for format in FORMATS:
        each = "step" if options.passes == 1 else f"step of {options.passes} passes"
        print(f"**LTX-{options.version} {format}**, seconds per {each}, {options.ram} GB of RAM\n")
        print(table(Blueprint.of_version(options.version, format), options.ram * GIB, options.passes), end="\n\n")


def table(blueprint: Blueprint, ram: int, passes: int) -> str:
    """In Markdown: a row for each clip, a column for each card."""
    cards = [CARDS[name] for name in COLUMNS]
    rows = [["clip", *(f"{card.name}, {card.memory // GIB} GB" for card in cards)], ["---"] * (len(cards) + 1)]
    for size, (width, height) in SIZES.items():
        for length, frames in LENGTHS.items():
            shape = ClipShape(width, height, frames, 24)
            rows.append([f"{size}, {length}", *(_cell(blueprint, shape, card, ram, passes) for card in cards)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(blueprint: Blueprint, shape: ClipShape, card: Machine, ram: int, passes: int) -> str:
    found: Plan = plan(blueprint, shape, machine=card, passes=passes, ram=pinnable(ram, ram))
    if not found.fits:
        return "no"
    stage, seconds = found.stage("sampling"), f"{found.stage('sampling').run:.1f} s"
    on_host, on_disk = stage.tiers.count(HOST), stage.tiers.count(DISK)
    if not on_host + on_disk:
        return f"{seconds}, resident"
    return f"{seconds}, {on_host + on_disk}/{len(stage.tiers)} streamed" + (f", {on_disk} from disk" if on_disk else "")


if __name__ == "__main__":
    main()
