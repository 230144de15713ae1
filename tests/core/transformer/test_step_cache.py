"""Steps of the picture that are left out, and the sound that never is."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from direct import sample
from planned import seeded, small

import ltx2_core as ltx2
from benchmarks import step_cache as benchmark
from ltx2_core import latents
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import Guidance, StreamGuidance, Tiles
from ltx2_core.settings import SamplingSettings
from ltx2_core.text import Contexts
from ltx2_core.transformer import UNPERTURBED, Pass, Perturbation, StepCache, StreamInput
from ltx2_core.transformer.step_cache import WHOLE_AT_FIRST

LAYERS, TOKENS, SOUNDS = 3, 24, 5


@pytest.fixture(scope="module")
def network():
    return seeded(small("2.3", LAYERS))


def stream(seed: int, tokens: int, axes: int, width: int, sigma: float = 0.5) -> StreamInput:
    draw = torch.Generator().manual_seed(seed)
    positions = torch.arange(2 * axes * tokens, dtype=torch.float32).view(1, axes, tokens, 2) / 100
    x, context = (torch.randn(1, *shape, generator=draw) for shape in ((tokens, 128), (8, width)))
    return StreamInput(x, torch.tensor([sigma]), positions, context)


VIDEO, AUDIO = stream(1, TOKENS, 3, 128), stream(2, SOUNDS, 1, 64)
PASSES = [Pass(VIDEO, AUDIO, UNPERTURBED), Pass(VIDEO, AUDIO, Perturbation(video_values_only=frozenset({1})))]


def ask(network, cache: StepCache | None, passes=PASSES):
    return network.sweep(passes, None, cache) if cache else network.sweep(passes)


def filled(network, limit: float = 1.0) -> StepCache:
    """A cache after its whole steps at the beginning."""
    cache = StepCache(limit)
    for _ in range(WHOLE_AT_FIRST):
        ask(network, cache)
    assert cache.skipped == 0
    return cache


def test_what_does_not_change_may_be_left_out_once_in_a_row(network):
    cache, whole, calls = filled(network), ask(network, None), []
    hooks = [block.video.self_attn.register_forward_hook(lambda *_: calls.append(1)) for block in network.blocks]
    skipped = ask(network, cache)
    assert cache.skipped == 1 and len(calls) == 1  # of LAYERS blocks
    for (picture, _), (expected, _) in zip(skipped, whole):
        torch.testing.assert_close(picture, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(skipped[0][0], skipped[1][0])  # each pass has its own
    again = ask(network, cache)
    assert cache.skipped == 1 and len(calls) == 1 + LAYERS
    assert all(torch.equal(a, b) for each, other in zip(again, whole) for a, b in zip(each, other))
    for hook in hooks:
        hook.remove()


def test_the_sound_is_never_left_out(network):
    cache, other = filled(network), stream(3, SOUNDS, 1, 64)
    before, calls = cache.skipped, []
    hooks = [block.audio.self_attn.register_forward_hook(lambda *_: calls.append(1)) for block in network.blocks]
    heard = ask(network, cache, [replace(each, audio=other) for each in PASSES])
    for hook in hooks:
        hook.remove()
    assert cache.skipped == before + 1 and len(calls) == LAYERS
    assert not torch.allclose(heard[0][1], ask(network, None)[0][1])


def test_what_changes_is_computed_whole(network):
    other = stream(9, TOKENS, 3, 128)
    moved = [replace(each, video=other) for each in PASSES]
    strict, lenient = filled(network, 1e-4), filled(network, 100.0)
    for cache, skipped in ((strict, 0), (lenient, 1)):
        found, whole = ask(network, cache, moved), ask(network, None, moved)
        assert cache.skipped == skipped
        assert torch.equal(found[0][0], whole[0][0]) == (not skipped)
    for passes in (PASSES[:1], [PASSES[0], replace(PASSES[1], perturbation=UNPERTURBED)]):
        cache = filled(network)
        ask(network, cache, passes)
        assert cache.skipped == 0  # other passes than at the last whole step
    cache = filled(network)
    (video, audio), *_ = ask(network, cache, [Pass(None, AUDIO, UNPERTURBED)])
    assert video is None and audio is not None and cache.skipped == 0


def test_of_a_batch_the_clip_that_changes_most_decides(network):
    other = stream(9, TOKENS, 3, 128)

    def both(one, two):
        parts = ("tokens", "sigma", "positions", "context")
        return replace(one, **{name: torch.cat((getattr(one, name), getattr(two, name))) for name in parts})

    sound, cache = both(AUDIO, AUDIO), StepCache(1.0)
    for _ in range(WHOLE_AT_FIRST):
        ask(network, cache, [Pass(both(VIDEO, VIDEO), sound, UNPERTURBED)])
    ask(network, cache, [Pass(both(VIDEO, other), sound, UNPERTURBED)])
    assert cache.skipped == 0  # on the average they change by less than the limit
    alone = filled(network)
    ask(network, alone, [replace(each, video=other) for each in PASSES])
    assert alone.skipped == 0


def test_schedules_of_few_steps_tiles_and_devices_are_refused(network):
    with pytest.raises(SettingError, match="8 steps"):
        ltx2.generate(ltx2.open_models("miniature"), "a ball", steps=8, step_cache=0.1)
    shape = ClipShape(96, 64, 17, Fraction(24))
    contexts = Contexts(torch.zeros(1, 16, 128), torch.zeros(1, 16, 64))
    with pytest.raises(SettingError, match="tiles"):
        sample(
            network, latents.empty(shape), fps=shape.fps, sigmas=[1.0, 0.0], contexts=contexts, step_cache=0.1,
            tiles=Tiles((1, 2, 1), (1, 1, 1)),
        )  # fmt: skip


def test_several_devices_are_refused_before_anything_is_read(released):
    cached = Sample(Sampling((1.0, 0.5, 0.0), settings=SamplingSettings(step_cache=0.1)), LatentSize((1, 2, 2), 4))
    assert cached.need(released("2.3").among(1))
    with pytest.raises(SettingError, match="several devices"):
        cached.need(released("2.3").among(2))


def test_the_plan_says_what_it_takes_and_may_save(released):
    found, card = released("2.3"), CARDS["RTX 5090"]
    size = LatentSize.of_clip(ClipShape(768, 512, 121, Fraction(24)))
    sigmas, guidance = tuple(1 - i / 30 for i in range(31)), StreamGuidance(Guidance(3), Guidance(3))
    off, on = (Sample(Sampling(sigmas, guidance, SamplingSettings(step_cache=limit)), size) for limit in (0.0, 0.1))
    tokens = 16 * 24 * 16
    assert on.need(found).input_bytes - off.need(found).input_bytes == (2 * 2 + 3) * tokens * 4096 * 2
    (said,) = set(on.remarks(found, card)) - set(off.remarks(found, card))
    skipped, whole = map(float, re.findall(r"([0-9.]+) s\b", said))
    assert whole == pytest.approx(card.seconds(off.need(found).cost), abs=0.01) and 0 < skipped < whole / 4


@pytest.mark.slow
def test_the_error_on_the_miniature_is_as_told(capsys):
    row = benchmark.main(["--steps", "20", "--prompts", "1"]).splitlines()[-2]
    assert 0 < float(row.split("|")[3].split()[0]) < 0.3
