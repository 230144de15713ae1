"""Keys and values of a text that stay from step to step: not a bit changes, and the plan knows of them."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from official import inputs, official, tiny_section
from planned import running, small

import ltx2_core as ltx2
from ltx2_core.geometry import ClipShape
from ltx2_core.layers import KeyValue
from ltx2_core.lora import Strengths, StrengthSchedule
from ltx2_core.memory.machine import CARDS
from ltx2_core.memory.placement import UNLIMITED, Room
from ltx2_core.pipeline import sample
from ltx2_core.pipeline.needs.cached_text import cached_text_bytes, keep_text, with_text_caches
from ltx2_core.pipeline.needs.passes import passes_on_meta
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import Guidance, StreamGuidance
from ltx2_core.settings import SamplingSettings
from ltx2_core.transformer import UNPERTURBED, Pass, TextCache
from ltx2_core.transformer.block import TextAttention

SMALL, LARGE = (ClipShape(width, 256, 25, Fraction(24)) for width in (256, 1280))
SIGMAS, GUIDANCE = (1.0, 0.5, 0.0), StreamGuidance(Guidance(3), Guidance(3))


@pytest.fixture
def projected(monkeypatch):
    """Counts the texts that are projected."""
    calls, original = Counter(), TextAttention.project_key_value

    def count(self, *arguments):
        calls["texts"] += 1
        return original(self, *arguments)

    monkeypatch.setattr(TextAttention, "project_key_value", count)
    return calls


@pytest.mark.parametrize(("version", "again"), [("2.0", 0), ("2.3", 4)])  # in 2.3 the noise level modulates the text
@torch.no_grad()
def test_a_text_is_projected_once_for_all_noise_levels(projected, version, again):
    section = tiny_section(version, num_layers=2)
    network = official(section)[1]
    streams = inputs(section)
    caches = [TextCache() for _ in streams]
    for sigma, calls in ((0.9, 4), (0.3, again)):
        plain = [replace(each, sigma=torch.full_like(each.sigma, sigma)) for each in streams]
        expected = network(*plain)
        projected.clear()
        found = network(*(replace(each, text_cache=cache) for each, cache in zip(plain, caches)))
        assert projected["texts"] == calls
        assert all(map(torch.equal, found, expected))


@pytest.mark.slow
def test_a_clip_is_the_same_bit_for_bit_with_and_without(projected, monkeypatch):
    def make(**settings):
        projected.clear()
        guided = {"video": Guidance(2), "audio": Guidance(2)} | settings
        models = ltx2.open_models("miniature")  # anew, since what was planned is remembered
        clip = ltx2.generate(models, "a red ball", frames=9, width=64, height=64, steps=3, cache=False, **guided)
        return clip.latent, projected["texts"]

    kept, few = make()
    _, batched = make(batched_passes=True)
    monkeypatch.setattr(sample, "is_mostly_text", lambda *_: False)
    plain, many = make()
    assert many == 3 * few == 2 * batched
    assert torch.equal(kept.video, plain.video) and torch.equal(kept.audio, plain.audio)


def stage(shape: ClipShape, **settings) -> Sample:
    return Sample(Sampling(SIGMAS, GUIDANCE, SamplingSettings(**settings)), LatentSize.of_clip(shape))


def test_it_is_kept_where_it_is_most_of_the_work_and_all_weights_fit_beside_it(released):
    old, new = released("2.0"), released("2.3")
    large = Room(CARDS["H200"], CARDS["H200"].budget)
    least = stage(SMALL).fit(old, large).need(old).peak
    for room, fits in (
        (UNLIMITED, True),
        (replace(large, budget=least), True),
        (replace(large, budget=least - 1), False),
    ):
        assert stage(SMALL).fit(old, room).caches_text == fits
    assert not stage(LARGE).fit(old, large).caches_text
    assert (
        not stage(SMALL).fit(old.among(2), large).caches_text and not stage(SMALL).fit(old.over(2), large).caches_text
    )
    assert not stage(SMALL).fit(new, large).caches_text
    assert not stage(SMALL, batched_passes=True).fit(old, large).caches_text


def test_the_plan_counts_and_says_it(released):
    found, card = released("2.0"), CARDS["H200"]
    off, on = stage(SMALL), stage(SMALL).fit(found, UNLIMITED)
    more = on.need(found).input_bytes - off.need(found).input_bytes
    rows = 2 * 1024 * 2  # of two prompts, in two bytes a number
    assert more == rows * (4096 + 2048) * (2 * 48 + 1)
    assert on.need(found).cost.products < off.need(found).cost.products - 47 * rows * 2 * 4096**2
    (said,) = set(on.remarks(found, card)) - set(off.remarks(found, card))
    assert f"{more / 1e9:.1f} GB" in said


def test_a_network_keeps_as_many_bytes_as_are_counted():
    found, size = small("2.0"), LatentSize.of_clip(SMALL)
    (asked,) = with_text_caches(passes_on_meta(found, size, ("cond",)))
    made = []

    def note(cache: TextCache) -> TextCache:
        find = cache.find
        cache.find = lambda layer, make: find(layer, lambda: made.append(make()) or made[-1])
        return cache

    streams = (replace(each, text_cache=note(each.text_cache)) for each in (asked.video, asked.audio))
    running(found).to("meta").sweep([Pass(*streams, UNPERTURBED)])
    tensors = [x for each in made for x in ((each.k, each.v) if isinstance(each, KeyValue) else (each,))]
    assert sum(each.nbytes for each in tensors) == cached_text_bytes(found, size, 1)


def test_nothing_stays_while_the_strength_of_a_lora_changes():
    still, fading = Strengths(0.5), Strengths(schedule=StrengthSchedule.through([(0.0, 1.0), (1.0, 0.0)]))
    assert keep_text("sampling", ()) and keep_text("sampling", ((None, still),))
    assert not keep_text("sampling", ((None, still), (None, fading)))
