"""The latent upscalers against the official one, its numbers and its key lists; memory; what becomes of a clip."""

import json
from fractions import Fraction
from math import prod

import formula
import golden
import pytest
import tiny_parts
import torch
from agreement import compare
from drafts import write_draft
from safetensors.torch import save_file

from ltx2_core import generate
from ltx2_core.checkpoint import CheckpointError, open_models
from ltx2_core.checkpoint.keys.upscaler import RATIONAL_UPSCALER, UPSCALER
from ltx2_core.checkpoint.upscaler import BUILT_IN, build_upscaler, open_upscaler, video_statistics
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import AVLatent
from ltx2_core.memory.trace import cost
from ltx2_core.pipeline.upscale import upscale
from ltx2_core.settings import SecondStage
from ltx2_core.upscaler import Upscaler, UpscalerConfig
from ltx2_core.video_vae.layers import ChannelStatistics

SMALL = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1}
KINDS = {
    "spatial x2": {},
    "spatial x2 rational": {"rational_resampler": True, "spatial_scale": 2.0},
    "spatial x1.5": {"rational_resampler": True, "spatial_scale": 1.5},
    "spatial x0.75": {"rational_resampler": True, "spatial_scale": 0.75},
    "spatial x4": {"rational_resampler": True, "spatial_scale": 4.0},
    "temporal x2": {"spatial_upsample": False, "temporal_upsample": True},
    "both x2": {"temporal_upsample": True},
}
LISTS = {
    "spatial_x2_default": ({"mid_channels": 1024}, 72, 497_912_960),
    "spatial_x2_rational": ({"mid_channels": 1024, **KINDS["spatial x2 rational"]}, 73, 497_912_985),
    "spatial_x1.5_rational": ({"mid_channels": 1024, **KINDS["spatial x1.5"]}, 73, 545_108_105),
    "temporal_x2": ({"mid_channels": 512, **KINDS["temporal x2"]}, 72, 131_000_000),
}


def keys_of(section: dict):
    return RATIONAL_UPSCALER if section.get("rational_resampler") else UPSCALER


def pair(section: dict, seed: int = 0):
    """ltx-core's module with random weights, and ours with the same ones."""
    official = pytest.importorskip("ltx_core.model.upsampler")
    theirs = official.LatentUpsamplerConfigurator.from_config(section)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in theirs.state_dict().items():
        if not name.endswith("kernel"):
            gain = 1.5 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 0.2
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(one + gain * torch.randn(tensor.shape, generator=generator))
    ours = Upscaler(UpscalerConfig.from_json(section))
    ours.load_state_dict({keys_of(section).ours(key, ""): value for key, value in theirs.state_dict().items()})
    return theirs, ours


@torch.inference_mode()
@pytest.mark.parametrize("cells", [2**14, 30, 1], ids=["whole", "two frames", "one frame"])
@pytest.mark.parametrize("kind", KINDS)
def test_agreement(kind, cells, monkeypatch):
    monkeypatch.setattr("ltx2_core.upscaler.CELLS", cells)
    theirs, ours = pair(SMALL | KINDS[kind])
    for size in ((2, 8, 1, 3, 5), (1, 8, 5, 3, 5), (1, 8, 4, 2, 2)):
        latent = torch.randn(size)
        compare(f"upscaler {kind}", ours(latent), theirs(latent.clone()))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_official_ones(kind):
    theirs, ours = pair(SMALL | KINDS[kind])
    latent = torch.randn(1, 8, 3, 4, 5)
    for network in theirs, ours:
        network.requires_grad_(True)(latent.clone()).square().mean().backward()
    official = keys_of(SMALL | KINDS[kind]).official
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = {official(name): parameter.grad for name, parameter in ours.named_parameters()}
    # All at once: those of some biases are 0, but for rounding.
    flat = [torch.cat([each[name].flatten() for name in expected]) for each in (found, expected)]
    compare(f"gradients of the upscaler {kind}", *flat)


@torch.inference_mode()
def test_agreement_with_the_statistics_of_the_vae():
    official = pytest.importorskip("ltx_core.model.upsampler")
    theirs, ours = pair(SMALL)
    statistics = ChannelStatistics(8)
    statistics.mean, statistics.std = torch.randn(8), torch.rand(8) + 0.5

    class Encoder:
        class per_channel_statistics:
            normalize, un_normalize = statistics.normalize, statistics.denormalize

    latent = AVLatent(torch.randn(1, 8, 3, 4, 5), torch.randn(1, 8, 9, 16))
    larger, fps = upscale(ours, latent, Fraction(24), statistics)
    compare("upscaler with statistics", larger.video, official.upsample_video(latent.video, Encoder, theirs))
    assert larger.audio is latent.audio and fps == 24


