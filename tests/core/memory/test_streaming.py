"""A transformer that is streamed, in whatever way, gives what it gives where it lies, bit for bit."""

import random
from dataclasses import fields, replace
from functools import cache, partial

import pytest
import torch
from devices import Device, Pins, on_stand_ins, through
from official import PERTURBATIONS, inputs, tiny_section
from safetensors.torch import save_file

from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.layers import Attention, FeedForward
from ltx2_core.memory import Plain, Store
from ltx2_core.memory.unit import Changes
from ltx2_core.transformer import Pass, Perturbation, StreamInput, Transformer, TransformerConfig

LAYERS = 4
SECTION = tiny_section("2.3", num_layers=LAYERS)
VIDEO, AUDIO = inputs(SECTION, first_frame=0.0)
OTHER = [replace(stream, context=stream.context.flip(-1)) for stream in (VIDEO, AUDIO)]
LEVELS = 8  # parts outside of the blocks: what follows from noise levels, four for each stream
PASSES = [
    Pass(VIDEO, AUDIO, Perturbation()),
    Pass(*OTHER, Perturbation()),
    Pass(VIDEO, AUDIO, Perturbation(frozenset({1}), frozenset({1}))),
    Pass(VIDEO, AUDIO, PERTURBATIONS["isolated"]),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    state = Transformer(TransformerConfig.from_json(SECTION)).state_dict()
    path = tmp_path_factory.mktemp("transformer") / "transformer.safetensors"
    save_file({name: torch.randn_like(value) * 0.2 for name, value in state.items()}, path)
    return path


@pytest.fixture
def network(path) -> Transformer:
    return loaded(path)


def mapped(path) -> Transformer:
    file = TensorFile(path)
    with torch.device("meta"):
        network = Transformer(TransformerConfig.from_json(SECTION))
    network.load_state_dict({key: file.get(key) for key in file.entries}, assign=True)
    return network.requires_grad_(False)


def loaded(path) -> Transformer:
    """The network with aligned weights; products of matrices that lie otherwise are rounded otherwise."""
    network = mapped(path)
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
    return network


def step(network: Transformer, passes=PASSES) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [velocity for pair in network.sweep(passes) for velocity in pair if velocity is not None]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def alike(one, other) -> bool:
    """But for rounding: products of few rows, and of many, are not rounded alike by every library."""
    return all((a - b).norm() < 1e-6 * b.norm() for a, b in zip(one, other, strict=True))


def add(name: str, tensor: torch.Tensor) -> None:
    tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))


# Two parts of one block, a part of another, a table that several parts need, and what lies outside of the blocks.
CHANGES = {
    name: partial(add, name)
    for name in (
        "blocks.1.video.self_attn.q.weight", "blocks.1.video.self_attn.q.bias", "blocks.1.audio.feed_forward.up.weight",
        "blocks.2.audio_to_video.attn.out.weight", "blocks.0.video.modulation", "audio.project_out.weight",
    )
}  # fmt: skip


def changed(path) -> Transformer:
    network = loaded(path)
    for name, change in CHANGES.items():
        change(network.get_parameter(name).data)
    return network


# --------------------------------------------------------------------------------------------------------------- parts


def test_parts_are_what_a_block_is_made_of_and_what_follows_from_noise_levels(network):
    block, sizes = network.blocks[0], {}
    for unit in ("block", "part"):
        store = Store(network, "cpu", link=Device())
        store.stream_by(unit)
        sizes[unit] = store.rest_bytes, store.unit_bytes
        assert store.wanted_bytes == sum(sizes[unit][1]) + sizes[unit][0]
    names = {id(parameter): name for name, parameter in block.named_parameters()}
    inside = {names.pop(id(parameter)) for part in block.streamable_modules for parameter in part.parameters()}
    assert (
        set(names.values())
        == {f"{stream}.{table}modulation" for stream in ("video", "audio") for table in ("", "cross_", "text_")}
        and len(inside) == len(list(block.parameters())) - 6
    )
    assert len(sizes["part"][1]) == LEVELS + 8 * LAYERS
    assert max(sizes["part"][1][LEVELS:]) < 0.4 * max(sizes["block"][1])
    assert sizes["part"][0] < sizes["block"][0]


