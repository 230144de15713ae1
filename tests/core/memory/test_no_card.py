"""Without a card: weights stay in their files and are converted unit by unit, within what is free of the RAM."""

import weakref
from dataclasses import replace

import pytest
import torch
from planned import RATES

import ltx2_core as ltx2
from benchmarks import no_card
from ltx2_core import tiny
from ltx2_core.checkpoint import build
from ltx2_core.cli import main
from ltx2_core.errors import DoesNotFitError
from ltx2_core.memory import Room, StageNeed, Store, place, placement
from ltx2_core.memory.arrival import AS_STORED, Arrival, arrival_on
from ltx2_core.memory.link import InPlace, Plain
from ltx2_core.memory.machine import GIB, Machine
from ltx2_core.memory.partition import Units, Weights
from ltx2_core.memory.placement import DEVICE, explain_refusal, least_bytes
from ltx2_core.memory.ram import free_ram
from ltx2_core.memory.trace import Cost
from ltx2_core.memory.unit import ALIGNMENT, Changes, Unit
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.settings import Request

CPU = torch.device("cpu")
WIDE = arrival_on(CPU, torch.float32)
MACHINE = Machine("no card", memory=0, **dict.fromkeys(RATES, 1e9), overlaps=False)
SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 5, "cache": False, "device": "cpu"}


@pytest.fixture
def ram(monkeypatch):
    """Lets an engine believe that so many bytes of the RAM are free, beside those that stay so."""

    def believe(free):
        monkeypatch.setattr(local_engine, "ram", lambda: (20 * GIB, free + 2 * GIB))
        monkeypatch.setattr(local_engine, "current_machine", lambda *_: MACHINE)
        monkeypatch.setattr(placement, "KERNEL_WORKSPACE_BYTES", 0)

    return believe


# ---------------------------------------------------------------------------------------------------------- conversion


def test_what_a_device_makes_of_numbers():
    assert arrival_on(CPU, torch.bfloat16) == arrival_on(torch.device("cuda"), torch.float32) == AS_STORED
    assert WIDE.in_place and {*WIDE.deferred} == {torch.bfloat16, torch.float16}


def test_float8_and_float64_never_reach_an_mps_device(models):
    arrival = arrival_on(torch.device("mps"), torch.bfloat16)
    kinds = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.bfloat16)
    tensors = [torch.randn(40, 16).to(dtype) for dtype in kinds]
    unit, stored = Unit([each.clone() for each in tensors], arrival=arrival), [each.double() for each in tensors]
    unit.read(span := torch.empty(unit.nbytes, dtype=torch.uint8))
    unit.bind(span)
    assert [each.dtype for each in unit.tensors] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]
    assert all(torch.equal(each, other.to(each.dtype)) for each, other in zip(unit.tensors, stored))


@pytest.mark.slow
def test_a_quantised_network_computes_the_same_from_converted_weights(tmp_path):
    models = ltx2.open_models(tiny.write(tmp_path, "2.3", transformer={"num_layers": 3})[0])
    network = build(models, "transformer", torch.bfloat16, format="fp8")
    layers = {name: module for name, module in network.named_modules() if hasattr(module, "expand_weight")}
    expected = {name: layer.expand_weight(torch.bfloat16) for name, layer in layers.items()}
    assert layers and all(layer.weight.dtype == torch.float8_e4m3fn for layer in layers.values())
    store = Store(network, "cpu", link=Plain("cpu"), arrival=arrival_on(torch.device("mps"), torch.bfloat16))
    store.set_budget(None)
    with store.use():
        assert not {each.dtype for each in network.parameters()} & {torch.float8_e4m3fn, torch.float64}
        for name, layer in layers.items():
            for _ in range(2):  # an expansion leaves the weight as it is
                assert torch.equal(layer.expand_weight(torch.bfloat16), expected[name])


