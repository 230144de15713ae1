"""Where weights are placed: by hand, with more and less memory, and in a store beside a clock."""

import itertools
import random
import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from planned import SLOW, follow, sampling
from torch import nn

from ltx2_core.geometry import ClipShape
from ltx2_core.memory import Plain, Room, StageNeed, Store, place, placement
from ltx2_core.memory.link import InPlace
from ltx2_core.memory.machine import GIB, Machine, machine_named
from ltx2_core.memory.partition import Units, Weights
from ltx2_core.memory.placement import (
    DEVICE,
    DISK,
    HOST,
    KERNEL_WORKSPACE_BYTES,
    explain_refusal,
    gigabytes,
    least_bytes,
)
from ltx2_core.memory.trace import Cost
from ltx2_core.memory.unit import Changes, Slot
from ltx2_core.pipeline.stage import LatentSize

SIZES = ("bf16", "int8", "nvfp4")  # of released files; fp8 is as large as int8


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 1])
def test_the_store_keeps_what_the_plan_says(share):
    network = nn.Sequential(nn.Linear(8, 8), nn.ModuleList(nn.Linear(64, 64 + 8 * (i in (0, 9))) for i in range(10)))
    weights = Weights.of(network)
    assert weights == Weights.of(network, changes=Changes())  # sums are what the units are
    need = StageNeed("x", weights, Cost(), runs=2)
    stage = place(need, Room(SLOW, KERNEL_WORKSPACE_BYTES + int(share * weights.total)))
    store = Store(network, "cpu", link=Plain("cpu"))
    follow(store, stage)
    with store.use():
        assert [DEVICE if stays else DISK for stays in store.staying] == list(stage.tiers)
        assert store.card_bytes <= stage.weight_budget
    assert (DISK in stage.tiers, DEVICE in stage.tiers) == (share < 1, share > 0.2)
    assert store.wanted_bytes == weights.total


