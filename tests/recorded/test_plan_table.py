"""The planner's table of clips and cards says what it said when it was recorded.

A clip takes seconds, whatever the number of cards: three of the nine are asked for, all of them with
``LTX2_WHOLE_PLAN_TABLE=1``. ``LTX2_RECORD=1`` writes the table anew.
"""

import os
import re

import pytest
from golden import FOLDER
from recorded.record import RECORDING

from benchmarks import plan_table
from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS, GIB
from ltx2_core.pipeline.blueprint import PLANNED_FORMATS

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
