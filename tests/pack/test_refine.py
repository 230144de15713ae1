"""Two stages on the graph: upscalers, ours and the host's, tiles, what the nodes say, and what they refuse."""

import json

import pytest
import tiny_parts
import torch
from pack.client import Prompt
from pack.clip import Clip, pictures_in, saved
from pack.host import REPOSITORY
from pack.workflow import add, change, node, to_prompt

import ltx2_core as ltx2
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.conditioning.conditions import ReferenceAudio, ReferenceVideo
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.media import probe
from ltx2_core.sampling import Guidance, Tiles, schedules
from ltx2_core.settings import SecondStage

pytestmark = pytest.mark.comfy

SPATIAL, TEMPORAL = "space.safetensors", "time.safetensors"
SIGMAS = "0.6, 0.3, 0"


@pytest.fixture(scope="module")
def upscalers(server, tmp_path_factory) -> None:
    """Two of random weights, where ComfyUI looks for them."""
    folder = server.base / "models" / "latent_upscale_models"
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in ((SPATIAL, {}), (TEMPORAL, {"spatial_upsample": False, "temporal_upsample": True})):
        tiny_parts.write_upscaler(tmp_path_factory.mktemp("upscaler"), kind).rename(folder / name)


@pytest.fixture
def staged(prompt) -> Prompt:
    """The shipped workflow at 96 x 64 and 17 frames, its latent enlarged and its frames saved without loss."""
    change(prompt, LTX2AVEmptyLatent={"width": 96, "height": 64, "frames": 17}, LTX2AVSample={"seed": 31})
    model, sampler = [node(prompt, "LTX2AVLoadModel"), 0], [node(prompt, "LTX2AVSample"), 0]
    add(prompt, upscaler=("LTX2AVLoadUpscaler", {"upscaler": "miniature (built in)"}))
    enlarge = {"model": model, "latent": sampler, "upscaler": ["upscaler", 0]}
    add(prompt, upscale=("LTX2AVUpscale", enlarge))
    add(prompt, sigmas=("LTX2AVSchedule", {"steps": 2, "schedule": "custom", "custom_sigmas": SIGMAS}))
    images = [node(prompt, "LTX2AVDecode"), 1]
    add(prompt, pictures=("SaveImage", {"images": images, "filename_prefix": "pictures"}))
    return change(prompt, LTX2AVDecode={"latent": ["upscale", 0]})


def refine(prompt: Prompt, **inputs) -> Prompt:
    """With the enlarged latent refined."""
    positive = [node(prompt, "LTX2AVThinkingTokens"), 0]
    given = {"model": [node(prompt, "LTX2AVLoadModel"), 0], "positive": positive, "latent": ["upscale", 0]}
    add(prompt, refine=("LTX2AVRefine", given | {"seed": 5, "sound": "refine", "sigmas": ["sigmas", 0]} | inputs))
    return change(prompt, LTX2AVDecode={"latent": ["refine", 0]})


def frames(server, client, prompt: Prompt):
    return pictures_in(saved(server, client.run(prompt), "pictures"))


@pytest.mark.parametrize("chosen", ["miniature (built in)", "as the model"])
def test_a_node_of_the_host_says_that_it_needs_another_loader(client, staged, chosen):
    sampler = node(staged, "LTX2AVSample")
    upscaler = {"samples": [sampler, 0], "upscale_model": ["upscaler", 0], "vae": ["vae", 0]}
    add(staged, vae=("VAELoader", {"vae_name": "pixel_space"}), host=("LTXVLatentUpsampler", upscaler))
    change(staged, LTX2AVLoadUpscaler={"upscaler": chosen}, LTX2AVDecode={"latent": ["host", 0]})
    assert "open the file with ComfyUI's own loader" in client.run(staged).error


def test_one_tile_is_what_the_sampler_does(server, client, staged):
    refine(staged, columns=1, rows=1, intervals=1)
    tiled = frames(server, client, staged)
    neutral = {"text_scale": 1.0, "cross_modal_scale": 1.0, "stg_scale": 0.0, "rescale": 0.0}
    inputs = {name: staged["refine"]["inputs"][name] for name in ("model", "positive", "latent", "sigmas")}
    add(staged, again=("LTX2AVSample", inputs | neutral | {"seed": 5}))
    staged[node(staged, "LTX2AVDecode")]["inputs"]["latent"] = ["again", 0]
    assert tiled.shape == (17, 128, 192, 3)
    assert (frames(server, client, staged) == tiled).all()


