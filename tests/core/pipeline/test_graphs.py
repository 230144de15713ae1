"""Steps as CUDA graphs, on a stand-in for them: the same clips to the bit, and eager steps where that cannot be."""

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import cuda_graphs as stand_in
import pytest
import torch
from official import inputs, tiny_section
from planned import SAMPLING, small
from recorded import clips

import ltx2_core as ltx2
from benchmarks.weights import component
from ltx2_core.conditioning import Picture
from ltx2_core.layers import Visibility
from ltx2_core.memory import Plain, Room, Store
from ltx2_core.memory.machine import machine_named
from ltx2_core.memory.unit import Changes
from ltx2_core.pipeline.engines import captured
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.engines.prepare import RunLoad
from ltx2_core.pipeline.plan import place_stage, plan_stages
from ltx2_core.pipeline.sample import Sample
from ltx2_core.pipeline.stage import TRANSFORMER, LatentSize, need_of
from ltx2_core.pipeline.stages import guidance_of_passes
from ltx2_core.sampling import Guidance
from ltx2_core.settings import Resources, SamplingSettings
from ltx2_core.transformer import Pass, Perturbation, StepCache, TextCache, attending_with, graphs, note_step

SIGMAS = (1.0, 0.8, 0.55, 0.3, 0.1)
PERTURBED = Perturbation(video_values_only=frozenset({1}), audio_values_only=frozenset({0}))
ISOLATED = Perturbation(audio_to_video=False, video_to_audio=False)


@pytest.fixture
def made(monkeypatch):
    return stand_in.install(monkeypatch)


@pytest.fixture(scope="module", params=["2.0", "2.3"])
def transformer(request):
    section = tiny_section(request.param, num_layers=2)
    return section, component("transformer", {"transformer": section})[0].requires_grad_(False)


def steps_of(section, count=4, first_frame=None, rows=6, sigmas=SIGMAS):
    """The passes of steps at ``sigmas``, as a denoiser asks for them: tokens differ, texts and positions stay."""
    video, audio = inputs(section, (1.0, 1.0), first_frame)
    context = [torch.randn(1, rows, each.context.shape[-1], generator=seeded(each, rows)) for each in (video, audio)]
    for number, sigma in enumerate(sigmas):
        positive = [
            replace(
                each,
                tokens=each.tokens * (1 - 0.1 * number),
                sigma=torch.full((1,), sigma),
                timesteps=None if each.timesteps is None else torch.where(each.timesteps == 1, sigma, each.timesteps),
                context=own,
            )
            for each, own in zip((video, audio), context)
        ]
        negative = [replace(each, context=-each.context) for each in positive]
        kinds = (positive, Perturbation()), (negative, Perturbation()), (positive, PERTURBED), (positive, ISOLATED)
        yield [Pass(*streams, perturbation) for streams, perturbation in kinds[:count]]


def seeded(stream, rows):
    return torch.Generator().manual_seed(stream.tokens.shape[1] + rows)


@torch.inference_mode()
def swept(network, steps):
    return [[x for pair in network.sweep(step) for x in pair] for step in steps]


def same(found, expected):
    return all(torch.equal(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other))


def said_of_graphs(caplog):
    return [each for each in caplog.messages if "CUDA graphs" in each]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"count": n} for n in (1, 2, 3, 4)] + [{"first_frame": 0.0}, {"first_frame": 0.4}])
def test_replayed_steps_are_those_of_the_plain_way_to_the_bit(made, transformer, how):
    section, network = transformer
    expected = swept(network, steps_of(section, **how))
    with network.graphed() as graphed:
        assert same(swept(network, steps_of(section, **how)), expected)
        assert graphed.replays == len(SIGMAS) - 2
    assert [graph.replays for graph in made] == [len(SIGMAS) - 1]  # one of them was compared
    assert network.graphs is None and same(swept(network, steps_of(section, **how)), expected)


