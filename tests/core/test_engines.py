"""Whoever owns the card, a clip is the same; what is planned is what is used, and what is needed is what is taken."""

import gc
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from fake_engine import FakeEngine

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.conditioning.conditions import AudioSource, Picture, ReferenceAudio
from ltx2_core.errors import DoesNotFitError
from ltx2_core.memory import Room, StageNeed, Store, place
from ltx2_core.memory.machine import GIB, Machine
from ltx2_core.memory.placement import DEVICE, KERNEL_WORKSPACE_BYTES, least_bytes
from ltx2_core.pipeline import (
    decode_audio,
    decode_video,
    encode_conditions,
    encode_text,
    local_engine,
    sample,
    upscale,
)
from ltx2_core.pipeline.blueprint import Blueprint
from ltx2_core.pipeline.generate import run
from ltx2_core.pipeline.local_engine import LocalEngine
from ltx2_core.pipeline.plan import Plan
from ltx2_core.pipeline.stage import Events
from ltx2_core.sampling import Guidance, Tiles
from ltx2_core.settings import Request, SecondStage

RATES = ("products", "products8", "convolutions", "attention", "bandwidth", "link", "disk")
MACHINE = Machine("no card", memory=0, **dict.fromkeys(RATES, 1e9))
NEUTRAL, GUIDED = Guidance(), Guidance(text_scale=2.0)
SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 5, "cache": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _no_card_is_measured(monkeypatch):
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: MACHINE)


@pytest.fixture(scope="module")
def models(tiny_files):
    checkpoint, gemma, _ = tiny_files("2.3")
    return ltx2.open_models(checkpoint, gemma)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    return open_upscaler(tiny.write_upscaler(tmp_path_factory.mktemp("upscaler")))


def given() -> list:
    generator = torch.Generator().manual_seed(3)
    picture = Picture(torch.rand(1, 64, 64, 3, generator=generator))
    return [picture, ReferenceAudio(AudioSource(torch.rand(1, 24_000, generator=generator) - 0.5, 48_000))]


def plain(**settings) -> Request:
    return Request.of("a red ball", video=NEUTRAL, audio=NEUTRAL, **SMALL | settings)


def whole_way(upscaler, **settings) -> Request:
    """A request that uses every stage."""
    second = SecondStage((upscaler,), tiles=Tiles((1, 1, 2), (1, 1, 1)), sigmas=(0.5, 0.0))
    settings = {"second": second, "conditions": given(), **settings}
    return Request.of("a red ball", "blurry", video=GUIDED, audio=NEUTRAL, **SMALL | settings)


class Tight(LocalEngine):
    """Follows the plan with as little of the card as each stage can do with."""

    def follow(self, plan: Plan) -> None:
        needs = [placement.need for placement in plan.placements]
        placements = tuple(place(need, Room(MACHINE, least_bytes(need), GIB)) for need in needs)
        assert None not in placements
        super().follow(replace(plan, placements=placements))
        self.followed = replace(plan, placements=placements)


class Roomy(LocalEngine):
    """Remembers the plan."""

    def follow(self, plan: Plan) -> None:
        super().follow(plan)
        self.followed = plan


class Watched(Store):
    """Tells how it was placed whenever it is used."""

    seen: list

    @contextmanager
    def use(self):
        with super().use() as network:
            self.seen.append((self.unit, self.budget, tuple(self.staying)))
            yield network


def engine_of(kind, models, request, events=Events()):
    return kind(models, request.resources, events, request.loras)


def equal_clips(one, other) -> None:
    for stream, x in one.latent.streams().items():
        assert torch.equal(x, other.latent.streams()[stream])
    assert one.fps == other.fps
    assert torch.equal(one.frames, other.frames) and torch.equal(one.waveform, other.waveform)


# ------------------------------------------------------------------------------------------------------------- engines


