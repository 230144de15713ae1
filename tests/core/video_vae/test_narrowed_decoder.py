"""Video decoders that were made smaller (PrunaVAED): their widths, their names, and a clip."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from drafts import narrowed_decoder, write_narrowed
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ltx2_core import generate, tiny
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.parts import find_parts
from ltx2_core.errors import CheckpointError
from ltx2_core.video_vae import VideoDecoder, VideoVAEConfig

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden" / "config_2.3.json").read_text())["vae"]
# As ComfyUI's file of PrunaVAED lists them; diffusers' has the same ones in levels.
NARROWED = {
    "decoder_base_channels": 64,
    "decoder_blocks": [
        ["res_x", {"num_layers": 4}],
        ["compress_space", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_time", {"multiplier": 2}],
        ["res_x_y", {"in_channels": 384, "out_channels": 256}],
        ["res_x", {"num_layers": 4}],
        ["compress_all", {"multiplier": 1}],
        ["res_x_y", {"in_channels": 512, "out_channels": 384}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
    ],
}


def shapes_of(section: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        decoder = VideoDecoder(VideoVAEConfig.from_json(section))
    return {name: tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}


def test_it_has_the_published_widths():
    shapes = shapes_of(PUBLISHED | NARROWED)
    blocks = ("0.0", "2.0", "3.projected", "5.0", "6.projected", "8.0", "10.0")
    widths = [shapes[f"blocks.{block}.conv1.weight"][:2] for block in blocks]
    assert widths == [(1024, 1024), (512, 512), (384, 512), (384, 384), (256, 384), (128, 128), (64, 64)]
    assert shapes["blocks.3.projected.project.weight"] == (384, 512, 1, 1, 1)
    assert (shapes["conv_in.weight"][0], shapes["conv_out.weight"][1]) == (1024, 64)


def test_tensors_say_it_where_the_config_is_that_of_the_whole_decoder():
    narrowed = VideoVAEConfig.from_json(PUBLISHED | NARROWED)
    assert VideoVAEConfig.from_json(PUBLISHED, shapes_of(PUBLISHED | NARROWED)) == narrowed
    assert VideoVAEConfig.from_json(PUBLISHED | NARROWED, shapes_of(PUBLISHED | NARROWED)) == narrowed
    assert VideoVAEConfig.from_json(PUBLISHED, shapes_of(PUBLISHED)) == VideoVAEConfig.from_json(PUBLISHED)


def test_a_multiple_is_a_width_too():
    """As in the official reader."""
    blocks = [["res_x", 1], ["res_x_y", {"multiplier": 3}], *[["compress_all", {}]] * 3, ["res_x_y", {}], ["res_x", 1]]
    config = VideoVAEConfig.from_json(PUBLISHED | {"decoder_base_channels": 8, "decoder_blocks": blocks})
    assert config.decoder_width == 8 * 3 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_blocks": [["res_x_y", {"out_channels": 100}]]}, "out_channels = 100; 64, with which the next block"),
        ({"decoder_blocks": [["res_x_y", {"in_channels": "all"}]]}, "in_channels = 'all'"),
        ({"encoder_blocks": [["res_x_y", {}]]}, "encoder_blocks name 'res_x_y'; supported: res_x, compress_space_res"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        VideoVAEConfig.from_json(PUBLISHED | NARROWED | changes)


@torch.no_grad()
def test_channels_are_normed_at_each_place_before_they_are_projected():
    block = next(it for it in narrowed_decoder().blocks if hasattr(it, "projected")).projected
    x = torch.randn(1, block.norm.weight.numel(), 2, 3, 3, generator=torch.Generator().manual_seed(0)) / 1000
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    projected = torch.einsum("oi,bifhw->bofhw", block.project.weight[..., 0, 0, 0], normed)
    assert_close(block.skip(x), projected + block.project.bias.view(-1, 1, 1, 1))


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("norm", ["norm3.norm", "norm3"])
def test_a_file_of_a_decoder_alone_takes_its_place(tmp_path, says, norm):
    """With and without a config, under either name of the norm; the encoder stays that of the checkpoint."""
    file = write_narrowed(tmp_path / "narrowed.safetensors", says, norm)
    models = open_models("miniature", video_vae=file)
    assert models.source("video_decoder").file.path == file != models.source("video_encoder").file.path
    latent = torch.randn(1, 128, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(build(models, "video_decoder", torch.float32)(latent), narrowed_decoder()(latent))
    build(models, "video_encoder")


@pytest.mark.parametrize(
    "changed",
    [
        {"decoder.up_blocks.3.conv_shortcut.weight": torch.zeros(24)},
        {"decoder.up_blocks.3.conv_shortcut.weight": torch.zeros(24, 40, 1, 1, 1)},
        {"decoder.conv_out.conv.weight": torch.zeros(48)},
        {"decoder.conv_out.conv.weight": None},
    ],
)
def test_a_damaged_one_is_answered_in_a_sentence(tmp_path, changed):
    file = write_narrowed(tmp_path / "narrowed.safetensors", says=False)
    state = {name: value for name, value in (load_file(file) | changed).items() if value is not None}
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"narrowed\.safetensors"):
        build(open_models("miniature", video_vae=file), "video_decoder")


def test_a_whole_decoder_is_found_before_it(tmp_path):
    checkpoint, rest, whole = (
        tiny.write(tmp_path, "2.3")[0],
        tmp_path / "rest.safetensors",
        tmp_path / "whole.safetensors",
    )
    tensors, metadata = load_file(checkpoint), open_models(checkpoint).files[0].metadata
    save_file({key: tensors[key] for key in tensors if not key.startswith("vae.")}, rest, metadata)
    save_file({key: tensors[key] for key in tensors if key.startswith(("vae.decoder.", "vae.per_channel"))}, whole)
    assert find_parts([rest], [write_narrowed(tmp_path / "narrowed.safetensors"), whole]) == [whole]


@pytest.mark.slow
def test_a_clip_is_made_with_it(tmp_path):
    models = open_models("miniature", video_vae=write_narrowed(tmp_path / "narrowed.safetensors"))
    clip = generate(models, "a red ball bounces once on the left", width=96, height=64, frames=17, steps=1)
    frames = torch.as_tensor(clip.frames)
    assert frames.shape == (17, 64, 96, 3) and any(not torch.equal(a, b) for a, b in pairwise(frames))