def test_the_node_says_its_tiles_and_their_seams(server, client, staged):
    refine(staged, columns=2, rows=2, intervals=2, overlap=64, frame_overlap=8)
    run = client.run(staged)
    assert run.end == "execution_success", run.error
    said = dict(run.texts)["refine"]
    assert said.startswith("8 tiles (in time, down, across: 2 x 2 x 2), at most 128 x 96 pixels and 9 frames")
    assert "Across their seams the latent changes" in said
    apart = refine(staged, columns=2, mode="one by one", positions="local", sound="hold")
    assert dict(client.run(apart).texts)["refine"].startswith("2 tiles (in time, down, across: 1 x 1 x 2)")


def test_noise_scale_says_how_much_is_kept(server, client, staged):
    before = frames(server, client, staged).astype(float)
    change(refine(staged, noise_scale=0.1), LTX2AVRefine={"sigmas": ["sigmas", 0]})
    little = frames(server, client, staged)
    much = frames(server, client, change(staged, LTX2AVRefine={"noise_scale": 0.9}))
    assert 0 < abs(little - before).mean() < abs(much - before).mean()


def test_two_stages_are_their_parts(server, client, staged):
    refine(staged, sigmas=["sigmas", 0])
    del staged["refine"]["inputs"]["sigmas"]  # as the recipe has them
    guidance = {"model": [node(staged, "LTX2AVLoadModel"), 0]}
    parts = frames(server, client, staged)
    given = staged["refine"]["inputs"] | {"latent": staged["upscale"]["inputs"]["latent"], "upscaler": ["upscaler", 0]}
    assert guidance["model"] == given["model"]
    add(staged, both=("LTX2AVTwoStage", given))
    change(staged, LTX2AVDecode={"latent": ["both", 0]})
    assert (frames(server, client, staged) == parts).all()


def test_graph_and_facade_make_the_same_clip_of_two_stages_by_one_seed(server, client, staged):
    staged["upscale"] = {"class_type": "LTX2AVTwoStage", "inputs": staged["upscale"]["inputs"]}
    positive = [node(staged, "LTX2AVThinkingTokens"), 0]
    staged["upscale"]["inputs"] |= {"positive": positive, "seed": 31, "columns": 1, "rows": 1, "intervals": 1}
    texts = staged[node(staged, "LTX2AVGemmaTextEncode")]["inputs"]
    clip = ltx2.generate(
        ltx2.open_models("miniature"), texts["prompt"], texts["negative"], width=192, height=128, frames=17, seed=31,
        sigmas=schedules.ltx2(3, tokens=3 * 2 * 3), video=Guidance(3, 3), audio=Guidance(3, 3), cache=False,
        device="cpu", second=SecondStage((open_upscaler(BUILT_IN),), tiles=Tiles((1, 1, 1))),
    )  # fmt: skip
    ours = (clip.frames * 255).round().int().numpy()
    assert abs(frames(server, client, staged).astype(int) - ours).max() <= 1


