"""Several devices share the passes and the tiles of a step: the bits of one device, in a part of its time."""

import logging
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from devices import Device, Pins, through
from planned import REFINING, small
from torch import nn

import ltx2_core as ltx2
from ltx2_core.checkpoint import build
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.cli import main
from ltx2_core.errors import LTX2Error, SettingError
from ltx2_core.geometry import ClipShape, exact_fps
from ltx2_core.memory import Room, Store
from ltx2_core.memory.machine import machine_named
from ltx2_core.memory.placement import Rate
from ltx2_core.memory.twin import twin_of
from ltx2_core.pipeline import sample as stage_of_sampling
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.encode_conditions import EncodeVideo, EngineEncoders, encode_video
from ltx2_core.pipeline.engines import hardware
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines.devices import Devices, Worker, blocks, deal
from ltx2_core.pipeline.engines.gain import describe_gain
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.engines.shared_tiles import AHEAD, SharedDecoder, SharedTiles
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.refine import Refine
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize, Load
from ltx2_core.sampling import Guidance, StreamGuidance
from ltx2_core.sampling.tiles import Tiles, TileSettings
from ltx2_core.settings import Resources, SecondStage
from ltx2_core.transformer import UNPERTURBED, Pass, Perturbation, StreamInput, Transformer
from ltx2_core.video_vae import DecoderInput, TileWork, Tiling

LAYERS, CPU = 4, torch.device("cpu")


def stream(seed: int) -> StreamInput:
    tokens = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(seed))
    return StreamInput(tokens, torch.ones(1), torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 1))


FOUR = [Pass(stream(number), None, UNPERTURBED) for number in range(4)]


class Clocked:
    """A card that only counts its time; ``fails`` at a sweep of that number."""

    def __init__(self, seconds=1.0, fails=None, error=None):
        self.seconds, self.now, self.sweeps, self.fails, self.error = seconds, 0.0, 0, fails, error

    def sweep(self, passes, between_blocks=None):
        self.sweeps += 1
        if self.sweeps == self.fails:
            raise self.error
        if between_blocks is not None:
            between_blocks()
        self.now += self.seconds * blocks(passes, LAYERS) / LAYERS
        return [(each.video.tokens * 2, None) for each in passes]


def team(*cards: Clocked) -> Devices:
    return Devices([Worker(CPU, card, Rate(card.seconds)) for card in cards], LAYERS)


def taken(cards, passes=FOUR) -> float:
    results = team(*cards).sweep(passes)
    assert all(torch.equal(video, each.video.tokens * 2) for (video, _), each in zip(results, passes))
    return max(card.now for card in cards)


def test_two_and_four_equal_cards_take_a_half_and_a_quarter():
    one, two, four = (taken([Clocked() for _ in range(count)]) for count in (1, 2, 4))
    assert one / two >= 1.9 and one / four >= 3.5


def test_a_faster_card_does_more():
    fast, slow = Clocked(1), Clocked(2.9)
    assert taken([fast, slow]) == 3 and slow.now == 2.9


def test_passes_that_share_blocks_stay_together():
    shared = stream(0)
    late = Perturbation(frozenset({3}), frozenset({3}))
    passes = [Pass(shared, None, UNPERTURBED), FOUR[1], Pass(shared, None, late)]
    assert blocks(passes, LAYERS) == 2 * LAYERS + 1
    assert deal(passes, [Rate(), Rate()], LAYERS) == [[0, 2], [1]]


def test_unlike_cards_end_as_near_to_each_other_as_they_can():
    """The pair that shares blocks goes to the slower card, although the faster one would end it sooner."""
    shared, late = stream(0), Perturbation(frozenset({2}), frozenset({2}))
    passes = [Pass(shared, None, UNPERTURBED), FOUR[1], Pass(shared, None, late), FOUR[2]]
    assert deal(passes, [Rate(1), Rate(1.3)], LAYERS) == [[1, 3], [0, 2]]


def test_a_card_that_streams_for_longer_than_all_would_take_gets_nothing():
    assert deal(FOUR, [Rate(1.0), Rate(1.0, least=2.0)], LAYERS) == [[0, 1, 2, 3], []]


def test_however_many_passes_and_cards_all_are_dealt():
    shares = deal(FOUR * 4, [Rate()] * 64, LAYERS)
    assert sorted(number for share in shares for number in share) == list(range(16))