@torch.inference_mode()
@pytest.mark.parametrize("adain, compression", [(1.0, 0.0), (0.4, 0.6), (0.0, 1.0)])
def test_tones_are_those_of_diffusers(adain, compression):
    theirs = pytest.importorskip("diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample").LTX2LatentUpsamplePipeline
    _, ours = pair(SMALL)
    statistics, latent = ChannelStatistics(8), AVLatent(5 * torch.randn(2, 8, 3, 4, 5), None)
    statistics.mean, statistics.std = torch.randn(8), torch.rand(8) + 0.5
    raw = statistics.denormalize(latent.video)
    expected = theirs.adain_filter_latent(None, ours(raw), raw, adain)
    expected = statistics.normalize(theirs.tone_map_latents(None, expected, compression))
    larger, _ = upscale(ours, latent, Fraction(24), statistics, adain, compression)
    compare("tones of an enlarged latent", larger.video, expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in golden.vectors("vae_audio") if name.startswith("upscaler_")])
def test_published_numbers(name):
    vector = golden.vectors("vae_audio")[name]
    ours = Upscaler(UpscalerConfig.from_json(vector["config"]))
    formula.fill(ours, keys_of(vector["config"]).official)
    formula.check(ours(formula.signal(*vector["input"])), vector["output"])


@torch.inference_mode()
def test_half_precision_is_nearer_to_the_truth_than_the_official_one():
    theirs, ours = pair(SMALL)
    latent = torch.randn(1, 8, 3, 4, 5)
    truth = theirs(latent)
    errors = [(each.bfloat16()(latent.bfloat16()).float() - truth).square().mean() for each in (ours, theirs)]
    assert errors[0] < errors[1] < 0.01 * truth.square().mean()


# Files


@pytest.mark.parametrize("name", LISTS)
def test_every_released_key_has_its_place(name):
    section, count, elements = LISTS[name]
    listed, keys = golden.shapes(f"upscaler_{name}"), keys_of(section)
    assert len(listed) == count and sum(map(prod, listed.values())) == pytest.approx(elements, rel=1e-3)
    ours = {keys.ours(key, ""): shape for key, shape in listed.items()}
    assert {keys.official(each) for each in ours} == set(listed)
    config = UpscalerConfig.from_json(section)
    with torch.device("meta"):
        assert ours == {each: tuple(value.shape) for each, value in Upscaler(config).state_dict().items()}
    assert UpscalerConfig.from_shapes(ours) == config


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_recognised_with_and_without_its_config(kind, tmp_path):
    file = open_upscaler(tiny_parts.write_upscaler(tmp_path, KINDS[kind]))
    upscaler = build_upscaler(file, torch.float32)
    assert upscaler.config == UpscalerConfig.from_json({"mid_channels": 32, "num_blocks_per_stage": 1} | KINDS[kind])
    bare = tmp_path / "bare.safetensors"
    save_file({key: file.file.get(key) for key in file.file.entries}, bare)
    if kind != "spatial x0.75":
        assert open_upscaler(bare).config == upscaler.config


def test_other_files_are_refused(tmp_path):
    path = tiny_parts.write_upscaler(tmp_path)
    file = open_upscaler(path)
    tensors = {key: file.file.get(key) for key in file.file.entries}

    def refused(words: str, tensors: dict, **config) -> None:
        other = tmp_path / "other.safetensors"
        save_file(tensors, other, {"config": json.dumps(config)})
        with pytest.raises(CheckpointError, match=words):
            build_upscaler(open_upscaler(other))

    refused(
        "other.safetensors is not a latent upscaler .*a.lora_A.weight",
        {"a.lora_A.weight": tensors["final_conv.bias"]},
    )
    refused("is not a latent upscaler", {key: value for key, value in tensors.items() if "upsampler" not in key})
    refused("lacks tensors: final_conv.bias", {key: tensors[key] for key in tensors if key != "final_conv.bias"})
    refused("other.safetensors: .* 2 dims; .* 3", tensors, dims=2)
    refused("enlarges space by 1 and time by 1; choose", tensors, spatial_upsample=False)
    narrow = {key: value[:, :16] if key == "initial_conv.weight" else value for key, value in tensors.items()}
    narrow |= {key: value[:16] for key, value in tensors.items() if key.startswith("final_conv")}
    narrow = {key: value.contiguous() for key, value in narrow.items()}
    refused("enlarges latents of 16 channels, and those of LTX-2 have 128", narrow, **SMALL | {"in_channels": 16})
    refused("enlarges space by 2.5", tensors, rational_resampler=True, spatial_scale=2.5)
    refused("has wrongly shaped tensors: final_conv.weight", tensors, mid_channels=64, num_blocks_per_stage=1)