def test_every_engine_makes_the_same_plain_clip(models, monkeypatch):
    """And what a stage's store does is what the plan says."""
    made = FakeEngine(models)
    clip = run(models, plain(), made)
    equal_clips(clip, run(models, plain(), engine_of(LocalEngine, models, plain())))
    assert made.used == ["prompt", "features", "connectors", "sampling", "mel", "sound", "frames"]
    request = plain(vram=4 * GIB, ram=GIB)
    monkeypatch.setattr(local_engine, "Store", Watched)
    Watched.seen = []
    engine = engine_of(Tight, models, request)
    equal_clips(run(models, request, engine), clip)
    used_as_planned(engine.followed, Watched.seen)


def used_as_planned(plan: Plan, seen: list) -> None:
    """Every placement of the plan was used, in its order; some stages come more than once."""
    expected = [(p.unit, p.weight_budget, tuple(tier == DEVICE for tier in p.tiers)) for p in plan.placements]
    assert [one for i, one in enumerate(seen) if i == 0 or one != seen[i - 1]] == expected
    assert any(placement.slots for placement in plan.placements)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FakeEngine, Roomy, Tight])
def test_every_engine_makes_the_same_large_clip(models, upscaler, monkeypatch, kind):
    """Given pictures and sounds, guidance, an upscaler and a second stage in tiles."""
    monkeypatch.setattr(local_engine, "Store", Watched)
    Watched.seen = []
    request = whole_way(upscaler)
    expected = run(models, request, engine_of(LocalEngine, models, request))
    if kind is FakeEngine:
        equal_clips(run(models, request, FakeEngine(models)), expected)
        return
    request = whole_way(upscaler, vram=4 * GIB, ram=GIB)
    engine = engine_of(kind, models, request)
    equal_clips(run(models, request, engine), expected)
    assert {placement.need.name for placement in engine.followed.placements} >= {
        "prompt", "pictures", "hearing", "sampling", "upscaling space by 2", "refining", "mel", "sound", "frames"
    }  # fmt: skip


def test_what_does_not_fit_is_refused_before_anything_is_read(models, monkeypatch):
    request = plain(vram=KERNEL_WORKSPACE_BYTES // 2)
    monkeypatch.setattr(local_engine, "build", lambda *_: pytest.fail("something was built"))
    with pytest.raises(DoesNotFitError, match="does not fit"):
        run(models, request)


# -------------------------------------------------------------------------------------------------------------- memory


COSTED = (decode_audio, decode_video, encode_conditions, encode_text, sample, upscale)


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


def planned_again(models, times: int, monkeypatch, make) -> list[Plan]:
    """Call ``make`` so often; nothing may be measured but the first time, and nothing may pile up."""
    plans, traced, real = [], [], import_module("ltx2_core.pipeline.plan").plan_stages
    cost = sample.cost

    def plan_stages(*arguments):
        plans.append(real(*arguments))
        return plans[-1]

    monkeypatch.setattr(import_module("ltx2_core.pipeline.generate"), "plan_stages", plan_stages)
    for module in COSTED:
        monkeypatch.setattr(module, "cost", lambda measured: traced.append(1) or cost(measured))
    make()
    count, blueprints, needs = len(traced), alive(Blueprint), alive(StageNeed)
    for _ in range(times - 1):
        make()
    assert len(traced) == count and len(plans) == times
    assert all(plan is plans[0] for plan in plans) and plans[0].placements
    assert (alive(Blueprint), alive(StageNeed)) == (blueprints, needs)
    return plans


class Stop(Exception):
    """Raised as soon as the plan stands."""


def test_a_clip_is_planned_once(models, monkeypatch):
    request, seen = plain(vram=4 * GIB, ram=GIB // 4, width=96), set()

    def make():
        engine = engine_of(LocalEngine, models, request)
        seen.add(id(engine.blueprint))

        def stop():
            raise Stop

        engine.events = Events(check=stop)
        with pytest.raises(Stop):
            run(models, request, engine)

    planned_again(models, 10, monkeypatch, make)
    assert len(seen) == 1


@pytest.mark.slow
def test_ten_clips_in_a_row_leave_nothing_behind(models, monkeypatch):
    settings = SMALL | {"vram": 4 * GIB, "ram": GIB // 4, "height": 96, "video": NEUTRAL, "audio": NEUTRAL}
    planned_again(models, 10, monkeypatch, lambda: ltx2.generate(models, "a red ball", **settings).frames)
