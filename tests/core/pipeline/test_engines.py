"""Whoever owns the card, a clip is the same; what is planned is what is used, and what is needed is what is taken."""

import gc
import random
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module

import pytest
import tiny_parts
import torch
from fake_engine import FakeEngine
from peak import Peak
from planned import follow
from torch import Tensor, nn

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.cli import main
from ltx2_core.conditioning.conditions import ReferenceAudio
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import DoesNotFitError, OutOfMemoryError
from ltx2_core.geometry import ClipShape
from ltx2_core.health import PIXELS
from ltx2_core.latents import AVLatent, empty
from ltx2_core.memory import Plain, Room, StageNeed, Store, place
from ltx2_core.memory.machine import GIB, Machine
from ltx2_core.memory.partition import Weights
from ltx2_core.memory.placement import DEVICE, KERNEL_WORKSPACE_BYTES, UNLIMITED, least_bytes
from ltx2_core.memory.trace import Cost
from ltx2_core.pipeline import decode_audio, decode_video, encode_conditions, encode_text, upscale
from ltx2_core.pipeline.decode_audio import DecodeMel, Vocode
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.encode_conditions import ConditionCache, EncodeAudio, EncodeVideo, encode_audio, encode_video
from ltx2_core.pipeline.encode_text import Connect, ProjectFeatures, ReadPrompts, read_features
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines import prepare
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import run, run_batch
from ltx2_core.pipeline.long import Script
from ltx2_core.pipeline.needs import passes as need_of_passes
from ltx2_core.pipeline.needs.blueprint import FLOAT32, Blueprint
from ltx2_core.pipeline.plan import Plan, need_of, plan_stages
from ltx2_core.pipeline.read_ahead import ReadInTurn
from ltx2_core.pipeline.refine import Refine
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import AUDIO_ENCODER, TRANSFORMER, VIDEO_ENCODER, Events, LatentSize, upscaler_key
from ltx2_core.pipeline.stages import guidance_of_passes
from ltx2_core.pipeline.upscale import Upscale
from ltx2_core.sampling import Guidance, Tiles
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.settings import Request, SecondStage
from ltx2_core.text import Contexts
from ltx2_core.text.tokenizer import LENGTH
from ltx2_core.video_vae.tiling import TILINGS

RATES = ("products", "products8", "convolutions", "attention", "bandwidth", "link", "disk")
MACHINE = Machine("no card", memory=0, **dict.fromkeys(RATES, 1e9))
NEUTRAL, GUIDED = Guidance(), Guidance(text_scale=2.0)
SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 5, "cache": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _no_card_is_measured(monkeypatch):
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: MACHINE)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    return open_upscaler(tiny_parts.write_upscaler(tmp_path_factory.mktemp("upscaler")))


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
    request = plain(vram=4 * GIB, ram=GIB)
    monkeypatch.setattr(local_engine, "Store", Watched)
    Watched.seen = []
    engine = engine_of(Tight, models, request)
    equal_clips(run(models, request, engine), clip)
    assert made.used == ["prompt", "features", "connectors", "sampling", "mel", "sound", "frames"]
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
    request, built, build = whole_way(upscaler), [], prepare.build
    monkeypatch.setattr(prepare, "build", lambda models, name, *args: built.append(name) or build(models, name, *args))
    expected = run(models, request, engine_of(LocalEngine, models, request))
    assert built.count("transformer") == 1  # for both stages, with an upscaler between them
    if kind is FakeEngine:
        equal_clips(run(models, request, FakeEngine(models)), expected)
        return
    request = whole_way(upscaler, vram=4 * GIB, ram=GIB)
    engine = engine_of(kind, models, request)
    equal_clips(run(models, request, engine), expected)
    assert {placement.need.name for placement in engine.followed.placements} >= {
        "prompt", "pictures", "hearing", "sampling", "upscaling space by 2", "refining", "mel", "sound", "frames"
    }  # fmt: skip


