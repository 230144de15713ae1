"""The folder of 2.5 as diffusers and transformers write it: every part computes the same, and they make a clip."""

import json
import logging
import math
import re
import shutil
from pathlib import Path

import golden
import pytest
import tiny_parts
import torch
from agreement import compare
from diffusers_parts import folder_of_2_5, write_folder
from drawn import randn

import ltx2_core as ltx2
from ltx2_core.checkpoint import CheckpointError, TensorFile, build, open_models
from ltx2_core.checkpoint.belonging import find_text_encoder
from ltx2_core.checkpoint.entries import Entry
from ltx2_core.checkpoint.joined import joined
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.cli.inspect import inspect

pytestmark = [pytest.mark.slow, pytest.mark.oracle]

CLIP = {"width": 64, "height": 64, "frames": 9, "seed": 3, "sigmas": [1.0, 0.0], "cache": False, "device": "cpu"}


@pytest.fixture(scope="module")
def theirs():
    return folder_of_2_5()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("LTX-2.5-Diffusers"), theirs)


def test_the_folder_is_a_whole_distilled_model_of_2_5(folder):
    models = open_models(folder)
    assert (models.kind, models.missing) == ("LTX-2.5 distilled", [])
    assert models.duration_head and models.text_encoder == folder / "text_encoder" == find_text_encoder(models, [])
    places = {name: source.file.path.parent.name for name, source in models.sources.items()}
    assert places == {
        "transformer": "transformer", "text_features": "connectors", "video_connector": "connectors",
        "audio_connector": "connectors", "video_encoder": "vae", "video_decoder": "diffusion_decoder",
        "audio_encoder": "audio_vae", "audio_decoder": "audio_vae", "vocoder": "vocoder",
    }  # fmt: skip
    for name in models.sources:
        build(models, name, torch.float32)


def test_the_dev_model_and_the_convolutional_decoder_are_chosen_by_their_folders(folder):
    models = open_models([folder / "transformer_full", folder], video_vae=folder / "vae")
    assert models.kind == "LTX-2.5 dev"
    assert models.sources["transformer"].file.path.parent.name == "transformer_full"
    assert models.sources["video_decoder"].file.path.parent.name == "vae"


@pytest.mark.parametrize("video_vae", [None, "vae"])
def test_it_makes_a_clip_with_either_decoder(folder, video_vae):
    models = open_models(folder, video_vae=video_vae and folder / video_vae)
    clip = ltx2.generate(models, "a ball", **CLIP)
    assert torch.cat(list(clip.chunks)).shape == (9, 64, 64, 3)
    assert clip.waveform.isfinite().all() and clip.waveform.abs().max() > 0
    assert f"Model: {folder.name}/transformer/diffusion_pytorch_model, " in clip.parameters


@torch.no_grad()
def test_its_text_encoder_reads_as_that_of_transformers(folder, theirs):
    files = open_text_encoder(folder / "text_encoder")
    ids, mask = (tokens[:, -32:] for tokens in files.tokenizer()(["a red ball bounces"]))
    found = build_text_encoder(files, torch.float32)(ids, mask)
    positions = torch.arange(ids.shape[1])[None]
    expected = theirs["text_encoder"].model.language_model(
        ids, mask, position_ids=positions, output_hidden_states=True, use_cache=False
    )
    for a, b in zip(found, expected.hidden_states, strict=True):
        compare("diffusers: 2.5 hidden states", a[mask == 1], b[mask == 1])


@torch.no_grad()
def test_its_diffusion_decoder_is_that_of_diffusers(folder, theirs):
    ours, other = build(open_models(folder), "video_decoder", torch.float32), theirs["diffusion_decoder"]
    latent, noise = randn(1, 128, 3, 3, 3), randn(1, 3, 17, 96, 96, seed=2)
    cells = other.decoder.forward_stages_1_to_3(ours.statistics.denormalize(latent))
    expected = other.decoder.denoise(other.decoder.forward_stage_4(cells), noise, 1)
    compare("diffusers: 2.5 diffusion decoder", ours(latent, noise, 1), expected)
    assert torch.equal(ours.statistics.mean.flatten(), other.latents_mean)