def test_dub_it_on_the_graph_is_that_of_the_facade(server, client, staged):
    """Two stages that follow a video; the second has the sound of the first as the voice, and the clip has it, too."""
    add(staged, red=("EmptyImage", {"width": 96, "height": 64, "batch_size": 17, "color": 0xFF0000}))
    add(staged, silence=("EmptyAudio", {"duration": 0.5, "sample_rate": 48000, "channels": 2}))
    add(staged, voice=("LTX2AVReferenceAudio", {"audio": ["silence", 0], "strength": 1.0}))
    shown = {"downscale": 1, "temporal_scale": 1, "strength": 1.0, "conditions": ["voice", 0]}
    add(staged, given=("LTX2AVReferenceVideo", {"images": ["red", 0]} | shown))
    change(staged, LTX2AVSample={"conditions": ["given", 0]})
    two = {"positive": [node(staged, "LTX2AVThinkingTokens"), 0], "seed": 31, "conditions": ["given", 0]}
    two |= {"sound": "hold and refer", "keep_references": True, "columns": 1, "rows": 1, "intervals": 1}
    staged["upscale"] = {"class_type": "LTX2AVTwoStage", "inputs": staged["upscale"]["inputs"] | two}
    texts = staged[node(staged, "LTX2AVGemmaTextEncode")]["inputs"]
    red, silence = torch.tensor([1.0, 0, 0]).expand(17, 64, 96, 3), torch.zeros(2, 24_000)
    given = [ReferenceAudio(AudioSource(silence, 48_000)), ReferenceVideo(VideoSource(red))]
    second = SecondStage(
        (open_upscaler(BUILT_IN),), tiles=Tiles((1, 1, 1)), sound="hold and refer", keep_references=True
    )
    clip = ltx2.generate(
        ltx2.open_models("miniature"), texts["prompt"], texts["negative"], width=192, height=128, frames=17, seed=31,
        sigmas=schedules.ltx2(3, tokens=3 * 2 * 3), video=Guidance(3, 3), audio=Guidance(3, 3), cache=False,
        device="cpu", conditions=given, second=second,
    )  # fmt: skip
    ours, made = (clip.frames * 255).round().int().numpy(), frames(server, client, staged).astype(int)
    assert abs(made - ours).max() <= 2 and abs(made - ours).mean() < 0.6  # the host cuts off what ours rounds
    other = frames(server, client, change(staged, LTX2AVTwoStage={"sound": "hold"})).astype(int)
    assert abs(other - made).max() > 2


def test_the_hosts_upscalers_work_as_ours(server, client, staged, upscalers):
    change(staged, LTX2AVLoadUpscaler={"upscaler": SPATIAL})
    ours = frames(server, client, staged).astype(int)
    add(staged, upscaler=("LatentUpscaleModelLoader", {"model_name": SPATIAL}))
    theirs = frames(server, client, staged).astype(int)
    assert ours.shape == theirs.shape == (17, 128, 192, 3)
    assert abs(ours - theirs).mean() < 1  # the host may compute in bfloat16


def test_twice_the_frame_rate(server, client, staged, upscalers):
    change(staged, LTX2AVLoadUpscaler={"upscaler": TEMPORAL}, SaveVideo={})
    add(staged, upscale=("LTX2AVUpscaleTime", staged["upscale"]["inputs"]))
    run = client.run(staged)
    clip = Clip.of(server, run, node(staged, "SaveVideo"))
    assert clip.fps == 48 and clip.frames.shape == (33, 64, 96, 3)
    assert abs(clip.video_seconds - clip.audio_seconds) < 0.001
    assert dict(run.texts)["upscale"] == "33 frames at 48 fps"


def test_the_frame_rate_of_the_hosts_conditioning_is_that_of_both_stages(server, client, staged):
    """LTXVConditioning says it, and a latent of the host does not."""
    encoded = node(staged, "LTX2AVThinkingTokens")
    rated = {"positive": [encoded, 0], "negative": [encoded, 0], "frame_rate": 12.0}
    add(staged, rated=("LTXVConditioning", rated))
    add(staged, plain=("EmptyLTXVLatentVideo", {"width": 64, "height": 64, "length": 9, "batch_size": 1}))
    model = [node(staged, "LTX2AVLoadModel"), 0]
    given = {"model": model, "positive": ["rated", 0], "latent": ["plain", 0], "upscaler": ["upscaler", 0], "seed": 1}
    made = []
    for fps, positive in ((12, "rated"), (24, encoded)):
        add(staged, both=("LTX2AVTwoStage", given | {"positive": [positive, 0]}))
        run = client.run(change(staged, LTX2AVDecode={"latent": ["both", 0]}))
        (path,) = saved(server, run, node(staged, "SaveVideo"))
        assert probe(path).fps == fps
        made.append(pictures_in(saved(server, run, "pictures")))
    assert made[0].shape == (9, 128, 128, 3) and (made[0] != made[1]).any(), "what is sampled depends on it"


