"""Cards without memory of their own, as far as they can be pretended: what lies on them lies in the RAM.

The numbers are those that owners of such machines have published, in GiB: a DGX Spark (unslothai/unsloth#10705) and
two of a Strix Halo, one with a large part set apart for it (ROCm/legacy-rocm-build#6004, antirez/ds4#475).
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ltx2_core.cli import main
from ltx2_core.memory import PinnedMemory, link, machine
from ltx2_core.memory.machine import CARDS, GIB, MARGIN, free_of, is_integrated, shares_ram, usable
from ltx2_core.memory.partition import Units, Weights
from ltx2_core.memory.placement import Room, StageNeed, place
from ltx2_core.memory.ram import kept_free
from ltx2_core.memory.trace import Cost
from ltx2_core.memory.unit import Unit
from ltx2_core.pipeline.engines import local
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.plan import _notes
from ltx2_core.settings import Resources

CARD = torch.device("cuda", 0)


@pytest.fixture
def pretend(monkeypatch):
    """Lets torch and the system say such numbers of a card and of the RAM; ``held`` of its memory PyTorch keeps."""

    def say(free, total, available, ram, hip=None, integrated=1, held=0):
        facts = SimpleNamespace(total_memory=int(total * GIB), is_integrated=integrated)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), facts.total_memory))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held * GIB)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(torch.version, "cuda", None if hip else "13.0")
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr("sys.platform", "linux")
        for module in (machine, local):
            monkeypatch.setattr(module, "ram", lambda: (int(ram * GIB), int(available * GIB)))
        return kept_free(int(ram * GIB))

    return say


SPARK = {"free": 41.52, "total": 121.69, "available": 115.65, "ram": 121.69}
HALO = {"free": 60.0, "total": 62.47, "available": 40.0, "ram": 124.92, "hip": "7.13"}


def test_pages_of_files_are_no_memory_that_is_taken(pretend):
    kept = pretend(**SPARK, held=2)
    assert is_integrated(CARD) and usable(CARD) == int(115.65 * GIB) + 2 * GIB - kept
    assert free_of(CARD, 41.52 * GIB) == usable(CARD)


def test_no_more_is_free_than_programs_leave_of_the_ram(pretend):
    kept = pretend(**HALO)
    assert usable(CARD) == 40 * GIB - kept
    pretend(**HALO | {"free": 20})  # of what the system lets it have
    assert usable(CARD) == 20 * GIB - kept


@pytest.mark.parametrize("facts", [
    {"free": 90, "total": 96, "available": 25, "ram": 31, "hip": "7.2"},  # what is set apart is no RAM
    {"free": 20, "total": 24, "available": 25, "ram": 31, "integrated": 0},
])  # fmt: skip
def test_a_card_with_memory_of_its_own_has_what_it_says(pretend, facts):
    pretend(**facts)
    assert not shares_ram(CARD) and usable(CARD) == facts["free"] * GIB - MARGIN and free_of(CARD, 7) == 7


def test_a_container_limits_what_programs_take_and_not_the_card(pretend):
    kept = pretend(free=100, total=121.69, available=20, ram=32)
    assert usable(CARD) == 100 * GIB - kept


def test_an_intel_chip_says_it_by_another_name(monkeypatch):
    facts = SimpleNamespace(is_integrated_gpu=True)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: facts)
    assert is_integrated(torch.device("xpu")) and not is_integrated(torch.device("mps"))


def test_nothing_is_pinned_for_it(pretend, monkeypatch):
    monkeypatch.setattr(link, "_passes_trial", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    unit, own = Unit([torch.zeros(100)]), PinnedMemory(GIB, lambda span: True, lambda span: None)
    for integrated, promised in ((1, 0), (0, unit.nbytes)):
        pretend(**SPARK, integrated=integrated)
        link.link_to(CARD, own).prepare([unit])
        assert own.promised == promised


def test_pinned_memory_begins_with_a_page_whatever_its_size(monkeypatch):
    """On a Grace of NVIDIA pages have 64 KB: of those in which one span ends and the next begins, both would be."""
    monkeypatch.setattr("mmap.PAGESIZE", 2**16)
    places, own = [], PinnedMemory(GIB, lambda span: places.append(span.data_ptr()) or True, lambda span: None)
    units = [Unit([torch.zeros(30_000)]) for _ in range(20)]
    own.admit(units)
    spans = [own.fill(unit) for unit in units]
    assert len(spans) == len(places) == 20 and not any(place % 2**16 for place in places)


@pytest.fixture
def rate(monkeypatch):
    monkeypatch.setattr(local, "current_machine", lambda *_: CARDS["RTX 4070"])
    monkeypatch.setattr("ltx2_core.pipeline.engines.hardware._device_counts", lambda: {"cuda": 1, "mps": 1, "cpu": 1})
    monkeypatch.setattr("ltx2_core.pipeline.engines.local.torch.cuda.set_device", lambda device: None)


def test_frames_and_weights_find_no_second_memory_beside_it(pretend, rate, miniature):
    pretend(**SPARK)
    room = LocalEngine(miniature, Resources(device="cuda:0")).room()
    assert room.in_ram and not room.ram and 100 * GIB < room.budget <= usable(CARD)
    pretend(**SPARK, integrated=0)
    room = LocalEngine(miniature, Resources(device="cuda:0")).room()
    assert not room.in_ram and room.ram > 0


def test_apples_gpus_share_the_ram_too(rate, miniature, monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 24 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
    room = LocalEngine(miniature, Resources(device="mps")).room()
    assert room.in_ram and not room.ram and room.budget == 24 * GIB - MARGIN


def test_a_card_that_copies_by_turns_is_not_said_to_lack_room():
    """AMD's and Intel's always do, whatever room there is."""
    need = StageNeed("sampling", Weights(Units(0, (10**6,) * 8)), Cost(), runs=5)
    room = Room(replace(CARDS["RTX 4070"], overlaps=False), need.work_bytes + 6 * 10**6, GIB)
    made = place(need, room)
    assert made.slots == 1 and not _notes(made, room)


def test_a_plan_for_it_is_one_of_ram(pretend, monkeypatch, capsys):
    pretend(**SPARK)
    monkeypatch.setattr("ltx2_core.cli.commands.ram", machine.ram)
    monkeypatch.setattr("ltx2_core.cli.commands.best_device", lambda: CARD)
    monkeypatch.setattr("ltx2_core.cli.commands.current_machine", lambda *_: replace(CARDS["RTX 5070"], name="GB10"))
    main(["plan", "--width", "64", "--height", "64", "--frames", "9"])
    said = capsys.readouterr().out
    assert "GB10: at most 111.1 GB of RAM\n" in said and "pinned" not in said