@pytest.mark.slow
def test_every_kind_of_step_has_a_graph_of_its_own_up_to_a_limit(made, transformer):
    section, network = transformer
    kinds = [{"rows": 6}, {"rows": 9}, {"count": 2}, {"count": 1}, {"rows": 4}]
    sweeps = [step for steps in zip(*(list(steps_of(section, **how)) for how in kinds)) for step in steps]
    expected = swept(network, sweeps)
    with network.graphed() as graphed:
        assert same(swept(network, sweeps), expected)
        assert graphed.replays == graphs.MOST * (len(SIGMAS) - 2) and len(made) == graphs.MOST


def test_steps_whose_attention_is_sparse_are_another_kind(made, transformer):
    section, network = transformer
    steps = list(steps_of(section, count=1))
    with network.graphed() as graphed, attending_with("sparse"):
        for late in (0, 1):
            note_step(0.5, late)
            swept(network, steps)
        assert len(made) == 2 and graphed.replays == 2 * (len(SIGMAS) - 2)


@pytest.mark.slow
def test_what_is_kept_of_a_text_stays_where_a_graph_reads_it(made):
    section = tiny_section("2.0", num_layers=2)
    network = component("transformer", {"transformer": section})[0].requires_grad_(False)
    expected = swept(network, steps_of(section))

    def caching(caches):
        for step in steps_of(section):
            yield [replace(each, video=kept(each.video, caches), audio=kept(each.audio, caches)) for each in step]

    @cache
    def kept(stream, caches):
        return replace(stream, text_cache=caches.setdefault(round(float(stream.context.sum()), 3), TextCache()))

    with network.graphed() as graphed:
        for _ in range(2):  # other caches are another kind of step
            assert same(swept(network, caching(Caches())), expected)
    assert graphed.replays == 2 * (len(SIGMAS) - 2) and len(made) == 2


class Caches(dict):
    """Of texts, by their numbers."""

    __hash__ = object.__hash__


def test_groups_of_references_are_inputs_like_others(made, transformer):
    section, network = transformer

    def steps():
        for number, step in enumerate(steps_of(section, 1)):
            group = torch.tensor([0] * 4 + [1] * 4).roll(number)
            seen = Visibility(group, torch.where(group == 0, 1.0, 0.3 + 0.1 * number), 1)
            yield [replace(each, video=replace(each.video, visibility=seen)) for each in step]

    expected = swept(network, steps())
    with network.graphed() as graphed:
        assert same(swept(network, steps()), expected) and graphed.replays


@pytest.mark.slow
@pytest.mark.parametrize("moved", [True, False])
def test_graphs_are_made_anew_when_weights_move(made, transformer, moved):
    section, network = transformer
    weight = network.blocks[1].video.self_attn.q.weight
    home, steps = weight.data, list(steps_of(section, 2, sigmas=(*SIGMAS, 0.05)))
    expected = swept(network, steps)
    try:
        with network.graphed() as graphed:
            found = swept(network, steps[:3])
            if moved:
                weight.data = home.clone()
                home.fill_(torch.nan)
            found += swept(network, steps[3:])
        assert same(found, expected)
        assert (len(made), graphed.replays) == ((2, 2) if moved else (1, 4))
    finally:
        home.copy_(weight.data)
        weight.data = home


@contextmanager
def altered(owner: dict, name: str, value):
    before, owner[name] = owner.get(name), value
    yield
    owner[name] = before
    if before is None:
        del owner[name]