def test_what_is_given_for_the_first_stage_stays_at_its_second_at_twice_the_rate(server, client, staged, upscalers):
    """A picture at frame 8 of 17 is at frame 16 of 33, as in a clip that the facade makes."""
    change(staged, LTX2AVLoadUpscaler={"upscaler": TEMPORAL}, LTX2AVSample={"seed": 31})
    change(staged, LTX2AVSample={"conditions": ["given", 0]})
    add(staged, red=("EmptyImage", {"width": 96, "height": 64, "batch_size": 1, "color": 0xFF0000}))
    add(staged, given=("LTX2AVImage", {"image": ["red", 0], "frame": 8, "strength": 1.0, "compression": 0}))
    add(staged, upscale=("LTX2AVUpscaleTime", staged["upscale"]["inputs"]))
    refine(staged, seed=31, sound="hold", conditions=["given", 0], columns=1, rows=1, intervals=1)
    texts = staged[node(staged, "LTX2AVGemmaTextEncode")]["inputs"]
    temporal = server.base / "models" / "latent_upscale_models" / TEMPORAL
    clip = ltx2.generate(
        ltx2.open_models("miniature"), texts["prompt"], texts["negative"], width=96, height=64, frames=17, seed=31,
        sigmas=schedules.ltx2(3, tokens=3 * 2 * 3), video=Guidance(3, 3), audio=Guidance(3, 3), cache=False,
        device="cpu", conditions=[Picture(torch.tensor([1.0, 0, 0]).expand(1, 64, 96, 3), 8, compression=0)],
        second=SecondStage((open_upscaler(temporal),), sound="hold", tiles=Tiles((1, 1, 1)), sigmas=(0.6, 0.3, 0)),
    )  # fmt: skip
    ours = (clip.frames * 255).round().int().numpy()
    made = frames(server, client, staged).astype(int)
    assert made.shape == (33, 64, 96, 3) and abs(made - ours).max() <= 1
    assert abs(made[16] - [255, 0, 0]).mean() < abs(made[8] - [255, 0, 0]).mean()


def test_what_cannot_be_is_said(client, staged, upscalers):
    change(staged, LTX2AVLoadUpscaler={"upscaler": TEMPORAL})
    assert "enlarges time by 2, not space: connect it to LTX-2 Upscale in Time" in client.run(staged).error
    change(staged, LTX2AVLoadUpscaler={"upscaler": SPATIAL})
    refine(staged, columns=50)
    assert "cannot be cut into (1, 1, 50) tiles" in client.run(staged).error


@pytest.fixture
def raised(upscalers, prompt) -> Prompt:
    """All of DFR on the tiny 2.5: keyframes, two stages, and a round that doubles the frame rate."""
    change(prompt, LTX2AVLoadModel={"checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors"})
    change(prompt, LTX2AVLoadGemma={"text_encoder": "as the model"}, LTX2AVSchedule={"steps": 1})
    change(prompt, LTX2AVEmptyLatent={"width": 32, "height": 32, "frames": 33})
    given = {"model": [node(prompt, "LTX2AVLoadModel"), 0], "positive": [node(prompt, "LTX2AVThinkingTokens"), 0]}
    given |= {"conditions": ["keyframes", 0], "seed": 5}
    add(prompt, keyframes=("LTX2AVGeneratedKeyframes", {"count": 0}))
    for name, file in (("space", SPATIAL), ("time", TEMPORAL)):
        add(prompt, **{name: ("LTX2AVLoadUpscaler", {"upscaler": file})})
    second = {"latent": [node(prompt, "LTX2AVSample"), 0], "upscaler": ["space", 0], "keep_keyframes": True}
    add(prompt, second=("LTX2AVTwoStage", given | second))
    add(
        prompt, faster=("LTX2AVRaiseFrameRate", given | {"latent": ["second", 0], "upscaler": ["time", 0], "rounds": 1})
    )
    return change(prompt, LTX2AVSample={"conditions": ["keyframes", 0]}, LTX2AVDecode={"latent": ["faster", 0]})


def test_the_frame_rate_is_raised_between_generated_keyframes(server, client, raised):
    run = client.run(raised)
    clip = Clip.of(server, run, node(raised, "SaveVideo"))
    assert clip.frames.shape == (65, 64, 64, 3) and clip.fps == 48
    assert "64 x 64" in dict(run.texts)["faster"] and "65 frames" in dict(run.texts)["faster"]
    raised["faster"]["inputs"]["upscaler"] = ["space", 0]
    assert "This upscaler enlarges space by 2, not time" in client.run(raised).error
    raised["second"]["inputs"]["keep_keyframes"] = False
    assert "this latent has none: connect LTX-2 Generated Keyframes" in client.run(raised).error


