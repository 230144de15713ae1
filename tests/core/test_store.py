"""What lies on the device, what is copied when it runs, and that neither changes a result."""

import pytest
import torch
from torch import nn

from ltx2_core.memory import Store


class Net(nn.Module):
    """Four blocks of 400 bytes and 40 bytes beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return x * self.scale


@pytest.fixture
def copies(monkeypatch):
    """Counts the tensors that are copied to the device."""
    from ltx2_core.memory.store import Unit

    counted, load = [], Unit.load

    def counting(self, device):
        if not self.loaded:
            counted.append(self.nbytes)
        load(self, device)

    monkeypatch.setattr(Unit, "load", counting)
    return counted


def test_sizes():
    store = Store(Net(), "cpu")
    assert (store.wanted_bytes, store.card_bytes) == (1640, 0)


@pytest.mark.parametrize("budget, stays", [(None, 1640), (10_000, 1640), (900, 840), (439, 40), (10, 0)])
def test_a_budget_is_kept(budget, stays):
    store = Store(Net(), "cpu")
    store.set_budget(budget)
    assert store.card_bytes == stays
    with store.use() as network:
        network(torch.ones(1, 10))
        assert store.card_bytes == max(stays, 40)
    assert store.card_bytes == stays


@pytest.mark.parametrize("budget", [None, 900, 0])
def test_the_budget_does_not_change_the_result(budget):
    x, plain = torch.randn(3, 10), Net()
    store = Store(Net(), "cpu")
    store.set_budget(budget)
    with store.use() as network:
        assert torch.equal(network(x), plain(x))


def test_resident_blocks_are_copied_once(copies):
    store = Store(Net(), "cpu")
    store.set_budget(900)
    del copies[:]
    for _ in range(3):
        with store.use() as network:
            network(torch.ones(1, 10))
    assert copies == [400, 400] * 3  # only the two blocks that do not fit


def test_shrinking_gives_back_the_last_blocks_first():
    store = Store(Net(), "cpu")
    store.set_budget(None)
    assert store.shrink(500) == 800 and store.card_bytes == 840 == store.budget
    assert store.shrink(1) == 400
    store.release()
    assert store.card_bytes == 0


def test_what_is_in_use_is_not_given_back():
    store = Store(Net(), "cpu")
    with store.use() as network:
        store.release()
        assert store.card_bytes == 40
        network(torch.ones(1, 10))


def test_an_interrupted_block_leaves_nothing_behind():
    store = Store(Net(), "cpu")
    store.set_budget(0)
    with pytest.raises(RuntimeError), store.use() as network:
        network(torch.ones(1, 3))
    assert store.card_bytes == 0
    with store.use() as network:
        network(torch.ones(1, 10))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("budget", [None, 900, 0])
def test_on_a_card(budget):
    x, plain = torch.randn(3, 10), Net().cuda()
    store = Store(Net(), "cuda")
    store.set_budget(budget)
    with store.use() as network:
        assert torch.equal(network(x.cuda()), plain(x.cuda()))
    store.release()
    assert all(not p.is_cuda for p in network.parameters())