def test_groups_go_to_whoever_is_free():
    class Sleeping(Clocked):
        def sweep(self, passes, between_blocks=None):
            time.sleep(self.seconds)
            return super().sweep(passes, between_blocks)

    fast, slow = Sleeping(0.002), Sleeping(0.03)
    groups = [[each] for each in FOUR * 3]
    for answer, group in zip(team(fast, slow).sweep_each(groups), groups, strict=True):
        assert torch.equal(answer[0][0], group[0].video.tokens * 2)
    assert fast.sweeps > slow.sweeps > 0


def test_threads_share_no_tensor_but_the_passes_of_one_do():
    """Layers note on a tensor what they have in common, so that two threads would get in each other's way."""

    class Noting(Clocked):
        def sweep(self, passes, between_blocks=None):
            self.contexts = [each.video.context for each in passes]
            return super().sweep(passes, between_blocks)

    cards, context = [Noting(), Noting()], torch.zeros(1, 1, 1)
    passes = [replace(each, video=replace(each.video, context=context)) for each in FOUR]
    taken(cards, passes)
    own = [{id(each) for each in card.contexts} for card in cards]
    assert [len(ids) for ids in own] == [1, 1] and own[0].isdisjoint(own[1])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: unspecified failure")])
def test_a_card_that_fails_is_left_out(error, caplog):
    cards = Clocked(), Clocked(fails=2, error=error), Clocked()
    devices = team(*cards)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            results = devices.sweep(FOUR)
            assert all(torch.equal(video, each.video.tokens * 2) for (video, _), each in zip(results, FOUR))
    assert len(devices.workers) == 2 and cards[1].sweeps == 2
    assert len(caplog.records) == 1 and "left out" in caplog.text


def test_a_card_that_fails_leaves_its_tile_to_others():
    devices = team(Clocked(), Clocked(fails=1, error=torch.OutOfMemoryError("full")))
    assert len(list(devices.sweep_each([[each] for each in FOUR]))) == 4


def test_the_last_card_says_why_it_failed():
    cards = [Clocked(fails=1, error=torch.OutOfMemoryError(f"full {number}")) for number in range(2)]
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        team(*cards).sweep(FOUR)


@pytest.mark.parametrize("error", [SettingError("wrong"), KeyError("wrong")])
def test_what_concerns_all_ends_the_step(error):
    with pytest.raises(type(error), match="wrong"):
        team(Clocked(), Clocked(fails=1, error=error)).sweep(FOUR)


def test_an_interrupt_stops_all_cards():
    begun, stopped = threading.Barrier(3), []

    class Waiting(Clocked):
        def sweep(self, passes, between_blocks=None):
            begun.wait(5)
            try:
                while True:
                    between_blocks()
                    time.sleep(0.001)
            except BaseException:
                stopped.append(self)
                raise

    asked = iter([lambda: None, lambda: begun.wait(5)])

    def interrupt():
        if (ask := next(asked, None)) is None:
            raise InterruptedError
        ask()

    with pytest.raises(InterruptedError):
        team(Waiting(), Waiting()).sweep(FOUR, interrupt)
    assert len(stopped) == 2


# ------------------------------------------------------------------------------------------------------------- weights


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


def test_twins_share_every_byte_and_stream_by_themselves():
    first = Chain().requires_grad_(False)
    second, x = twin_of(first), torch.randn(2, 16)
    expected = first(x)
    assert [p.data_ptr() for p in first.parameters()] == [p.data_ptr() for p in second.parameters()]
    links = Device(), Device()
    original = Store(first, "cpu", link=links[0])
    stores = original, Store(second, "cpu", link=links[1], original=original)
    for store in stores:
        store.set_budget(2 * store.unit_bytes[0] + store.rest_bytes)
    with stores[0].use() as one, stores[1].use() as two:
        assert torch.equal(one(x), expected) and torch.equal(two(x), expected)
    for link in links:
        assert len(set(link.sent)) == 6


@pytest.fixture
def stand_ins(monkeypatch):
    from devices import on_stand_ins

    return on_stand_ins(monkeypatch)


def test_however_many_cards_the_weights_are_pinned_once(stand_ins):
    first, x, pins = Chain().requires_grad_(False), torch.randn(2, 16), Pins()
    memory, expected = pins.memory(), first(x)
    stores = [Store(first, "cpu", link=through(memory))]
    stores += [Store(twin_of(first), "cpu", link=through(memory), original=stores[0]) for _ in range(3)]
    for store in stores:
        store.set_budget(2 * store.unit_bytes[0] + store.rest_bytes)

    def work(store):
        with torch.inference_mode(), store.use() as network:
            results.extend(torch.equal(network(x), expected) for _ in range(3))

    results = []
    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 12
    assert sum(pins.pinned.values()) == sum(stores[0].unit_bytes) == memory.held


