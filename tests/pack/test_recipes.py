"""Every shipped workflow takes the official recipe of the model that is chosen, field by field.

The recipes stand here once more, as the official pipelines have them, so that a change of ours is seen.
"""

import copy
import json
import shutil

import pytest
import tiny_parts
import torch
from pack.tasks import TASKS
from pack.workflow import SHIPPED, to_prompt
from safetensors.torch import save_file

from ltx2_core import tiny
from ltx2_core.sampling.recipes import NEGATIVE
from ltx2_core.sampling.schedules import ltx2

pytestmark = pytest.mark.comfy

DISTILLED = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
SECOND = [0.909375, 0.725, 0.421875, 0.0]
NEUTRAL = [1, 1, 0, 0]

# By the official name of the checkpoint: version, noise levels, guidance of picture and sound, negative prompt.
MODELS = {
    "ltx-2-19b-dev": ("2.0", ltx2(40), [3, 3, 1, 0.7], [7, 3, 1, 0.7], NEGATIVE),
    "ltx-2-19b-distilled": ("2.0", DISTILLED, NEUTRAL, NEUTRAL, ""),
    "ltx-2.3-22b-dev": ("2.3", ltx2(30), [3, 3, 1, 0.7], [7, 3, 1, 0.7], NEGATIVE),
    "ltx-2.3-22b-distilled-1.1": ("2.3", DISTILLED, NEUTRAL, NEUTRAL, ""),
}
LORAS = {"2.0": "ltx-2-19b-distilled-lora-384", "2.3": "ltx-2.3-22b-distilled-lora-384"}
UPSCALERS = {"2.0": "ltx-2-spatial-upscaler-x2-1.0", "2.3": "ltx-2.3-spatial-upscaler-x2-1.1"}

# What a clip is like if it is not as the model likes it.
OWN_CLIP = ("extend", "retake", "inpaint", "upscale_my_video", "video_to_audio")
BY_PICTURE = ("image_to_video", "first_last_frame", "image_to_loop", "reference_voice", "motion_tracks")
GIVEN_SOUND, GIVEN_PICTURE = ("audio_to_video", "inpaint"), ("video_to_audio",)
OWN_GUIDANCE = ("text_to_video_guided",)  # it shows how guidance is set by hand
OWN_LENGTH = {
    "audio_to_video": [5, 16, 24],
    "long_video": [13, 16, 24],
    "timeline": [13, 16, 24],
    "character": [7, 16, 24],
}


@pytest.fixture(scope="module")
def asked(inside, object_info, tmp_path_factory):
    """What each workflow asks of each model, by their names."""
    folder = tmp_path_factory.mktemp("official")
    place_models(folder)
    prompts = {}
    shipped = {path.stem: to_prompt(json.loads(path.read_text()), object_info) for path in SHIPPED}
    for model, (version, *_) in MODELS.items():
        lora = f"{LORAS[version]}.safetensors"
        asked = {name: changed(prompt, model, lora, {}) for name, prompt in shipped.items()}
        tasks = {f"task: {name}": changed(shipped[t.workflow], model, lora, t.changes) for name, t in TASKS.items()}
        prompts[model] = asked | tasks
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return inside("recipes.py", folder)


def changed(prompt, model, lora, changes):
    """``prompt`` with another model, and LoRAs for it; else only what ``changes`` say."""
    prompt, seen = copy.deepcopy(prompt), {}
    for each in prompt.values():
        kind, inputs = each["class_type"], each["inputs"]
        seen[kind] = seen.get(kind, 0) + 1
        for (of, name, *number), value in changes.items():
            if of == kind and (number or [1]) == [seen[kind]]:
                inputs[name] = value
        if kind == "LTX2AVLoadModel":
            inputs["checkpoint"] = f"{model}.safetensors"
        if str(inputs.get("lora")).startswith("built-in") or inputs.get("lora") in ("camera", "style"):
            inputs["lora"] = lora
    return prompt


def place_models(folder):
    """Tiny models under official names, in the folders of ComfyUI."""
    models = folder / "models"
    for kind in ("checkpoints", "text_encoders", "loras", "latent_upscale_models"):
        (models / kind).mkdir(parents=True)
    for version in ("2.0", "2.3"):
        tiny.write(folder / version, version)
        for name, (of, *_) in MODELS.items():
            if of == version:
                source = folder / version / f"ltx-{version}-tiny.safetensors"
                shutil.copy(source, models / "checkpoints" / f"{name}.safetensors")
        layer = "diffusion_model.transformer_blocks.1.attn1.to_q"
        lora = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(32, 2)}
        save_file(lora, models / "loras" / f"{LORAS[version]}.safetensors")
        upscaler = tiny_parts.write_upscaler(folder / version)
        shutil.copy(upscaler, models / "latent_upscale_models" / f"{UPSCALERS[version]}.safetensors")
    shutil.copytree(folder / "2.3" / "gemma-tiny", models / "text_encoders" / "gemma-tiny")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_a_workflow_takes_the_official_recipe(asked, model, name):
    check_recipe(model, name, asked[model][name])


def check_recipe(model: str, name: str, seen: list[dict], own_size: bool = False) -> None:
    """Hold what the workflow ``name`` asks for to the recipe of ``model``; ``own_size`` leaves out how large it is."""
    _, sigmas, video, audio, negative = MODELS[model]
    samplers = [each for each in seen if each["node"] == "sampler"]
    assert len(samplers) == (name != "upscale_my_video")
    assert {each["negative"] for each in seen if each["node"] == "text"} == {negative}
    for each in samplers:
        if name not in OWN_GUIDANCE:
            assert each["sampler"] == "euler"
            assert each["sigmas"] == pytest.approx(sigmas, abs=1e-12)
            assert each["video"] == [NEUTRAL if name in (*GIVEN_PICTURE, "text_to_audio") else video]
            assert each["audio"] == [NEUTRAL if name in GIVEN_SOUND else audio]
        if own_size:
            continue
        if name == "text_to_audio":
            assert each["size"] is None
        elif name in BY_PICTURE:
            frames, height, width = each["size"]
            assert frames == 16 and height == width and abs(height * width * 1024 / (768 * 512) - 1) < 0.05
        elif name not in OWN_CLIP:
            assert each["size"] == OWN_LENGTH.get(name, [16, 16, 24])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["two_stage_1080p", "refine_4k", "upscale_my_video"])
def test_a_second_stage_is_the_official_one(asked, model, name):
    (second,) = [each for each in asked[model][name] if each["node"] == "refiner"]
    assert second["sampler"] == "euler" and second["sigmas"] == pytest.approx(SECOND, abs=1e-12)
    assert second["video"] == [NEUTRAL]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_few_widgets_no_wire_and_the_official_recipe(asked, model, name):
    task = TASKS[name]
    assert task.widgets <= (task.most or task.widgets)
    seen = asked[model][f"task: {name}"]
    sizes = ("LTX2AVEmptyLatent", "LoadVideo")
    check_recipe(model, task.workflow, seen, own_size=any(kind in sizes for kind, *_ in task.changes))
    if name == "own audio":
        assert [each["size"] for each in seen if each["node"] == "sampler"] == [[16, 16, 24]]
    if name == "two stages, 1080p":
        assert [each["size"] for each in seen if each["node"] == "refiner"] == [[16, 34, 60]]
