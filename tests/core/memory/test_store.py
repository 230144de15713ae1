"""What lies on the device, what is streamed when it runs, and that neither changes a result."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from devices import Device, full_cards
from torch import nn

from ltx2_core.memory import Store
from ltx2_core.memory.store import SENT_AHEAD

BLOCK, REST = 1024, 512


class Block(nn.Linear):
    during = None

    def forward(self, x):
        if self.during is not None:
            self.during()
        return super().forward(x)


class Net(nn.Module):
    """Six blocks of 1024 bytes, and 512 bytes beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(16, 16, bias=False) for _ in range(6))
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return x * self.scale


def store_of(network, budget=None, capacity=None, **settings) -> Store:
    store = Store(network, "cpu", link=Device(capacity), **settings)
    store.set_budget(budget)
    return store


def at_home(store: Store) -> bool:
    return all(t.data_ptr() == h.data_ptr() for u in store.partition.ranked for t, h in zip(u.tensors, u.homes))


X = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))


def test_sizes():
    store = Store(Net(), "cpu", link=Device())
    assert (store.wanted_bytes, store.card_bytes) == (6 * BLOCK + REST, 0)


def test_what_comes_to_stay_is_sent_ahead(monkeypatch):
    """So that a disk has something to read while a copy is waited for; but not everything at once."""
    link, on_their_way, most = Device(), set(), []
    send, arrive = link.send, link.arrive

    def sent(unit, slot):
        on_their_way.add(unit)
        most.append(len(on_their_way))
        send(unit, slot)

    def arrived(unit, slot):
        on_their_way.discard(unit)
        arrive(unit, slot)

    monkeypatch.setattr(link, "send", sent)
    monkeypatch.setattr(link, "arrive", arrived)
    store = Store(Net(), "cpu", link=link)
    store.set_budget(None)
    assert max(most) == SENT_AHEAD + 1 and not on_their_way and store.card_bytes == store.wanted_bytes


@pytest.mark.parametrize(
    "budget, slots, blocks, rest",
    [
        (None, 0, 6, True),
        (10_000, 0, 6, True),
        (REST + 6 * BLOCK, 0, 6, True),
        (REST + 5 * BLOCK, 2, 3, True),
        (REST + 2 * BLOCK, 2, 0, True),
        (REST + BLOCK, 1, 0, True),
        (BLOCK, 1, 0, False),
        (0, 1, 0, False),
    ],
)
def test_a_budget_is_kept(budget, slots, blocks, rest):
    store = store_of(Net(), budget)
    assert store.card_bytes == store.link.used == blocks * BLOCK + rest * REST
    with store.use() as network:
        for _ in range(2):
            network(X)
        assert store.card_bytes == store.link.used == (blocks + slots) * BLOCK + REST
    assert store.card_bytes == store.link.used == blocks * BLOCK + rest * REST


@pytest.mark.parametrize("slots", [1, 2, 3, 10])
@pytest.mark.parametrize("budget", [None, 5000, 4000, 2000, 0])
@pytest.mark.parametrize("inference", [False, True])
def test_neither_budget_nor_look_ahead_change_the_result(budget, slots, inference):
    expected = Net()(X)
    with torch.inference_mode(inference):
        store = store_of(Net(), budget, slots=slots)
        for _ in range(2):
            with store.use() as network:
                for _ in range(3):
                    assert torch.equal(network(X), expected)
        store.release()
    assert store.card_bytes == store.link.used == 0 and at_home(store)
    assert torch.equal(network(X), expected)


def test_what_stays_is_copied_once_and_what_does_not_once_per_step():
    store = store_of(Net(), REST + 5 * BLOCK)
    staying = [unit for unit in store.partition.ranked if unit.place is not None]
    assert store.link.sent == staying and len(staying) == 4
    del store.link.sent[:]
    with store.use() as network:
        for _ in range(4):
            network(X)
    streamed = [unit for unit in store.partition.units if unit not in staying]
    assert store.link.sent == (streamed * 5)[: 4 * 3 + 2]


def test_another_budget_moves_only_the_difference():
    store = store_of(Net(), REST + 4 * BLOCK)
    del store.link.sent[:]
    store.set_budget(REST + 4 * BLOCK)
    assert store.link.sent == []
    store.set_budget(REST + 5 * BLOCK)
    assert len(store.link.sent) == 1
    store.set_budget(REST + 4 * BLOCK)
    assert len(store.link.sent) == 1


def test_shrinking_gives_back_no_more_than_is_asked_for():
    store = store_of(Net())
    assert store.shrink(1500) == 2 * BLOCK
    assert store.shrink(1) == BLOCK
    assert store.card_bytes == 3 * BLOCK + REST
    store.release()
    assert store.card_bytes == 0