# --------------------------------------------------------------------------------------------------------------- clips


@pytest.fixture(scope="module")
def clip():
    video = Guidance(text_scale=3.0, stg_scale=1.0, stg_blocks=(1,), cross_modal_scale=2.0)
    settings = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 3, "video": video, "audio": video}
    models = ltx2.open_models("miniature")

    def make(**more):
        return ltx2.generate(models, "a red ball", "noise", **settings, **more)

    return make


@pytest.fixture(scope="module")
def of_one(clip):
    return clip(device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"vram": 2**30}])
@pytest.mark.parametrize("count", [2, 4])
def test_a_clip_of_several_devices_is_that_of_one(clip, of_one, count, limits):
    several = clip(devices=",".join(["cpu"] * count), **limits)
    assert torch.equal(several.latent.video, of_one.latent.video)
    assert torch.equal(several.latent.audio, of_one.latent.audio)


@pytest.mark.slow
def test_every_device_is_asked_in_every_step(clip, monkeypatch):
    sweep, asked = Transformer.sweep, []

    def spy(network, passes, between_blocks=None):
        asked.append((id(network), len(passes)))
        return sweep(network, passes, between_blocks)

    monkeypatch.setattr(Transformer, "sweep", spy)
    clip(devices=["cpu", "cpu"])
    assert len({network for network, _ in asked}) == 2
    assert len(asked) == 2 * 2 and sum(passes for _, passes in asked) == 2 * 4


@pytest.mark.slow
def test_tiles_of_several_devices_are_those_of_one():
    def refined(**where):
        upscaler = open_upscaler(BUILT_IN)
        second = SecondStage(upscalers=(upscaler,), tiles=TileSettings(columns=2, rows=2, overlap=32))
        models = ltx2.open_models("miniature")
        return ltx2.generate(models, "a red ball", seed=1, steps=1, frames=9, second=second, **where).latent

    one, several = refined(device="cpu"), refined(devices="cpu,cpu,cpu")
    assert torch.equal(one.video, several.video) and torch.equal(one.audio, several.audio)


# ------------------------------------------------------------------------------------------------------ decoding tiles


SMALL = Tiling(64, 32, 24, 8)


@pytest.fixture(scope="module")
def decoder():
    return build(ltx2.open_models("miniature"), "video_decoder", torch.float32)


def shared(decoder, *helpers):
    return SharedDecoder(decoder, CPU, [(CPU, each) for each in helpers])


def frames_of(decoder, latent) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(decoder.decode(DecoderInput(latent, SMALL))), dim=2)


@pytest.fixture(scope="module")
def latent():
    return torch.randn(1, 128, 4, 3, 4, generator=torch.Generator().manual_seed(1))


class Helper:
    """A device that makes tiles, or fails at one."""

    def __init__(self, decoder, fails=None, error=None):
        self.decoder, self.fails, self.error, self.made = decoder, fails, error, 0
        self.failed = threading.Event()

    def __call__(self, tile):
        if self.made == self.fails:
            self.failed.set()
            raise self.error
        self.made += 1
        return self.decoder(tile)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: unspecified failure")])
def test_a_card_that_fails_leaves_its_tiles_of_decoding_to_others(decoder, latent, error, caplog):
    home, other, failing = twin_of(decoder), twin_of(decoder), Helper(twin_of(decoder), 1, error)

    def wait(network, tiles):
        failing.failed.wait(30)

    for each in (home, other):  # which may else be done before the one that fails has begun
        each.register_forward_pre_hook(wait)
    together = shared(home, Helper(other), failing)
    assert torch.equal(frames_of(together, latent), frames_of(decoder, latent))
    assert len(together.helpers) == 1 and len(caplog.records) == 1 and "left out" in caplog.text


def test_what_concerns_all_ends_decoding(decoder, latent):
    with pytest.raises(SettingError, match="wrong"):
        frames_of(shared(decoder, Helper(decoder, 0, SettingError("wrong"))), latent)


def test_no_device_decodes_far_ahead_and_none_after_the_end(decoder, latent):
    """Whoever asks for frames decides how far decoding goes."""
    helper = Helper(twin_of(decoder))
    together = shared(decoder, helper)
    with torch.inference_mode():
        chunks = together.decode(DecoderInput(latent, SMALL))
        next(chunks)
    tiles = decoder.count_tiles(latent, SMALL)
    together.close()
    assert helper.made < 6 + 2 * AHEAD < tiles and not any(each.name == "tiles" for each in threading.enumerate())