@pytest.mark.parametrize("unit, units", [("block", LAYERS), ("part", LEVELS + 8 * LAYERS)])
@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.sample(3)
def test_a_step_loads_every_unit_once_whatever_the_passes(network, unit, units, passes):
    expected = step(network, PASSES[:passes])
    store = Store(network, "cpu", link=Device())
    store.stream_by(unit)
    store.set_budget(0)
    with store.use():
        for _ in range(2):
            store.link.sent.clear()
            assert equal(step(network, PASSES[:passes]), expected)
        assert len(store.link.sent) == units


@pytest.mark.parametrize("absent, parts, levels", [("video", 3, 2), ("audio", 3, 2), (None, 8, 8)])
def test_parts_that_nobody_needs_are_not_loaded(network, absent, parts, levels):
    given = [Pass(None if absent == "video" else VIDEO, None if absent == "audio" else AUDIO, Perturbation())]
    store = Store(network, "cpu", link=Device())
    store.stream_by("part")
    store.set_budget(0)
    with store.use():
        for _ in range(3):
            store.link.sent.clear()
            step(network, given)
    assert len(store.link.sent) == levels + parts * LAYERS


def test_the_unit_may_change_between_uses(network):
    expected = step(network)
    store = Store(network, "cpu", link=Device())
    for unit in ("part", "block", "part"):
        store.set_budget(store.wanted_bytes // 2)
        store.stream_by(unit, slots=1)
        assert store.card_bytes == 0
        with store.use():
            assert equal(step(network), expected)
            with pytest.raises(RuntimeError, match="in use"):
                store.stream_by("block" if unit == "part" else "part")
    with pytest.raises(ValueError, match="block or part"):
        store.stream_by("layer")


# ----------------------------------------------------------------------------------------------------------- any plan


@pytest.fixture(scope="module")
def expected(path):
    """What a network that is read as usual makes: ``expected(passes, patched)``, computed once."""
    return cache(lambda passes, patched: step((changed if patched else loaded)(path), PASSES[:passes]))


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.slow
def test_any_plan_gives_the_same_result(path, expected, monkeypatch, seed):
    on_stand_ins(monkeypatch)
    dice = random.Random(seed)
    links = {
        "late": Device(),
        "plain": Plain("cpu"),
        "in place": None,
        "disk": through(Pins().memory(0)),
        "host": through(Pins().memory()),
        "both": through(Pins().memory(dice.randrange(100_000))),
    }
    kind = dice.choice(list(links))
    network = loaded(path) if kind == "in place" else mapped(path)
    store = Store(network, "cpu", link=links[kind])
    for block in network.blocks:
        block.video.feed_forward.chunk = dice.choice([4, 8, 4096])
    for _ in range(3):
        passes, patched = PASSES[: dice.randint(1, 4)], dice.random() < 0.5
        store.stream_by(dice.choice(["block", "part"]), slots=dice.randint(1, 4))
        store.patch(Changes(CHANGES if patched else {}))
        store.set_budget(dice.choice([None, 0, dice.randrange(store.wanted_bytes)]))
        with store.use():
            for _ in range(2):
                if kind == "late":
                    store.link.sent.clear()
                assert alike(step(network, passes), expected(len(passes), patched))
            streamed = [unit for unit in store.partition.units if unit.place is None]
            assert store.card_bytes <= max(store.budget or 10**9, store.rest_bytes + store._ring.nbytes)
            if kind == "late" and sum(unit.nbytes for unit in streamed) > 2 * store._ring.nbytes:
                assert sorted(map(id, store.link.sent)) == sorted(map(id, streamed))
    store.release()
    assert store.card_bytes == 0
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), mapped(path).parameters()))


