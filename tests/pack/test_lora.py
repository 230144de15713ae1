"""LoRAs on the graph: they add up, are reported, and leave the model and its other branches alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.client import Client, Prompt, Run
from pack.clip import pictures_in, saved
from pack.host import Server
from pack.workflow import add, change, node
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

GOLDEN, LIGHT = "built-in: golden-ball", "built-in: light-room"
BIAS = "bias.safetensors"  # which is changed in a copy of the weights, on a CPU too
GEMMA = "gemma.safetensors"
ROOT = Path(__file__).parents[2]
LAYER = "diffusion_model.transformer_blocks.1.attn1.to_q"


def for_gemma() -> dict[str, torch.Tensor]:
    """A change of every output layer of the attention in the built-in Gemma, in the words of ComfyUI."""
    gemma = load_file(next((ROOT / "ltx2_core" / "mini" / "gemma-mini").glob("*.safetensors")))
    changes = {}
    for key, weight in gemma.items():
        if key.endswith("self_attn.o_proj.weight"):
            layer = "text_encoders.gemma3_12b.transformer.model." + key[key.index("layers.") :].removesuffix(".weight")
            changes[f"{layer}.lora_down.weight"] = torch.ones(2, weight.shape[1])
            changes[f"{layer}.lora_up.weight"] = torch.ones(weight.shape[0], 2)
    return changes


@pytest.fixture(scope="module", autouse=True)
def files(server) -> Path:
    """A LoRA for another model, and three for this one: of another version, an IC-LoRA, and one of biases."""
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, layer: str, **metadata: str) -> None:
        tensors = {f"{layer}.lora_A.weight": torch.ones(2, 128), f"{layer}.lora_B.weight": torch.ones(128, 2) / 100}
        save_file(tensors, folder / name, metadata or None)

    write("flux.safetensors", "transformer.double_blocks.0.img_attn.qkv")
    write("newer.safetensors", LAYER, model_version="2.3")
    write("ic.safetensors", LAYER, reference_downscale_factor="2", reference_temporal_scale_factor="4")
    save_file(for_gemma(), folder / GEMMA)
    save_file({f"{LAYER.replace('to_q', 'to_v')}.diff_b": torch.ones(128)}, folder / BIAS)
    return folder


def chained(prompt: Prompt, *loras: tuple[str, float], to: str = "LTX2AVSample") -> Prompt:
    """``prompt`` with a row of loaders before its sampler, called lora1, lora2, ..."""
    model = [node(prompt, "LTX2AVLoadModel"), 0]
    for number, (name, strength) in enumerate(loras, 1):
        add(prompt, **{f"lora{number}": ("LTX2AVLoadLora", {"model": model, "lora": name, "strength": strength})})
        model = [f"lora{number}", 0]
    return change(prompt, **{to: {"model": model}})


@pytest.fixture
def prompt(prompt) -> Prompt:
    """Ten steps of one pass, frames saved without loss."""
    change(prompt, LTX2AVGemmaTextEncode={"prompt": "a red ball bounces twice on the left, dark background"})
    change(prompt, LTX2AVSchedule={"steps": 10}, LTX2AVSample={"seed": 7, "text_scale": 1.0, "cross_modal_scale": 1.0})
    del prompt[node(prompt, "SaveVideo")]
    return add(prompt, pictures=("SaveImage", {"images": [node(prompt, "LTX2AVDecode"), 1], "filename_prefix": "lora"}))


@pytest.fixture
def short(prompt) -> None:
    """Four steps and nine frames, where nobody looks at what is in them."""
    change(prompt, LTX2AVEmptyLatent={"frames": 9}, LTX2AVSchedule={"steps": 4})


def frames(server: Server, run: Run, of: str = "pictures") -> np.ndarray:
    return pictures_in(saved(server, run, of)).astype(int)


def wall(pictures: np.ndarray) -> float:
    return pictures[:, :8].mean()


def yellow(pictures: np.ndarray) -> float:
    """How yellow the most yellow hundredth is: by how much green is above blue. A ball covers three hundredths."""
    return np.percentile(pictures[..., 1] - pictures[..., 2], 99)


def test_two_loras_in_a_row_add_up_and_report(server, client, prompt):
    built = server.log.count("Built transformer")
    plain = frames(server, client.run(prompt))
    run = client.run(chained(prompt, (GOLDEN, 1.0), (LIGHT, 1.0)))
    both = frames(server, run)
    assert wall(plain) < 60 < 120 < wall(both)
    assert yellow(plain) < 60 < 120 < yellow(both)
    for number, name in ((1, "golden-ball"), (2, "light-room")):
        said = dict(run.texts)[f"lora{number}"]
        assert said.startswith(f"{name}.safetensors: LoRA of rank 2, 112 layers, made for 2.0")
        assert "fits LTX-2.0     112 of 112 layers" in said and "    audio to video 16 of 16" in said
    assert server.log.count("Built transformer") - built <= 1

    loras = {"lora_1": LIGHT, "strength_1": 1.0, "lora_3": GOLDEN, "strength_3": 1.0}
    add(prompt, stack=("LTX2AVLoraStack", {"model": [node(prompt, "LTX2AVLoadModel"), 0], **loras}))
    stacked = client.run(change(prompt, LTX2AVSample={"model": ["stack", 0]}))
    assert "golden-ball" in dict(stacked.texts)["stack"] and "light-room" in dict(stacked.texts)["stack"]
    assert np.abs(frames(server, stacked) - both).max() <= 1  # sums in another order


def test_another_strength_loads_nothing_and_0_is_no_lora(server, client, prompt):
    built = server.log.count("Built transformer")
    plain, made = frames(server, client.run(prompt)), {}
    for strength in (1.0, 0.5, 0.0, -1.0):
        made[strength] = frames(server, client.run(chained(prompt, (GOLDEN, strength))))
    assert (made[0.0] == plain).all()
    assert yellow(plain) < yellow(made[0.5]) < yellow(made[1.0])
    assert (made[-1.0] != plain).any()
    assert server.log.count("Built transformer") - built <= 1  # for all of them


def test_settings_beside_a_lora_that_are_changed_are_read_again(server, client, prompt):
    folder = server.base / "models" / "loras" / "of_peft"
    folder.mkdir(parents=True, exist_ok=True)
    layer = "base_model.model.transformer_blocks.1.attn1.to_q.lora_{}.weight"
    factors = {layer.format("A"): torch.ones(2, 128), layer.format("B"): torch.ones(128, 2) / 10}
    save_file(factors, folder / "adapter_model.safetensors")
    change(prompt, LTX2AVSchedule={"steps": 1})
    made = []
    for alpha in (2, 200):
        (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha, "peft_type": "LORA"}))
        made.append(frames(server, client.run(chained(prompt, ("of_peft/adapter_model.safetensors", 1.0)))))
    assert (made[0] != made[1]).any()


def test_a_lora_is_shrunk_once_and_the_node_says_what_is_lost(server, client, prompt):
    whole = frames(server, client.run(chained(prompt, (GOLDEN, 1.0))))
    prompt["lora1"]["inputs"]["energy"] = 0.9
    run = client.run(prompt)
    said = dict(run.texts)["lora1"]
    assert said.startswith("golden-ball.safetensors: LoRA of rank 1 to 2, 112 layers")
    assert "GB before" in said and "of its change lost" in said
    small = frames(server, run)
    assert (small != whole).any() and yellow(small) > 120
    prompt["lora1"]["inputs"]["strength"] = 0.9
    client.run(prompt)
    assert server.log.count("is shrunk to an energy of 0.9") == 1


def test_folded_into_quantised_weights_is_the_same_clip(server, client, prompt):
    change(prompt, LTX2AVLoadModel={"precision": "int8"})
    beside = frames(server, client.run(chained(prompt, (GOLDEN, 1.0))))
    folded = frames(server, client.run(change(prompt, LTX2AVLoadModel={"fold_loras": True})))
    assert yellow(folded) > 120 and np.abs(folded - beside).mean() < 0.5
    prompt["lora1"]["inputs"]["strength"] = 0.0
    assert yellow(frames(server, client.run(prompt))) < 60  # nothing of it is left in the weights


@pytest.mark.usefixtures("short")
def test_branches_do_not_disturb_each_other(server, client, prompt):
    """One model, three samplers with other LoRAs: each gives what it gives alone, and the model is built once."""
    built = server.log.count("Built transformer")
    sampler, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    alone = [frames(server, client.run(chained(prompt, *loras))) for loras in ([], [(GOLDEN, 1.0)], [(BIAS, 1.0)])]
    assert all((one != other).any() for i, one in enumerate(alone) for other in alone[:i])
    chained(prompt, (GOLDEN, 1.0))
    add(prompt, other=("LTX2AVLoadLora", prompt["lora1"]["inputs"] | {"lora": BIAS}))
    for name, model in (("plain", [node(prompt, "LTX2AVLoadModel"), 0]), ("bias", ["other", 0])):
        inputs = prompt[sampler]["inputs"] | {"model": model, "add_noise": True}
        add(prompt, **{f"{name}_sample": ("LTX2AVSample", inputs)})
        add(
            prompt, **{f"{name}_decode": ("LTX2AVDecode", prompt[decode]["inputs"] | {"latent": [f"{name}_sample", 0]})}
        )
        add(prompt, **{name: ("SaveImage", {"images": [f"{name}_decode", 1], "filename_prefix": name})})
    prompt[sampler]["inputs"]["seed"] = 8  # nothing comes from the cache
    for name in ("plain", "bias"):
        prompt[f"{name}_sample"]["inputs"]["seed"] = 8
    first = client.run(prompt)
    for name in (sampler, "plain_sample", "bias_sample"):
        prompt[name]["inputs"]["seed"] = 7
    again = client.run(prompt)
    assert {sampler, "plain_sample", "bias_sample"} <= {*first.executed} | {*again.executed}
    for of, expected in zip(("plain", "pictures", "bias"), alone):
        assert (frames(server, again, of) == expected).all(), of
    assert server.log.count("Built transformer") - built <= 1  # for all of them


@pytest.mark.usefixtures("short")
def test_two_stages_with_a_model_each(server, client, prompt):
    """A run that is split between two models: the first half without, the second half with a LoRA."""
    sampler, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    whole = [frames(server, client.run(chained(prompt, (GOLDEN, strength)))) for strength in (0.0, 1.0)]
    inputs = prompt[sampler]["inputs"]
    second = inputs | {"start_step": 2, "add_noise": False, "latent": [sampler, 0], "model": ["lora1", 0]}
    inputs |= {"end_step": 2, "model": [node(prompt, "LTX2AVLoadModel"), 0]}
    prompt[decode]["inputs"]["latent"] = ["second", 0]
    half = frames(server, client.run(add(prompt, second=("LTX2AVSample", second))))
    assert all((half != each).any() for each in whole)

    # The same as a schedule over the steps of one run.
    advanced = {"model": [node(prompt, "LTX2AVLoadModel"), 0], "lora": GOLDEN, "strength": 1.0, "video": 1.0}
    advanced |= {"audio": 1.0, "audio_to_video": 1.0, "video_to_audio": 1.0}
    advanced |= {"schedule": "1: 0, 2: 1", "schedule_over": "steps"}
    del prompt["second"], inputs["end_step"]
    prompt[decode]["inputs"]["latent"] = [sampler, 0]
    add(prompt, advanced=("LTX2AVLoadLoraAdvanced", advanced))
    scheduled = frames(server, client.run(change(prompt, LTX2AVSample={"model": ["advanced", 0]})))
    assert np.abs(scheduled - half).max() <= 1


def test_a_lora_for_another_model_gives_one_sentence(server, client, prompt):
    before = len(server.log)
    run = client.run(chained(prompt, ("flux.safetensors", 1.0)))
    assert run.end == "execution_error"
    assert run.error.startswith(
        "flux.safetensors changes nothing in this LTX-2.0 model, which has no layer of the name"
    )
    assert run.error.endswith("; choose a LoRA that was made for LTX-2.0.") and "\n" not in run.error
    assert server.log[before:].count("img_attn") <= 4  # its two keys, before and after the traceback


def test_a_lora_of_another_version_is_a_warning(client, prompt):
    run = client.run(chained(prompt, ("newer.safetensors", 0.1)))
    assert run.end == "execution_success"
    assert "made for 2.3; this model is 2.0: 1 of 1 layers fit" in dict(run.texts)["lora1"]


def test_the_factors_of_an_ic_lora_go_to_other_nodes(client, prompt):
    model = [node(prompt, "LTX2AVLoadModel"), 0]
    add(prompt, ic=("LTX2AVLoadICLora", {"model": model, "lora": "ic.safetensors", "strength": 0.1}))
    change(prompt, LTX2AVSample={"model": ["ic", 0]}, LTX2AVSchedule={"steps": ["ic", 1]})
    run = client.run(prompt)
    assert run.steps(node(prompt, "LTX2AVSample"))[-1] == 2
    assert "1/2 of the clip's width and height, one of 4 frames" in dict(run.texts)["ic"]
    assert client.run(change(prompt, LTX2AVSchedule={"steps": ["ic", 2]})).steps(node(prompt, "LTX2AVSample"))[-1] == 4


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"blocks": "0-9"}, ["blocks names 9", "4 blocks, counted from 0"]),
        ({"blocks": "the first"}, ["'the first'", "0-23, 40"]),
        ({"schedule": "1.0 0.5"}, ["'1.0 0.5'", "1.0: 1, 0.5: 0.3"]),
        ({"schedule": "start: 1"}, ["'start: 1'", "1.0: 1, 0.5: 0.3"]),
    ],
    ids=str,
)
def test_settings_that_cannot_be(client: Client, prompt, inputs, words):
    given = {"model": [node(prompt, "LTX2AVLoadModel"), 0], "lora": GOLDEN, "strength": 1.0, "video": 1.0, "audio": 1.0}
    add(prompt, bad=("LTX2AVLoadLoraAdvanced", given | {"audio_to_video": 1.0, "video_to_audio": 1.0, **inputs}))
    text = client.complaint(change(prompt, LTX2AVSample={"model": ["bad", 0]}))
    assert all(word in text for word in words), text


def test_a_lora_for_gemma_acts_where_gemma_is_loaded(server, client, prompt):
    """Also after a prompt of the same words was kept without it, and not at strength 0."""
    runs = []
    for inputs in ({}, {"lora": GEMMA}, {"lora": GEMMA, "strength": 0.0}, {"lora": "none"}):
        change(prompt, LTX2AVLoadGemma=inputs)
        runs.append(client.run(prompt))
        assert runs[-1].end == "execution_success", runs[-1].error
    plain, changed, weak, without = (frames(server, run) for run in runs)
    assert np.abs(plain - changed).mean() > 0.5
    assert np.array_equal(plain, weak) and np.array_equal(plain, without)


def test_the_ordinary_loader_says_that_a_lora_is_made_for_gemma(client, prompt):
    run = client.run(chained(prompt, (GEMMA, 1.0)))
    assert run.end == "execution_error" and "Load Gemma" in str(run.error)
