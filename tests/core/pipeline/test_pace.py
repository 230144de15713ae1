"""A run that is much slower than planned is told, and what was measured of its card is measured again."""

import json
from dataclasses import replace

import pytest
import torch

import ltx2_core as ltx2
from ltx2_core.memory import machine as machines
from ltx2_core.memory.machine import forget_machine, this_machine
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.engines.pace import Pace
from ltx2_core.pipeline.stage import Events
from ltx2_core.settings import Resources


def pace_of(moments, planned=1.0) -> Pace:
    ticks = iter(moments)
    pace = Pace("sampling", planned, lambda: next(ticks))
    for _ in moments:
        pace.note()
    return pace


@pytest.mark.parametrize(
    "moments, told",
    [
        ([0, 20, 40, 41, 42, 43, 44], False),  # the first ones bring the weights
        ([0, 1, 2, 4, 6, 8, 10], True),
        ([0, 1, 2, 3.4, 4.8, 6.2, 7.6], False),
        ([0, 9, 18, 27], False),  # too few to say
    ],
)
def test_what_is_much_slower_than_planned_is_told(moments, told):
    finding = pace_of(moments).finding()
    assert (finding is not None) == told
    if finding is not None:
        assert "2.00 s where 1.00 s were planned" in str(finding)


def test_a_card_is_measured_again_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.002)
    cpu, names = torch.device("cpu"), iter(["one", "one", "two", "two", "one", "one", "one", "two", "two"])
    monkeypatch.setattr(machines, "identity_of", lambda device: next(names))
    monkeypatch.setattr(machines, "_name", lambda device: "a card")
    this_machine(cpu, None, tmp_path)
    next(names)
    this_machine(cpu, None, tmp_path)
    next(names)
    assert len(json.loads((tmp_path / "machine.json").read_text())) == 2
    forget_machine(cpu, tmp_path)
    (key,) = json.loads((tmp_path / "machine.json").read_text())
    assert key.startswith("two torch ")


@pytest.mark.parametrize("slowed, told", [(1e9, False), (1e-9, True)])
@pytest.mark.slow
def test_a_clip_tells_it_once(tiny_files, tmp_path, monkeypatch, slowed, told):
    """The plan is made for a machine that is faster, or slower, than any."""
    machine, forgotten, findings = this_machine(torch.device("cpu")), [], []
    rates = {name: value / slowed for name, value in vars(machine).items() if isinstance(value, float) and value}
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: replace(machine, **rates))
    monkeypatch.setattr(LocalEngine, "forget_rates", lambda self, key: forgotten.append(key.name))
    checkpoint, gemma, _ = tiny_files("2.3")
    models = ltx2.open_models(checkpoint, gemma)
    request = {"width": 64, "height": 64, "frames": 9, "steps": 7, "cache": False}
    owner = LocalEngine(models, Resources("cpu", max_vram=4, max_ram=1), Events(on_finding=findings.append))
    ltx2.run(models, ltx2.Request.of("a ball", max_vram=4, max_ram=1, device="cpu", **request), owner)
    assert forgotten == (["transformer"] if told else [])
    assert sum("were planned" in str(finding) for finding in findings) == told
