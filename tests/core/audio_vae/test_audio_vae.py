"""The audio encoder and decoder against the official ones, and what their arithmetic of time promises."""

from functools import partial
from math import prod

import formula
import golden
import pytest
import torch
import torch.nn.functional as F
from agreement import compare
from torch.testing import assert_close

from ltx2_core.audio_vae import AudioDecoder, AudioEncoder, AudioVAEConfig, encode_waveform
from ltx2_core.audio_vae.layers import CausalConv2d, Downsample, Upsample
from ltx2_core.checkpoint.keys.audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from ltx2_core.errors import CheckpointError

CASES = {"encoder": (AudioEncoder, AUDIO_ENCODER, 21_333_008), "decoder": (AudioDecoder, AUDIO_DECODER, 31_915_138)}
SHALLOW = {"ch_mult": [1, 1, 1], "num_res_blocks": 0}  # as in the miniature


def section(**changes) -> dict:
    """A small audio VAE; the official statistics have ``ch`` entries, so ``ch`` must be 16 ``z_channels``."""
    section = golden.config("2.0")["audio_vae"]
    section["model"]["params"]["ddconfig"] |= {"ch": 32, "z_channels": 2, **changes}
    return section


def official_name(part: str, bare: str) -> str:
    return f"audio_vae.{bare}" if bare.startswith("per_channel_statistics.") else f"audio_vae.{part}.{bare}"


def bare_name(part: str, name: str) -> str:
    return CASES[part][1].official(name).removeprefix("audio_vae.").removeprefix(f"{part}.")


def formula_model(part: str, **changes) -> AudioEncoder | AudioDecoder:
    model = CASES[part][0](AudioVAEConfig.from_json(section(**changes)))
    formula.fill(model, partial(bare_name, part))
    return model


def test_what_a_config_leaves_out_is_as_in_the_releases():
    needed = {"attn_resolutions": [], "mid_block_add_attention": False}
    told = {"model": {"params": {"ddconfig": needed}}}
    assert AudioVAEConfig.from_json(told) == AudioVAEConfig.from_json(golden.config("2.3")["audio_vae"])
    told["preprocessing"] = {"mel": {"n_mel_channels": 32}}
    assert AudioVAEConfig.from_json(told).mel_bins == 32
    needed["mel_bins"] = 16  # which counts first
    assert AudioVAEConfig.from_json(told).mel_bins == 16


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, SHALLOW, {"ch_mult": [1, 2, 2], "num_res_blocks": 1}])
@pytest.mark.parametrize("part, shape", [("encoder", (2, 2, 22, 64)), ("decoder", (2, 2, 6, 16))])
def test_agreement(part, shape, changes):
    official = pytest.importorskip("ltx_core.model.audio_vae")
    configurator = {"encoder": official.AudioEncoderConfigurator, "decoder": official.AudioDecoderConfigurator}[part]
    theirs = configurator.from_config({"audio_vae": section(**changes)})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        scale = 1 / (tensor.numel() / tensor.shape[0]) ** 0.5 if tensor.ndim > 1 else 0.2
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + name.endswith("std-of-means"))

    model, keys, _ = CASES[part]
    ours = model(AudioVAEConfig.from_json(section(**changes)))
    ours.load_state_dict({keys.ours(official_name(part, k), "audio_vae."): v for k, v in theirs.state_dict().items()})
    x = torch.randn(shape, generator=generator)
    compare(f"audio_vae.{part}", ours(x), theirs(x))


@torch.inference_mode()
@pytest.mark.parametrize("part", CASES)
def test_vector(part):
    expected = golden.vectors("vae_audio")[f"audio_{part}"]
    formula.check(formula_model(part)(formula.signal(*expected["input"])), expected["output"])


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("part", CASES)
def test_every_released_key_has_its_place(part, version):
    model, keys, parameters = CASES[part]
    with torch.device("meta"):
        network = model(AudioVAEConfig.from_json(golden.config(version)["audio_vae"]))
    listed = golden.key_list("audio_vae", version)
    mine = {key: shape for key, shape in listed.items() if keys.knows(key, "audio_vae.")}
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {keys.ours(key, "audio_vae."): shape for key, shape in mine.items()} == shapes
    assert {keys.official(name) for name in shapes} == set(mine)
    assert sum(prod(shape) for name, shape in shapes.items() if "statistics" not in name) == parameters


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_encoder_and_decoder_share_nothing_but_the_statistics(version):
    listed = golden.key_list("audio_vae", version)
    encoder, decoder = (
        {key for key in listed if keys.knows(key, "audio_vae.")} for keys in (AUDIO_ENCODER, AUDIO_DECODER)
    )
    assert encoder | decoder == set(listed)
    assert encoder & decoder == {f"audio_vae.per_channel_statistics.{x}-of-means" for x in ("mean", "std")}


