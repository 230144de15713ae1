"""Our nodes and ComfyUI's own in one graph: an AV latent of ours is the host's, and the other way round."""

import copy

import numpy as np
import pytest
from pack.client import Prompt
from pack.clip import Clip, pictures_in, saved, sound_in
from pack.workflow import add, change, node

pytestmark = pytest.mark.comfy

TINY = "ltx-2.3-tiny.safetensors"
NEUTRAL = {"text_scale": 1.0, "cross_modal_scale": 1.0, "stg_scale": 0.0, "rescale": 0.0}
SCHEDULE = {"steps": 3, "max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}


def with_core_nodes(prompt: Prompt) -> Prompt:
    """The same clip where ComfyUI's nodes make, split and join latents, schedule the steps and build the video."""
    model, latent, sampler = (node(prompt, name) for name in ("LTX2AVLoadModel", "LTX2AVEmptyLatent", "LTX2AVSample"))
    graph = change(copy.deepcopy(prompt), LTX2AVSample={"latent": ["empty", 0], "sigmas": ["sigmas", 0]})
    return add(
        change(graph, SaveVideo={"video": ["clip", 0]}),
        start=("LTXVSeparateAVLatent", {"av_latent": [latent, 0]}),
        video=("EmptyLTXVLatentVideo", {"width": 96, "height": 96, "length": [latent, 1], "batch_size": 1}),
        empty=("LTXVConcatAVLatent", {"video_latent": ["video", 0], "audio_latent": ["start", 1]}),
        sigmas=("LTXVScheduler", SCHEDULE | {"latent": ["empty", 0]}),
        parts=("LTXVSeparateAVLatent", {"av_latent": [sampler, 0]}),
        whole=("LTXVConcatAVLatent", {"video_latent": ["parts", 0], "audio_latent": ["parts", 1]}),
        frames=("LTX2AVVideoDecode", {"model": [model, 0], "latent": ["parts", 0]}),
        mel=("LTX2AVAudioDecode", {"model": [model, 0], "latent": ["whole", 0]}),
        sound=("LTX2AVVocoder", {"model": [model, 0], "mel": ["mel", 0]}),
        clip=("CreateVideo", {"images": ["frames", 0], "fps": [latent, 2], "audio": ["sound", 0]}),
        alone=("LTX2AVAudioDecode", {"model": [model, 0], "latent": ["parts", 1]}),
        heard=("LTX2AVVocoder", {"model": [model, 0], "mel": ["alone", 0]}),
        preview=("PreviewAudio", {"audio": ["heard", 0]}),
    )


def keep(prompt: Prompt, images: list, audio: list) -> Prompt:
    """Save pictures and sound without loss, too."""
    return add(
        prompt,
        pictures=("SaveImage", {"images": images, "filename_prefix": "pictures"}),
        flac=("SaveAudio", {"audio": audio, "filename_prefix": "sound"}),
    )


def test_the_same_clip_comes_out_of_a_graph_with_core_nodes(server, client, prompt):
    change(prompt, LTX2AVSample={"seed": 11}, LTX2AVEmptyLatent={"fps": 30.0})
    decode = node(prompt, "LTX2AVDecode")
    mixed = client.run(keep(with_core_nodes(prompt), ["frames", 0], ["sound", 0]))
    ours = client.run(keep(prompt, [decode, 1], [decode, 2]))
    assert mixed.outputs["preview"]["audio"], "sound without its picture was not decoded"
    clips = [Clip.of(server, run, node(prompt, "SaveVideo")) for run in (mixed, ours)]
    for clip in clips:
        assert clip.fps == 30
        assert abs(clip.audio_seconds - 33 / 30) < 0.001
    pictures = [pictures_in(saved(server, run, "pictures")).astype(int) for run in (mixed, ours)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1  # the sigmas differ in their last bits
    sounds = [sound_in(*saved(server, run, "flac"))[0] for run in (mixed, ours)]
    assert np.abs(sounds[0].astype(float) - sounds[1]).max() <= 1e-3 * np.abs(sounds[1]).max()


def test_what_a_noise_mask_of_the_host_covers_stays(server, client, prompt):
    """A mask of 0 over the whole picture of an earlier clip: another seed changes the sound, and not a pixel."""
    sampler, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    del prompt[node(prompt, "SaveVideo")]
    first = prompt[sampler]["inputs"] | {"seed": 11}
    add(
        prompt,
        before=("LTX2AVSample", first),
        nothing=("SolidMask", {"value": 0.0, "width": 96, "height": 96}),
        masked=("SetLatentNoiseMask", {"samples": ["before", 0], "mask": ["nothing", 0]}),
    )
    keep(prompt, [decode, 1], [decode, 2])
    made = []
    for latent, seed in (("before", 12), ("masked", 12), ("masked", 13)):
        prompt[sampler]["inputs"] |= {"latent": [latent, 0], "seed": seed}
        run = client.run(prompt)
        made.append((pictures_in(saved(server, run, "pictures")), sound_in(*saved(server, run, "flac"))))
    (free, _), (kept, heard), (again, other) = made
    assert (kept == again).all() and (kept != free).any()
    assert not np.array_equal(heard[0], other[0])


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_latent_that_is_still_noisy_is_finished_by_the_other_sampler(server, client, prompt, ours_first):
    """Of a picture alone, because ComfyUI 0.33 lets sound see a picture that the sound has changed already."""
    change(prompt, LTX2AVLoadModel={"checkpoint": TINY}, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"})
    change(prompt, LTX2AVEmptyLatent={"width": 96, "height": 96, "frames": 17, "streams": "picture only"})
    change(prompt, LTX2AVSample={"seed": 3, "noise_order": "comfyui"} | NEUTRAL)
    change(prompt, LTX2AVSchedule={"steps": 5})
    model, sampler, empty = (node(prompt, f"LTX2AV{name}") for name in ("LoadModel", "Sample", "EmptyLatent"))
    for name in ("LTX2AVDecode", "SaveVideo"):
        del prompt[node(prompt, name)]
    ours = prompt[sampler]["inputs"]
    positive, sigmas = ours["positive"], ours["sigmas"]
    add(
        prompt,
        checkpoint=("CheckpointLoaderSimple", {"ckpt_name": TINY}),
        rated=("LTXVConditioning", {"positive": positive, "negative": positive, "frame_rate": 24.0}),
        steps=("SplitSigmas", {"sigmas": sigmas, "step": 3}),
        euler=("KSamplerSelect", {"sampler_name": "euler"}),
        decoded=("LTX2AVVideoDecode", {"model": [model, 0], "latent": [sampler, 0]}),
        pictures=("SaveImage", {"images": ["decoded", 0], "filename_prefix": "pictures"}),
    )
    whole = pictures_in(saved(server, client.run(prompt), "pictures")).astype(int)
    part = {"noise_seed": 3, "cfg": 1.0, "positive": ["rated", 0], "negative": ["rated", 1], "sampler": ["euler", 0]}
    core = part | {"model": ["checkpoint", 0], "add_noise": not ours_first, "latent_image": [empty, 0]}
    first, last = ["steps", 0], ["steps", 1]
    if ours_first:
        change(prompt, LTX2AVSample={"sigmas": first})
        add(prompt, core=("SamplerCustom", core | {"sigmas": last, "latent_image": [sampler, 0]}))
        change(prompt, LTX2AVVideoDecode={"latent": ["core", 0]})
    else:
        add(prompt, core=("SamplerCustom", core | {"sigmas": first}))
        change(prompt, LTX2AVSample={"sigmas": last, "latent": ["core", 0], "add_noise": False})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    assert np.abs(pictures_in(saved(server, run, "pictures")).astype(int) - whole).max() <= 1


CUTS = {
    "LatentFromBatch": {"batch_index": 1, "length": 1},
    "RepeatLatentBatch": {"amount": 2},
    "LatentCut": {"dim": "t", "index": 0, "amount": 2},
    "LatentUpscaleBy": {"upscale_method": "nearest-exact", "scale_by": 2.0},
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_latent_that_is_still_noisy_is_finished_at_the_size_that_another_node_gave_it(client, prompt, cut):
    sampler = node(prompt, "LTX2AVSample")
    change(prompt, LTX2AVEmptyLatent={"batch_size": 2, "frames": 17}, LTX2AVSample=NEUTRAL | {"end_step": 2})
    rest = prompt[sampler]["inputs"] | {"start_step": 2, "end_step": 0, "add_noise": False, "latent": ["cut", 0]}
    add(
        prompt,
        parts=("LTXVSeparateAVLatent", {"av_latent": [sampler, 0]}),
        cut=(cut, CUTS[cut] | {"samples": ["parts", 0]}),
        rest=("LTX2AVSample", rest),
    )
    prompt[node(prompt, "LTX2AVDecode")]["inputs"]["latent"] = ["rest", 0]
    run = client.run(prompt)
    assert run.end == "execution_success", run.error


def test_a_graph_with_guides_goes_on_with_our_sampler_in_place_of_the_core_s(server, client, prompt):
    """Two guides, sampled, cropped and decoded by ComfyUI; of a picture alone, as above."""
    change(prompt, LTX2AVLoadModel={"checkpoint": TINY}, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"})
    change(prompt, LTX2AVSample={"seed": 3, "noise_order": "comfyui"} | NEUTRAL)
    sampler = node(prompt, "LTX2AVSample")
    for name in ("LTX2AVDecode", "SaveVideo", "LTX2AVEmptyLatent"):
        del prompt[node(prompt, name)]
    ours = prompt[sampler]["inputs"]
    positive, sigmas = ours["positive"], ours["sigmas"]
    guide = {"vae": ["checkpoint", 2]}
    first = guide | {"image": ["red", 0], "frame_idx": 0, "strength": 1.0, "latent": ["empty", 0]}
    last = guide | {"image": ["blue", 0], "frame_idx": -1, "strength": 1.0, "latent": ["first", 2]}
    core = {"noise_seed": 3, "cfg": 1.0, "add_noise": True, "sampler": ["euler", 0], "sigmas": sigmas}
    core |= {"model": ["checkpoint", 0], "positive": ["last", 0], "negative": ["last", 1], "latent_image": ["last", 2]}
    size = {"width": 96, "height": 96, "batch_size": 1}
    add(
        prompt,
        checkpoint=("CheckpointLoaderSimple", {"ckpt_name": TINY}),
        rated=("LTXVConditioning", {"positive": positive, "negative": positive, "frame_rate": 24.0}),
        empty=("EmptyLTXVLatentVideo", size | {"length": 17}),
        red=("EmptyImage", size | {"color": 0xFF4020}),
        blue=("EmptyImage", size | {"color": 0x2040FF}),
        first=("LTXVAddGuide", first | {"positive": ["rated", 0], "negative": ["rated", 1]}),
        last=("LTXVAddGuide", last | {"positive": ["first", 0], "negative": ["first", 1]}),
        euler=("KSamplerSelect", {"sampler_name": "euler"}),
        core=("SamplerCustom", core),
        crop=("LTXVCropGuides", {"positive": ["last", 0], "negative": ["last", 1], "latent": ["core", 0]}),
        decoded=("VAEDecode", {"samples": ["crop", 2], "vae": ["checkpoint", 2]}),
        pictures=("SaveImage", {"images": ["decoded", 0], "filename_prefix": "pictures"}),
    )
    change(prompt, LTX2AVSample={"positive": ["last", 0], "negative": ["last", 1], "latent": ["last", 2]})
    change(prompt, LTX2AVSchedule={"latent": ["empty", 0]})
    made = []
    for name in ("core", sampler):
        prompt["crop"]["inputs"]["latent"] = [name, 0]
        run = client.run(prompt)
        assert run.end == "execution_success", run.error
        made.append(pictures_in(saved(server, run, "pictures")).astype(int))
    assert len(made[1]) == 17
    assert np.abs(made[0] - made[1]).max() <= 1


def over_time(prompt: Prompt, split: float) -> Prompt:
    """The positive prompt until a part of the run, and the negative one from there on."""
    positive = prompt[node(prompt, "LTX2AVSample")]["inputs"]["positive"]
    later = [positive[0], 1]
    ranges = {"early": (positive, 0.0, split), "late": (later, split, 1.0)}
    for name, (source, start, end) in ranges.items():
        inputs = {"conditioning": source, "start": start, "end": end}
        add(prompt, **{name: ("ConditioningSetTimestepRange", inputs)})
    add(prompt, both=("ConditioningCombine", {"conditioning_1": ["early", 0], "conditioning_2": ["late", 0]}))
    change(prompt, LTX2AVSample={"positive": ["both", 0], "seed": 3})
    return prompt


def test_two_prompts_over_time_are_obeyed(server, client, prompt):
    decode = node(prompt, "LTX2AVDecode")
    change(prompt, LTX2AVSample={"seed": 3})
    runs = [client.run(keep(prompt, [decode, 1], [decode, 2]))]
    for split in (0.3, 0.999):
        runs.append(client.run(over_time(prompt, split)))
        assert runs[-1].end == "execution_success", runs[-1].error
        change(prompt, LTX2AVSample={"positive": prompt["early"]["inputs"]["conditioning"]})
    alone, early, late = (pictures_in(saved(server, run, "pictures")).astype(int) for run in runs)
    assert np.abs(alone - early).mean() > 1 and np.abs(alone - late).mean() < 0.5 * np.abs(alone - early).mean()


def test_two_prompts_in_two_halves_of_the_picture_are_obeyed(server, client, prompt):
    """In a clip with sound, where ComfyUI's own sampler cannot; ``test_guides.py`` compares the numbers."""
    decode = node(prompt, "LTX2AVDecode")
    positive = prompt[node(prompt, "LTX2AVSample")]["inputs"]["positive"]
    other = [positive[0], 1]
    half = {"width": 0.5, "height": 1.0, "y": 0.0, "strength": 1.0}
    add(
        prompt,
        left=("ConditioningSetAreaPercentage", half | {"conditioning": positive, "x": 0.0}),
        right=("ConditioningSetAreaPercentage", half | {"conditioning": other, "x": 0.5}),
        halves=("ConditioningCombine", {"conditioning_1": ["left", 0], "conditioning_2": ["right", 0]}),
    )
    made = []
    for source in (positive, other, ["halves", 0]):
        change(prompt, LTX2AVSample={"positive": source, "seed": 3})
        run = client.run(keep(prompt, [decode, 1], [decode, 2]))
        assert run.end == "execution_success", run.error
        made.append(pictures_in(saved(server, run, "pictures")).astype(int))
    assert (made[2] != made[0]).any() and (made[2] != made[1]).any()


def test_what_cannot_be_obeyed_is_refused_with_the_node_to_take_out(client, prompt):
    positive = prompt[node(prompt, "LTX2AVSample")]["inputs"]["positive"]
    add(prompt, weak=("FluxGuidance", {"conditioning": positive, "guidance": 3.5}))
    change(prompt, LTX2AVSample={"positive": ["weak", 0]})
    run = client.run(prompt)
    assert run.end == "execution_error" and "FluxGuidance" in str(run.error)
