"""The plan before the run: sizes are those of the released files, memory is what a run takes, more is never worse."""

import itertools
import json
import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from golden import key_list
from peak import Peak
from safetensors.torch import load_file, save_file
from torch import nn

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import build_upscaler, open_upscaler
from ltx2_core.conditioning import Frozen
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import AVLatent, empty
from ltx2_core.memory import Plain, Room, StageNeed, Store, place
from ltx2_core.memory import machine as machines
from ltx2_core.memory.link import InPlace
from ltx2_core.memory.machine import CARDS, GIB, Machine, machine_named, pinnable, this_machine
from ltx2_core.memory.partition import Weights
from ltx2_core.memory.placement import DEVICE, DISK, HOST, KERNEL_WORKSPACE_BYTES, least_bytes
from ltx2_core.memory.trace import Cost, cost
from ltx2_core.memory.unit import Slot
from ltx2_core.pipeline.blueprint import PLANNED_FORMATS, Blueprint
from ltx2_core.pipeline.decode_audio import DecodeMel, Vocode, vocode
from ltx2_core.pipeline.decode_video import DecodeVideo, decode_video
from ltx2_core.pipeline.encode_conditions import EncodeAudio, EncodeVideo
from ltx2_core.pipeline.encode_text import ProjectFeatures, ReadPrompts
from ltx2_core.pipeline.plan import Plan, plan_stages
from ltx2_core.pipeline.refine import MAX_TILE_TOKENS, Refine
from ltx2_core.pipeline.sample import Sample, SampleInputs, Sampling, need_of_passes, passes_on_meta, sample
from ltx2_core.pipeline.stage import LatentSize, NetworkKey, Stage, upscaler_key
from ltx2_core.pipeline.stages import PLANNED_PASSES, stages_of_clip
from ltx2_core.pipeline.upscale import Upscale, upscale
from ltx2_core.sampling import Tiles
from ltx2_core.text import Contexts, GemmaConfig, GemmaEncoder
from ltx2_core.text.tokenizer import LENGTH
from ltx2_core.transformer import Pass, Perturbation, StreamInput, Transformer
from ltx2_core.upscaler import UpscalerConfig
from ltx2_core.video_vae import Tiling
from ltx2_core.video_vae.layers import ChannelStatistics

STEPS = 8
SAMPLING = Sampling(tuple(1 - step / STEPS for step in range(STEPS + 1)))
REFINING = Sampling((0.9, 0.7, 0.4, 0.0))
RATES = ("products", "products8", "convolutions", "attention", "bandwidth", "link", "disk")
SLOW = Machine("slow", memory=0, **dict.fromkeys(RATES, 1e9) | {"link": 100, "disk": 10})


@pytest.fixture(scope="module")
def blueprint(tiny_files):
    """From the headers of a miniature."""
    checkpoint, gemma, _ = tiny_files("2.3")
    models = ltx2.open_models(checkpoint, gemma)
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.float32)
    return Blueprint.of_files(models, open_text_encoder(gemma), dtypes), models


def sampling(blueprint: Blueprint, size: LatentSize, passes: int = 1, stg_block: int = 0) -> StageNeed:
    """What so many of PLANNED_PASSES need."""
    return need_of_passes(blueprint, size, PLANNED_PASSES[:passes], STEPS, stg_block)


def plan(blueprint: Blueprint, shape: ClipShape, machine: Machine, *, budget: int | None = None, ram: int = 0) -> Plan:
    """Plan a plain clip."""
    room = Room(machine, machine.budget if budget is None else budget, ram)
    return plan_stages(stages_of_clip(blueprint, shape, SAMPLING), blueprint, room, shape)


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("version, gigabytes", [("2.0", 43.28), ("2.3", 46.15)])
def test_a_release_is_as_large_as_its_file(released, version, gigabytes):
    found = released(version)
    kinds = ("transformer_text", "video_vae", "audio_vae", "vocoder")
    rows = [shape for kind in kinds for shape in key_list(kind, version).values()]
    names = [name for name in COMPONENTS if name != "vocoder"]
    total = found.weights(*names).total + found.weights("vocoder").total // 2  # it computes in float32
    assert total == pytest.approx(2 * sum(map(math.prod, rows)), rel=1e-3)  # statistics are used by two components
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.02)
    assert len(found.weights("transformer").blocks) == 48
    assert found.weights("text_encoder").total / 1e9 == pytest.approx(23.5, abs=0.1)