@pytest.mark.parametrize("budget", [None, 0])
def test_what_is_in_use_is_not_given_back(budget):
    network, expected = Net(), Net()(X)
    store = store_of(network, budget)

    def release():
        place = store.partition.units[3].place
        store.release()
        assert store.partition.units[3].place is place
        assert store.card_bytes <= 3 * BLOCK + REST  # the block that runs, the ring, what stands beside the blocks

    network.blocks[3].during = release
    with store.use():
        assert torch.equal(network(X), expected)
        assert torch.equal(network(X), expected)


def test_a_budget_may_change_at_any_time():
    network, expected = Net(), Net()(X)
    store = store_of(network, 0)

    def change(budget):
        place = store.partition.units[2].place
        store.set_budget(budget)
        assert store.partition.units[2].place is place  # it runs

    with store.use():
        for budget in (None, 3000, 0, 5000, None, 10):
            network.blocks[2].during = lambda budget=budget: change(budget)
            for _ in range(2):
                assert torch.equal(network(X), expected)


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("budget", [None, 4000, 0])
def test_after_an_interruption_everything_is_where_it_was(budget, error):
    network, expected = Net(), Net()(X)
    store = store_of(network, budget)
    before = store.card_bytes

    def interrupt():
        raise error

    network.blocks[3].during = interrupt
    with pytest.raises(error), store.use():
        network(X)
    assert store.card_bytes == store.link.used == before
    assert all("forward" not in vars(block) for block in network.blocks)
    network.blocks[3].during = None
    with store.use():
        assert torch.equal(network(X), expected)
    store.release()
    assert at_home(store) and store.link.used == 0


def test_a_copy_that_failed_is_made_again():
    network, expected = Net(), Net()(X)
    store = store_of(network, 0)
    send, failures = store.link.send, [OSError("the disk is gone")]

    def failing(unit, slot):
        if failures:
            slot.buffer.fill_(0xFF)
            raise failures.pop()
        send(unit, slot)

    with store.use():
        network(X)
        store.link.send = failing
        with pytest.raises(OSError, match="disk"):
            network(X)
        assert torch.equal(network(X), expected)


def test_uses_may_be_nested():
    store = store_of(Net(), 0)
    with store.use() as network:
        expected = network(X)
        with store.use():
            network(X)
        assert torch.equal(network(X), expected)
    assert store.card_bytes == 0


# --------------------------------------------------------------------------------------------- when memory runs out


@pytest.mark.parametrize("fails", range(1, 5))
def test_a_block_that_runs_out_of_memory_is_run_again(fails, caplog):
    """First the look-ahead is given up, then more and more of the blocks that stay."""
    network, expected, left = Net(), Net()(X), [fails]
    store = store_of(network, REST + 5 * BLOCK)  # three blocks stay

    def fail():
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    network.blocks[1].during = fail
    with store.use():
        if fails < 4:
            assert torch.equal(network(X), expected)
            assert len(caplog.records) == fails and "look-ahead" in caplog.text
            assert store.card_bytes == REST + BLOCK + [3, 1, 0][fails - 1] * BLOCK
        else:
            with pytest.raises(torch.OutOfMemoryError, match="Make the clip smaller or shorter"):
                network(X)
            assert store.card_bytes == REST + BLOCK
        assert torch.equal(network(X), expected)
    assert all("forward" not in vars(block) for block in network.blocks)


@pytest.mark.parametrize("sends", [True, False])
def test_a_block_that_has_sent_to_other_processes_is_not_run_again(sends):
    """They would take what it sends once more for what the next block sends, and all that follows would be wrong."""
    network, left, sent = Net(), [1], []
    store = store_of(network, REST + 5 * BLOCK)
    store.exchanges = lambda: len(sent)

    def fail():
        if sends:
            sent.append("heads")
        if left:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected, network.blocks[1].during = network(X), fail
    with store.use():
        if sends:
            with pytest.raises(torch.OutOfMemoryError, match="CUDA"):
                network(X)
            assert len(sent) == 1
        else:
            assert torch.equal(network(X), expected)


@pytest.mark.parametrize("error", full_cards(), ids=lambda error: str(error)[:60])
def test_a_full_card_is_told_in_many_ways(error):
    """By a block, by the memory of the ring, and by what is brought to stay."""
    network, expected, left = Net(), Net()(X), [1]
    store = store_of(network, REST + 5 * BLOCK)

    def fail():
        if left:
            left.pop()
            raise error

    network.blocks[1].during, slot = fail, store.link.slot
    with store.use():
        assert torch.equal(network(X), expected)
    store.link.slot = lambda nbytes: fail() or slot(nbytes)
    left.append(1)
    store.set_budget(None)
    assert store.card_bytes == store.link.used < store.wanted_bytes
    store.set_budget(REST + 5 * BLOCK)
    left.append(1)
    with store.use():
        assert torch.equal(network(X), expected)
    assert not left


