"""LoRAs that are folded into a wide copy of quantised weights: the same as beside them, at the cost the plan says."""

from fractions import Fraction

import pytest
import torch
from agreement import relative_error
from planned import SAMPLING
from safetensors.torch import save_file
from written import WRITERS, rewrite

import ltx2_core as ltx2
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import LoraAdapter, Strengths, StrengthSchedule, fold_loras, open_lora
from ltx2_core.memory import Room
from ltx2_core.memory.machine import machine_named
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.engines.prepare import RunLoad
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.stages import stages_of_clip
from ltx2_core.quantization import QuantizedLinear, format_of
from ltx2_core.settings import Resources

pytestmark = pytest.mark.usefixtures("without_gradients")

CHECKPOINT = next(MINIATURE.glob("ltx*.safetensors"))
CARD = torch.device("cuda")
SHAPE = ClipShape(64, 64, 9, Fraction(24))
LAYERS = {"attn1.to_q": "video.self_attn.q", "ff.net.2": "video.feed_forward.down"}
SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """Opens the miniature with all matrices of its blocks in a format, written once."""
    folder, known = tmp_path_factory.mktemp("formats"), {}

    def opened(name):
        if name not in known:
            if name in WRITERS:
                path = folder / f"{len(known)}.safetensors"
                rewrite(CHECKPOINT, path, {".transformer_blocks.": name})
            else:
                path = folder / f"{len(known)}.gguf"
                convert(CHECKPOINT, path, name, keep=())
            known[name] = path
        return known[name]

    return opened


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """Of two matrices of block 1 and a bias."""
    path, draw, state = tmp_path_factory.mktemp("lora") / "x.safetensors", torch.Generator().manual_seed(0), {}
    modules = dict(build(ltx2.open_models("miniature"), "transformer").blocks[1].named_modules())
    for theirs, ours in LAYERS.items():
        out, into = modules[ours].weight.shape
        key = f"diffusion_model.transformer_blocks.1.{theirs}"
        state[f"{key}.lora_A.weight"] = torch.randn(4, into, generator=draw)
        state[f"{key}.lora_B.weight"] = torch.randn(out, 4, generator=draw) * 0.1
    state["diffusion_model.transformer_blocks.1.attn1.to_q.diff_b"] = torch.ones(len(modules["video.self_attn.q"].bias))
    save_file(state, path)
    return open_lora(path)


def both_ways(path, stack, dtype):
    """Each changed layer with its LoRA beside the weight, and with it in the weight, for the same input."""
    models = open_models(path)
    beside, folded = (build(models, "transformer", dtype) for _ in range(2))
    names = fold_loras(folded, stack)
    adapters = [LoraAdapter(network, stack, fuse=False) for network in (beside, folded)]
    draw = torch.Generator().manual_seed(1)
    with adapters[0].attached(), adapters[1].attached():
        for name in LAYERS.values():
            layers = [network.blocks[1].get_submodule(name) for network in (beside, folded)]
            into = layers[1].weight.shape[1] if name in "".join(names) else layers[1].shape[1]
            x = torch.randn(5, into, generator=draw).to(dtype)
            yield [layer.forward(x) for layer in layers]