def test_a_hand_computed_placement():
    """Four blocks, and 50 bytes beside them; the work takes 1000 bytes and 4 seconds, a copy one, a read ten."""
    machine, block = replace(SLOW, link=1024, disk=102.4), 1024
    need = StageNeed("sampling", Weights(Units(50, (block,) * 4)), Cost(products=4e9), 1000 - KERNEL_WORKSPACE_BYTES, 8)
    whole = place(need, Room(machine, 1050 + 4 * block, 0))
    assert (whole.tiers, whole.slots, whole.run) == ((DEVICE,) * 4, 0, 4.0)
    assert whole.load == pytest.approx((50 + 4 * block) / 102.4) and whole.seconds == whole.load + 8 * 4
    assert whole.weight_budget == 50 + 4 * block and whole.device_bytes == 1050 + 4 * block
    # Room for two blocks on their way and one that stays; two are pinned. While the fourth is read the third runs;
    # then it runs itself, and the first: 1 + 10 + 1 + 1 seconds from the second to the second.
    mixed = place(need, Room(machine, 1049 + 4 * block, 2 * block))
    assert mixed.tiers == (DEVICE, HOST, HOST, DISK) and mixed.slots == 2 and mixed.run == pytest.approx(13)
    assert mixed.weight_budget == 50 + 3 * block and mixed.host_bytes == 2 * block
    # All pinned, copies are as fast as computing; less room is not enough for blocks that have no parts.
    assert place(need, Room(machine, 1050 + 2 * block, 4 * block)).run == pytest.approx(4.0)
    assert place(need, Room(machine, 1049 + 2 * block, 4 * block)) is None
    parts = replace(need, weights=replace(need.weights, parts=Units(60, (block // 2,) * 8)))
    small = place(parts, Room(machine, 1060 + block, 4 * block))
    assert (small.parts, small.slots, small.unit) == (True, 2, "part") and small.run == pytest.approx(4.0)
    # With room for one part, copying and computing take turns.
    assert place(parts, Room(machine, 1059 + block, 4 * block)).run == pytest.approx(8.0)
    assert place(parts, Room(machine, 1059 + block // 2, 4 * block)) is None


def test_a_ring_that_hides_all_copies_is_turned_once(monkeypatch):
    machine, block, turned = replace(SLOW, link=1024, disk=102.4), 1024, []
    weights = Weights(Units(50, (block,) * 4), Units(60, (block // 2,) * 8))
    need = StageNeed("sampling", weights, Cost(products=4e9), 1000 - KERNEL_WORKSPACE_BYTES, 8)
    turn = placement.step_seconds
    monkeypatch.setattr(placement, "step_seconds", lambda *given: turned.append(given) or turn(*given))
    assert place(need, Room(machine, 1050 + 3 * block, 4 * block)).run == 4.0 and len(turned) == 1


@pytest.mark.parametrize("format", SIZES)
def test_more_memory_is_never_worse(released, format):
    card = machine_named("4070")
    need = sampling(released("2.3", format), LatentSize.of_clip(ClipShape(768, 512, 121, Fraction(24))))

    for ram in (0, 10 * GIB, 64 * GIB):
        budgets = range(5 * 10**8, 45 * 10**9, 4 * 10**9)
        placed = [place(need, Room(card, budget, ram)) for budget in budgets]
        fitting = [stage for stage in placed if stage is not None]
        assert placed[0] is None and placed[len(placed) - len(fitting) :] == fitting  # once it fits, it always does
        for less, more in zip(fitting, fitting[1:]):
            assert more.run <= 1.05 * less.run  # one slot less, and blocks instead of parts, are preferred at 4 % more
        assert set(fitting[-1].tiers) == {DEVICE}
        assert all(stage.device_bytes <= budget for stage, budget in zip(placed, budgets) if stage is not None)
    slow = replace(card, disk=5e8)
    runs = [place(need, Room(slow, 8 * GIB, ram * GIB)).run for ram in range(0, 64, 4)]
    assert runs == sorted(runs, reverse=True) and runs[0] > runs[-1]


class Clock(InPlace):
    """A device that computes, a link beside it that copies one unit after the other, and a disk that is read for those
    that are not pinned; all on one clock, and nothing is copied."""

    def __init__(self, machine: Machine, ram: int):
        self.machine, self.ram, self.pinned = machine, ram, set()
        self.now = self.copied = self.read = 0.0
        self.there: dict[Slot, float] = {}  # since when
        self.sent = []

    def prepare(self, units):
        for unit in units:
            if self.ram < unit.nbytes:
                break
            self.ram -= unit.nbytes
            self.pinned.add(unit)

    def send(self, unit, slot):
        for other in [other for other in self.there if other.overlaps(slot.start, slot.stop)]:
            del self.there[other]
        start = max(self.now, self.copied)
        if unit not in self.pinned:
            self.read = max(self.read, self.now) + unit.nbytes / self.machine.disk
            start = max(start, self.read - unit.nbytes / self.machine.link)
        self.copied = self.there[slot] = start + unit.nbytes / self.machine.link
        self.sent.append(unit)

    def arrive(self, unit, slot):
        self.now = max(self.now, self.there.get(slot, 0.0))


class Worker(nn.Module):
    """Weights of so many bytes, and the time that using them takes."""

    def __init__(self, nbytes: int, work):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nbytes, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.work = work

    def forward(self):
        self.work(self.weight.nbytes)


class Foreman(nn.Module):
    """A block that is its parts."""

    def __init__(self, parts):
        super().__init__()
        self.streamable_modules = list(parts)
        for number, part in enumerate(self.streamable_modules):
            self.add_module(str(number), part)

    def forward(self):
        for part in self.streamable_modules:
            part()


@pytest.mark.parametrize("format", SIZES)
@pytest.mark.parametrize("card", ["RTX 5090", "RTX 4060"])
def test_a_step_takes_as_long_as_in_the_store_with_a_clock(released, card, format):
    """Full-size weights; sizes, passes and memory drawn at random."""
    draw, found, machine = random.Random(f"{card} {format}"), released("2.3", format), machine_named(card)
    weights = found.weights("transformer")
    count, outside = divmod(len(weights.parts.sizes), len(weights.blocks.sizes))
    for _ in range(6):
        width, height = draw.choice([(640, 352), (960, 544), (1280, 704)])
        size = LatentSize.of_clip(ClipShape(width, height, draw.choice([25, 121]), Fraction(24)))
        need = sampling(found, size, draw.choice([1, 2, 4]))
        least = least_bytes(need)
        budget = draw.choice([least + 10**9 * draw.random(), least + weights.total * draw.random()])
        stage = place(need, Room(machine, int(budget), int(draw.choice([0, 0.5, 1]) * weights.total)))
        clock = Clock(machine, sum(size for size, tier in zip(stage.units.sizes, stage.tiers) if tier == HOST))
        computing = machine.seconds(need.cost)

        def work(nbytes, clock=clock, stage=stage, computing=computing):
            clock.now += computing * nbytes / sum(stage.units.sizes)

        sizes = iter(weights.parts.sizes)
        ends = Foreman(Worker(size, work) for size in itertools.islice(sizes, outside))
        blocks = nn.ModuleList(
            Foreman(Worker(size, work) for size in itertools.islice(sizes, count)) for _ in weights.blocks.sizes
        )
        store = Store(nn.Sequential(ends, blocks), "cpu", link=clock)
        store.stream_by(stage.unit, stage.slots or 2)
        store.set_budget(stage.weight_budget - stage.units.rest + store.rest_bytes)
        clock.sent.clear()
        with store.use():
            streamed = [unit for unit, stays in zip(store.partition.units, store.staying) if not stays]
            for _ in range(4):
                before = clock.now
                for block in [ends, *blocks] if stage.parts else blocks:
                    block()
        assert clock.now - before == pytest.approx(stage.run, rel=0.05), stage
        sent = [unit for unit in clock.sent if unit in streamed]
        assert len(streamed) == sum(tier != DEVICE for tier in stage.tiers)
        assert sent == (6 * streamed)[: len(sent)] and len(sent) >= 4 * len(streamed)  # not once for each pass


def test_a_refusal_says_more_than_there_is():
    need = StageNeed("sampling", Weights(Units(3 * 10**8 + 1)), Cost(peak=10**8))
    sentence = explain_refusal(need, Room(machine_named("RTX 4090"), least_bytes(need) - 1))
    there, needed = re.search(r"does not fit ([\d.]+) GB.*: it needs ([\d.]+) GB", sentence).groups()
    assert float(there) < float(needed)


def test_a_refusal_names_what_takes_memory_and_nothing_else():
    def refusal(rest: int) -> str:
        return explain_refusal(StageNeed("sampling", Weights(Units(rest, (10**9,) * 4)), Cost()), Room(SLOW, 10**8))

    assert "for weights that are always needed" in refusal(10**8)
    assert "always needed" not in refusal(10**7) and "1.0 GB for one block" in refusal(10**7)


def test_a_budget_that_is_no_tenth_of_a_gigabyte_is_told_in_megabytes():
    need = StageNeed("sampling", Weights(Units(0, (10**9,) * 4)), Cost())
    assert "sampling does not fit 21 MB, even" in explain_refusal(need, Room(SLOW, 21 * 10**6))
    assert [gigabytes(nbytes) for nbytes in (0, 49e6, 50e6, 1.5e9)] == ["0.0 GB", "49 MB", "0.1 GB", "1.5 GB"]