def test_another_error_of_a_card_is_not_taken_for_memory():
    network, calls = Net(), []

    def fail():
        calls.append(None)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    network.blocks[1].during = fail
    with pytest.raises(RuntimeError, match="illegal"), store_of(network, 0).use():
        network(X)
    assert len(calls) == 1


@pytest.mark.parametrize("capacity", range(REST + BLOCK, REST + 8 * BLOCK, BLOCK // 2))
@pytest.mark.parametrize("budget", [None, 5000])
def test_any_capacity_that_holds_a_block_is_enough(capacity, budget, caplog):
    """Here it is the copies that run out of memory."""
    expected = Net()(X)
    store = store_of(Net(), budget, capacity)
    for _ in range(2):
        with store.use() as network:
            for _ in range(2):
                assert torch.equal(network(X), expected)
        assert store.card_bytes == store.link.used


def test_what_cannot_fit_is_said(caplog):
    store = store_of(Net(), None, capacity=REST + BLOCK - 1)
    with pytest.raises(torch.OutOfMemoryError, match="too little memory"), store.use() as network:
        network(X)
    assert store.card_bytes == store.link.used == 0 and at_home(store)


# ------------------------------------------------------------------------------------------------------ the networks

INPUTS = {
    "transformer": None,
    "text_features": lambda: ([*torch.randn(3, 1, 8, 32)], torch.ones(1, 8)),
    "video_connector": lambda: (torch.randn(1, 5, 32),),
    "audio_connector": lambda: (torch.randn(1, 5, 16),),
    "video_encoder": lambda: (torch.randn(1, 3, 9, 64, 64),),
    "video_decoder": lambda: (torch.randn(1, 128, 2, 2, 2),),
    "audio_encoder": lambda: (torch.randn(1, 2, 9, 64),),
    "audio_decoder": lambda: (torch.randn(1, 8, 3, 16),),
    "vocoder": lambda: (torch.randn(1, 2, 3, 64),),
    "text_encoder": lambda: (torch.arange(1, 9)[None], torch.ones(1, 8, dtype=torch.long)),
}


def network_and_inputs(models, name: str):
    from ltx2_core import build
    from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder

    torch.manual_seed(0)
    if name == "text_encoder":
        return build_text_encoder(open_text_encoder(models.text_encoder), torch.float32), INPUTS[name]()
    if name == "transformer":
        section = models.config["transformer"] | {"in_channels": 128, "audio_in_channels": 128}
        return build(models, name, torch.float32), transformer_inputs(section)
    return build(models, name, torch.float32), INPUTS[name]()


def transformer_inputs(section: dict):
    from official import inputs
    from torch.nn.functional import pad

    return tuple(replace(each, tokens=pad(each.tokens, (0, 120))) for each in inputs(section))


def tensors(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for each in result for t in tensors(each)]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("name, unit", [*((name, "block") for name in INPUTS), ("transformer", "part")])
@torch.no_grad()
@pytest.mark.slow
def test_every_network_streams_bit_for_bit(models, name, unit):
    """A block whose forward nobody calls would stay on the host, and the network would fail on a small card."""
    network, inputs = network_and_inputs(models, name)
    expected = network(*inputs)
    store = store_of(network, 0)
    store.stream_by(unit)
    with store.use():
        for _ in range(2):
            assert equal(network(*inputs), expected)
    assert set(store.link.sent) == set(store.partition.ranked)


@pytest.mark.parametrize("name, unit", [*((name, "block") for name in INPUTS), ("transformer", "part")])
@torch.no_grad()
@pytest.mark.slow
def test_every_block_can_be_run_again(models, name, unit, monkeypatch):
    """A block that runs out of memory finds its inputs as they were, even if it fails at its very end."""
    network, inputs = network_and_inputs(models, name)
    expected, failed = network(*inputs), []

    def failing_once(forward):
        def run(*args, **kwargs):
            result = forward(*args, **kwargs)
            if forward not in failed:
                failed.append(forward)
                raise torch.OutOfMemoryError("at the end")
            return result

        return run

    store = store_of(network)
    store.stream_by(unit)
    monkeypatch.setattr(store, "_give_way", lambda: True)
    for block in store.partition.modules:
        block.forward = failing_once(block.forward)
    with store.use():
        assert equal(network(*inputs), expected)
    assert len(failed) == len(store.partition.modules)


def test_a_network_that_is_dropped_is_freed():
    network = Net()
    store, alive = store_of(network, 2000), weakref.ref(network)
    with store.use():
        network(X)
    gc.collect()
    gc.disable()
    try:
        del network, store
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("budget", [None, 5000, 0])
def test_on_a_card(budget, slots):
    plain = Net().cuda()
    store = Store(Net(), "cuda", slots=slots)
    store.set_budget(budget)
    with torch.inference_mode():
        expected = plain(X.cuda())
        for _ in range(2):
            with store.use() as network:
                for _ in range(5):
                    assert torch.equal(network(X.cuda()), expected)
    store.release()
    assert all(not p.is_cuda for p in network.parameters())