def test_fp8_is_as_large_as_the_official_file(released):
    """27.08 GB, of which scales and markers are a few hundred kilobytes."""
    found = released("2.0", "fp8")
    total = found.weights(*COMPONENTS).total - found.weights("vocoder").total // 2
    assert total / 1e9 == pytest.approx(27.08, abs=0.01)
    blocks = found.weights("transformer").blocks
    assert len(set(blocks[1:43])) == 1 and blocks[0] == blocks[47] > 1.9 * blocks[1]


def test_files_are_told_by_their_headers(blueprint):
    found, models = blueprint
    for name in models.sources:
        assert found.weights(name).total == Store(ltx2.build(models, name, torch.float32), "cpu").wanted_bytes
    encoder = build_text_encoder(open_text_encoder(models.text_encoder), torch.float32)
    assert found.weights("text_encoder").total == pytest.approx(Store(encoder, "cpu").wanted_bytes, rel=0.05)
    assert len(found.weights("transformer").blocks) == 2 and len(found.weights("text_encoder").blocks) == 2


@pytest.mark.slow
def test_fp8_files_are_told_by_their_headers(blueprint, tmp_path):
    """Half of the matrices in both official spellings of a scale, and one without."""
    _, models = blueprint
    weights = load_file(models.files[0].path)
    matrices = [
        key for key in weights if "transformer_blocks.1" in key and key.endswith("weight") and weights[key].ndim == 2
    ]
    for number, key in enumerate(matrices):
        weights[key] = weights[key].to(torch.float8_e4m3fn)
        if number:
            weights[key.replace("weight", ("weight_scale", "scale_weight")[number % 2])] = torch.ones(())
    save_file(weights, tmp_path / "fp8.safetensors", models.files[0].metadata)
    models = ltx2.open_models(tmp_path / "fp8.safetensors")
    found = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.float32))
    store = Store(ltx2.build(models, "transformer", torch.float32), "cpu")
    assert found.weights("transformer").total == store.wanted_bytes
    shape = ClipShape(64, 64, 9, Fraction(24))
    assert plan(found, shape, machine_named("4090")).fits  # without a text encoder, as far as it goes


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 1])
def test_the_store_keeps_what_the_plan_says(share):
    network = nn.Sequential(nn.Linear(8, 8), nn.ModuleList(nn.Linear(64, 64 + 8 * (i in (0, 9))) for i in range(10)))
    weights = Weights.of(network)
    need = StageNeed("x", weights, Cost(), runs=2)
    stage = place(need, Room(SLOW, KERNEL_WORKSPACE_BYTES + int(share * weights.total)))
    store = Store(network, "cpu", link=Plain("cpu"))
    store.follow(stage)
    with store.use():
        assert [DEVICE if stays else DISK for stays in store.staying] == list(stage.tiers)
        assert store.card_bytes <= stage.weight_budget
    assert (DISK in stage.tiers, DEVICE in stage.tiers) == (share < 1, share > 0.2)
    assert store.wanted_bytes == weights.total


# --------------------------------------------------------------------------------------------------------------- costs


def test_costs_of_a_hand_counted_computation():
    linear, x = nn.Linear(8, 4, device="meta"), torch.empty(3, 8, device="meta")  # inputs count for nothing

    def run():
        y = linear(x)  # 48 bytes
        y = y * 2  # another 48
        return y.sum()  # the first ones are gone; 4

    assert cost(run) == Cost(peak=96, products=2 * 3 * 8 * 4, moved=96 + 52)
    heads = torch.empty(1, 2, 5, 4, device="meta")
    attention = cost(lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads))
    assert attention == Cost(peak=160, attention=4 * 2 * 5 * 5 * 4)
    kernel = torch.empty(7, 3, 1, 1, 1, device="meta")
    convolution = cost(lambda: nn.functional.conv3d(torch.empty(1, 3, 2, 2, 2, device="meta"), kernel))
    assert convolution.convolutions == 2 * 8 * 7 * 3
    assert Cost(1, 2) + Cost(3, 4) * 2 == Cost(3, 10) and (Cost(1, 2) - Cost(3, 1)).products == 1