@torch.no_grad()
def test_its_duration_head_is_that_of_diffusers(folder, theirs):
    """With two heads of attention, which only its config says."""
    ours = open_models(folder).duration_head.build()
    video, audio = randn(1, 6, 32), randn(1, 6, 16, seed=2)
    for given in ((video, audio), (video, None), (None, audio)):
        compare("diffusers: duration head", ours(*given), theirs["duration_head"](*given))


def test_inspect_names_every_part(folder):
    said = inspect(folder)
    assert all(word in said for word in ("transformer", "video_connector", "vocoder", "duration head of LTX-2.5"))
    assert "audio_decoder" in said
    assert "duration head of LTX-2.5" in inspect(folder / "duration_head")


def test_a_whole_file_beside_split_parts_gives_what_the_parts_before_it_lack(folder, tiny_files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    whole, split = tiny_files("2.5")[0], tiny_parts.write_split(tmp_path)
    models = open_models([split[2], whole])
    places = {name: source.file.path for name, source in models.sources.items()}
    assert places["video_decoder"] == places["video_encoder"] == split[2]
    assert {place for name, place in places.items() if not name.startswith("video_") or "conn" in name} == {whole}
    assert f"{whole.name} also holds what is not used: video encoder ({split[2].name} counts)" in caplog.text
    turned = open_models([whole, split[2]])
    assert {source.file.path for source in turned.sources.values()} == {whole}
    assert f"Nothing of {split[2].name} is used" in caplog.text


@pytest.mark.parametrize(("field", "value", "said"), [
    ("decoder_stage_kernels", [[3, 3, 3]], "stage_kernels"),
    ("decoder_upsample_channel_reductions", [2, 2], "decoder_upsample_channel_reductions.*a list of 4"),
    ("scaling_factor", 0.5, "scaling_factor = 0.5; 1.0 was expected"),
    ("decoder_head_dim", 12, "do not split into heads of 12"),
])  # fmt: skip
def test_a_config_that_does_not_fit_its_decoder_is_refused_by_name(folder, tmp_path, field, value, said):
    copy = shutil.copytree(folder / "diffusion_decoder", tmp_path / "decoder")
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    models = open_models([folder / "transformer", copy])
    with pytest.raises(CheckpointError, match=said):
        build(models, "video_decoder")
    path.write_text("<html>")
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} is not valid JSON"):  # and no other file
        build(open_models([folder / "transformer", copy]), "video_decoder")


# At full size


class Listed(TensorFile):
    """A file of which only names and shapes are known."""

    def __init__(self, network: torch.nn.Module):
        self.path, self.metadata = Path("listed.safetensors"), {}
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.entries = {name: Entry("F32", shape, 4 * math.prod(shape)) for name, shape in shapes.items()}


def test_every_tensor_of_the_released_sizes_has_its_official_name():
    from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoDiffusionDecoderModel
    from diffusers.pipelines.ltx2.duration_head import LTX2DurationHead

    with torch.device("meta"):
        decoder, head = (joined(Listed(each())) for each in (LTX2VideoDiffusionDecoderModel, LTX2DurationHead))
    assert head.official_shapes == golden.shapes("duration_head_2.5")
    official = golden.shapes("video_vae_2.5_split_diffusion")
    not_in_diffusers = ("decoder.coarse_", "decoder.type_emb")
    wanted = {name: shape for name, shape in official.items() if name.startswith("decoder.")}
    wanted = {name: shape for name, shape in wanted.items() if not name.startswith(not_in_diffusers)}
    statistics = {"vae.per_channel_statistics.mean-of-means": (128,), "vae.per_channel_statistics.std-of-means": (128,)}
    assert decoder.official_shapes == {f"vae.{name}": shape for name, shape in wanted.items()} | statistics
