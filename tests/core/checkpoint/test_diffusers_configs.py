"""VAEs and vocoders of diffusers, saved by itself in sizes that no release has, are built and compute the same."""

import json
from pathlib import Path

import pytest
import torch
from agreement import compare
from drawn import randn

from ltx2_core.audio_vae import AudioVAEConfig, VocoderConfig
from ltx2_core.checkpoint import CheckpointError, build, open_models
from ltx2_core.checkpoint.diffusers import overlay

pytestmark = pytest.mark.slow

VAES = {
    "2.0": {
        "block_out_channels": (32, 64, 128, 256), "decoder_block_out_channels": (32, 64, 128),
        "layers_per_block": (1, 1, 2, 1, 1), "decoder_layers_per_block": (1, 2, 1, 1),
    },
    "2.3": {
        "block_out_channels": (32, 64, 128, 128), "decoder_block_out_channels": (32, 64, 64, 128),
        "layers_per_block": (1, 1, 2, 1, 1), "decoder_layers_per_block": (1, 2, 1, 1, 1),
        "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        "decoder_spatio_temporal_scaling": (True,) * 4, "decoder_inject_noise": (False,) * 5,
        "upsample_residual": (False,) * 4, "upsample_factor": (2, 2, 1, 2), "decoder_spatial_padding_mode": "zeros",
    },
}  # fmt: skip
# A decoder that was made smaller: two of its levels begin with a projection.
VAES["2.3 narrowed"] = VAES["2.3"] | {
    "decoder_block_out_channels": (32, 32, 48, 128), "upsample_factor": (2, 1, 1, 2),
}  # fmt: skip
VOCODERS = {
    "2.0": ("LTX2Vocoder", {
        "hidden_channels": 64, "upsample_factors": [5, 6, 2, 2, 2], "upsample_kernel_sizes": [15, 16, 8, 4, 4],
        "resnet_kernel_sizes": [3, 5, 7],
    }),
    "2.3": ("LTX2VocoderWithBWE", {
        "hidden_channels": 128, "bwe_hidden_channels": 64, "final_act_fn": "clamp", "resnet_kernel_sizes": [3, 5, 7],
        "bwe_resnet_kernel_sizes": [5, 3, 7],
    }),
}  # fmt: skip


def saved(network, folder: Path, **changes) -> Path:
    """Let diffusers save ``network``; ``changes`` are written into its config afterwards."""
    network.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def video_vae(version: str):
    diffusers = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_ltx2")
    torch.manual_seed(0)
    return diffusers.AutoencoderKLLTX2Video(latent_channels=16, decoder_causal=False, **VAES[version]).eval()


def vocoder(version: str):
    kind, config = VOCODERS[version]
    torch.manual_seed(0)
    return getattr(pytest.importorskip("diffusers.pipelines.ltx2.vocoder"), kind)(**config).eval()


@pytest.mark.parametrize("version", VAES)
@torch.inference_mode()
def test_a_video_vae_is_that_of_its_config(tmp_path, version):
    theirs, models = video_vae(version), open_models(saved(video_vae(version), tmp_path / "vae"))
    latent, frames = randn(1, 16, 2, 3, 2), randn(1, 3, 9, 64, 32)
    decoded, encoded = (build(models, name, torch.float32) for name in ("video_decoder", "video_encoder"))
    assert models.version == version[:3]
    compare(f"diffusers: {version} decoder", decoded(latent), theirs.decode(latent).sample)
    compare(f"diffusers: {version} encoder", encoded(frames), theirs.encode(frames).latent_dist.mean)


@torch.inference_mode()
def test_an_audio_vae_is_that_of_its_config(tmp_path):
    diffusers = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_ltx2_audio")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLLTX2Audio(base_channels=64, num_res_blocks=1, latent_channels=4).eval()
    of_a_version = saved(vocoder("2.0"), tmp_path / "vocoder")
    models = open_models([saved(theirs, tmp_path / "audio_vae"), of_a_version])
    config = AudioVAEConfig.from_json(models.config["audio_vae"])
    assert (config.channels, config.res_blocks, config.latent_channels) == (64, 1, 4)
    latent = randn(1, 4, 5, 16)
    ours = build(models, "audio_decoder", torch.float32)(latent)
    compare("diffusers: audio decoder", ours, theirs.decode(latent).sample)


@pytest.mark.parametrize("version", VOCODERS)
@torch.inference_mode()
def test_a_vocoder_is_that_of_its_config(tmp_path, version):
    theirs = vocoder(version)
    models = open_models(saved(theirs, tmp_path / "vocoder"))
    generator = VocoderConfig.from_json(models.config["vocoder"]).generator
    assert models.version == version and generator.block_kernels == (3, 5, 7)
    mel = randn(1, 2, 4, 64)
    compare(f"diffusers: {version} vocoder", build(models, "vocoder", torch.float32)(mel), theirs(mel))


@pytest.mark.parametrize(("field", "value", "said"), [
    ("layers_per_block", [1, 1, 3, 1, 1], "lacks tensors"),
    ("layers_per_block", "many", r"vae/config.json has layers_per_block = 'many'; a list"),
    ("block_out_channels", [32, 64, 128], "block_out_channels = .*; 4 numbers, each a multiple"),
    ("decoder_layers_per_block", [1, 1], r"upsample_type = .*; a list of 1"),
    ("downsample_type", ["conv"] * 4, "downsample_type = .*; a list of 4, each spatial or temporal or spatiotemporal"),
    ("upsample_factor", [2, 2], "upsample_factor = .*; a list of 3"),
    ("upsample_residual", [True], "upsample_residual = .*; a list of 3"),
    ("timestep_conditioning", True, "timestep_conditioning = True; False was expected"),
    ("decoder_inject_noise", [False, True, False, False], "decoder_inject_noise = .*; False was expected"),
    ("decoder_spatial_padding_mode", "circular", "padding_mode = 'circular'; reflect, or zeros as in the encoder"),
])  # fmt: skip
def test_a_config_that_no_model_has_is_refused_by_name(tmp_path, field, value, said):
    models = open_models(saved(video_vae("2.0"), tmp_path / "vae", **{field: value}))
    with pytest.raises(CheckpointError, match=said):
        build(models, "video_encoder")


def test_what_is_stated_is_laid_over_the_rest_level_by_level():
    config = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert overlay(config, {"a": {"c": {"d": 4}}, "f": 5}) == {"a": {"b": 1, "c": {"d": 4}}, "e": 3, "f": 5}
    assert config["a"]["c"]["d"] == 2
