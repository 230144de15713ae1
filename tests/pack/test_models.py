"""Models are found where ComfyUI keeps them: in its own folders and in those of extra_model_paths.yaml."""

import json

import pytest
import tiny_parts
import torch
from diffusers_parts import folder_of_2_5, write_folder
from pack.clip import Clip, pictures_in, saved
from pack.links import FILES
from pack.workflow import SHIPPED, add, change, node, to_prompt
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize(
    ("checkpoint", "text_encoder"),
    [
        ("ltx-2.3-tiny.safetensors", "gemma-tiny"),
        ("elsewhere.safetensors", "gemma-elsewhere.safetensors"),
        ("LTX-2-Diffusers", "gemma-tiny"),
    ],
    ids=["in models, Gemma as a folder", "in an extra path, Gemma as a file", "as a folder of diffusers"],
)
def test_a_clip_of_a_model_on_disk(server, client, prompt, checkpoint, text_encoder):
    change(prompt, LTX2AVLoadModel={"checkpoint": checkpoint}, LTX2AVLoadGemma={"text_encoder": text_encoder})
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 2})
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert clip.frames.shape == (9, 64, 64, 3)
    assert clip.sample_rate == 48000  # that of version 2.3; the miniature has 24000


def test_a_shipped_workflow_makes_clips_of_2_5_with_either_decoder(server, client, object_info):
    """The parts lie in their folders; only the transformer is chosen, and once the other video VAE."""
    shipped = next(path for path in SHIPPED if path.stem == "text_to_video")
    prompt = to_prompt(json.loads(shipped.read_text()), object_info)
    size = {"size": "by hand", "width": 64, "height": 64, "length": "in frames", "frames": 9}
    change(prompt, LTX2AVEmptyLatent=size, LTX2AVSample={"settings": "these widgets", "steps": 2})
    clips = []
    for video_vae in ("ltx-2.5-tiny-video-vae-conv.safetensors", "ltx-2.5-video-vae-tiny.safetensors"):
        model = {"checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors", "video_vae": video_vae}
        run = client.run(change(prompt, LTX2AVLoadModel=model))
        clips.append(Clip.of(server, run, node(prompt, "SaveVideo")))
        assert clips[-1].frames.shape == (9, 64, 64, 3) and clips[-1].sample_rate == 48000
    assert (clips[0].frames != clips[1].frames).any()


@pytest.mark.oracle
def test_a_folder_of_2_5_as_diffusers_writes_it_makes_a_clip(server, client, object_info):
    """With its own text encoder, and its diffusion decoder."""
    write_folder(server.base / "models" / "diffusion_models" / "LTX-2.5-Diffusers", folder_of_2_5())
    shipped = next(path for path in SHIPPED if path.stem == "text_to_video")
    prompt = to_prompt(json.loads(shipped.read_text()), object_info)
    size = {"size": "by hand", "width": 64, "height": 64, "length": "in frames", "frames": 9}
    change(prompt, LTX2AVEmptyLatent=size, LTX2AVSample={"settings": "these widgets", "steps": 2})
    run = client.run(change(prompt, LTX2AVLoadModel={"checkpoint": "LTX-2.5-Diffusers", "kind": "dev"}))
    clip = Clip.of(server, run, node(prompt, "SaveVideo"))
    assert clip.frames.shape == (9, 64, 64, 3) and clip.sample_rate == 48000


def test_a_clip_from_gguf_files(server, client, prompt):
    """The transformer in models/unet with VAEs beside it, and Gemma with its tokenizer in models/clip."""
    vaes = dict.fromkeys(("video_vae", "audio_vae"), "tiny-vaes.safetensors")
    change(prompt, LTX2AVLoadModel={"checkpoint": "tiny-Q8_0.gguf", **vaes})
    change(prompt, LTX2AVLoadGemma={"text_encoder": "gemma-Q8_0.gguf"})
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 2})
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert clip.frames.shape == (9, 64, 64, 3) and clip.sample_rate == 48000


def test_a_clip_from_quantised_files(server, client, prompt):
    """The miniature in int8 with rotated columns, and its Gemma in nvfp4, fp8 and bf16, as in ComfyUI's templates."""
    change(prompt, LTX2AVLoadModel={"checkpoint": "mini-int8.safetensors"})
    change(prompt, LTX2AVLoadGemma={"text_encoder": "mini-fp4-mixed.safetensors"})
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 2})
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert clip.frames.shape == (9, 64, 64, 3) and clip.sample_rate == 24000
    assert clip.frames.std() > 5  # a picture, neither black nor grey


