"""Runs inside ComfyUI's own Python: guide frames and reference sounds of its nodes, in its sampler and in ours.

In the folder are tiny models. Prints the largest relative difference of each comparison as JSON.
"""

import json
from fractions import Fraction
from types import SimpleNamespace

from inside import folder, part

# The line above makes the host importable.
# isort: split
import comfy.samplers
import comfy.sd
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras import nodes_custom_sampler, nodes_lt

import nodes

torch.set_num_threads(1)
CHECKPOINT = folder / "ltx-2.3-tiny.safetensors"
FPS, SEED, SIZE = 24.0, 5, (3, 2, 4)  # latent frames, rows, columns
SIGMAS = torch.tensor([1.0, 0.8, 0.4, 0.0])

engines, samples, values = part("nodes.engine"), part("nodes.sample"), part("nodes.values")
graph = part("ltx2_core.pipeline.graph.latents")
conditioning, checkpoint = part("ltx2_core.conditioning"), part("ltx2_core.checkpoint")
model = engines.LoadedModel(checkpoint.open_models(CHECKPOINT), "fp32")
core_model = comfy.sd.load_checkpoint_guess_config(
    str(CHECKPOINT), output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
)[0]
core_model.set_model_compute_dtype(torch.float32)


class Node(samples.SampleNode):
    hidden = SimpleNamespace(unique_id=None)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class VAE:
    """Encodes every picture, and eight of a video, to numbers of its own."""

    downscale_index_formula = (8, 32, 32)

    def encode(self, pixels):
        frames, height, width, _ = pixels.shape
        shape = 1, 128, (frames - 1) // 8 + 1, height // 32, width // 32
        return noise(*shape, seed=int(1e6 * pixels.double().mean()))


class AudioVAE:
    def encode(self, waveform):
        return noise(1, 8, 5, 16, seed=7)


def pictures(count: int, seed: int) -> torch.Tensor:
    height, width = (32 * each for each in SIZE[1:])
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def prompts(batch: int = 1):
    config = engines.HostEngine(model).blueprint.shortened_transformer(1).config
    width = config.video.context_width + config.audio.context_width
    return [[[noise(batch, 4, width, seed=seed), {"frame_rate": FPS}]] for seed in (2, 3)]


def guided(*guides, sound: bool = False, voice: bool = False):
    """Prompts and latent behind LTXVAddGuide nodes; a guide is pictures, frame, strength and more."""
    positive, negative = prompts()
    latent = {"samples": torch.zeros(1, 128, *SIZE)}
    if voice:
        audio = {"waveform": noise(1, 2, 16000), "sample_rate": 44100}
        _, positive, negative = nodes_lt.LTXVReferenceAudio.execute(
            core_model, positive, negative, audio, AudioVAE(), 0.0, 0.0, 1.0
        ).args
    for image, frame, strength, *more in guides:
        positive, negative, latent = nodes_lt.LTXVAddGuide.execute(
            positive, negative, VAE(), latent, image, frame, strength, *more
        ).args
    if sound:
        audio = {"samples": torch.zeros(1, 8, 18, 16)}
        latent = nodes_lt.LTXVConcatAVLatent.execute(latent, audio).args[0]
    return positive, negative, latent


def ours(positive, latent, sigmas=SIGMAS, conditions=None, **settings):
    neutral = {"text_scale": 1.0, "cross_modal_scale": 1.0, "stg_scale": 0.0, "rescale": 0.0}
    neutral |= {"seed": SEED, "noise_order": "comfyui", "sampler": "euler"} | settings
    return Node.execute(model, positive, latent, sigmas=sigmas, conditions=conditions, **neutral).args[0]


def core(positive, negative, latent, sigmas=SIGMAS, add_noise=True):
    euler = comfy.samplers.sampler_object("euler")
    return nodes_custom_sampler.SamplerCustom.execute(
        core_model, add_noise, SEED, 1.0, positive, negative, euler, sigmas, latent
    ).args[0]


def cropped(positive, negative, latent):
    """The picture without guides, as LTXVCropGuides of the host leaves it."""
    if latent["samples"].is_nested:
        latent = nodes_lt.LTXVSeparateAVLatent.execute(latent).args[0]
    return nodes_lt.LTXVCropGuides.execute(positive, negative, latent).args[2]["samples"]


def streams(latent):
    samples = latent["samples"]
    return samples.unbind() if samples.is_nested else [samples]


def difference(a, b) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def beside_core(*guides, sound: bool = False, voice: bool = False, sigmas=SIGMAS, add_noise=True) -> float:
    """Our sampler and that of the host, with the same prompts and latent, cropped and compared."""
    positive, negative, latent = guided(*guides, sound=sound, voice=voice)
    made = ours(positive, latent, sigmas, add_noise=add_noise)
    theirs = core(positive, negative, latent, sigmas, add_noise)
    assert [x.shape for x in streams(made)] == [x.shape for x in streams(theirs)]
    clips = [cropped(positive, negative, each) for each in (made, theirs)]
    assert clips[0].shape[2] == SIZE[0]
    differences = [difference(*clips)]
    if sound:
        differences.append(difference(streams(made)[1], streams(theirs)[1]))
    return max(differences)


