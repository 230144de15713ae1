"""What may happen to weights on a card, each story with its details thrown by dice, below a detector of races."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from races import Card
from torch import nn

MANY = 10**6


class Part(nn.Module):
    """A weight that is used on the card, where it must hold what it holds on the host, with its change."""

    def __init__(self, card: Card, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size), requires_grad=False)
        self.card, self.wanted, self.during = card, [self.weight.clone()], lambda: None
        self.beside: list[torch.Tensor] = []  # what it reads beside the weight; all numbers are 7

    def forward(self) -> None:
        self.card.use(self.weight)
        assert torch.equal(self.weight, self.wanted[0]), "a weight with other bytes"
        for tensor in self.beside:
            self.card.use(tensor)
            assert (tensor == 7).all(), "a tensor beside a weight with other bytes"
        self.during()
        self.card.use(self.weight)


class Block(nn.Module):
    def __init__(self, card: Card, *sizes: int):
        super().__init__()
        self.own = Part(card, 30)
        self.streamable_modules = [Part(card, size) for size in sizes]
        self.parts = nn.Sequential(*self.streamable_modules)

    def forward(self) -> None:
        for part in (self.own, *self.streamable_modules):
            part()


class Net(nn.Module):
    """Blocks of two parts and other sizes, and what stands beside them."""

    def __init__(self, card: Card):
        super().__init__()
        self.blocks = nn.ModuleList(Block(card, 100 + 90 * (index % 3), 250) for index in range(5))
        self.beside = Part(card, 60)

    def forward(self, order=range(5)) -> None:
        for index in order:
            self.blocks[index]()
        self.beside()


class World:
    """Stores on one card, with one pinned memory and the same threads."""

    def __init__(self, card: Card, package):
        self.card, self.dice, self.package = card, card.dice, package
        self.host = card.host(self.dice.choice([0, 2000, 5000, MANY]))
        self.readers = package.link.Readers(700)
        self.stores = []

    def store(self, budget: int | None = 0):
        torch.manual_seed(0)
        link = self.package.Streamed("cpu", self.host, self.readers)
        store = self.package.Store(Net(self.card), "cpu", slots=self.dice.randint(1, 4), link=link)
        self.stores.append(store)
        if self.dice.random() < 0.3:
            self.change(store)
        store.stream_by(self.dice.choice(["block", "part"]), store.slots)
        store.set_budget(budget)
        return store

    def some_budget(self, store) -> int | None:
        return self.dice.choice([None, 0, self.dice.randrange(store.wanted_bytes)])

    def change(self, store, change: Callable[[torch.Tensor], object] = lambda weight: weight.add_(1)) -> None:
        """Change some weights in every copy of them, by what patches read, and let some parts read more."""
        sizes = {name: parameter.numel() for name, parameter in store.network.named_parameters()}
        read = {name: [torch.full((sizes[name],), 3.0)] for name in self.dice.sample(list(sizes), 5)}
        beside = {name: [torch.full((each,), 7.0) for each in (20, 130)] for name in self.dice.sample(list(sizes), 4)}
        for name, part in store.network.named_modules():
            if isinstance(part, Part):
                part.wanted[0] = self.home(store, part.weight) + (f"{name}.weight" in read)
                part.beside = beside.get(f"{name}.weight", [])

        def changing(tensor: torch.Tensor, weight: torch.Tensor) -> None:
            self.card.use(weight, changes=True)
            self.card.use(tensor)
            assert (tensor == 3).all(), "a tensor that a patch reads with other bytes"
            change(weight)

        patches = {name: partial(changing, *tensors) for name, tensors in read.items()}
        store.patch(self.package.unit.Changes(patches, read, beside))

    def home(self, store, weight: torch.Tensor) -> torch.Tensor:
        units = store.partition.ranked
        return next(h for unit in units for t, h in zip(unit.tensors, unit.homes) if t is weight)

    def run(self, store, sweeps: int = 2, inside: Callable[[], object] = lambda: None) -> None:
        """Use the network, in the usual order or another one; ``inside`` happens in one of its parts."""
        part = self.dice.choice([each for each in store.network.modules() if isinstance(each, Part)])
        part.during = inside
        try:
            with store.use() as network:
                for _ in range(sweeps):
                    network(range(5) if self.dice.random() < 0.6 else self.dice.choices(range(5), k=5))
        finally:
            part.during = lambda: None

    def leave(self) -> None:
        for store in self.stores:
            store.release()
            assert store.card_bytes == 0, "bytes that stay on the card"
            for unit in (each for whole in store.partition.ranked for each in whole.company):
                for tensor, home in zip(unit.tensors, unit.homes):
                    assert tensor.data_ptr() == home.data_ptr(), "a weight that did not go home"
        self.stores.clear()


def steps(world: World) -> None:
    store = world.store()
    for _ in range(2):
        world.run(store, sweeps=3)


def budgets(world: World) -> None:
    """The budget changes between uses and within."""
    store = world.store(MANY)
    for _ in range(3):
        store.set_budget(world.some_budget(store))
        world.run(store, inside=lambda: store.set_budget(world.some_budget(store)))


def shrinking(world: World) -> None:
    """The owner of the card wants room, between uses and within."""
    store = world.store(None)
    for _ in range(2):
        world.run(store, inside=lambda: store.shrink(world.dice.randrange(store.wanted_bytes)))
        store.shrink(world.dice.randrange(store.wanted_bytes))
        store.set_budget(world.some_budget(store))


def units(world: World) -> None:
    """Blocks are streamed in one use, and parts of them in the next one."""
    store = world.store()
    for unit in ("part", "block", "part"):
        store.stream_by(unit, world.dice.randint(1, 3))
        store.set_budget(world.some_budget(store))
        world.run(store)


def changes(world: World) -> None:
    """LoRAs come, go and fail, while weights stay and are streamed."""
    store = world.store(None)

    def fail(weight):
        weight.add_(0.5)
        if world.dice.random() < 0.3:
            raise InterruptedError
        weight.add_(0.5)

    for budget in (None, 0, world.some_budget(store), 0):
        world.change(store)
        store.set_budget(budget)
        world.run(store)
        world.change(store, fail)
        with suppress(InterruptedError):
            store.set_budget(budget)
        with suppress(InterruptedError), store.use() as network:
            for _ in range(3):
                with suppress(InterruptedError):
                    network()
            at_home(store)
        at_home(store)


def interruptions(world: World) -> None:
    store = world.store()

    def interrupt():
        raise InterruptedError

    for _ in range(3):
        store.set_budget(world.some_budget(store))
        with suppress(InterruptedError):
            world.run(store, inside=interrupt)
        at_home(store)
    world.run(store)


def full_card(world: World) -> None:
    """Memory runs out in a part, again and again."""
    store = world.store(None)
    left = list(range(6))

    def fail():
        if left and world.dice.random() < 0.7:
            left.pop()
            raise torch.OutOfMemoryError("full")

    for _ in range(3):
        store.set_budget(world.some_budget(store))
        with suppress(torch.OutOfMemoryError):
            world.run(store, inside=fail)


def failing_reads(world: World) -> None:
    """The disk fails half-way through a unit; what is under way by then, and what comes later, is as it must be."""
    world.host = world.card.host(world.dice.choice([0, 4000, MANY]))
    store = world.store()
    Unit, failures = world.package.unit.Unit, [4]
    read = Unit.read

    def failing(unit, into, start=0):
        if failures[0] and world.dice.random() < (0.6 if len(into) == unit.nbytes else 0.15):
            failures[0] -= 1
            into.fill_(0xFF)
            read(unit, into[: len(into) // 2], start)
            raise OSError("the disk is gone")
        read(unit, into, start)

    Unit.read = failing
    try:
        for _ in range(4):
            with suppress(OSError):
                store.set_budget(world.dice.choice([0, world.some_budget(store)]))
            with suppress(OSError), store.use() as network:
                with suppress(OSError):
                    network()
                network()
            world.card.look()
    finally:
        Unit.read = read
    world.run(store)


def neighbours(world: World) -> None:
    """Two networks share pinned memory that does not hold both, one after the other and one within the other."""
    world.host = world.card.host(world.dice.choice([4000, 8000]))
    one, other = world.store(), world.store()
    for _ in range(3):
        world.run(one)
        for store in (one, other):
            store.set_budget(world.some_budget(store))
        if world.dice.random() < 0.5:
            one, other = other, one
        world.run(one)


def guests(world: World) -> None:
    """A network comes to stay, must give way while it runs, and is streamed when a neighbour begins within its use."""
    world.host = world.card.host(world.dice.choice([8000, 12000]))
    one, other = world.store(), world.store()
    world.run(one)
    one.set_budget(None)
    happenings = [lambda: one.shrink(one.wanted_bytes), *[lambda: world.run(other, sweeps=1)] * 2]
    world.run(one, sweeps=6, inside=lambda: happenings and happenings.pop(0)())
    world.run(other)


def dropping(world: World) -> None:
    """A network goes as soon as it has come, or in the middle of a use that failed."""
    for _ in range(3):
        store = world.store(None)
        if world.dice.random() < 0.5:
            world.run(store)
            store.set_budget(world.some_budget(store))
        world.stores.clear()
        del store


def at_home(store) -> None:
    """A weight that does not run is at home or on the card to stay."""
    for unit in store.partition.ranked:
        for tensor, home in zip(unit.tensors, unit.homes):
            assert (unit.place is None) == (tensor.data_ptr() == home.data_ptr()), "a weight in memory that was left"


SCENARIOS: dict[str, Callable[[World], None]] = {
    story.__name__: story
    for story in (
        steps, budgets, shrinking, units, changes, interruptions, full_card, failing_reads, neighbours, guests,
        dropping,
    )
}  # fmt: skip


def complaints(story: Callable[[World], None], seed: int, package) -> list[str]:
    """Return what is wrong with ``package``, the memory of ltx2_core, in a story."""
    card = Card(seed, package, pinnable=9000 if seed % 3 == 0 else MANY)
    with torch.inference_mode(seed % 2 == 1), card.installed():
        try:
            world = World(card, package)
            story(world)
            world.leave()
        except Exception as error:
            card.races.append(f"{type(error).__name__}: {error}")
        finally:
            world = None
    left = sorted({f"{each.name} that is never given back" for each in card.memories if each.name != "a buffer"})
    return sorted(set(card.races)) + left