def test_a_clip_is_as_long_as_its_prompt_needs(server, client, prompt):
    """The duration head is found beside the other files of 2.5; without it, the node says what to do."""
    loader, encoded = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVGemmaTextEncode")
    split = {"checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors"}
    size = {"width": 64, "height": 64, "size": "by hand", "length": "as the prompt needs", "fps": 4.0}
    change(prompt, LTX2AVLoadModel=split, LTX2AVLoadGemma={"text_encoder": "as the model"}, LTX2AVSchedule={"steps": 1})
    change(prompt, LTX2AVEmptyLatent=size | {"model": [loader, 0], "positive": [encoded, 0]})
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert len(clip.frames) % 8 == 1 and len(clip.frames) <= 80
    run = client.run(change(prompt, LTX2AVLoadModel=split | {"duration_head": "none"}))
    assert run.end == "execution_error" and "there is no duration head: put that of LTX-2.5" in run.error


def test_headers_are_read_again_only_after_something_has_changed(inside, tmp_path):
    """At first; not again; as a download of the video VAE begins, ends, and is replaced."""
    tiny_parts.write_split(tmp_path / "models")
    found, opened = zip(*inside("headers.py", tmp_path))
    assert found == (True, True, False, True, True)
    assert opened == (4, 0, 3, 4, 4)


def test_a_folder_of_diffusers_is_one_entry_and_its_shards_are_none(object_info):
    listed = object_info["LTX2AVLoadModel"]["input"]["required"]["checkpoint"]
    options = listed[0] if isinstance(listed[0], list) else listed[1]["options"]
    assert options.count("LTX-2-Diffusers") == 1
    assert "LTX-2-Diffusers/transformer/diffusion_pytorch_model.safetensors" in options
    assert not [name for name in options if "shard" in name]