def test_mel_length_to_latent_length():
    lengths = {1: 1, 4: 1, 5: 2, 8: 2, 97: 25, 100: 25, 101: 26, 505: 127}
    encoder = AudioEncoder(AudioVAEConfig(channels=8))
    assert {t: encoder(torch.zeros(1, 2, t, 64)).shape for t in lengths} == {
        t: (1, 8, latent, 16) for t, latent in lengths.items()
    }


def test_latent_length_to_mel_length():
    lengths = {1: 1, 2: 5, 25: 97, 126: 501}
    decoder = AudioDecoder(AudioVAEConfig(channels=8))
    assert {t: decoder(torch.zeros(1, 8, t, 16)).shape for t in lengths} == {
        t: (1, 2, mel, 64) for t, mel in lengths.items()
    }


@torch.inference_mode()
def test_the_encoder_does_not_hear_the_future():
    encoder, mel = formula_model("encoder"), formula.signal(1, 2, 40, 64)
    changed = mel.clone()
    changed[:, :, 20:] += 1
    differs = (encoder(mel) != encoder(changed)).amax((0, 1, 3)).tolist()
    assert differs == [False] * 5 + [True] * 5


@torch.inference_mode()
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.sample(1)
def test_a_sound_is_cut_to_the_clip_or_goes_on_in_silence(rate):
    encoder, sound = formula_model("encoder"), formula.signal(1, 2, rate)  # a second
    whole = encode_waveform(encoder, sound, rate)
    assert whole.shape == (1, 2, 26, 16)
    assert torch.equal(encode_waveform(encoder, sound, rate, 10), whole[:, :, :10])
    longer = encode_waveform(encoder, sound, rate, 40)
    assert longer.shape == (1, 2, 40, 16)
    assert_close(longer[:, :, :25], whole[:, :, :25], atol=1e-4, rtol=0)
    assert torch.equal(longer, encode_waveform(encoder, F.pad(sound, (0, 3 * rate)), rate, 40))
    left = encode_waveform(encoder, sound[:, :1], rate)
    assert torch.equal(left, encode_waveform(encoder, sound[:, :1].expand(-1, 2, -1), rate))


def test_the_decoder_does_not_hear_the_future():
    decoder, latent = formula_model("decoder"), formula.signal(1, 2, 8, 16)
    changed = latent.clone()
    changed[:, :, 5:] += 1
    differs = (decoder(latent) != decoder(changed)).amax((0, 1, 3)).tolist()
    assert differs == [False] * 17 + [True] * 12  # five latent frames are 4 * 5 - 3 mel frames


@torch.inference_mode()
def test_downsampling_looks_two_frames_back():
    layer = Downsample(1)
    layer.weight.zero_()[0, 0, :, 0] = torch.tensor([1.0, 10.0, 100.0])
    layer.bias.zero_()
    frames = torch.arange(1.0, 6.0)[:, None].expand(1, 1, 5, 2)
    assert layer(frames).flatten().tolist() == [100, 321, 543]


@torch.inference_mode()
def test_half_precision_weights_take_float32_frames():
    encoder = formula_model("encoder").bfloat16()
    assert encoder(formula.signal(1, 2, 9, 64)).dtype == torch.bfloat16


@pytest.mark.parametrize("key, value", [("attn_resolutions", [16]), ("mid_block_add_attention", True)])
def test_attention_is_refused_asked_for_or_not_ruled_out(key, value):
    with pytest.raises(CheckpointError, match=f"{key}: {value}".replace("[", r"\[")):
        AudioVAEConfig.from_json(section(**{key: value}))
    silent = section()
    del silent["model"]["params"]["ddconfig"][key]
    with pytest.raises(CheckpointError, match=f"{key}: missing"):
        AudioVAEConfig.from_json(silent)


def test_other_norms_are_refused():
    with pytest.raises(CheckpointError, match="norm_type: 'group'"):
        AudioVAEConfig.from_json(section(norm_type="group"))


@torch.inference_mode()
@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-6), (torch.bfloat16, 0)])
def test_doubling_after_the_convolution_is_doubling_before_it(dtype, most):
    layer, x = Upsample(3).to(dtype), torch.randn(2, 3, 4, 5, dtype=dtype)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_close(layer(x), CausalConv2d.forward(layer, doubled)[:, :, 1:], rtol=0, atol=most)