def test_what_is_computed_again_costs_the_same_again():
    """Shapes of results are remembered, but not what is done to memory: in place, in views, into something given."""
    x, y = torch.empty(6, 4, device="meta"), torch.empty(1, 4, device="meta")

    def run(times: int):
        made = []
        for _ in range(times):
            total = (x + y).mul_(2)  # 96 bytes, and no more in place
            total.t().add_(1)
            torch.add(x, y, out=total)
            made.append(total.to(torch.float32))  # the same one
            made.append(total.to(torch.float16))  # 48 bytes
        return made

    one, three = cost(lambda: run(1)), cost(lambda: run(3))
    assert one.peak == 96 + 48 and three.peak == 3 * one.peak
    assert three.moved == 3 * one.moved
    whole, half = torch.empty(4, dtype=torch.int32, device="meta"), []
    cost(lambda: half.extend([(whole * 1).dtype, (whole * 1.0).dtype, (whole * True).dtype]))
    assert half == [torch.int32, torch.float32, torch.int32]


def test_a_result_of_the_same_shapes_has_the_strides_it_had():
    x = torch.empty(4, 6, device="meta")

    def run():
        return [(each.shape, each.stride(), each.is_contiguous()) for each in (x.t() + 1, x + 1, x.t() + 1)]

    seen = []
    cost(lambda: seen.extend(run()))
    assert seen == run()


def small(version: str, layers: int = 3) -> Blueprint:
    """A release with a transformer small enough to be run, but wide enough that tokens count."""
    numbers = {
        "num_layers": layers, "num_attention_heads": 4, "attention_head_dim": 32, "cross_attention_dim": 128,
        "audio_num_attention_heads": 4, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 64,
        "caption_channels": 96,
    }  # fmt: skip
    config = tiny.config(version)
    config["transformer"] |= numbers
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(config, {})
    return Blueprint("small", config, {"transformer": network.state_dict()}, None)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize(
    "size, passes", [((256, 256, 33), 1), ((512, 256, 9), 1), ((320, 192, 41), 2), ((256, 256, 25), 4)]
)
@pytest.mark.sample(1)
def test_the_activation_peak_is_that_of_a_run(version, size, passes):
    shape, found = ClipShape(*size, Fraction(24)), small(version)
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(found.config, {})
    network = network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()

    def real(stream: StreamInput) -> StreamInput:
        tensors = {name: value for name, value in vars(stream).items() if isinstance(value, torch.Tensor)}
        return replace(stream, **{name: torch.zeros(value.shape) for name, value in tensors.items()})

    given = passes_on_meta(found, LatentSize.of_clip(shape), PLANNED_PASSES[:2])
    streams = {name: (real(each.video), real(each.audio)) for name, each in zip(("cond", "negative"), given)}
    changes = {
        "perturbed": Perturbation(frozenset({1}), frozenset({1})),
        "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
    }
    steps = [
        Pass(*streams.get(name, streams["cond"]), changes.get(name, Perturbation())) for name in PLANNED_PASSES[:passes]
    ]
    with torch.inference_mode(), Store(network, "cpu").use(), Peak() as measured:
        network.sweep(steps)
    need = sampling(found, LatentSize.of_clip(shape), passes)
    assert need.cost.peak == pytest.approx(measured.bytes, rel=0.15)


@pytest.mark.parametrize("size, tiling", [
    ((192, 128, 33), Tiling()),
    ((192, 128, 57), Tiling(128, 64, 32, 16)),
    ((256, 64, 41), Tiling(128, 32, 24, 8)),
])  # fmt: skip
@pytest.mark.sample(1)
def test_the_decoding_peak_is_that_of_a_run(blueprint, size, tiling):
    found, models = blueprint
    shape = ClipShape(*size, Fraction(24))
    decoder = ltx2.build(models, "video_decoder", torch.float32)
    latent = empty(shape).video
    with torch.inference_mode(), Peak() as measured:
        for chunk in decode_video(decoder, latent, tiling):
            del chunk
    need = DecodeVideo(shape.video_latent, tiling).need(found)
    assert need.cost.peak == pytest.approx(measured.bytes, rel=0.15)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.sample(1)
