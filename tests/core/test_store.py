"""What lies on the device, what is copied when it runs, and that neither changes a result."""

import gc
import weakref
from dataclasses import replace

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


INPUTS = {
    "transformer": lambda: None,
    "text_features": lambda: (torch.randn(1, 8, 32, 3), torch.ones(1, 8)),
    "video_connector": lambda: (torch.randn(1, 5, 32),),
    "audio_connector": lambda: (torch.randn(1, 5, 16),),
    "video_encoder": lambda: (torch.randn(1, 3, 9, 64, 64),),
    "video_decoder": lambda: (torch.randn(1, 128, 2, 2, 2),),
    "audio_encoder": lambda: (torch.randn(1, 2, 9, 64),),
    "audio_decoder": lambda: (torch.randn(1, 8, 3, 16),),
    "vocoder": lambda: (torch.randn(1, 2, 3, 64),),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from ltx2_core import open_models, tiny

    return open_models(tiny.write(tmp_path_factory.mktemp("tiny"), "2.3")[0])


@pytest.mark.parametrize("name", INPUTS)
@torch.no_grad()
def test_every_block_of_every_network_comes_to_the_device(models, name, monkeypatch):
    """A block whose forward nobody calls would stay on the host, and the network would fail on a small card."""
    from ltx2_core import build
    from ltx2_core.memory.store import Unit

    network, loaded = build(models, name, torch.float32), []
    store, load = Store(network, "cpu"), Unit.load
    store.set_budget(0)

    def counting(self, device):
        loaded.append(self)
        load(self, device)

    monkeypatch.setattr(Unit, "load", counting)
    with store.use():
        if name == "transformer":
            section = models.config["transformer"] | {"in_channels": 128, "audio_in_channels": 128}
            video, audio = transformer_inputs(section)
            network(video, audio)
        else:
            network(*INPUTS[name]())
    assert {id(unit) for unit in loaded} == {id(unit) for unit in store._units}


def transformer_inputs(section: dict):
    from official import inputs
    from torch.nn.functional import pad

    return tuple(replace(each, tokens=pad(each.tokens, (0, 120))) for each in inputs(section))


def test_a_network_that_is_dropped_is_freed():
    network = Net()
    store, alive = Store(network, "cpu"), weakref.ref(network)
    gc.disable()
    try:
        del network, store
        assert alive() is None
    finally:
        gc.enable()


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