@pytest.mark.parametrize("kind, least, most", [("dev", 30, 32), ("distilled", 8, 10)])
def test_the_kind_that_is_chosen_decides_the_recipe(client, prompt, kind, least, most):
    """The file's name says neither."""
    model, recipe = node(prompt, "LTX2AVLoadModel"), {"model": [node(prompt, "LTX2AVLoadModel"), 0]}
    change(prompt, LTX2AVLoadModel={"checkpoint": "LTX-2-Diffusers", "kind": kind})
    graph = {model: prompt[model], "recipe": {"class_type": "LTX2AVRecipe", "inputs": recipe}}
    graph["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["recipe", 0]}}
    run = client.run(graph)
    assert run.end == "execution_success", run.error
    assert least <= str(run.outputs["shown"]).count(",") <= most


def test_a_surplus_block_is_told_before_the_prompt_is_read(server, client, prompt):
    checkpoints = server.base / "models" / "checkpoints"
    whole = checkpoints / "ltx-2.3-tiny.safetensors"
    more = "model.diffusion_model.transformer_blocks.77.attn1.to_q.bias"
    tensors = load_file(whole) | {more: torch.zeros(4)}
    save_file(tensors, checkpoints / "surplus.safetensors", TensorFile(whole).metadata)
    change(
        prompt, LTX2AVLoadModel={"checkpoint": "surplus.safetensors"}, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"}
    )
    run = client.run(prompt)
    assert more in run.error and not any("read" in text for _, text in run.texts), run.texts


def test_what_loaders_give_says_what_it_is(client, prompt):
    """To a core node that shows anything, which showed the address of an object."""
    model, gemma, latent = (node(prompt, f"LTX2AV{kind}") for kind in ("LoadModel", "LoadGemma", "EmptyLatent"))
    limits = {"max_vram": 0.0, "max_ram": 0.0, "model": [model, 0], "latent": [latent, 0]}
    loaders = {"LTX2AVLoadUpscaler": {"upscaler": "as the model"}, "LTX2AVPlan": limits}
    graph = {name: prompt[name] for name in (model, gemma, latent)}
    graph |= {kind: {"class_type": kind, "inputs": inputs} for kind, inputs in loaders.items()}
    names = [model, gemma, *loaders]
    shown = {f"shown {name}": {"class_type": "PreviewAny", "inputs": {"source": [name, 0]}} for name in names}
    run = client.run(graph | shown)
    assert run.end == "execution_success", run.error
    said = {name: str(run.outputs[f"shown {name}"]["text"]) for name in names}
    assert "LTX-2.0 miniature (ltx2-mini.safetensors)" in said[model] and "gemma-mini" in said[gemma]
    assert "goes with the model" in said["LTX2AVLoadUpscaler"] and "sampling: " in said["LTX2AVPlan"]
    assert "0x" not in "".join(said.values())


def test_several_devices_share_the_steps_and_the_first_is_that_of_comfyui(server, client, prompt):
    """Frames as they leave the decoder: how x264 codes them depends on how busy the machine is."""
    change(prompt, LTX2AVSchedule={"steps": 2}, LTX2AVEmptyLatent={"width": 128, "height": 64, "frames": 9})
    tiles = {"tile_size": 64, "tile_overlap": 32, "tile_frames": 16, "frame_overlap": 0}
    frames = [node(change(prompt, LTX2AVDecode=tiles), "LTX2AVDecode"), 1]
    prompt["frames"] = {"class_type": "SaveImage", "inputs": {"images": frames, "filename_prefix": "devices"}}
    clips = {}
    for devices in ("cpu, cpu", "", "cpu"):
        run = client.run(change(prompt, LTX2AVLoadModel={"devices": devices}))
        clips[devices] = pictures_in(saved(server, run, "frames"))
    assert [name for name, each in clips.items() if (each != clips["cpu"]).any()] == []
    run = client.run(change(prompt, LTX2AVLoadModel={"devices": "cuda:7"}))
    assert run.end == "execution_error" and "cuda:7" in run.error


def test_a_link_that_leads_nowhere_matters_only_where_it_is_chosen(server, client, prompt):
    folders = [server.base / "models" / kind for kind in ("vae", "text_encoders", "loras", "latent_upscale_models")]
    links = [folder / "gone.safetensors" for folder in folders]
    for link in links:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("nowhere")
    sampler, model = node(prompt, "LTX2AVSample"), [node(prompt, "LTX2AVLoadModel"), 0]
    change(prompt, LTX2AVLoadGemma={"text_encoder": "as the model"}, LTX2AVSchedule={"steps": 1})
    lora = {"model": model, "lora": "distilled LoRA of the model", "strength": 1.0}
    add(
        change(prompt, LTX2AVSample={"model": ["lora", 0]}),
        lora=("LTX2AVLoadLora", lora),
        upscaler=("LTX2AVLoadUpscaler", {"upscaler": "as the model"}),
        larger=("LTX2AVUpscale", {"model": model, "latent": [sampler, 0], "upscaler": ["upscaler", 0]}),
        seen=("PreviewAny", {"source": ["larger", 0]}),
    )
    try:
        run = client.run(prompt)
        assert run.end == "execution_success", run.error
        assert "gone.safetensors" in client.complaint(change(prompt, LTX2AVLoadLora={"lora": "gone.safetensors"}))
    finally:
        for link in links:
            link.unlink()


# By the folder of a released file, the node and the input that it is chosen in.
CHOSEN_IN = {
    "checkpoints": ("LTX2AVLoadModel", "checkpoint"),
    "diffusion_models": ("LTX2AVLoadModel", "checkpoint"),
    "vae": ("LTX2AVLoadModel", "video_vae"),
    "model_patches": ("LTX2AVLoadModel", "duration_head"),
    "text_encoders": ("LTX2AVLoadGemma", "text_encoder"),
    "latent_upscale_models": ("LTX2AVLoadUpscaler", "upscaler"),
    "loras": ("LTX2AVLoadLora", "lora"),
}


def test_a_released_file_that_is_missing_is_named_with_its_folder(client, prompt):
    loader = prompt[node(prompt, "LTX2AVLoadModel")]
    for file in FILES:
        kind, name = CHOSEN_IN[file.directory]
        values = loader["inputs"] if kind == loader["class_type"] else {"model": ["model", 0], "strength": 1.0}
        graph = {"model": loader}
        add(graph, chosen=(kind, values | {name: file.name}), seen=("PreviewAny", {"source": ["chosen", 0]}))
        complaint = client.complaint(graph)
        assert file.name in complaint and f"models/{file.directory}" in complaint, complaint