OBSTACLES = {
    "no card": ("has none", lambda network: nullcontext()),
    "streamed": ("streamed", lambda network: altered(
        network.blocks[0]._parameters, "elsewhere", torch.nn.Parameter(torch.empty(1, device="meta"))
    )),
    "LoRA beside": ("beside layers", lambda network: altered(
        vars(network.blocks[1].audio.feed_forward.down), "forward", network.blocks[1].audio.feed_forward.down.forward
    )),
    "hook": ("hooks", lambda network: network.blocks[0].register_forward_pre_hook(lambda *_: None)),
    "step cache": ("step cache", lambda network: nullcontext()),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_must_not_be_recorded_is_not_and_one_line_says_why(made, transformer, monkeypatch, caplog, name):
    caplog.set_level(logging.INFO, "ltx2_core")
    section, network = transformer
    said, obstacle = OBSTACLES[name]
    if name == "no card":
        monkeypatch.setattr(graphs, "DEVICES", ("cuda",))
    caches = [StepCache(0.1) if name == "step cache" else None for _ in range(2)]

    @torch.inference_mode()
    def results(cache):
        return [[x for pair in network.sweep(step, None, cache) for x in pair] for step in steps_of(section)]

    with obstacle(network):
        expected = results(caches[0])
        with network.graphed() as graphed:
            assert same(results(caches[1]), expected)
    assert graphed.replays == 0 and not made
    (line,) = said_of_graphs(caplog)
    assert said in line


@torch.inference_mode()
def test_a_card_records_only_while_it_is_the_current_one(made, transformer, monkeypatch):
    _, network = transformer
    monkeypatch.setattr(graphs, "DEVICES", ("cuda",))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    state = SimpleNamespace(x=SimpleNamespace(device=torch.device("cuda:1")))
    with network.graphed() as graphed:
        assert "cuda:1" in graphed.find_obstacle([(state, None)], None)


def test_what_is_recorded_is_recorded_on_a_stream_of_its_own_card(made, transformer, monkeypatch):
    """PyTorch's own is of the card that recorded first in a process; graphs that share memory share their stream."""
    section, network = transformer
    streams, record = [], made.card.recording
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: streams.append(args[2]) or record(*args, **kwargs))
    with network.graphed():
        swept(network, steps_of(section, count=1))
        swept(network, steps_of(section, count=2))
    assert streams == ["that records on cpu"] * 2 and made.card.is_as_before


def test_memory_that_ends_the_program_if_it_is_never_replayed_is_not_recorded(made, transformer, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "ltx2_core")
    section, network = transformer
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    with network.graphed() as graphed:
        swept(network, steps_of(section, count=1))
    assert graphed.replays == 0 and not made
    (line,) = said_of_graphs(caplog)
    assert "--disable-cuda-malloc" in line


def test_autograd_goes_the_plain_way(made, transformer):
    section, network = transformer
    (step,) = steps_of(section, 1, sigmas=(0.5,))
    with network.graphed():
        assert network.sweep(step)[0][0].shape == step[0].video.tokens.shape and not made


def test_a_recording_that_fails_leaves_the_plain_way_in_one_line(made, transformer, monkeypatch, caplog):
    section, network = transformer
    steps = list(steps_of(section))
    expected = swept(network, steps)
    forward = network.blocks[1].forward

    def waiting(states, *more):
        states[0][0].x.sum().item()
        return forward(states, *more)

    with altered(vars(network.blocks[1]), "forward", waiting), network.graphed() as graphed:
        assert same(swept(network, steps), expected)
    assert graphed.replays == 0 and len(made) == 1
    assert made.card.is_as_before, "PyTorch leaves its stream and its allocator recording where that fails"
    (line,) = said_of_graphs(caplog)
    assert "not permitted when stream is capturing" in line


def over_old_rows(contents, tensors):
    """A mistake: modulation is read where the first step had it."""
    made = OVER(contents, tensors)
    for pair, own in zip(made, contents._states):
        for state, old in zip(pair, own):
            vars(state)["modulation"] = old.modulation
    return made


def over_once(contents, tensors):
    """A mistake: what a step has computed of its noise levels is kept for the next."""
    if not hasattr(contents, "once"):
        contents.once = OVER(contents, tensors)
    return list(contents.once)