def test_foreign_latents_are_refused(tmp_path):
    upscaler = build_upscaler(open_upscaler(tiny_parts.write_upscaler(tmp_path)), torch.float32)
    with pytest.raises(SettingError, match=r"16 channels, .* 128"):
        upscaler(torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(SettingError, match="no video"):
        upscale(upscaler, AVLatent(None, torch.zeros(1, 8, 4, 16)), Fraction(24), ChannelStatistics(128))


# What becomes of a clip


@pytest.mark.parametrize(
    "kind, before, after",
    [
        ("spatial x2", (544, 960, 121, 24), (1088, 1920, 121, 24)),
        ("spatial x1.5", (160, 224, 9, 24), (256, 352, 9, 24)),
        ("temporal x2", (512, 768, 121, "24000/1001"), (512, 768, 241, "48000/1001")),
        ("temporal x2", (512, 768, 1, 24), (512, 768, 1, 48)),
        ("both x2", (512, 768, 9, 25), (1024, 1536, 17, 50)),
    ],
)
def test_length_and_rate_are_told_truly(kind, before, after, tmp_path):
    upscaler = build_upscaler(open_upscaler(tiny_parts.write_upscaler(tmp_path, KINDS[kind])), torch.float32).to("meta")
    height, width, frames, fps = before
    shape = ClipShape(width, height, frames, Fraction(fps))
    height, width, frames, fps = after
    expected = upscaler.config.upscaled_shape(shape)
    assert expected == ClipShape(width, height, frames, Fraction(fps))
    latent = AVLatent(torch.empty(1, 128, *shape.video_latent, device="meta"), torch.empty(1, 8, 126, 16))
    larger, rate = upscale(upscaler, latent, shape.fps, ChannelStatistics(128))
    assert ClipShape.of_latent(larger.video, rate) == expected
    assert larger.audio is latent.audio
    assert abs(shape.seconds - expected.seconds) <= Fraction(1, 2) / shape.fps


def test_statistics_come_with_the_model():
    models = open_models("miniature")
    statistics, source = video_statistics(models), models.source("video_encoder")
    for name in ("mean", "std"):
        assert torch.equal(getattr(statistics, name), source.file.get(source.names[f"statistics.{name}"]).float())


def test_a_tiny_decoder_leaves_the_statistics_to_the_encoder(tmp_path):
    models, draft = open_models("miniature"), write_draft(tmp_path / "taeltx.safetensors")
    beside = open_models("miniature", video_vae=draft)
    assert beside.source("video_decoder").file.path == draft
    assert torch.equal(video_statistics(beside).mean, video_statistics(models).mean)


def test_a_tiny_decoder_alone_is_refused_before_any_work(tmp_path):
    alone = open_models("miniature", video_vae=write_draft(tmp_path / "taeltx.safetensors"))
    del alone.sources["video_encoder"]
    enlarged = SecondStage((open_upscaler(BUILT_IN),))
    small = {"width": 64, "height": 64, "frames": 9, "steps": 1, "cache": False, "device": "cpu"}
    seen = []
    with pytest.raises(CheckpointError, match="which a tiny decoder lacks"):
        generate(alone, "a red ball", second=enlarged, on_progress=seen.append, **small)
    assert not seen


# Memory


@pytest.mark.parametrize("kind, frames, size", [("spatial x2", 61, (34, 60)), ("temporal x2", 31, (68, 120))])
def test_two_clips_of_hidden_channels_are_the_most_that_exists(kind, frames, size):
    """20 seconds in 4K."""
    section = {"mid_channels": 1024} | KINDS[kind]
    with torch.device("meta"):
        upscaler = Upscaler(UpscalerConfig.from_json(section)).bfloat16()
        latent = torch.empty(1, 128, frames, *size, dtype=torch.bfloat16)
    hidden = 1024 * 61 * 68 * 120 * 2
    assert 2 * hidden < cost(lambda: upscaler(latent)).peak < 2.4 * hidden