@pytest.mark.parametrize("cards", [2, 4])
def test_equal_cards_decode_in_a_part_of_the_time(cards):
    """Clocks go on together, a tile at a time: none waits for another."""
    meet = threading.Barrier(cards)

    class Clock:
        usual_tiling, now = SMALL, 0

        def __call__(self, tile):
            meet.wait(5)
            self.now += 1
            return tile

    clocks = [Clock() for _ in range(cards)]
    together = SharedTiles(clocks[0], CPU, [(CPU, each) for each in clocks[1:]])
    tiles = [TileWork(torch.full((1,), float(number))) for number in range(4 * cards)]
    assert torch.equal(torch.cat(list(together.make(tiles))), torch.arange(4.0 * cards))
    assert [clock.now for clock in clocks] == [4] * cards


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", [2, 3])
def test_frames_of_several_devices_are_those_of_one(count, latent):
    stage = DecodeVideo((4, 3, 4), SMALL)

    def decoded(**where):
        engine = LocalEngine(ltx2.open_models("miniature"), Resources(**where))
        return stage.collect(engine, latent)

    assert torch.equal(decoded(devices=",".join(["cpu"] * count)), decoded(device="cpu"))


def test_pixels_are_encoded_by_several_devices_as_by_one(caplog):
    """One of which fails, for which the others wait; tiles are handed out while pixels are still read."""
    encoder, has_failed = build(ltx2.open_models("miniature"), "video_encoder", torch.float32), threading.Event()
    pixels, tiling = torch.rand(1, 3, 33, 64, 128, generator=torch.Generator().manual_seed(1)), Tiling(96, 64, 24, 16)

    def encoded(by) -> torch.Tensor:
        with torch.inference_mode():
            return encode_video(by, pixels.split(10, dim=2), 33, CPU, tiling)

    def fail(tile):
        has_failed.set()
        raise torch.OutOfMemoryError("full")

    one, helper = encoded(encoder), twin_of(encoder)
    for each in (encoder, helper):
        each.register_forward_pre_hook(lambda *_: has_failed.wait(10) and None)
    assert torch.equal(one, encoded(SharedTiles(encoder, CPU, [(CPU, fail), (CPU, helper)])))
    assert has_failed.is_set() and len(caplog.records) == 1


@pytest.mark.slow
def test_a_reference_is_encoded_by_all_devices(monkeypatch):
    pixels = torch.rand(1, 3, 9, 64, 1088, generator=torch.Generator().manual_seed(1))

    def encoded(**where):
        engine = LocalEngine(ltx2.open_models("miniature"), Resources(**where))
        stage = EncodeVideo((2, 2, 34))
        assert stage.count_tiles(engine.blueprint) == 2
        with torch.inference_mode(), EngineEncoders(engine) as encoders:
            return encoders.video(lambda: [pixels], (9, 64, 1088))

    make, made = SharedTiles.make, []
    monkeypatch.setattr(SharedTiles, "make", lambda *args: made.append(1) or make(*args))
    assert torch.equal(encoded(devices="cpu,cpu"), encoded(device="cpu")) and len(made) == 1


@pytest.mark.parametrize("names", ["cpu,meta", "cuda:99", "cpu,nonsense"])
def test_devices_that_cannot_work_together_are_refused(clip, names):
    with pytest.raises(LTX2Error, match="device"):
        clip(devices=names)


def test_one_device_and_several_are_not_both_chosen(clip):
    with pytest.raises(SettingError, match="leave one of them out"):
        clip(device="cpu", devices="cpu,cpu")


# --------------------------------------------------------------------------------------------------------------- plans


