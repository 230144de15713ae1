"""Passes of a step that do not fit the card together take turns: it is planned, said and obeyed, and changes no bit."""

from dataclasses import replace
from fractions import Fraction

import planned
import pytest
import torch
from recorded import clips

import ltx2_core as ltx2
from ltx2_core.geometry import ClipShape
from ltx2_core.memory import Room, place
from ltx2_core.memory.machine import GIB, machine_named
from ltx2_core.memory.placement import UNLIMITED, least_bytes
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.refine import Refine
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize, Load
from ltx2_core.pipeline.stages import guidance_of_passes, stages_of_clip
from ltx2_core.sampling import in_walks
from ltx2_core.settings import Resources, SamplingSettings
from ltx2_core.transformer import Transformer

SIGMAS = (1.0, 0.7, 0.4, 0.0)
ALL = ("cond", "negative", "perturbed", "isolated")
LONG = LatentSize.of_clip(ClipShape(1280, 704, 481, Fraction(24)))
CARD = machine_named("RTX 4060")
ROOM = Room(CARD, CARD.budget, 32 * GIB, free=50 * GIB)


def stage(size: LatentSize = LONG, passes: int = 4, **settings) -> Sample:
    return Sample(Sampling(SIGMAS, guidance_of_passes(passes), SamplingSettings(**settings)), size)


def test_those_that_read_the_same_prompt_go_together():
    assert in_walks(ALL) == [ALL] and in_walks([]) == []
    assert in_walks(ALL, 2) == [("cond", "perturbed"), ("isolated", "negative")]
    assert in_walks(ALL, 1) == [("cond",), ("perturbed",), ("isolated",), ("negative",)]
    assert in_walks(ALL[:3], 2) == [("cond", "perturbed"), ("negative",)]


@pytest.mark.slow
def test_as_many_go_together_as_fit(released):
    found = released("2.3", "fp8")
    whole = stage().need(found)
    fits = {most: least_bytes(replace(stage(), most_passes=most).need(found)) for most in (None, 2, 1)}
    assert fits[None] > fits[2] > fits[1]
    for budget, most in ((fits[None], None), (fits[None] - 1, 2), (fits[2] - 1, 1), (fits[1] - 1, 1)):
        fitted = stage().fit(found, replace(ROOM, budget=budget))
        assert fitted.most_passes == most
        assert (place(fitted.need(found), replace(ROOM, budget=budget)) is None) == (budget < fits[1])
    two = replace(stage(), most_passes=2).need(found)
    assert (two.runs, two.walks, two.input_bytes) == (2 * whole.runs, 2, whole.input_bytes)
    assert CARD.seconds(whole.cost) < 2 * CARD.seconds(two.cost) < 1.05 * CARD.seconds(whole.cost)  # prompts are shared


@pytest.mark.slow
def test_the_plan_of_twenty_seconds_on_a_small_card_counts_and_says_it(released):
    shape = ClipShape(1280, 704, 481, Fraction(24))
    made = plan_stages(
        stages_of_clip(released("2.3", "fp8"), shape, stage().sampling), released("2.3", "fp8"), ROOM, shape
    )
    placed = made.placement("sampling")
    assert made.fits and (placed.need.runs, placed.need.walks) == (6, 2)
    assert placed.run >= placed.rate(CARD).least  # all that is streamed comes in each of them
    assert "in 2 turns (cond and perturbed, then isolated and negative)" in made.explain()
    assert "6 x" in made.explain()
    larger = ClipShape(3840, 2176, 481, Fraction(24))  # refused: what it would do is not said
    stages = stages_of_clip(released("2.3", "fp8"), larger, stage().sampling)
    refused = plan_stages(stages, released("2.3", "fp8"), ROOM)
    assert refused.placement("sampling") is None and not any("turns" in note for note in refused.notes)


@pytest.mark.slow
def test_what_decides_by_all_passes_at_once_keeps_them_together(released):
    found, small = released("2.3", "fp8"), replace(ROOM, budget=5 * 10**9)
    assert stage().fit(found, small).most_passes == 1
    for settings in ({"batched_passes": True}, {"step_cache": 0.1}):
        assert stage(**settings).fit(found, small).most_passes is None
    assert stage().fit(found.among(2), small).most_passes is None
    assert stage().fit(found, UNLIMITED).most_passes is None


def run(models: ltx2.Models, **settings) -> tuple[ltx2.Clip, list[int]]:
    """A guided clip, and how many passes each walk had."""
    walks, sweep = [], Transformer.sweep

    def watched(network, passes, *args):
        if not passes[0].audio.tokens.is_meta:  # else it is planned
            walks.append(len(passes))
        return sweep(network, passes, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transformer, "sweep", watched)
        return clips.make(models, video=clips.GUIDED, audio=clips.GUIDED, **settings), walks


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler", "res_2s"])
def test_a_run_obeys_and_makes_the_same_clip(sampler, caplog):
    """Four clips, so that sampling needs more than what follows."""
    size = {"width": 192, "height": 128, "frames": 33, "batch_size": 4}
    models = ltx2.open_models("miniature")
    together, walks = run(models, sampler=sampler, **size)
    latent = replace(LatentSize.of_clip(ClipShape(192, 128, 33, Fraction(24))), batch=4)
    blueprint = LocalEngine(models, Resources(device="cpu")).blueprint
    least = [least_bytes(replace(stage(latent), most_passes=most).need(blueprint)) for most in (None, 2)]
    with caplog.at_level("INFO"):
        apart, turns = run(models, sampler=sampler, vram=sum(least) // 2, **size)
    assert {*walks} == {4} and turns == [2] * 2 * len(walks)
    assert "in 2 turns" in caplog.text
    assert torch.equal(apart.frames, together.frames) and torch.equal(apart.waveform, together.waveform)


def test_a_solver_that_asks_twice_is_counted_twice():
    size = LatentSize.of_clip(ClipShape(128, 64, 17, Fraction(24)))
    once, twice = (stage(size, sampler=name).need(planned.small("2.3")) for name in ("euler", "res_2s"))
    assert (once.runs, twice.runs) == (3, 6) and once.cost == twice.cost


@pytest.mark.slow
def test_what_comes_with_the_weights_counts_when_tiles_and_turns_are_chosen(released):
    """Such as a LoRA: of each part of a block so many bytes more."""

    class Loras(Load):
        def __call__(self, stage, need):
            return need.with_inputs(3 * 10**8)

    found, load = released("2.3", "fp8"), Loras()
    second = Refine(Sampling((0.9, 0.0)), LatentSize.of_clip(ClipShape(1920, 1088, 121, Fraction(24))))
    for each in (second, stage()):
        budget = least_bytes(each.fit(found, ROOM).need(found)) + 10**8
        room = replace(ROOM, budget=budget)
        assert place(load(each, each.fit(found, room).need(found)), room) is None
        assert place(load(each, each.fit(found, room, load).need(found)), room) is not None
        made = plan_stages([each], found, room, load=load)
        assert made.fits and made.stages[0] == each.fit(found, room, load)
