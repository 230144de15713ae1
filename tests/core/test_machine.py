"""What a machine can do is measured once, and a part of its memory is left alone."""

import json

import torch
from planned import RATES

from ltx2_core.memory import machine as machines
from ltx2_core.memory.machine import GIB, pinnable, this_machine


def test_a_machine_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(2**20))
    first = this_machine(torch.device("cpu"), model, tmp_path)
    assert min(vars(first)[name] for name in RATES) > 0
    assert this_machine(torch.device("cpu"), model, tmp_path) == first
    (tmp_path / "machine.json").write_text('{"cpu": {"name": 1')
    assert this_machine(torch.device("cpu"), model, tmp_path) != first
    assert len(json.loads((tmp_path / "machine.json").read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine.json", "model.safetensors"]


def test_a_cpu_has_a_rate_of_its_own_for_eight_bits(monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    calls = []

    def scaled_product(matrix):
        return lambda: calls.append(matrix.shape)

    plain, found = (this_machine(torch.device("cpu"), scaled_product=each) for each in (None, scaled_product))
    assert plain.products8 == plain.products and found.products8 > 10 * found.products
    assert {*calls} == {(1024, 1024)}


def test_a_tenth_of_the_ram_stays_free():
    assert pinnable(64 * GIB, 64 * GIB) == 32 * GIB and pinnable(64 * GIB, 10 * GIB) == 10 * GIB - 64 * GIB // 10
    assert pinnable(8 * GIB, 1 * GIB) == 0