# ------------------------------------------------------------------------------------------------------------- changes


@pytest.mark.slow
def test_a_change_is_made_once_in_each_copy(network):
    made, store = [], Store(network, "cpu", link=Device())
    store.patch(Changes(dict.fromkeys(CHANGES, made.append)))
    with store.use():
        step(network)
        step(network)
    assert len(made) == len(CHANGES)  # all of it stays
    made.clear()
    store.set_budget(0)
    with store.use():
        for _ in range(2):
            made.clear()
            step(network)
        assert len(made) == len(CHANGES) - 1  # and now all but the weights outside of the blocks comes and goes
    made.clear()
    store.stream_by("part")
    with store.use():
        for _ in range(2):
            made.clear()
            step(network)
        assert len(made) == len(CHANGES) - 2  # the table as well


def test_other_changes_bring_only_what_they_concern(network):
    store, sent = Store(network, "cpu", link=Device()), []

    def brought(changes) -> int:
        store.patch(Changes(changes))
        sent[:] = store.link.sent
        with store.use():
            return len(store.link.sent) - len(sent)

    assert brought({}) == 1 + LAYERS
    first = {"blocks.1.video.self_attn.q.weight": torch.Tensor.zero_}
    assert brought(first) == 1
    assert brought(first) == 0 and brought(dict(first)) == 0
    assert brought(first | {"blocks.0.video.self_attn.q.weight": torch.Tensor.zero_}) == 1
    assert brought({"video.project_out.bias": torch.Tensor.zero_}) == 3
    assert brought({}) == 1


@pytest.mark.slow
def test_changes_begin_with_the_next_use(path, network):
    plain, other = step(network), step(changed(path))
    store = Store(network, "cpu")
    with store.use():
        store.patch(Changes(CHANGES))
        assert equal(step(network), plain)
    with store.use():
        assert equal(step(network), other)
    assert not equal(plain, other)


def test_where_weights_are_used_in_place_only_what_changes_is_copied(network):
    before = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    store = Store(network, "cpu")
    store.stream_by("part")
    store.patch(Changes({"blocks.1.video.self_attn.q.weight": torch.Tensor.zero_}))
    with store.use():
        moved = {name for name, parameter in network.named_parameters() if parameter.data_ptr() != before[name]}
    assert moved == {name for name in before if name.startswith("blocks.1.video.self_attn.")}


def test_an_unknown_weight_is_refused(network):
    store = Store(network, "cpu")
    with pytest.raises(ValueError, match="does not have: x and 1 more"):
        store.patch(Changes({"x": torch.Tensor.zero_, "blocks.9.q": torch.Tensor.zero_}))


@pytest.mark.parametrize("budget", [None, 0])
def test_a_change_that_runs_out_of_memory_is_not_made_twice(path, network, budget):
    expected, failed = step(changed(path)), []

    def fails_once(change, tensor):
        change(tensor)
        if change not in failed:
            failed.append(change)
            raise torch.OutOfMemoryError("at its end")

    store = Store(network, "cpu", link=Device())
    store.patch(Changes({name: partial(fails_once, change) for name, change in CHANGES.items()}))
    store.set_budget(budget)
    store._give_way = lambda: True
    for _ in range(2):
        with store.use():
            assert equal(step(network), expected)
    assert len(failed) == len(CHANGES)


# --------------------------------------------------------------------------------------------- when memory runs out


def failing(monkeypatch, fails) -> None:
    """Some attentions run out of memory at their end."""
    project_out = Attention.project_out

    def run(self, *arguments):
        result = project_out(self, *arguments)
        if fails(self):
            raise torch.OutOfMemoryError("at its end")
        return result

    monkeypatch.setattr(Attention, "project_out", run)