def beside_keyframes(*guides, sound: bool = False) -> float:
    """Our sampler with guides of the host, and with keyframes of ours that are appended."""
    positive, negative, latent = guided(*guides, sound=sound)
    made = cropped(positive, negative, ours(positive, latent))
    begin = graph.GraphLatent(latent, prompt=graph.GraphPrompt(positive))
    frames, items = begin._guides.latent, []
    for image, frame, strength in guides:
        count = (len(image) - 1) // 8 + 1
        items.append(conditioning.Keyframe(frames[:, :, :count], frame, strength, append=True))
        frames = frames[:, :, count:]
    plain = values.to_host_latent(begin.with_content(begin.content, ("noise_mask",)))
    video = [x[:, :, : SIZE[0]] if x.ndim == 5 else x for x in streams(plain)]
    plain["samples"] = NestedTensor(video) if sound else video[0]
    encode = type(model.conditions).encode
    type(model.conditions).encode = lambda *_: items
    try:
        return difference(streams(ours(prompts()[0], plain | {"fps": Fraction(24)}))[0], made)
    finally:
        type(model.conditions).encode = encode


def two_prompts(sigmas=SIGMAS) -> float:
    """Prompts with a mask, a strength and a part of the run, in both samplers."""
    first, second = prompts()
    mask = torch.rand(1, 64, 128, generator=torch.Generator().manual_seed(8))
    masked = nodes.ConditioningSetMask().append(first, mask, "default", 0.8)[0]
    weak = nodes.ConditioningSetAreaStrength().append(second, 0.5)[0]
    early = nodes.ConditioningSetTimestepRange().set_range(
        [[noise(*first[0][0].shape, seed=9), first[0][1]]], 0.0, 0.9
    )[0]
    joined = [*masked, *weak, *early]
    latent = {"samples": torch.zeros(1, 128, *SIZE)}
    return difference(*(streams(each)[0] for each in (ours(joined, latent), core(joined, second, latent))))


def ours_of(*guides, drop: str = "", **more):
    """Our latent of a graph, whose prompt may have lost something."""
    positive, _, latent = guided(*guides, **more)
    positive[0][1].pop(drop, None)
    return streams(ours(positive, latent, noise_order="official"))


def without(with_it, without_it) -> float:
    """How much the clip changes by what was given."""
    return difference(with_it[-1][:, :, : SIZE[0]], without_it[-1][:, :, : SIZE[0]])


with torch.inference_mode():
    one, other, nine = pictures(1, 1), pictures(1, 2), pictures(9, 3)
    ONE_STEP = torch.tensor([1.0, 0.0])
    region = torch.rand(1, 64, 128, generator=torch.Generator().manual_seed(4))
    firm = (other, 11, 1.0), (one, -1, 1.0), (nine, 0, 1.0)
    found = {
        "keyframes": beside_keyframes(*firm),
        "keyframes and sound": beside_keyframes(*firm, sound=True),
        "core": beside_core(*firm),
        "core with sound": beside_core(*firm, sound=True),
        "core, nothing given": beside_core((one, 0, 0.0)),
        "core, soft": beside_core((one, 0, 0.5), (other, 11, 0.7), sigmas=ONE_STEP),
        "core, voice": beside_core(sound=True, voice=True),
        "prompts": two_prompts(),
        "without guides": without(ours_of(*firm), ours_of()),
        "without voice": without(ours_of(sound=True, voice=True), ours_of(sound=True)),
        "without attention": without(ours_of((one, 0, 0.5)), ours_of((one, 0, 0.5), drop="guide_attention_entries")),
    }
    if "attention_mask" in [each.id for each in nodes_lt.LTXVAddGuide.define_schema().inputs]:  # from 0.33 on
        seventeen = pictures(17, 5)
        several = torch.rand(9, 64, 128, generator=torch.Generator().manual_seed(6))
        small = (nine, 0, 1.0, None, {"reference_downscale_factor": 2})
        found |= {
            "core, attention": beside_core((one, 0, 1.0, region), (nine, 0, 1.0, several), (other, 16, 1.0)),
            "core, strong": beside_core((one, 0, 2.0), (other, 5, 1.5, region)),
            "core, in the middle": beside_core((nine, 8, 1.0, several), (seventeen, 8, 1.0)),
            # The host also draws noise for the gaps of a smaller grid, so here without.
            "core, small grid": beside_core(small, (one, 0, 1.0, region), add_noise=False),
        }
print(json.dumps(found))