@pytest.mark.slow
def test_several_clips_at_once_are_planned_and_made_as_a_batch(models, upscaler):
    """The first stage starts from the noise of a batch; what each clip becomes is decoded by itself."""
    request = whole_way(upscaler, batch_size=2)
    engine = engine_of(Roomy, models, replace(request, resources=replace(request.resources, max_vram=4)))
    one, two = run_batch(models, request, engine)
    assert [x.shape[0] for each in (one, two) for x in each.latent.streams().values()] == [1] * 4
    assert one.frames.shape == two.frames.shape and not torch.equal(one.frames, two.frames)
    needs = {placement.need.name: placement.need for placement in engine.followed.placements}
    single = Roomy(models, engine.resources)
    run(models, whole_way(upscaler), single)
    alone = {placement.need.name: placement.need for placement in single.followed.placements}
    assert needs["frames"] == alone["frames"]
    assert all(needs[name].work_bytes > alone[name].work_bytes for name in ("sampling", "refining"))


def test_what_does_not_fit_is_refused_before_anything_is_read(models, monkeypatch):
    request = plain(vram=KERNEL_WORKSPACE_BYTES // 2)
    monkeypatch.setattr(prepare, "build", lambda *_: pytest.fail("something was built"))
    with pytest.raises(DoesNotFitError, match="does not fit"):
        run(models, request)


# -------------------------------------------------------------------------------------------------------------- memory


COSTED = (decode_audio, decode_video, encode_conditions, encode_text, need_of_passes, upscale)


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


def planned_again(models, times: int, monkeypatch, make) -> list[Plan]:
    """Call ``make`` so often; nothing may be measured but the first time, and nothing may pile up."""
    plans, traced, real = [], [], import_module("ltx2_core.pipeline.plan").plan_stages
    cost = need_of_passes.cost

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
    assert all(plan == plans[0] for plan in plans) and plans[0].placements
    assert (alive(Blueprint), alive(StageNeed)) == (blueprints, needs)
    return plans


class Stop(Exception):
    """Raised as soon as the plan stands."""


@pytest.mark.slow
def test_a_clip_is_measured_once(models, monkeypatch):
    request, seen = plain(vram=4 * GIB, ram=GIB // 4, width=96), set()

    def make():
        engine = engine_of(LocalEngine, models, request)
        seen.add(id(engine.blueprint))

        def stop():
            raise Stop

        engine.events = Events(check=stop)
        with pytest.raises(Stop):
            run(models, request, engine)

    planned_again(models, 4, monkeypatch, make)
    assert len(seen) == 1


@pytest.mark.slow
def test_clips_in_a_row_leave_nothing_behind(models, monkeypatch):
    settings = SMALL | {"vram": 4 * GIB, "ram": GIB // 4, "height": 96, "video": NEUTRAL, "audio": NEUTRAL}
    planned_again(models, 3, monkeypatch, lambda: ltx2.generate(models, "a red ball", **settings).frames)


# --------------------------------------------------------------------------------------------------------------- needs

SHAPE = ClipShape(128, 96, 33, Fraction(24))
SIGMAS = (0.9, 0.5, 0.0)


def contexts(models) -> Contexts:
    width = models.config["transformer"]
    return Contexts(
        torch.zeros(1, LENGTH, width["num_attention_heads"] * width["attention_head_dim"]),
        torch.zeros(1, LENGTH, width["audio_num_attention_heads"] * width["audio_attention_head_dim"]),
    )


def size_of(value) -> int:
    """Bytes of all tensors in ``value``."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    return size_of(list(vars(value).values())) if hasattr(value, "__dict__") else 0


def used(engine, stage, *inputs):
    """A stage, and what it is run with."""
    return stage, inputs, lambda: stage.run(engine, *inputs)


LONG = ["x " * 1100, "y " * 1100]  # of as many tokens as are read, which a plan counts


def stage_of(name: str, engine: FakeEngine, upscaler):
    """Return a stage, the tensors that it is given, and how it is run."""
    latent, models = empty(SHAPE), engine.models
    script = Script.of(contexts(models), contexts(models))
    guidance = guidance_of_passes(2)
    sampling, size = Sampling(SIGMAS, guidance), LatentSize.of_clip(SHAPE)
    if name == "prompt":
        return used(engine, ReadPrompts(2), LONG)
    if name == "features":
        return used(engine, ProjectFeatures(2), ReadPrompts(2).run(engine, LONG))
    if name == "connectors":
        return used(engine, Connect(2), read_features(engine, LONG))
    if name == "pictures":
        stage, encoder = EncodeVideo(SHAPE.video_latent), engine.network(VIDEO_ENCODER)
        pixels = (torch.zeros(1, 3, frames, 96, 128) for frames in (9, 8, 8, 8))  # as a file is read
        return stage, (), lambda: encode_video(encoder, pixels, 33, torch.device("cpu"), stage.tiling)
    if name == "hearing":
        stage, waveform = EncodeAudio(SHAPE.audio_latents), torch.zeros(2, 66_000)
        encoder = engine.network(AUDIO_ENCODER)
        return stage, (), lambda: encode_audio(encoder, waveform, 48_000, torch.device("cpu"), SHAPE.audio_latents)
    if name == "sampling":
        return used(engine, Sample(sampling, size), latent, SHAPE.fps, script)
    if name == "upscaling":
        stage = Upscale(upscaler_key(upscaler), upscaler.config, SHAPE.video_latent, torch.float32)
        return used(engine, stage, AVLatent(latent.video, None), SHAPE.fps)
    if name.startswith("refining"):
        tiles = Tiles((1, 2, 2) if name.endswith("4") else (1, 1, 1), (1, 1, 1))
        return used(engine, Refine(replace(sampling, tiles=tiles), size), latent, SHAPE.fps, script)
    if name == "frames":
        stage = DecodeVideo(SHAPE.video_latent, TILINGS[0])
        return stage, (latent.video,), lambda: [None for _ in stage.run(engine, latent.video)]
    if name == "mel":
        return used(engine, DecodeMel(SHAPE.audio_latents), latent.audio)
    assert name == "sound"
    mel = torch.zeros(1, 2, DecodeMel(SHAPE.audio_latents).mel_frames(engine.blueprint), 64)
    return used(engine, Vocode(mel.shape[2]), mel)


NAMES = (
    "prompt", "features", "connectors", "pictures", "hearing", "sampling", "upscaling", "refining", "refining in 4",
    "frames", "mel", "sound",
)  # fmt: skip


# What the check of frames keeps in RAM, which on a CPU counts as well: places and pixels of the first frame.
KEPT_IN_RAM = {"frames": 5 * FLOAT32 * PIXELS + 10_000}

# As in the released models, hidden states weigh more than latents.
WIDE = {
    "num_attention_heads": 8, "attention_head_dim": 32, "cross_attention_dim": 256,
    "audio_num_attention_heads": 8, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 128,
    "connector_num_attention_heads": 8, "connector_attention_head_dim": 32,
    "audio_connector_num_attention_heads": 8, "audio_connector_attention_head_dim": 16,
}  # fmt: skip


def test_prompts_in_turn_need_what_one_needs_with_both_networks(wide):
    need = ReadInTurn().need(wide.blueprint)
    alone = [ReadPrompts(1).need(wide.blueprint), ProjectFeatures(1).need(wide.blueprint)]
    assert need.cost.peak + need.input_bytes == max(each.cost.peak + each.input_bytes for each in alone)
    assert need.weights.total == sum(each.weights.total for each in alone)


@pytest.fixture(scope="module")
def fake(models):
    return FakeEngine(models)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    checkpoint, gemma, _ = tiny.write(tmp_path_factory.mktemp("wide"), "2.3", transformer=WIDE)
    return FakeEngine(ltx2.open_models(checkpoint, gemma))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sample(6)
@torch.inference_mode()
def test_what_a_stage_needs_is_what_it_takes(wide, upscaler, name):
    """Beside the weights, never less than the tensors of a real run, and not much more."""
    stage, inputs, call = stage_of(name, wide, upscaler)
    for key in stage.networks:
        wide.network(key)
    with ExitStack() as stack:
        if TRANSFORMER in stage.networks:  # the store holds on to what each block is given
            stack.enter_context(Store(wide.network(TRANSFORMER), "cpu").use())
        measured = stack.enter_context(Peak())
        call()
    need = need_of(stage, wide.blueprint)
    planned = need.cost.peak + need.input_bytes
    taken = measured.bytes - KEPT_IN_RAM.get(name, 0)
    assert taken <= planned <= 1.15 * (measured.bytes + size_of(inputs))


def test_a_second_stage_takes_as_few_tiles_as_fit(wide):
    size, sampling = LatentSize((2, 40, 40), 30), Sampling(SIGMAS, guidance_of_passes(1))
    stage = Refine(sampling, size, whole=Tiles((1, 1, 1), overlap=(1, 1, 1)))
    whole = stage.fit(wide.blueprint, UNLIMITED)
    work = least_bytes(need_of(whole, wide.blueprint)) - KERNEL_WORKSPACE_BYTES
    rooms = [Room(MACHINE, KERNEL_WORKSPACE_BYTES + work * part // 8, GIB) for part in (8, 6, 4)]
    counts = [stage.fit(wide.blueprint, room).tiles.count for room in rooms]
    assert whole.tiles.count == counts[0] == 1 < counts[1] < counts[2]
    with pytest.raises(DoesNotFitError, match=r"^refining does not fit"):
        stage.fit(wide.blueprint, Room(MACHINE, work, GIB))


def test_a_blueprint_that_a_run_has_drawn_is_asked_outside_of_it(models):
    stages = [DecodeVideo((2, 2, 2)), Sample(Sampling(SIGMAS, guidance_of_passes(1)), LatentSize((2, 2, 2), 9))]
    with torch.inference_mode():
        drawn = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.float32))
        within = [need_of(DecodeVideo((3, 2, 2)), drawn), need_of(stages[1], drawn)]
    assert [need_of(stage, drawn).work_bytes > 0 for stage in stages] == [True, True] and all(within)


def test_a_plan_says_in_a_line_for_each_stage_where_weights_are(wide):
    stages = [Sample(Sampling(SIGMAS, guidance_of_passes(2)), LatentSize.of_clip(SHAPE)), DecodeVideo((5, 3, 4))]
    sizes = [need_of(stage, wide.blueprint) for stage in stages]
    plan = plan_stages(stages, wide.blueprint, Room(MACHINE, max(map(least_bytes, sizes)), 0), SHAPE)
    title, sampling, frames, *notes = plan.summary().split("\n")
    assert title == plan.title and sampling.startswith("sampling: ") and frames.startswith("frames: ")
    assert any("read from disk in every step" in note for note in notes)
    plan = plan_stages(stages, wide.blueprint, Room(MACHINE, min(map(least_bytes, sizes)) // 2, 0), SHAPE)
    assert len(plan.refusals) == 2 and "sampling does not fit" in plan.explain()


# ---------------------------------------------------------------------------------------------------------- long clips


@pytest.mark.parametrize("guidance", [NEUTRAL, pytest.param(GUIDED, marks=pytest.mark.slow)])
def test_finished_windows_are_found_when_only_the_last_prompt_changes(models, tmp_path, guidance):
    """Of four windows three are the same."""
    windowing, sampled = Windowing(17, 8), []
    last = windowing.windows(41, Fraction(48))[-1]
    engine = FakeEngine(models, Events(on_step=lambda done, total, step: sampled.append(done)))

    def make(prompt: str, **settings):
        sampled.clear()
        segments = (Segment(0.25, "a blue ball"), Segment(0.7, prompt))
        how = SMALL | {
            "width": 32,
            "height": 32,
            "frames": 41,
            "fps": 48,
            "steps": 1,
            "video": guidance,
            "audio": guidance,
        }
        how |= {"windowing": windowing, "segments": segments, "resume": tmp_path}
        return run(models, Request.of("a red ball", **how | settings), engine).latent

    first = make("a green ball")
    assert sampled == [1, 2, 3, 4]
    again = make("a green ball")
    assert sampled == [] and torch.equal(first.video, again.video) and torch.equal(first.audio, again.audio)
    other = make("a yellow ball")
    assert sampled == [4]
    known = last.video.start + last.video.lead
    assert torch.equal(first.video[:, :, :known], other.video[:, :, :known])
    assert not torch.equal(first.video, other.video)
    if guidance is GUIDED:
        make("a green ball", seed=6)
        assert sampled == [1, 2, 3, 4]


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "error, said",
    [
        (OutOfMemoryError("The card has too little memory. Make the clip smaller."), "The card has too little memory."),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GB."), "Memory ran out: CUDA out of memory."),
    ],
)
def test_running_out_of_memory_is_one_sentence(models, tmp_path, monkeypatch, capsys, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(ReadPrompts, "run", fail)
    files = ["--checkpoint", str(models.files[0].path), "--text-encoder", str(models.text_encoder)]
    size = ["--width", "64", "--height", "64", "--frames", "9", "--device", "cpu"]
    out = tmp_path / "clip.mp4"
    assert main(["generate", *files, *size, "--prompt", "x", "--output", str(out)]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {said}") and not out.exists()


# ---------------------------------------------------------------------------------------------------------- conditions


@dataclass(frozen=True)
class Item:
    """An encoded condition of 4000 bytes."""

    latent: Tensor

    def __call__(self, state):
        return state


class Given:
    """A condition that counts how often it is encoded."""

    def __init__(self):
        self.encoded = 0

    def encode(self, shape, streams, encoders):
        self.encoded += 1
        yield Item(torch.zeros(1000))


def test_kept_conditions_are_bounded_and_go_with_what_they_belong_to(fake):
    cache, shape = ConditionCache(limit=10_000), ClipShape(64, 64, 9, Fraction(24))
    one, two, three = Given(), Given(), Given()

    def encode(*conditions, shape=shape):
        return cache.encode(conditions, shape, ("video", "audio"), fake)

    items = encode(one, two)
    assert len(items) == 2 and cache.nbytes == 8000
    assert [a is b for a, b in zip(items, encode(one, two))] == [True, True] and one.encoded == 1
    encode(one, three)  # of the three, what was not used for longest goes
    assert cache.nbytes == 8000
    encode(one)
    assert (one.encoded, two.encoded) == (1, 1)
    encode(two)
    assert (two.encoded, cache.nbytes) == (2, 8000)
    encode(two, shape=replace(shape, width=96))
    assert two.encoded == 3 and cache.nbytes == 8000
    del two
    gc.collect()
    assert len(encode(one)) == 1 and cache.nbytes == 4000
    del one
    assert encode() == [] and cache.nbytes == 0
    assert len(ConditionCache(limit=0).encode([three], shape, ("video",), fake)) == 1


def test_kept_conditions_are_those_that_are_encoded(fake):
    conditions, cache, shape = given(), ConditionCache(), ClipShape(64, 64, 9, Fraction(24))
    fake.used.clear()
    kept = [cache.encode(conditions, shape, ("video", "audio"), fake) for _ in range(2)]
    assert fake.used == ["pictures", "hearing"] and all(a is b for a, b in zip(*kept)) and cache.nbytes > 0
    new = encode_conditions.encode_all(conditions, shape, ("video", "audio"), fake)
    for one, other in zip(kept[0], new, strict=True):
        tensors = [each for each in vars(other).values() if isinstance(each, Tensor)]
        assert tensors and all(any(same(a, b) for b in vars(one).values()) for a in tensors)


def same(one: Tensor, other) -> bool:
    return isinstance(other, Tensor) and torch.equal(one, other)


# --------------------------------------------------------------------------------------------------------------- store


class Pair(nn.Module):
    """A block of two parts, beside which it has a few bytes of its own."""

    def __init__(self, first: int, second: int):
        super().__init__()
        self.one, self.other = (nn.Linear(size, 4) for size in (first, second))
        self.table = nn.Parameter(torch.zeros(3))
        self.streamable_modules = [self.one, self.other]


def test_the_store_follows_a_placement():
    """Whatever the sizes: planner and store have one rule for what stays."""
    dice, units = random.Random(0), set()
    for _ in range(30):
        blocks = [Pair(dice.randint(1, 90), dice.randint(1, 90)) for _ in range(dice.randint(1, 12))]
        network = nn.Sequential(nn.Linear(4, 4), nn.ModuleList(blocks))
        weights = Weights.of(network)
        need = StageNeed("x", weights, Cost(1000, products=1e9), input_bytes=50, runs=dice.choice([1, 5]))
        budget = dice.randint(least_bytes(need), dice.choice([least_bytes(need) + 400, need.peak + 10]))
        placement = place(need, Room(MACHINE, budget, dice.randrange(weights.total)))
        assert placement.device_bytes <= budget
        store = Store(network, "cpu", link=Plain("cpu"))
        for each in (placement, place(need, Room(MACHINE, need.peak, 0)), placement):
            follow(store, each)
            with store.use():
                assert store.unit == each.unit and store.unit_bytes == list(each.units.sizes)
                assert store.staying == [tier == DEVICE for tier in each.tiers]
                assert store.card_bytes <= each.weight_budget == store.budget
            units.add((each.unit, each.slots > 0))
    assert units == {("block", False), ("block", True), ("part", True)}