@pytest.mark.parametrize("piece", [1, 7, 512, 4096])
def test_converted_weights_are_read_in_pieces_of_any_size(piece):
    tensors = [torch.randn(9, 100).bfloat16(), torch.randn(3).half(), torch.randn(50), torch.arange(7)]
    unit, stored = Unit(tensors, arrival=Arrival(WIDE.conversions)), [tensor.clone() for tensor in tensors]
    whole, pieces = torch.zeros(2, unit.nbytes, dtype=torch.uint8)
    unit.read(whole)
    for start in range(0, unit.nbytes, piece):
        unit.read(pieces[start : start + piece], start)
    assert torch.equal(whole, pieces)
    unit.bind(whole)
    assert all(torch.equal(tensor, other.to(tensor.dtype)) for tensor, other in zip(tensors, stored))
    assert [tensor.dtype for tensor in tensors] == [torch.float32] * 3 + [torch.int64]
    unit.go_home()
    assert all(tensor.dtype == other.dtype and torch.equal(tensor, other) for tensor, other in zip(tensors, stored))


def test_only_what_is_converted_or_changed_is_copied_where_the_rest_is_used_in_place():
    table, norm, wide = torch.randn(64, 8).bfloat16(), torch.randn(8).bfloat16(), torch.randn(8)
    unit = Unit([table, norm, wide], arrival=WIDE, tables=[id(table)])
    assert unit.nbytes == ALIGNMENT and unit.is_changed
    unit.change(Changes({"table": lambda weight: weight.add_(1)}), ["table", "norm", "wide"])
    assert unit.nbytes == ALIGNMENT + 64 * 8 * 4
    assert not Unit([wide, table], arrival=WIDE, tables=[id(table)]).is_changed


# ------------------------------------------------------------------------------------------------- networks and clips


class Watched(InPlace):
    """Uses weights in place, and knows how many bytes of copies there are at once."""

    def __init__(self):
        super().__init__("cpu")
        self.slots, self.most, self.sent = weakref.WeakSet(), 0, 0

    def send(self, unit, slot):
        super().send(unit, slot)
        self.slots.add(slot)
        self.sent += slot.buffer is not None
        self.most = max(self.most, sum(each.nbytes for each in self.slots if each.buffer is not None))


def test_a_network_that_is_converted_unit_by_unit_gives_what_a_wide_one_gives(models):
    wide, stored = (build(models, "video_decoder", torch.float32, deferred=kept) for kept in ((), WIDE.deferred))
    assert {each.dtype for each in stored.parameters()} == {torch.bfloat16}
    x, link = torch.randn(1, 128, 2, 2, 2), Watched()
    store = Store(stored, "cpu", slots=1, link=link, arrival=WIDE)
    store.set_budget(0)
    with torch.inference_mode(), store.use():
        assert torch.equal(wide(x), stored(x)) and torch.equal(wide(x), stored(x))
        assert store.card_bytes <= store.rest_bytes + max(store.unit_bytes)
    assert link.sent >= 2 * len(store.unit_bytes) > 4 and link.most <= store.rest_bytes + max(store.unit_bytes)
    assert {each.dtype for each in stored.parameters()} == {torch.bfloat16} and store.copied_bytes == 0


class Tight(LocalEngine):
    """Takes as little of the RAM as each stage can do with, and counts how many copies it makes."""

    def follow(self, plan):
        needs = [each.need for each in plan.placements]
        placements = tuple(place(need, Room(MACHINE, least_bytes(need), in_ram=True)) for need in needs)
        assert None not in placements and plan.room.in_ram
        assert {each.slots for each in placements} <= {0, 1}
        super().follow(replace(plan, placements=placements))


@pytest.mark.slow
def test_a_clip_is_the_same_whatever_stays_in_the_ram(models, ram):
    request, clips = Request.of("a red ball", **SMALL), []
    for engine, free in ((LocalEngine, 15 * GIB), (LocalEngine, 10**8), (Tight, 10**8)):
        ram(free)
        made = engine(models, request.resources)
        assert made.room().in_ram == (free == 10**8)
        clip = ltx2.run(models, request, made)
        clips.append((torch.cat(list(clip.chunks)), clip.waveform))
    assert all(torch.equal(a, b) for other in clips[1:] for a, b in zip(clips[0], other))


def test_gemma_looks_up_rows_of_a_table_that_stays_in_its_file(models, ram):
    ram(15 * GIB)
    engine = LocalEngine(models, Request.of("x", **SMALL).resources)
    table = engine.encoder.config.vocabulary * engine.encoder.config.width * 4
    assert engine.blueprint.weights("text_encoder").blocks.rest < table


