"""What a machine can do is measured once, and a part of its memory is left alone."""

import json
from itertools import count

import pytest
import torch
from planned import RATES

from ltx2_core import open_models
from ltx2_core.memory import machine as machines
from ltx2_core.memory.machine import GIB, Machine, computing_dtype, this_machine
from ltx2_core.memory.ram import pinnable
from ltx2_core.memory.trace import Cost
from ltx2_core.pipeline.engines import hardware
from ltx2_core.pipeline.engines.hardware import compute_dtype


def test_each_kind_of_work_takes_the_time_of_its_rate():
    machine = Machine("x", 0, 2, 4, 8, 16, 32, 1, 1, launch=0.5)
    work = Cost(products=2, products8=40, convolutions=800, attention=16_000, moved=320_000, launches=22_000)
    assert (machine.working(work), machine.starting(work)) == (11_111, 11_000) and machine.seconds(work) == 11_111
    assert machine.seconds(Cost(launches=22_000)) == 11_000


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


def test_the_rate_of_a_disk_is_what_was_read_by_how_long_it_took(tmp_path, monkeypatch):
    """By a clock that goes on by 0.01 s whenever it is looked at: three times, for half of the file."""
    ticks = count(1000)
    monkeypatch.setattr(machines.time, "perf_counter", lambda: next(ticks) / 100)
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(2**20))
    assert this_machine(torch.device("cpu"), model).disk == pytest.approx(2**19 / 0.03)


def test_a_cpu_has_a_rate_of_its_own_for_eight_bits(monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    calls = []

    def scaled_product(matrix):
        return lambda: calls.append(matrix.shape)

    plain, found = (this_machine(torch.device("cpu"), scaled_product=each) for each in (None, scaled_product))
    assert plain.products8 == plain.products and found.products8 > 10 * found.products
    assert {*calls} == {(1024, 1024)}


@pytest.mark.parametrize("faster, chosen", [(2.0, torch.bfloat16), (1.1, torch.float32), (0.1, torch.float32)])
def test_a_cpu_computes_in_what_it_multiplies_faster_in(tmp_path, monkeypatch, faster, chosen):
    asked = []

    def rate(width, dtype):
        asked.append(width)
        return faster if dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(machines, "_product_rate", rate)
    wide, narrow = 4096, open_models("miniature").width
    cpu = torch.device("cpu")
    monkeypatch.setattr(hardware, "cache_folder", lambda: tmp_path)
    for _ in range(2):
        assert compute_dtype(cpu, wide) == chosen
        assert compute_dtype(cpu, narrow) == compute_dtype(cpu, 0) == torch.float32
    assert asked == [4096, 4096]  # once in each, of the wide one alone
    assert compute_dtype(torch.device("cuda"), narrow) == torch.bfloat16


def test_products_are_timed_and_rates_are_those_of_what_is_computed_in(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    chosen = computing_dtype(1024, tmp_path)
    (kept,) = json.loads((tmp_path / "machine.json").read_text()).values()
    rates = kept["rates"]
    assert (rates["torch.bfloat16"] > 1.3 * rates["torch.float32"]) == (chosen == torch.bfloat16)
    both = torch.float32, torch.bfloat16
    plain, narrow = (this_machine(torch.device("cpu"), None, tmp_path, dtype=dtype) for dtype in both)
    assert narrow.name == f"{plain.name} in bfloat16"
    assert computing_dtype(1024, tmp_path) == chosen


@pytest.mark.parametrize("kind, waits", [("cpu", 0), ("cuda", 1), ("xpu", 1), ("mps", 1)])
def test_what_is_timed_has_been_done(monkeypatch, kind, waits):
    """Only a CPU does what it is asked for at once: else the time of starting it would be measured."""
    waited = []
    for each in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, each), "synchronize", lambda *_, each=each: waited.append(each))
    calls = []
    machines._runs_per_second(lambda: calls.append(len(waited)), torch.device(kind), 0.001)
    assert calls == [waits * number for number in range(len(calls))] and set(waited) == {kind} - {"cpu"}


def test_a_tenth_of_the_ram_stays_free():
    assert pinnable(64 * GIB, 64 * GIB) == 32 * GIB and pinnable(64 * GIB, 10 * GIB) == 10 * GIB - 64 * GIB // 10
    assert pinnable(8 * GIB, 1 * GIB) == 0
