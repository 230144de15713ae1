"""All passes of a step in one walk over the blocks: what separate walks give, and no work twice."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from official import PERTURBATIONS, inputs, official, tiny_section

from ltx2_core.layers import Attention
from ltx2_core.transformer import Nag, Pass, Perturbation, StreamInput, Transformer, state
from ltx2_core.transformer.block import guide_attention

PASSES = ["cond", "negative", "perturbed", "isolated"]


def model(version: str, layers: int = 3) -> tuple[dict, Transformer]:
    section = tiny_section(version, num_layers=layers)
    return section, official(section)[1]


def four_passes(section, **kwargs) -> list[Pass]:
    video, audio = inputs(section, **kwargs)
    other = [StreamInput(s.tokens, s.sigma, s.positions, s.context.flip(-1), s.timesteps) for s in (video, audio)]
    return [
        Pass(video, audio, Perturbation()),
        Pass(*other, Perturbation()),
        Pass(video, audio, Perturbation(frozenset({2}), frozenset({2}))),
        Pass(video, audio, PERTURBATIONS["isolated"]),
    ]


@pytest.fixture
def one_by_one(monkeypatch):
    """Passes are no batch, as those of many tokens."""
    monkeypatch.setattr(state, "MOST_IN_BATCH", 0)


@pytest.fixture
def batched(monkeypatch):
    """Passes are one batch, however few their tokens are."""
    monkeypatch.setattr(state, "LEAST_IN_BATCH", 1)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("first_frame", [None, 0.0])
@torch.no_grad()
def test_a_sweep_equals_separate_passes_bit_for_bit(version, first_frame, one_by_one):
    section, net = model(version)
    passes = four_passes(section, first_frame=first_frame)
    for name, together, each in zip(PASSES, net.sweep(passes), passes):
        alone = net(each.video, each.audio, each.perturbation)
        assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1]), name


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("first_frame, clips", [(None, 1), (0.0, 1), (None, 2)])
@torch.no_grad()
def test_passes_of_few_tokens_are_one_batch(version, first_frame, clips, batched, monkeypatch):
    """Those of several clips are not, and stay apart."""
    section, net = model(version)
    passes = four_passes(section, first_frame=first_frame, batch=clips)
    together = net.sweep(passes)
    monkeypatch.setattr(state, "MOST_IN_BATCH", 0)
    for found, expected in zip(together, net.sweep(passes), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def counted(monkeypatch):
    """Counts what the attentions compute."""
    calls = Counter()
    for name in ("project_key_value", "attend", "pass_values"):
        original = getattr(Attention, name)

        def count(self, *arguments, _name=name, _original=original, **more):
            calls[_name] += 1
            return _original(self, *arguments, **more)

        monkeypatch.setattr(Attention, name, count)
    return calls


@torch.no_grad()
def test_every_block_is_visited_once(counted):
    section, net = model("2.3")
    visits = Counter()
    for index, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, index=index: visits.update([index]))
    net.sweep(four_passes(section))
    assert visits == {0: 1, 1: 1, 2: 1}


@torch.no_grad()
def test_what_passes_have_in_common_is_computed_once(counted):
    section, net = model("2.3", layers=1)
    passes = four_passes(section)
    net.sweep(passes[:1])
    single = Counter(counted)
    assert single == {"project_key_value": 6, "attend": 6}  # three attentions of each stream

    counted.clear()
    net.sweep([passes[0], passes[0], passes[2]])  # nothing is perturbed in block 0: one pass in effect
    assert counted == single

    counted.clear()
    net.sweep([passes[0], passes[3]])  # isolated: no look across, and nothing else is new before that
    assert counted == single


@torch.no_grad()
def test_texts_are_read_once_even_after_passes_have_parted(counted, one_by_one):
    section, net = model("2.3", layers=2)
    passes = four_passes(section)
    net.sweep([passes[0], passes[3]])
    # Block 1: two self-attentions each, keys and values of the texts once, and only cond looks across.
    assert counted == {"project_key_value": 6 + 4 + 2 + 2, "attend": 6 + 4 + 4 + 2}


@torch.no_grad()
def test_passes_that_have_parted_are_one_batch_except_where_they_read(counted, batched):
    section, net = model("2.3", layers=2)
    passes = four_passes(section)
    net.sweep([passes[0], passes[1], passes[3]])
    # Block 0: two texts, which nobody has read before. Block 1: as many calls as for one pass, but those to texts.
    keys = {"block 0": 2 + 2 * 2 + 2, "block 1": 2 + 2 * 2 + 2}
    reads = {"block 0": 2 + 2 * 2 + 2, "block 1": 2 + 2 * 3 + 2}
    assert counted == {"project_key_value": sum(keys.values()), "attend": sum(reads.values())}


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_normalised_attention_guidance(version):
    section, net = model(version)
    video, audio = inputs(section)
    plain = net(video, audio)

    def guided(negative=video.context.flip(-1), **settings):
        return net(replace(video, nag=Nag(negative, **settings)), audio)

    for neutral in (guided(scale=1.0, blend=0.5), guided(scale=5.0, blend=0.0), guided(video.context, scale=5.0)):
        torch.testing.assert_close(neutral[0], plain[0])
    assert (guided(scale=5.0)[0] - plain[0]).abs().max() > 1e-3


def test_the_output_of_nag_is_limited():
    heads, negative = torch.randn(2, 1, 2, 5, 4)
    nag = Nag(torch.empty(0), scale=11.0, limit=2.5, blend=1.0)
    size = guide_attention(heads, negative, nag).abs().sum((1, 3)) / heads.abs().sum((1, 3))
    assert size.max() <= 2.5 + 1e-5 and size.max() > 2.4
    mild = Nag(torch.empty(0), scale=1.1, limit=2.5, blend=1.0)
    torch.testing.assert_close(guide_attention(heads, negative, mild), 1.1 * heads - 0.1 * negative)


def test_nag_loses_no_more_to_a_short_format_than_its_result_does():
    """Prompts that are nearly alike are found alike, so that only a small difference is multiplied."""
    heads = torch.randn(1, 4, 50, 32).bfloat16()
    negative = (heads + 0.05 * torch.randn(heads.shape)).bfloat16()
    nag = Nag(torch.empty(0), scale=11.0, limit=2.5, blend=0.25)
    exact = guide_attention(heads.double(), negative.double(), nag)
    lost = (guide_attention(heads, negative, nag) - exact).norm()
    assert lost < 1.5 * (exact.bfloat16() - exact).norm()


@torch.no_grad()
def test_interruption_comes_between_blocks():
    section, net = model("2.0")
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        net.sweep(four_passes(section), stop)
    assert len(calls) == 2
