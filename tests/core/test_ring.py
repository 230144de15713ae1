"""Who is in which slot, and when: the policy of streaming, with a link that keeps the time and copies nothing."""

import random

import pytest
import torch

from ltx2_core.memory.ring import Ring
from ltx2_core.memory.store import spread
from ltx2_core.memory.unit import Slot, Unit


class Clock:
    """A device that computes, and a link beside it that copies one unit after the other, on one clock."""

    def __init__(self, copy: float):
        self.copy, self.now, self.link_is_busy_until = copy, 0.0, 0.0
        self.there: dict[Slot, tuple[Unit, float]] = {}  # what is in a slot, and since when
        self.in_use: Slot | None = None
        self.sent: list[Unit] = []
        self.waited = 0.0

    def slot(self, nbytes):
        return Slot(nbytes)

    def send(self, unit, slot):
        assert slot is not self.in_use
        # The program is not ahead of the device: it says so at the last moment.
        self.link_is_busy_until = max(self.link_is_busy_until, self.now) + self.copy
        self.there[slot] = unit, self.link_is_busy_until
        self.sent.append(unit)

    def arrive(self, unit, slot):
        there, since = self.there[slot]
        assert there is unit and self.in_use is None
        self.waited += max(0.0, since - self.now)
        self.now, self.in_use = max(self.now, since), slot

    def leave(self, unit, slot):
        assert self.there[slot][0] is unit and self.in_use is slot
        self.in_use = None

    def settle(self): ...


def units(count: int, resident=()) -> list[Unit]:
    made = [Unit([torch.zeros(1)]) for _ in range(count)]
    for index in resident:
        made[index].place = Slot(0)
    return made


def run(ring: Ring, order: list[Unit], compute: float = 1.0) -> None:
    for unit in order:
        ring.use(unit)
        ring.link.now += compute
        ring.done(unit)
        ring.look_ahead()


def make(blocks, slots=2, copy=0.5) -> tuple[Ring, Clock]:
    clock = Clock(copy)
    ring = Ring(blocks, clock, slots)
    ring.start()
    return ring, clock


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_copies_hide_behind_computing(slots):
    blocks = units(12)
    ring, clock = make(blocks, slots, copy=0.9)
    for _ in range(3):
        run(ring, blocks)
    assert clock.now == pytest.approx(0.9 + 3 * 12 * 1.0)  # only the very first unit is waited for


def test_computing_hides_behind_copies_that_take_longer():
    blocks = units(12)
    ring, clock = make(blocks, slots=2, copy=2.0)
    for _ in range(3):
        run(ring, blocks)
    assert clock.now == pytest.approx(3 * 12 * 2.0 + 1.0)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("resident", [(), (0, 4, 8), (0, 1, 2, 3, 4, 5)])
def test_a_step_loads_every_streamed_unit_once(slots, resident):
    blocks = units(12, resident)
    ring, clock = make(blocks, slots)
    streamed = [unit for unit in blocks if unit.place is None]
    for step in range(1, 4):
        run(ring, blocks)
        assert clock.sent == (streamed * 4)[: step * len(streamed) + slots]  # the next step's first are on their way


def test_what_fits_into_the_ring_is_loaded_once():
    blocks = units(12, resident=range(10))
    ring, clock = make(blocks)
    for _ in range(3):
        run(ring, blocks)
    assert clock.sent == blocks[10:]


def test_the_link_works_while_the_sampler_does():
    blocks = units(6)
    ring, clock = make(blocks, slots=2, copy=3.0)
    run(ring, blocks)
    clock.now += 100
    before, clock.waited = len(clock.sent), 0.0
    run(ring, blocks[:2])
    assert clock.waited == 0 and len(clock.sent) == before + 2


def test_blocks_that_stay_are_spread_so_that_the_link_is_never_idle_for_long():
    """An RTX 4090 at 640 x 352 (bf16, one pass): 28 of 48 blocks fit, one takes 18.7 ms, its copy 31 ms."""

    def step_time(resident):
        blocks = units(48, resident)
        ring, clock = make(blocks, slots=2, copy=31.0)
        run(ring, blocks, 18.7)
        start = clock.now
        for _ in range(4):
            run(ring, blocks, 18.7)
        return (clock.now - start) / 4

    computing = 48 * 18.7
    assert step_time(spread(48)[:28]) < 1.01 * computing
    assert step_time(range(28)) > 1.2 * computing


@pytest.mark.parametrize("count", [1, 2, 7, 48])
def test_every_beginning_of_a_spread_is_even(count):
    order = spread(count)
    assert sorted(order) == list(range(count))
    for chosen in range(1, count):
        some = sorted(order[:chosen])
        gaps = [after - before for before, after in zip(some, [*some[1:], some[0] + count])]
        assert max(gaps) <= 2 * count / chosen + 1


def test_the_order_is_learnt():
    blocks = units(6)
    used = [blocks[index] for index in (0, 3, 1, 4, 2)]  # not as listed, and one is never used
    ring, clock = make(blocks)
    run(ring, used * 2)
    del clock.sent[:]
    run(ring, used * 2)
    assert clock.sent == (used * 3)[2:12]
    ring.stop()
    assert ring.slots == []
    ring.start()
    assert clock.sent[-2:] == used[:2]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_is_served(seed):
    """The clock sees to it that nobody runs on what is not there, and nothing is overwritten while it is used."""
    dice = random.Random(seed)
    blocks = units(8, resident=dice.sample(range(8), dice.randrange(6)))
    ring, _ = make(blocks, slots=dice.randint(1, 4))
    for _ in range(5):
        run(ring, dice.choices(blocks, k=20))
        unit = dice.choice(blocks)
        unit.place = None if unit.place else Slot(0)
        if dice.random() < 0.3:
            ring.shrink()
    assert len(ring.slots) <= 4


def test_without_memory_for_slots_the_ring_looks_less_far_ahead():
    blocks = units(5)
    clock = Clock(1.0)
    clock.slot = lambda nbytes: Slot(nbytes) if len(ring.slots) < 2 else _out_of_memory()
    ring = Ring(blocks, clock, 4)
    ring.start()
    run(ring, blocks * 2)
    assert ring.size == len(ring.slots) == 2


def _out_of_memory():
    raise torch.OutOfMemoryError("no")