# ----------------------------------------------------------------------------------------------------- plan and refusal


@pytest.mark.slow
def test_a_tenth_of_the_ram_stays_free_and_more_is_refused_in_a_sentence(models, ram, monkeypatch):
    assert free_ram(32 * GIB, 20 * GIB) == 20 * GIB - 32 * GIB // 10 and free_ram(8 * GIB, GIB) == 0
    ram(10**5)
    with pytest.raises(DoesNotFitError, match=r"0\.0 GB of RAM") as refused:
        ltx2.generate(models, "a red ball", **SMALL)
    assert ("your torch has no CUDA" in str(refused.value)) == (torch.version.cuda is None)


@pytest.mark.parametrize("cuda, hip, system, said", [
    (None, None, "linux", True), (None, None, "win32", True), (None, None, "darwin", False),
    ("12.8", None, "linux", False), (None, "6.4", "linux", False),
])  # fmt: skip
def test_a_refusal_says_when_torch_has_no_cuda(monkeypatch, cuda, hip, system, said):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr("sys.platform", system)
    need = StageNeed("sampling", Weights(Units(GIB)), Cost())
    assert ("has no CUDA" in explain_refusal(need, Room(MACHINE, GIB, in_ram=True))) == said
    assert "has no CUDA" not in explain_refusal(need, Room(MACHINE, GIB))
    assert "or a device with more memory." in explain_refusal(need, Room(MACHINE, GIB, in_ram=True))


def test_nothing_is_copied_ahead_where_copying_and_computing_take_turns():
    need = StageNeed("sampling", Weights(Units(0, (100,) * 8)), Cost(), runs=5)
    machines = MACHINE, replace(MACHINE, overlaps=True)
    one, ahead = (place(need, Room(machine, need.work_bytes + 400, in_ram=True)) for machine in machines)
    assert (one.slots, one.tiers.count(DEVICE)) == (1, 3) and ahead.slots > 1
    assert place(need, Room(MACHINE, need.work_bytes + 100, in_ram=True)).tiers.count(DEVICE) == 0


def test_limits_of_ram_are_limits_of_a_cpu():
    assert Room(MACHINE, 10, in_ram=True).within(None, 4).budget == 4
    assert Room(MACHINE, 10, 8).within(None, 4) == Room(MACHINE, 10, 4)
    assert Room(MACHINE, 10, 8).within(7, None) == Room(MACHINE, 7, 8)
    assert Room(MACHINE, None).within(7, None).budget == 7


@pytest.mark.slow
def test_a_plan_for_a_cpu_is_one_of_ram(monkeypatch, capsys):
    monkeypatch.setattr("ltx2_core.cli.commands.best_device", lambda: CPU)
    monkeypatch.setattr("ltx2_core.cli.commands.current_machine", lambda *_: MACHINE)
    main(["plan", "--ram", "8", "--width", "64", "--height", "64", "--frames", "9"])
    said = capsys.readouterr().out
    assert "at most 6.4 GB of RAM" in said and "card and" not in said


@pytest.mark.slow
@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux tells what a process has of its memory")
def test_the_script_for_a_computer_without_a_card(capsys, tmp_path, tiny_files):
    most = no_card.main(["--files", *map(str, tiny_files("2.3")[:2])])
    said = capsys.readouterr().out
    assert 0 < most < 4e9 and all(stage in said for stage in ("prompt", "sampling", "frames"))
    file = no_card.write_zeros(tmp_path / "zeros.safetensors", {"a": (3, 4), "b": (5,)}, {"config": "{}"})
    assert torch.equal(ltx2.checkpoint.TensorFile(file).get("a"), torch.zeros(3, 4, dtype=torch.bfloat16))


@pytest.mark.slow
@pytest.mark.skipif("not os.environ.get('LTX2_FULL_SIZE')", reason="takes an hour on two cores: set LTX2_FULL_SIZE")
def test_a_clip_of_a_full_size_model_takes_six_gigabytes():
    assert no_card.main([]) < 6e9