OVER = graphs.Contents.over
MISTAKES = {
    "a buffer that is not refreshed": (graphs._Graph, "replay", lambda graph, tensors: graph.graph.replay()),
    "sigma of the first step": (graphs.Contents, "over", over_old_rows),
    "rows of the first step": (graphs.Contents, "over", over_once),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_replay_that_differs_is_found_at_once_and_by_these_tests(made, monkeypatch, caplog, mistake):
    section = tiny_section("2.3", num_layers=1)  # rows stay if the last block asks with the table of the first
    network = component("transformer", {"transformer": section})[0].requires_grad_(False)
    steps = list(steps_of(section))
    expected = swept(network, steps)
    monkeypatch.setattr(*mistake)
    with network.graphed() as graphed:
        assert same(swept(network, steps), expected) and graphed.replays == 0
    (line,) = said_of_graphs(caplog)
    assert "off by" in line
    monkeypatch.setattr(graphs.SweepGraphs, "_compare", lambda self, graph, expected: vars(graph).update(tried=True))
    with network.graphed():
        assert not same(swept(network, steps), expected)


@pytest.mark.parametrize(
    "refused",
    [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x.normal_(), lambda x: torch.tensor(0.5), torch.unique],
)
def test_the_stand_in_refuses_what_a_card_refuses(made, refused):
    x = torch.ones(3)
    graph = torch.cuda.graph(torch.cuda.CUDAGraph())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="capturing"), graph:
        refused(x + 1)


@torch.inference_mode()
def test_the_stand_in_computes_nothing_before_a_replay_and_keeps_nothing_behind_it(made):
    x, graph, kept = torch.ones(3), torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        between = x * 2
        kept.append(between.view(3, 1)[:2])
        out = (between + 1)[1:]
        del between
    assert out.isnan().all()
    for value in (1.0, 3.0):
        x.fill_(value)
        graph.replay()
        assert out.tolist() == [2 * value + 1] * 2 and kept[0].flatten().tolist() == [2 * value] * 2
    del kept[:]
    view = graph.calls[0][3][0]
    graph.replay()
    assert view.isnan().all() and out.tolist() == [7.0, 7.0]


@pytest.mark.slow
def test_weights_that_carry_a_lora_are_read_where_the_store_has_them(made, transformer):
    section, network = transformer
    store, steps = Store(network, "cpu", link=Plain("cpu")), list(steps_of(section, 2))
    results = []
    for factor in (1.1, 0.7):  # another strength from one run to the next
        store.patch(Changes({"blocks.0.video.self_attn.q.weight": lambda weight, by=factor: weight.mul_(by)}))
        store.set_budget(None)
        with store.use():
            results.append(swept(network, steps))
            with network.graphed() as graphed:
                assert same(swept(network, steps), results[-1]) and graphed.replays == len(SIGMAS) - 2
    assert not same(*results)


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 4])
def test_whole_clips_are_the_same(made, monkeypatch, passes):
    guidance = clips.GUIDED if passes == 4 else Guidance()
    first = [Picture(clips.ball(1))] if passes == 1 else []
    graphed = []

    def graphing(engine, stage, placement, networks):
        if TRANSFORMER not in stage.networks:
            return nullcontext()
        graphed.append(networks[TRANSFORMER].graphed())
        return graphed[-1]

    def clip():
        models = ltx2.open_models("miniature")
        small = {"width": 64, "height": 64, "frames": 9, "steps": 5, "seed": 1, "cache": False, "device": "cpu"}
        return ltx2.generate(models, clips.PROMPT, video=guidance, audio=guidance, conditions=first, **small)

    plain = clip()
    monkeypatch.setattr(LocalEngine, "graphing", graphing)
    found = clip()
    assert torch.equal(found.frames, plain.frames) and torch.equal(found.waveform, plain.waveform)
    assert len(graphed) == 1 and sum(graph.replays for graph in made) >= 4


CARD = torch.device("cuda")
STAGE = Sample(SAMPLING, LatentSize((1, 2, 2), 4))
SMALL_CARD = replace(machine_named("RTX 4090"), memory=2**34)