@pytest.mark.parametrize("name", [*WRITERS, "q8_0", "q4_k"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.slow
def test_folded_is_what_is_beside_but_for_rounding(quantised, lora, name, dtype):
    stack = ((lora, Strengths(0.7)),)
    allowed = 1e-5 if dtype == torch.float32 else 2**-6
    for beside, folded in both_ways(quantised(name), stack, dtype):
        assert relative_error(folded, beside) < allowed


def test_only_what_a_lora_changes_at_one_strength_is_folded(quantised, lora):
    network = build(open_models(quantised("int8 rotated")), "transformer", torch.float32)
    names = [f"blocks.1.{name}.weight" for name in LAYERS.values()]
    schedule = StrengthSchedule.through([(1.0, 1.0), (0.0, 0.0)])
    assert fold_loras(network, ((lora, Strengths(schedule=schedule)),)) == []
    before = sum(isinstance(module, QuantizedLinear) for module in network.modules())
    assert fold_loras(network, ((lora, Strengths()),)) == names
    assert sum(isinstance(module, QuantizedLinear) for module in network.modules()) == before - 2
    adapter = LoraAdapter(network, ((lora, Strengths()),))
    assert list(adapter.weight_patches) == ["blocks.1.video.self_attn.q.bias"] and not adapter.beside


@pytest.mark.slow
def test_a_clip_with_folded_loras_is_that_with_loras_beside(quantised, lora):
    models = open_models(quantised("int8 rotated"), ltx2.open_models("miniature").text_encoder)

    def latent(strength, **more):
        return ltx2.generate(models, "x", loras=[(lora, Strengths(strength))], **SMALL | more).latent.video

    plain, beside, folded = latent(0.0), latent(0.7), latent(0.7, fold_loras=True)
    assert relative_error(folded, beside) < 2e-3 < 2e-2 < relative_error(plain, beside)  # the copy is bf16, as the file
    assert relative_error(latent(-0.7, fold_loras=True), latent(-0.7)) < 2e-3


def test_another_stack_takes_the_place_of_the_copy(quantised, lora):
    models = open_models(quantised("int8 rotated"), ltx2.open_models("miniature").text_encoder)
    engine = LocalEngine(models, Resources(device="cpu", fold_loras=True), loras=((lora, Strengths()),))
    (stage,) = [each for each in stages_of_clip(engine.blueprint, SHAPE, SAMPLING) if each.name == "sampling"]
    with engine.use(stage) as networks:
        first = networks[stage.networks[0]]
        assert format_of(first.blocks[1].video.self_attn.q) is None
    engine.follow(
        plan_stages([stage, *stages_of_clip(engine.blueprint, SHAPE, SAMPLING)], engine.blueprint, engine.room())
    )
    with engine.use(stage, ((lora, Strengths(0.5)),)) as networks:
        assert networks[stage.networks[0]] is not first
    with engine.use(stage, ()) as networks:
        assert format_of(networks[stage.networks[0]].blocks[1].video.self_attn.q) is not None


@pytest.mark.parametrize("name", ["int8 rotated", "nvfp4"])
def test_the_plan_says_what_it_costs_and_what_it_gains(quantised, lora, name):
    models = open_models(quantised(name), ltx2.open_models("miniature").text_encoder)
    engine = LocalEngine(models, Resources(device="cpu", precision="bf16"))
    blueprint, stack, machine = engine.blueprint, ((lora, Strengths()),), machine_named("RTX 4090")
    stages = [stage for stage in stages_of_clip(blueprint, SHAPE, SAMPLING) if stage.name == "sampling"]
    room = Room(machine, machine.budget, 2**36)
    plans = [
        plan_stages(stages, blueprint, room, SHAPE, RunLoad(stack, CARD, blueprint, Resources(fold_loras=fold)))
        for fold in (False, True)
    ]
    beside, folded = (plan.placement("sampling").need for plan in plans)
    network = build(models, "transformer", torch.bfloat16)
    taken = []
    for fold in (False, True):
        if fold:
            fold_loras(network, stack)
        adapter = LoraAdapter(network, stack)
        own = sum(tensor.nbytes for tensor in network.state_dict().values())
        taken.append(own + sum(each.nbytes for some in adapter.beside.values() for each in some))
    assert folded.weights.total - beside.weights.total == pytest.approx(taken[1] - taken[0], abs=512 * 20)
    assert machine.seconds(folded.cost) < machine.seconds(beside.cost)
    (said,) = [note for note in plans[0].notes if "LoRAs" in note]
    assert "beside 2 quantised matrices" in said and "fold_loras" in said and "x the time" in said
    (said,) = [note for note in plans[1].notes if "LoRAs" in note]
    assert "folded into a wide copy of 2 quantised matrices" in said
    plain = plan_stages(stages, blueprint, room, SHAPE, RunLoad((), CARD, blueprint, Resources(fold_loras=True)))
    assert not [note for note in plain.notes if "LoRAs" in note]
