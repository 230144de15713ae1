"""The script for a card, in miniature on the CPU."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from fake_card import multiply_float8

from benchmarks import __main__ as everything
from benchmarks import chart, clips, contest, cuda, full_size, text
from benchmarks.contest import Case, measure, table
from ltx2_core.sampling import ATTENTIONS


@pytest.mark.slow
def test_the_script_for_a_card(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cuda, "STEPS", 1)
    monkeypatch.setattr(cuda, "ROUNDS", 1)
    monkeypatch.setattr(torch, "_scaled_mm", multiply_float8)
    how = ["--tiny", "--passes", "4", "--formats", "bf16,fp8 products", "--output", str(tmp_path)]
    path = cuda.main(how)
    content = json.loads(path.read_text())
    capsys.readouterr()
    cuda.main(["--table", str(path)])
    table = capsys.readouterr().out
    assert all(f"## {part}\n\n| format |" in table for part in cuda.PARTS)
    assert f"card {content['about']['card']}" in table
    assert {"card", "date", "torch", "ltx-core", "diffusers", "options"} <= content["about"].keys()
    rows = content["rows"]
    assert {(row["part"], row["format"]) for row in rows} == {
        *((part, "bf16") for part in ("rates", "attention", "vocoder", "peers")),
        *(("load", format) for format in cuda.FORMATS),
        *((part, format) for part in ("forward", "graphs", "delays", "stream") for format in ("bf16", "fp8 products")),
    }  # fmt: skip
    for row in rows:
        small = row.get("where") == "planned for 1 GB"
        assert ("does not fit" in row["failed"]) if small else "failed" not in row, row
    for row in (row for row in rows if row["part"] in ("delays", "stream") and "failed" not in row):
        assert row["equal to resident"] is True
        assert row["loads per step"] == row["units"] - row["resident units"]
    ways = {row["where"]: row["difference"] for row in rows if row["part"] == "attention"}
    assert (
        ways.keys() == {*ATTENTIONS} and ways["pytorch"] == 0 and max(ways.values()) < 0.03
    )  # a CPU has but exact ones
    assert all(row["error, dB"] < -100 for row in rows if row["part"] == "vocoder")  # the CPU beside itself
    assert [row["difference from bf16"] > 0 for row in rows if row["part"] == "forward"] == [False, True]
    graphs = [row for row in rows if row["part"] == "graphs"]
    assert all(row["equal"] and row["replays"] == 0 for row in graphs)  # a CPU has none
    peers = {row["where"]: row for row in rows if row["part"] == "peers"}
    for name, module in {"ltx-core": "ltx_core", "diffusers": "diffusers"}.items():
        row = peers[f"beside {name}"]
        assert row["difference"] < 0.03 if find_spec(module) else row["skipped"] == f"{name} is absent"


def test_a_part_without_time_is_a_row_that_says_so(tmp_path):
    rows = json.loads(cuda.main(["--tiny", "--minutes", "0", "--output", str(tmp_path)]).read_text())["rows"]
    assert rows and all(row["skipped"] == "no time was left" for row in rows)


@pytest.mark.slow
def test_whole_clips_are_timed_by_stages(tmp_path, capsys):
    words = ["--tiny", "--vram", "1", "--size", "64x64x9", "--steps", "1", "--only", "lora,stages"]
    path = clips.main([*words, "--output", str(tmp_path)])
    rows = json.loads(path.read_text())["rows"]
    assert {(row["clip"], row["stage"]) for row in rows} >= {
        ("lora", "sampling"), ("stages", "upscaling space by 2"), ("stages", "refining"), ("stages", "frames"),
    }  # fmt: skip
    assert all(row["seconds"] > 0 and row["planned seconds"] > 0 for row in rows)
    clips.main(["--table", str(path)])
    assert capsys.readouterr().out.splitlines()[-len(rows)].startswith("| lora | prompt |")


@pytest.mark.oracle
@pytest.mark.slow
def test_reading_prompts_is_measured_beside_others():
    pytest.importorskip("transformers")
    result = measure(text.gemma_case(tokens=16), rounds=1)
    assert result.taken.keys() >= {"ours", "transformers"} and all(each.share > 0 for each in result.taken.values())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_files_of_full_size_are_opened_inspected_planned_and_built_in_less_than_a_gigabyte():
    found = full_size.apart("2.3")
    assert found["files, GB"] > 46 and found.keys() >= {"open", "inspect", "plan", "build the transformer"}
    assert found["of it imports"] < found["held, GB"] and full_size.verdict(found) == "1 GB: met"
    assert full_size.verdict(found | {"held, GB": 1.01}) == "1 GB: missed: memory"


def test_contenders_take_turns_and_a_limit_that_is_not_met_is_told(monkeypatch):
    calls, seconds = [], {"ours": 3.0, "quick": 2.0, "slow": 9.0}
    monkeypatch.setattr(contest, "spent", lambda run: (run(), seconds[calls[-1]])[1:] * 2)

    def contender(name):
        return lambda: calls.append(name) or torch.ones(4)

    names = ("ours", "quick", "slow")
    case = Case("adding", {name: contender(name) for name in names}, limit=0.9, limits={"slow": 0.2}, unit=(8, "h"))
    result = measure(case, rounds=2)
    assert calls[3:] == [*names, *reversed(names)]
    assert result.missed == ["quick", "slow"] and result.taken["ours"].peak == 2
    row = table([result]).splitlines()[-1]
    assert row == "| adding | 3, 3 (2 h) | 1.50 (2 h) | 0.33 (2 h) | 0.90 / 0.20: missed: quick, slow |"
    assert table([measure(replace(case, limit=2.0, limits={}), 1)]).endswith("2.00: met |")


@pytest.mark.parametrize("other", [torch.zeros(4), torch.full((4,), 1.001), torch.ones(5)])
def test_who_computes_something_else_is_not_measured(other):
    with pytest.raises(contest.Disagreement, match="adding"):
        measure(Case("adding", {"ours": lambda: torch.ones(4), "other": lambda: other}), rounds=1)


def test_one_command_writes_a_page(tmp_path, monkeypatch):
    parts = {
        name: SimpleNamespace(__doc__=f"{name}: python -m benchmarks.{name}\n\nMore.", __name__=name) for name in "ab"
    }
    parts["a"].main = lambda: "| a | 0.90: met |"
    parts["b"].main = lambda: "| b | 0.90: missed: quick |"
    monkeypatch.setattr(everything, "PARTS", parts)
    page = everything.main(["--only", "a,b", "--output", str(tmp_path / "page.md")])
    assert "1 rows miss a limit" in page and "## B\n\nb (`python -m b`).\n\nMore.\n\n| b |" in page
    assert f"torch {torch.__version__.split('+')[0]}" in page and (tmp_path / "page.md").read_text() == page + "\n"
    assert "](page.svg)" in page and (tmp_path / "page.svg").read_text() == chart.draw(page)


def test_ratios_are_drawn_from_the_left():
    """A dot for each ratio, named, in the row of its work; what is beyond the edge stands there."""
    names = (contest.OURS, contest.LTX_CORE, contest.COMFY)
    takes = (("one & two", (2.0, 0.5, 1.0)), ("three", (9.0, 3.0)))
    results = [
        contest.Result(Case(work, {}), {name: contest.Taken(1, 1, share, 5) for name, share in zip(names, shares)})
        for work, shares in takes
    ]
    parts = (
        "# Title",
        "A processor, 2026.",
        "## Work",
        "Words.",
        table(results),
        "## Counts",
        "| a | b |\n| --- | --- |",
    )
    page = "\n\n".join(parts)
    svg = ElementTree.fromstring(chart.draw(page))
    space = {"": "http://www.w3.org/2000/svg"}
    words = {each.text: each for each in svg.iterfind("text", space)}
    assert {"Work", "one & two", "three", "ltx-core", "ComfyUI", "A processor, 2026"} <= words.keys()
    assert "Counts" not in words and "diffusers" not in words
    dots = {each[0].text: each for each in svg.iterfind("circle", space) if len(each)}
    assert list(dots) == ["ltx-core: 0.50", "ComfyUI: 1.00", "ltx-core: 3.00"]
    half, one, edge = (float(each.get("cx")) for each in dots.values())
    assert one == float(words["1"].get("x")) and half == float(words["0.5"].get("x")) < one < edge <= chart.WIDTH
    first, same, below = (float(each.get("cy")) for each in dots.values())
    assert first == same < below and abs(first - float(words["one & two"].get("y"))) < 10


@pytest.mark.parametrize("name", ["peers", "peers_amx"])
def test_pictures_of_results_are_those_of_their_pages(name):
    page = Path(chart.__file__).parent / "results" / f"{name}.md"
    assert page.with_suffix(".svg").read_text() == chart.draw(page.read_text())