def planned(capsys, *words: str) -> str:
    """What a plan of a small clip says of several cards, or else its last line."""
    size = "--width", "768", "--height", "512", "--frames", "121"
    assert main(["plan", "--version", "2.3", "--ram", "64", *size, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in lines if "s a step" in line or "torchrun" in line) or lines[-1]


@pytest.mark.slow
def test_a_second_card_is_measured_as_the_current_one(monkeypatch):
    """Products of comfy-kitchen are timed there, whose kernels start on the current card."""
    current = ["cuda:0"]

    @contextmanager
    def on(device):
        current.append(str(device))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(hardware, "can_stream", lambda device: True)
    monkeypatch.setattr(hardware, "this_machine", lambda *_: current[-1])
    assert hardware.current_machine(torch.device("cuda:1")) == "cuda:1" and current == ["cuda:0"]


def test_the_disk_of_a_model_in_a_folder_is_measured_by_its_largest_file(tmp_path, monkeypatch):
    largest = tmp_path / "transformer" / "part-00001-of-00002.safetensors"
    largest.parent.mkdir()
    largest.write_bytes(bytes(3))
    (tmp_path / "model_index.json").write_bytes(bytes(2))
    monkeypatch.setattr(hardware, "this_machine", lambda device, file, *_: file)
    assert hardware.current_machine(torch.device("cpu"), tmp_path) == largest
    assert hardware.current_machine(torch.device("cpu"), largest.parent) == largest


def test_the_plan_says_what_several_cards_gain(capsys):
    line = planned(capsys, "--devices", "RTX 5090, RTX 4090")
    after, before = map(float, re.findall(r"([0-9.]+) s a step", line) + re.findall(r"instead of ([0-9.]+) s", line))
    assert "2 devices" in line and "RTX 4090: " in line and 0.5 * before < after < before
    line = planned(capsys, "--gpus", "64", "--card", "H100")
    dealt, shared = line.splitlines()
    assert "64 devices" in dealt and dealt.count("H100") == 4
    assert "64 processes cannot share the 32 heads" in shared
    assert "devices" not in planned(capsys, "--card", "H100")


def test_a_run_says_what_several_devices_gain(caplog, monkeypatch):
    """Before it; where there is a budget, and so a plan. Which counts no prompts that only one device would keep."""
    kept, plans = [], []
    sample, follow = stage_of_sampling.sample, LocalEngine.follow
    monkeypatch.setattr(stage_of_sampling, "sample", lambda *args: kept.append(args[-2]) or sample(*args))
    monkeypatch.setattr(LocalEngine, "follow", lambda engine, plan: plans.append(plan) or follow(engine, plan))
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: machine_named("H100"))
    caplog.set_level(logging.INFO)
    settings = {"steps": 1, "frames": 9, "width": 64, "height": 64, "vram": 2**30, "cache": False}
    ltx2.generate(ltx2.open_models("miniature"), "a red ball", devices="cpu,cpu", **settings)
    assert any("sampling on 2 devices: " in each.message for each in caplog.records)
    assert [each.caches_text for plan in plans for each in plan.stages if each.name == "sampling"] == kept == [False]


@pytest.mark.slow
def test_the_plan_says_what_processes_gain_that_share_a_pass(capsys):
    """Twice the tokens for each card take more than twice as long, since attention grows with all of them."""
    two, four = (planned(capsys, "--distilled", "--gpus", n, "--card", "H100").splitlines()[1] for n in ("2", "4"))
    found = [re.findall(r"([0-9.]+) s (?:a step|to exchange)", line) for line in (two, four)]
    (after, exchange), (later, less) = (map(float, each) for each in found)
    assert 1.6 < after / later < 2.2 and less <= exchange < 0.2 * after
    assert "NVLink at 450 GB/s" in two and "through the host at 25 GB/s" in planned(
        capsys, "--distilled", "--gpus", "2", "--card", "RTX 4090"
    )


@pytest.mark.parametrize("words", [
    ["--devices", "RTX 5090", "--card", "H100"], ["--gpus", "4"], ["--gpus", "0", "--card", "H100"],
    ["--devices", "RTX 5090,,"],
])  # fmt: skip
def test_cards_that_cannot_be_planned_are_one_sentence(capsys, words):
    assert main(["plan", "--version", "2.3", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_plan_deals_the_tiles_of_a_refinement():
    blueprint, machine = small("2.3"), machine_named("H100")
    tiled = replace(REFINING, tiles=Tiles((1, 2, 2), (0, 1, 1)))
    stage = Refine(tiled, LatentSize.of_clip(ClipShape(256, 256, 9, exact_fps(24))), refines_sound=False)
    rooms = [Room(machine, machine.budget, 2**36)] * 2
    plan = plan_stages([stage], blueprint, rooms[0])
    line, shared = describe_gain(plan, blueprint, rooms, Load())
    assert line.count("2 of 4 tiles") == 2 and "torchrun on 2 cards" in shared


def test_the_plan_deals_the_pass_without_a_reference_sound():
    blueprint, machine = small("2.3"), machine_named("H100")
    guided = Sampling((1.0, 0.5, 0.0), StreamGuidance(audio=Guidance(identity_scale=3)))
    stage = Sample(guided, LatentSize((2, 4, 4), 10, appended=(0, 5)))
    rooms = [Room(machine, machine.budget, 2**36)] * 2
    line, _ = describe_gain(plan_stages([stage], blueprint, rooms[0]), blueprint, rooms, Load())
    assert "unreferenced" in line