def test_the_peaks_of_the_prompt_are_those_of_a_run(version):
    gemma = GemmaConfig(
        layers=8, width=256, hidden=1024, heads=4, kv_heads=2, head_dim=64, vocabulary=8, attention_scalar=64
    )
    config = tiny.config(version)
    config["transformer"] |= {"caption_channels": gemma.width}
    with torch.device("meta"):
        features = COMPONENTS["text_features"].make(config, {"x.weight": (1, (gemma.layers + 1) * gemma.width)})
    encoder = GemmaEncoder(gemma)
    tensors = {"text_features": features.state_dict(), "text_encoder": encoder.state_dict()}
    drawn = Blueprint("small", config, tensors, gemma)
    reading, projecting = ReadPrompts(2).need(drawn), ProjectFeatures(2).need(drawn)
    features, ids = features.to_empty(device="cpu"), torch.ones(2, LENGTH, dtype=torch.int64)
    with torch.inference_mode():
        with Peak() as measured:
            states = encoder(ids, ids)
        assert reading.cost.peak == pytest.approx(measured.bytes, rel=0.15)
        with Peak() as measured:
            features([state[:1] for state in states], ids[:1])
        assert projecting.cost.peak == pytest.approx(measured.bytes, rel=0.15)
        assert projecting.input_bytes == sum(state.nbytes for state in states)


@pytest.mark.slow
def test_the_peaks_of_sound_are_those_of_a_run(blueprint):
    found, models = blueprint
    shape = ClipShape(64, 64, 49, Fraction(24))
    stage = DecodeMel(shape.audio_latents)
    decoder, vocoder = (ltx2.build(models, name, torch.float32) for name in ("audio_decoder", "vocoder"))
    with torch.inference_mode():
        with Peak() as measured:
            heard = decoder(empty(shape).audio)
        assert stage.need(found).cost.peak == pytest.approx(measured.bytes, rel=0.15)
        assert stage.mel_frames(found) == heard.shape[2]
        with Peak() as measured:
            vocoder(heard)
        assert Vocode(heard.shape[2]).need(found).cost.peak == pytest.approx(measured.bytes, rel=0.15)


def test_the_peaks_of_encoding_are_those_of_a_run(blueprint):
    found, models = blueprint
    shape = ClipShape(128, 96, 33, Fraction(24))
    video, audio = (ltx2.build(models, name, torch.float32) for name in ("video_encoder", "audio_encoder"))
    with torch.inference_mode():
        with Peak() as measured:
            video(torch.zeros(1, 3, 33, 96, 128))
        need = EncodeVideo(shape.video_latent).need(found)
        assert need.cost.peak == pytest.approx(measured.bytes, rel=0.15)
        with Peak() as measured:
            audio(torch.zeros(1, 2, 4 * shape.audio_latents, 64))
        assert EncodeAudio(shape.audio_latents).need(found).cost.peak == pytest.approx(measured.bytes, rel=0.15)


@pytest.mark.parametrize("format, gemma", [("bf16", 5), ("fp8", 4)])
def test_two_prompts_are_read_on_a_small_card(released, format, gemma):
    """Gemma layer by layer; then the projection, whose one large matrix is no less in fp8."""
    for stage, budget in ((ReadPrompts(2), gemma), (ProjectFeatures(2), 5)):
        stage = place(stage.need(released("2.3", format)), Room(machine_named("4060"), budget * 10**9))
        assert stage is not None and stage.device_bytes <= budget * 10**9


def test_a_missing_stream_and_a_larger_batch_count_as_they_are(released):
    extent = LatentSize.of_clip(ClipShape(256, 256, 33, Fraction(24)))
    sound, twice, more = (
        LatentSize(None, extent.audio),
        replace(extent, batch=2),
        replace(extent, appended=(5 * 8 * 8, 0)),
    )
    longer = replace(extent, video=(10, 8, 8))
    both, sound, twice, more, longer = (
        sampling(released("2.3"), each) for each in (extent, sound, twice, more, longer)
    )
    assert sound.cost.products < 0.2 * both.cost.products and sound.work_bytes < both.work_bytes
    assert twice.cost.attention == 2 * both.cost.attention
    assert more.cost == longer.cost and more.work_bytes == longer.work_bytes > both.work_bytes  # tokens are tokens


def test_a_step_is_as_fast_as_published(released):
    """The paper has 1.22 s on an H100 for 121 frames of 720p, with the official code; a 4090 was modelled at 4.5 s."""
    step = sampling(released("2.0"), LatentSize.of_clip(ClipShape(1280, 704, 121, Fraction(24))))
    assert step.cost.products + step.cost.attention == pytest.approx(537e12, rel=0.01)
    assert 0.8 < CARDS["H100"].seconds(step.cost) < 1.22
    assert CARDS["RTX 4090"].seconds(step.cost) == pytest.approx(4.5, rel=0.15)


