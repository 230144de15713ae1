"""The planner's tables of clips and cards say what they said when they were recorded, that of README.md included.

A clip takes seconds, whatever the number of cards: three of the nine are asked for, all of them with
``LTX2_WHOLE_PLAN_TABLE=1``. ``LTX2_RECORD=1`` writes the table anew.
"""

import os
import re

import pytest
from golden import FOLDER
from pack.readme import README, table_in, with_table
from recorded.record import RECORDING

from benchmarks import plan_table
from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS, GIB
from ltx2_core.pipeline.needs.blueprint import PLANNED_FORMATS
from ltx2_core.pipeline.sample import Sampling
from ltx2_core.sampling import recipe_for

PATH = FOLDER / "plan_table.md"
VERSION, RAM = "2.3", 64 * GIB

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not RECORDING, reason="writes the recorded table")
def test_record_the_table(released):
    tables = []
    for format in PLANNED_FORMATS:
        table = plan_table.table(released(VERSION, format), RAM, 1)
        tables.append(f"**LTX-{VERSION} {format}**, seconds per step, 64 GB of RAM\n\n{table}\n")
    PATH.write_text("\n".join(tables))


def recorded(format: str) -> dict[str, list[str]]:
    """Return the cells of each clip of one format."""
    (table,) = re.findall(rf"{format}\*\*.*?\n\n(.*?)(?:\n\n|\Z)", PATH.read_text(), re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().splitlines()]
    return {name: cells for name, *cells in rows[2:]}


CLIPS = {
    f"{name}, {length}": [ClipShape(width, height, frames, 24) for width, height in sizes]
    for name, sizes in plan_table.SIZES.items()
    for length, frames in plan_table.LENGTHS.items()
}
WHOLE = os.environ.get("LTX2_WHOLE_PLAN_TABLE") == "1"
ASKED = CLIPS if WHOLE else ("512p, 5 s", "720p, 10 s", "1080p in two stages, 20 s")


@pytest.mark.parametrize("clip", ASKED)
@pytest.mark.parametrize("format", PLANNED_FORMATS)
def test_a_clip_is_planned_as_recorded(released, format, clip):
    cards = [CARDS[name] for name in plan_table.COLUMNS]
    made = [plan_table.cell(released(VERSION, format), CLIPS[clip], card, RAM, passes=1) for card in cards]
    assert made == recorded(format)[clip]


def test_the_table_has_all_clips_and_cards():
    for format in PLANNED_FORMATS:
        table = recorded(format)
        assert table.keys() == CLIPS.keys()
        assert {len(cells) for cells in table.values()} == {len(plan_table.COLUMNS)}


@pytest.mark.skipif(not RECORDING, reason="writes the table of README.md")
def test_record_the_minutes(released):
    page = README.read_text(encoding="utf-8")
    new = plan_table.minutes_table(released(plan_table.MINUTES_VERSION, plan_table.MINUTES_FORMAT), RAM)
    README.write_text(with_table(page, "minutes", new), encoding="utf-8", newline="\n")


ROWS = [(kind, length) for kind in plan_table.MINUTES_OF for length in plan_table.LENGTHS]


@pytest.mark.parametrize("kind, length", ROWS if WHOLE else [("distilled", "5 s"), ("dev", "20 s")])
def test_the_readme_says_how_long_a_clip_takes(released, kind, length):
    cells = plan_table.minutes(released(plan_table.MINUTES_VERSION, plan_table.MINUTES_FORMAT), kind, length, RAM)
    row = next(line for line in minutes_told() if line.startswith(f"| {kind}, {length} |"))
    assert [cell.strip() for cell in row.strip("| ").split(" | ")[1:]] == cells


@pytest.mark.parametrize("kind", plan_table.MINUTES_OF)
def test_minutes_are_those_of_the_official_recipe(kind):
    recipe = recipe_for(plan_table.MINUTES_VERSION, 48, distilled=kind == "distilled")
    passes = Sampling(tuple(recipe.sigmas()), recipe.guidance).passes(True)
    assert plan_table.MINUTES_OF[kind] == (recipe.steps, len(passes))


def minutes_told() -> list[str]:
    """The lines of the table in README.md."""
    return table_in(README.read_text(encoding="utf-8"), "minutes").splitlines()


def test_the_readme_has_minutes_for_all_clips():
    assert [line.split(" | ")[0].strip("| ") for line in minutes_told()[2:]] == [f"{k}, {n}" for k, n in ROWS]