@pytest.mark.slow
def test_what_costs_least_is_given_up_first(path, network, monkeypatch, caplog):
    store = Store(network, "cpu", link=Device())
    store.patch(Changes(CHANGES))
    store.set_budget(store.wanted_bytes - 1)  # one of four blocks stays
    expected = step(changed(path))
    said = [
        "without look-ahead", "2048 tokens", "1024 tokens", "512 tokens", "by parts of blocks",
        *["that cannot stay"] * 3,
    ]  # fmt: skip
    left, ours = [0], network.blocks[1].video.text_attn
    failing(monkeypatch, lambda attention: attention is ours and left and left.pop() is not None)
    for count in range(1, len(said) + 1):
        caplog.clear()
        left[:] = range(count)
        store.stream_by("block")
        store.set_budget(store.wanted_bytes - 1)
        with store.use():
            assert equal(step(network), expected)
        for record, sentence in zip(caplog.records, said[:count], strict=True):
            assert sentence in record.getMessage()
        assert all(m.chunk == 4096 for m in network.modules() if isinstance(m, FeedForward))
        assert store.unit == ("part" if count > 4 else "block")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.slow
def test_running_out_of_memory_at_any_time_changes_nothing(path, network, monkeypatch, caplog, seed):
    dice, left = random.Random(seed), list(range(4))
    expected = step(changed(path))
    store = Store(network, "cpu", link=Device())
    store.patch(Changes(CHANGES))
    store.stream_by(dice.choice(["block", "part"]), dice.randint(1, 4))
    store.set_budget(dice.randrange(store.wanted_bytes // 2, store.wanted_bytes))
    failing(monkeypatch, lambda attention: dice.random() < 0.12 and left and left.pop() is not None)
    with store.use():
        for _ in range(5):
            assert equal(step(network), expected)
    assert not left
    assert store.card_bytes == store.link.used


@pytest.mark.parametrize("unit", ["block", "part"])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 1.0])
@pytest.mark.sample(3)
def test_any_capacity_that_holds_the_rest_and_a_part_is_enough(network, unit, share):
    expected = step(network)
    store = Store(network, "cpu", link=Device())
    store.stream_by("part")
    least = store.rest_bytes + max(store.unit_bytes)
    store.link.capacity = least + int(share * (store.wanted_bytes - least)) if share > 0.2 else least
    store.stream_by(unit)
    store.set_budget(None)
    with store.use():
        assert equal(step(network), expected)
    assert store.card_bytes == store.link.used


# -------------------------------------------------------------------------------------------------------------- a card


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("kind", ["plain", "disk", "host"])
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("patched", [False, True])
def test_on_a_card(path, kind, slots, patched):
    from ltx2_core.memory import PinnedMemory, Streamed

    link = {"plain": None, "disk": Streamed("cuda", PinnedMemory(0)), "host": Streamed("cuda", PinnedMemory(10**9))}
    card = [Pass(*(to_card(s) for s in (p.video, p.audio)), p.perturbation) for p in PASSES]
    resident = mapped(path).cuda()
    for name, change in CHANGES.items() if patched else ():
        change_on_card(change, resident.get_parameter(name).data)
    expected = step(resident, card)
    store = Store(mapped(path), "cuda", link=link[kind])
    changes = {name: partial(change_on_card, change) for name, change in CHANGES.items()}
    store.patch(Changes(changes if patched else {}))
    for unit in ("part", "block"):
        store.stream_by(unit, slots)
        for budget in (0, store.wanted_bytes // 2, None):
            store.set_budget(budget)
            with store.use() as network:
                for _ in range(5):
                    assert equal(step(network, card), expected)
    store.release()
    assert all(not parameter.is_cuda for parameter in network.parameters())


def to_card(stream: StreamInput) -> StreamInput:
    moved = {f.name: value.cuda() for f in fields(stream) if isinstance(value := getattr(stream, f.name), torch.Tensor)}
    return replace(stream, **moved)


def change_on_card(change, tensor: torch.Tensor) -> None:
    delta = torch.zeros(tensor.shape)
    change(delta)
    tensor.add_(delta.cuda())