def planned(load, stage=STAGE, budget=2**36, machine=SMALL_CARD):
    """The plan of one stage."""
    return plan_stages([stage], load.blueprint, Room(machine, budget), None, load)


def test_the_plan_counts_graphs_where_the_host_is_slower_than_the_card():
    load = RunLoad((), CARD, small("2.3"), Resources(cuda_graphs=True))
    need, plan = need_of(STAGE, load.blueprint), planned(load)
    (placement,) = plan.placements
    assert placement.need == replace(need, graph_bytes=need.cost.peak)
    assert placement.need.work_bytes - need.work_bytes == need.cost.peak > 0
    (note,) = [note for note in plan.notes if "graphs" in note]
    assert "from the third on" in note
    assert not [note for note in planned(replace(load, how=Resources())).notes if "graphs" in note]


def test_the_plan_says_why_there_are_no_graphs():
    load = RunLoad((), CARD, small("2.3"), Resources(cuda_graphs=True))
    need = need_of(STAGE, load.blueprint)
    cached = replace(STAGE, sampling=replace(SAMPLING, settings=SamplingSettings(step_cache=0.1)))
    short = replace(STAGE, sampling=replace(SAMPLING, sigmas=(1.0, 0.5, 0.0)))
    slow = replace(SMALL_CARD, bandwidth=1e6)
    turns = replace(STAGE, sampling=replace(SAMPLING, guidance=guidance_of_passes(2)), most_passes=1)
    assert "take turns" in load.describe_graphs(turns, need_of(turns, load.blueprint), SMALL_CARD)
    reasons = {
        "only NVIDIA cards": planned(replace(load, device=torch.device("cpu"))),
        "several devices": planned(replace(load, blueprint=load.blueprint.among(2))),
        "step cache": planned(load, cached),
        "there are 2 steps": planned(load, short),
        "there is 1 step,": planned(load, replace(STAGE, sampling=replace(SAMPLING, sigmas=(1.0, 0.0)))),
        "the card works": planned(load, machine=slow),
        "no room": planned(load, budget=need.peak + need.cost.peak - 1),
    }
    for reason, plan in reasons.items():
        (note,) = [note for note in plan.notes if "graphs" in note]
        assert reason in note and not plan.placements[0].need.graph_bytes


def test_the_plan_keeps_no_memory_for_graphs_that_the_allocator_forbids(monkeypatch):
    monkeypatch.setattr(captured, "find_obstacle_of_allocator", lambda: "it may not")
    plan = planned(RunLoad((), CARD, small("2.3"), Resources(cuda_graphs=True)))
    (note,) = [note for note in plan.notes if "graphs" in note]
    assert "it may not" in note and not plan.placements[0].need.graph_bytes


def test_without_a_card_one_line_says_so_and_nothing_changes(tiny_blueprint, caplog):
    caplog.set_level(logging.INFO, "ltx2_core")
    _, models = tiny_blueprint
    with LocalEngine(models, Resources(device="cpu", cuda_graphs=True)).use(STAGE) as networks:
        assert networks[TRANSFORMER].graphs is None
    (line,) = said_of_graphs(caplog)
    assert "only NVIDIA cards have them" in line


def test_a_stage_that_was_placed_with_graphs_has_them_while_it_lasts(tiny_blueprint, monkeypatch):
    _, models = tiny_blueprint
    engine = LocalEngine(models, Resources(device="cpu", cuda_graphs=True))
    place = engine.placement
    room = Room(SMALL_CARD, 2**36)
    need = need_of(STAGE, engine.blueprint)
    placement = place_stage(
        STAGE, engine.blueprint, room, RunLoad((), CARD, engine.blueprint, Resources(cuda_graphs=True))
    )
    assert place(STAGE) is None and placement.need.graph_bytes == need.cost.peak
    monkeypatch.setattr(engine, "placement", lambda stage: placement)
    with engine.use(STAGE) as networks:
        assert networks[TRANSFORMER].graphs is not None
    assert networks[TRANSFORMER].graphs is None