def test_more_passes_cost_more_but_share_what_they_have_in_common(released):
    extent = LatentSize.of_clip(ClipShape(768, 512, 121, Fraction(24)))
    work = [sampling(released("2.3"), extent, passes).cost.products for passes in (1, 2, 3, 4)]
    assert work[0] < work[1] < work[2] < work[3] < 4 * work[0]
    later = sampling(released("2.3"), extent, 4, stg_block=28).cost.products
    assert (later - work[2]) / (work[3] - work[2]) == pytest.approx(20 / 48, rel=0.05)


# --------------------------------------------------------------------------------------------------------------- places


def test_a_hand_computed_placement():
    """Four blocks, and 50 bytes beside them; the work takes 1000 bytes and 4 seconds, a copy one, a read ten."""
    machine, block = replace(SLOW, link=1024, disk=102.4), 1024
    need = StageNeed("sampling", Weights(50, (block,) * 4), Cost(1000 - KERNEL_WORKSPACE_BYTES, products=4e9), runs=8)
    whole = place(need, Room(machine, 1050 + 4 * block, 0))
    assert (whole.tiers, whole.slots, whole.run) == ((DEVICE,) * 4, 0, 4.0)
    assert whole.load == pytest.approx((50 + 4 * block) / 102.4) and whole.seconds == whole.load + 8 * 4
    assert whole.weight_budget == 50 + 4 * block and whole.device_bytes == 1050 + 4 * block
    # Room for two blocks on their way and one that stays; two are pinned. While the fourth is read the third runs;
    # then it runs itself, and the first: 1 + 10 + 1 + 1 seconds from the second to the second.
    mixed = place(need, Room(machine, 1049 + 4 * block, 2 * block))
    assert mixed.tiers == (DEVICE, HOST, HOST, DISK) and mixed.slots == 2 and mixed.run == pytest.approx(13)
    assert mixed.weight_budget == 50 + 3 * block and mixed.host_bytes == 2 * block
    # All pinned, copies are as fast as computing; less room is not enough for blocks that have no parts.
    assert place(need, Room(machine, 1050 + 2 * block, 4 * block)).run == pytest.approx(4.0)
    assert place(need, Room(machine, 1049 + 2 * block, 4 * block)) is None
    parts = replace(need, weights=replace(need.weights, part_rest=60, parts=(block // 2,) * 8))
    small = place(parts, Room(machine, 1060 + block, 4 * block))
    assert (small.parts, small.slots, small.unit) == (True, 2, "part") and small.run == pytest.approx(4.0)
    # With room for one part, copying and computing take turns.
    assert place(parts, Room(machine, 1059 + block, 4 * block)).run == pytest.approx(8.0)
    assert place(parts, Room(machine, 1059 + block // 2, 4 * block)) is None


@pytest.mark.parametrize("format", PLANNED_FORMATS)
def test_more_memory_is_never_worse(released, format):
    card = machine_named("4070")
    need = sampling(released("2.3", format), LatentSize.of_clip(ClipShape(768, 512, 121, Fraction(24))))

    for ram in (0, 10 * GIB, 64 * GIB):
        budgets = range(5 * 10**8, 45 * 10**9, 2 * 10**9)
        placed = [place(need, Room(card, budget, ram)) for budget in budgets]
        fitting = [stage for stage in placed if stage is not None]
        assert placed[0] is None and placed[len(placed) - len(fitting) :] == fitting  # once it fits, it always does
        for less, more in zip(fitting, fitting[1:]):
            assert more.run <= 1.04 * less.run  # a ring with one slot less is preferred if it costs no more than that
        assert set(fitting[-1].tiers) == {DEVICE}
        assert all(stage.device_bytes <= budget for stage, budget in zip(placed, budgets) if stage is not None)
    slow = replace(card, disk=5e8)
    runs = [place(need, Room(slow, 8 * GIB, ram * GIB)).run for ram in range(0, 64, 4)]
    assert runs == sorted(runs, reverse=True) and runs[0] > runs[-1]


def test_small_cards_get_smaller_tiles_and_a_reason(released):
    shape = ClipShape(1920, 1088, 121, Fraction(24))
    roomy, tight = (
        plan(released("2.3", "fp8"), shape, machine_named(card), ram=16 * GIB) for card in ("RTX 5090", "4060")
    )
    frames = DecodeVideo(shape.video_latent)
    assert roomy.fits and roomy.stage(frames).tiling == Tiling() and roomy.notes == ()
    assert tight.stage(frames).tiling != Tiling() or tight.placement("frames").device_bytes <= tight.room.budget
    less = plan(released("2.3", "fp8"), shape, machine_named("4060"), budget=5 * GIB, ram=16 * GIB)
    assert less.stage(frames).tiling != Tiling() and "more seams" in less.explain() and "more seams" in less.summary()
    (line,) = (line for line in less.summary().splitlines() if line.startswith("sampling: ") and " of the card" in line)
    assert " GB of the card, " in line and " GB of RAM, " in line and "streamed" in line and "8 x " in line
    own = replace(frames, tiling=Tiling(512, 64, 80, 24))
    card = machine_named("4060")
    assert plan_stages([own], released("2.3", "fp8"), Room(card, card.budget)).stage(frames) == own


def test_what_does_not_fit_is_refused_in_a_sentence(released):
    shape = ClipShape(1920, 1088, 481, Fraction(24))
    found = plan(released("2.3"), shape, machine_named("RTX 4060"), ram=16 * GIB)
    assert not found.fits and found.placement("sampling") is None
    (sentence,) = (each for each in found.refusals if each.startswith("sampling"))
    assert "does not fit 7.0 GB, even when everything is streamed" in sentence and sentence in found.explain()
    frames = int(sentence.partition("About ")[2].split()[0])
    assert plan(released("2.3"), ClipShape(1920, 1088, frames, Fraction(24)), machine_named("4060")).fits
    with pytest.raises(ValueError, match="The card Voodoo is not known"):
        machine_named("Voodoo")
    with pytest.raises(ValueError, match=r"no plan for LTX-2.3 in int3"):
        Blueprint.of_version("2.3", "int3")


# ----------------------------------------------------------------------------------------------------------------- time


class Clock(InPlace):
    """A device that computes, a link beside it that copies one unit after the other, and a disk that is read for those
    that are not pinned; all on one clock, and nothing is copied."""

    def __init__(self, machine: Machine, ram: int):
        self.machine, self.ram, self.pinned = machine, ram, set()
        self.now = self.copied = self.read = 0.0
        self.there: dict[Slot, float] = {}  # since when
        self.sent = []

    def prepare(self, units):
        for unit in units:
            if self.ram < unit.nbytes:
                break
            self.ram -= unit.nbytes
            self.pinned.add(unit)

    def send(self, unit, slot):
        for other in [other for other in self.there if other.overlaps(slot.start, slot.stop)]:
            del self.there[other]
        start = max(self.now, self.copied)
        if unit not in self.pinned:
            self.read = max(self.read, self.now) + unit.nbytes / self.machine.disk
            start = max(start, self.read - unit.nbytes / self.machine.link)
        self.copied = self.there[slot] = start + unit.nbytes / self.machine.link
        self.sent.append(unit)

    def arrive(self, unit, slot):
        self.now = max(self.now, self.there.get(slot, 0.0))


class Worker(nn.Module):
    """Weights of so many bytes, and the time that using them takes."""

    def __init__(self, nbytes: int, work):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nbytes, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.work = work

    def forward(self):
        self.work(self.weight.nbytes)


class Foreman(nn.Module):
    """A block that is its parts."""

    def __init__(self, parts):
        super().__init__()
        self.streamable_modules = list(parts)
        for number, part in enumerate(self.streamable_modules):
            self.add_module(str(number), part)

    def forward(self):
        for part in self.streamable_modules:
            part()


@pytest.mark.parametrize("format", PLANNED_FORMATS)
@pytest.mark.parametrize("card", ["RTX 5090", "RTX 4060"])
def test_a_step_takes_as_long_as_in_the_store_with_a_clock(released, card, format):
    """Full-size weights; sizes, passes and memory drawn at random."""
    draw, found, machine = random.Random(f"{card} {format}"), released("2.3", format), machine_named(card)
    weights = found.weights("transformer")
    count, outside = len(weights.parts) // len(weights.blocks), len(weights.parts) % len(weights.blocks)
    for _ in range(6):
        width, height = draw.choice([(640, 352), (960, 544), (1280, 704)])
        size = LatentSize.of_clip(ClipShape(width, height, draw.choice([25, 121]), Fraction(24)))
        need = sampling(found, size, draw.choice([1, 2, 4]))
        least = least_bytes(need)
        budget = draw.choice([least + 10**9 * draw.random(), least + weights.total * draw.random()])
        stage = place(need, Room(machine, int(budget), int(draw.choice([0, 0.5, 1]) * weights.total)))
        clock = Clock(machine, sum(size for size, tier in zip(stage.units, stage.tiers) if tier == HOST))
        computing = machine.seconds(need.cost)

        def work(nbytes, clock=clock, stage=stage, computing=computing):
            clock.now += computing * nbytes / sum(stage.units)

        sizes = iter(weights.parts)
        ends = Foreman(Worker(size, work) for size in itertools.islice(sizes, outside))
        blocks = nn.ModuleList(
            Foreman(Worker(size, work) for size in itertools.islice(sizes, count)) for _ in weights.blocks
        )
        store = Store(nn.Sequential(ends, blocks), "cpu", link=clock)
        store.stream_by(stage.unit, stage.slots or 2)
        store.set_budget(stage.weight_budget - weights.always(stage.parts) + store.rest_bytes)
        clock.sent.clear()
        with store.use():
            streamed = [unit for unit, stays in zip(store._partition.units, store.staying) if not stays]
            for _ in range(4):
                before = clock.now
                for block in [ends, *blocks] if stage.parts else blocks:
                    block()
        assert clock.now - before == pytest.approx(stage.run, rel=0.05), stage
        sent = [unit for unit in clock.sent if unit in streamed]
        assert len(streamed) == sum(tier != DEVICE for tier in stage.tiers)
        assert sent == (6 * streamed)[: len(sent)] and len(sent) >= 4 * len(streamed)  # not once for each pass


# ------------------------------------------------------------------------------------------------------------- machines


def test_a_machine_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(2**20))
    first = this_machine(torch.device("cpu"), model, tmp_path)
    assert min(vars(first)[name] for name in RATES) > 0
    assert this_machine(torch.device("cpu"), model, tmp_path) == first
    (tmp_path / "machine.json").write_text('{"cpu": {"name": 1')
    assert this_machine(torch.device("cpu"), model, tmp_path) != first
    assert len(json.loads((tmp_path / "machine.json").read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine.json", "model.safetensors"]


def test_a_tenth_of_the_ram_stays_free():
    assert pinnable(64 * GIB, 64 * GIB) == 32 * GIB and pinnable(64 * GIB, 10 * GIB) == 10 * GIB - 64 * GIB // 10
    assert pinnable(8 * GIB, 1 * GIB) == 0


# --------------------------------------------------------------------------------------------------------- command line


@pytest.mark.slow
def test_the_command_line_plans_for_files_and_for_releases(blueprint, capsys):
    _, models = blueprint
    files = ["--checkpoint", str(models.files[0].path), "--text-encoder", str(models.text_encoder)]
    size = ["--width", "64", "--height", "64", "--frames", "9"]
    assert main(["plan", *files, *size, "--card", "RTX 4090", "--ram", "32"]) == 0
    said = capsys.readouterr().out
    assert "64 x 64, 9 frames" in said and "30 x" in said and "RTX 4090: at most 24.2 GB" in said
    release = ["--version", "2.3", "--format", "fp8", "--distilled"]
    assert main(["plan", *release, *size, "--card", "4070", "--vram", "8", "--ram", "32"]) == 0
    said = capsys.readouterr().out
    assert "LTX-2.3 in fp8" in said and "8 x" in said and "at most 7.0 GB of the card and 17.2 GB of pinned RAM" in said
    assert main(["plan", "--version", "2.3", "--card", "Voodoo"]) == 2
    assert "not known" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ larger clips


def running(found: Blueprint) -> Transformer:
    """The transformer of ``small``, of zeros."""
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(found.config, {})
    network = network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    return network


@pytest.mark.parametrize("counts, held", [((1, 1, 1), False), ((2, 1, 2), False), ((1, 2, 2), True)])
@pytest.mark.sample(1)
def test_the_peak_of_refining_is_that_of_a_run(counts, held):
    """What one call makes, beside the latents that the sampler holds and the inputs."""
    shape, found = ClipShape(384, 256, 33, Fraction(24)), small("2.3")
    tiled, latent = Sampling((0.9, 0.5, 0.0), tiles=Tiles(counts, (1, 1, 1))), empty(shape)

    def run(network):
        contexts = Contexts(torch.zeros(1, LENGTH, 128), torch.zeros(1, LENGTH, 64))
        items = [Frozen("audio")] if held else []
        sample(network, SampleInputs(latent, shape.fps, contexts, conditions=items), tiled)

    network = running(found)
    with torch.inference_mode(), Store(network, "cpu").use(), Peak() as measured:
        run(network)
    need = Refine(tiled, LatentSize.of_clip(shape), refines_sound=not held).need(found)
    assert measured.bytes < need.cost.peak + need.input_bytes < 1.4 * measured.bytes
    assert need.runs == 2 * (math.prod(counts) + (not held and counts != (1, 1, 1)))


@pytest.mark.parametrize("kind", [{}, {"rational_resampler": True, "spatial_scale": 1.5}, {"temporal_upsample": True}])
@pytest.mark.sample(1)
def test_the_peak_of_upscaling_is_that_of_a_run(kind, tmp_path):
    file = open_upscaler(tiny.write_upscaler(tmp_path, kind | {"mid_channels": 256}))
    upscaler, statistics = build_upscaler(file, torch.float32), ChannelStatistics(128)
    latent = AVLatent(torch.zeros(1, 128, 4, 10, 12), None)
    with torch.inference_mode(), Peak() as measured:
        upscale(upscaler, latent, Fraction(24), statistics)
    need = Upscale(upscaler_key(file), file.config, (4, 10, 12), torch.float32).need(small("2.3"))
    assert need.cost.peak == pytest.approx(measured.bytes, rel=0.15)
    assert need.weights.total == pytest.approx(file.nbytes * 2, rel=0.01)  # in the file it is bfloat16


@pytest.mark.slow
def test_long_sound_takes_no_more_than_its_pieces(blueprint):
    found, models = blueprint
    vocoder = ltx2.build(models, "vocoder", torch.float32)
    mel = torch.zeros(1, 2, 1700, 64)
    with torch.inference_mode(), Peak() as measured:
        vocode(vocoder, mel)
    need, twice = (Vocode(frames).need(found) for frames in (1700, 3400))
    assert need.cost.peak == pytest.approx(measured.bytes, rel=0.15)
    assert twice.cost.convolutions == pytest.approx(2 * need.cost.convolutions, rel=0.15)
    waveform = 4 * 2 * 480 * 1700
    assert twice.cost.peak <= need.cost.peak + 2 * waveform


CARDS_WITH = {8: "RTX 4060", 12: "RTX 4070", 16: "RTX 4080", 24: "RTX 4090"}


@pytest.mark.parametrize("gigabytes", CARDS_WITH)
@pytest.mark.parametrize("width, height", [(1920, 1088), (3840, 2176)])
def test_twenty_seconds_of_1080p_and_4k_are_refined_and_decoded_on_every_card(released, width, height, gigabytes):
    found, machine = released("2.3", "fp8"), machine_named(CARDS_WITH[gigabytes])
    clip = ClipShape(width, height, 481, Fraction(24))
    room, size = Room(machine, machine.budget, 32 * GIB), LatentSize.of_clip(clip)
    refine = Refine(REFINING, size)
    tiles = refine.fit(found, room).tiles
    largest = tiles.largest(size.video)
    assert math.prod(largest) <= MAX_TILE_TOKENS and tiles.count <= 4 * math.prod(size.video) / math.prod(largest)
    half = LatentSize.of_clip(ClipShape(width // 2, height // 2, 481, Fraction(24)))
    windows = replace(half, video=(16, *half.video[1:]), audio=126)  # a first stage of 4K is made in windows, too
    upscale = Upscale(NetworkKey("upscaler"), UpscalerConfig(mid_channels=1024), half.video)
    stages: list[Stage] = []
    for stage in stages_of_clip(found, clip, SAMPLING):
        stages += [replace(stage, size=windows), upscale, refine] if isinstance(stage, Sample) else [stage]
    planned = plan_stages(stages, found, room, clip)
    assert planned.fits, planned.refusals
    assert planned.stage(refine).tiles == tiles
    assert [placement.need.name for placement in planned.placements[-5:]] == [
        "upscaling space by 2",
        "refining",
        "mel",
        "sound",
        "frames",
    ]
    assert all(placement.device_bytes <= machine.budget for placement in planned.placements)


def test_less_memory_gives_more_tiles_until_none_are_small_enough(released):
    found, machine = released("2.3", "fp8"), machine_named("4060")
    refine = Refine(REFINING, LatentSize.of_clip(ClipShape(1920, 1088, 241, Fraction(24))))
    budgets = (7 * 10**9, 3 * 10**9, 2 * 10**9)
    counts = [refine.fit(found, Room(machine, budget, GIB)).tiles.count for budget in budgets]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    with pytest.raises(ValueError, match=r"refining does not fit 1\.0 GB, even when everything is streamed"):
        refine.fit(found, Room(machine, 10**9))