def test_the_second_stage_follows_the_first_one_for_the_detailing_lora(server, client, raised):
    change(raised, LTX2AVDecode={"latent": ["second", 0]}, LTX2AVEmptyLatent={"frames": 9})
    del raised["faster"], raised["time"]
    add(raised, pictures=("SaveImage", {"images": [node(raised, "LTX2AVDecode"), 1], "filename_prefix": "pictures"}))
    without = frames(server, client, raised)
    with_it = frames(server, client, change(raised, LTX2AVTwoStage={"detailing": True}))
    assert with_it.shape == without.shape == (9, 64, 64, 3) and not (with_it == without).all()


def test_keyframes_need_a_model_that_marks_them(client, prompt):
    add(prompt, keyframes=("LTX2AVGeneratedKeyframes", {"count": 1}))
    change(prompt, LTX2AVSample={"conditions": ["keyframes", 0]})
    assert "its transformer has no keyframe marker" in client.run(prompt).error


def switched_on(name: str, object_info, sizes: dict) -> Prompt:
    """A shipped workflow with all of its nodes on, for one step of the tiny 2.5 at these sizes."""
    workflow = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text())
    for each in workflow["nodes"]:
        each["mode"] = 0
    prompt = to_prompt(workflow, object_info)
    change(prompt, LTX2AVLoadModel={"checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors"})
    how = {"settings": "these widgets", "steps": 1, "text_scale": 1.0, "cross_modal_scale": 1.0, "stg_scale": 0.0}
    return change(prompt, LTX2AVEmptyLatent={"size": "by hand", "length": "in frames"} | sizes, LTX2AVSample=how)


def test_the_shipped_workflow_raises_the_frame_rate_on_the_real_kind_of_model(server, client, object_info, upscalers):
    prompt = switched_on("raise_frame_rate", object_info, {"width": 32, "height": 32, "frames": 33})
    space, time = (key for key, each in prompt.items() if each["class_type"] == "LTX2AVLoadUpscaler")
    prompt[space]["inputs"]["upscaler"], prompt[time]["inputs"]["upscaler"] = SPATIAL, TEMPORAL
    model = [node(prompt, "LTX2AVLoadModel"), 0]  # for which there is no distilled LoRA
    change(prompt, LTX2AVTwoStage={"refine_model": model}, LTX2AVRaiseFrameRate={"model": model})
    del prompt[node(prompt, "LTX2AVLoadLora")]
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert clip.frames.shape == (65, 64, 64, 3) and clip.fps == 48


@pytest.mark.parametrize("name", ["image_to_video", "first_last_frame", "audio_to_video", "two_stage_1080p"])
def test_shipped_workflows_run_with_the_parts_of_2_5(server, client, object_info, upscalers, name):
    prompt = switched_on(name, object_info, {"width": 32, "height": 32, "frames": 9})
    twice = name == "two_stage_1080p"
    if twice:
        change(prompt, LTX2AVLoadUpscaler={"upscaler": SPATIAL})
        change(prompt, LTX2AVTwoStage={"refine_model": [node(prompt, "LTX2AVLoadModel"), 0]})
        del prompt[node(prompt, "LTX2AVLoadLora")]
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    side = 64 if twice else 32
    assert clip.frames.shape[1:] == (side, side, 3) and clip.frames.std() > 0


def test_the_shipped_workflow_writes_hdr_with_the_real_kind_of_model(server, client, object_info):
    prompt = switched_on("hdr_video", object_info, {"width": 64, "height": 64, "frames": 9})
    change(prompt, LTX2AVLoadModel={"video_vae": "ltx-2.5-video-vae-tiny.safetensors"}, LTX2AVVideoDecode={"hdr": True})
    for each in ("SaveVideo", "CreateVideo"):
        del prompt[node(prompt, each)]
    change(prompt, LTX2AVSaveHDR={"filename_prefix": "workflow/hdr"})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    assert len([*(server.output / "workflow").glob("*.mp4")]) == 1
