"""The vocoders of 2.0 and 2.3 against the official ones, and their filters against numbers."""

from math import prod

import formula
import golden
import pytest
import torch
import torch.nn.functional as F
from agreement import compare

from ltx2_core.audio_vae import VocoderConfig, lines, make_vocoder, resample, vocoder
from ltx2_core.audio_vae.vocoder import AntiAliasedSnake, half_band, vocode_chunked
from ltx2_core.checkpoint.keys.vocoder import VOCODER
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.memory.trace import cost

UNWANTED = "mel_stft.stft_fn.inverse_basis"
TOTALS = {"2.0": (194, 55_592_802), "2.3": (1227, 128_537_448 + 547_584)}
SHALLOW = {  # as in the miniature
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "resblock_kernel_sizes": [3, 7],
    "upsample_kernel_sizes": [16, 15, 8, 4],
    "upsample_rates": [6, 5, 4, 2],
}


def section(version: str, **changes) -> dict:
    section = golden.config(version)["vocoder"]
    if version == "2.0":
        return section | {"upsample_initial_channel": 64} | changes
    section["vocoder"]["upsample_initial_channel"] = 128
    section["bwe"]["upsample_initial_channel"] = 64
    return section


def formula_vocoder(version: str, narrow: bool = False):
    config = section(version)
    for each in config.values() if narrow and version == "2.3" else ():
        each["upsample_initial_channel"] //= 2
    vocoder = make_vocoder(VocoderConfig.from_json(config))
    unwanted, gain = ([UNWANTED], 0.6) if version == "2.3" else ([], 1.5)
    formula.fill(vocoder, lambda name: VOCODER.official(name).removeprefix("vocoder."), unwanted, gain)
    return vocoder


def test_what_a_config_leaves_out_is_as_in_2_0():
    needed = {"resblock": "1", "stereo": True}
    assert VocoderConfig.from_json(needed) == VocoderConfig.from_json(golden.config("2.0")["vocoder"])


@torch.inference_mode()
@pytest.mark.parametrize("version, changes", [("2.0", {}), ("2.0", SHALLOW), ("2.3", {})])
def test_agreement(version, changes):
    official = pytest.importorskip("ltx_core.model.audio_vae")
    theirs = official.VocoderConfigurator.from_config({"vocoder": section(version, **changes)})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        random = torch.randn(tensor.shape, generator=generator)
        if name.endswith(".filter"):
            tensor += 0.01 * random
        elif name.endswith("mel_basis"):
            tensor.copy_(random.abs() / tensor.shape[1])
        elif tensor.ndim > 1:
            tensor.copy_(random * (0.6 / (tensor.numel() / tensor.shape[0]) ** 0.5))
        else:
            tensor.copy_(0.1 * random)

    ours = make_vocoder(VocoderConfig.from_json(section(version, **changes)))
    names = {key: VOCODER.ours(f"vocoder.{key}", "vocoder.") for key in theirs.state_dict()}
    ours.load_state_dict({names[key]: value for key, value in theirs.state_dict().items() if names[key]})
    mel = torch.randn(2, 2, 9, 64, generator=generator)
    expected = theirs(mel)
    assert expected.std() > 0.01 and expected.abs().quantile(0.9) < 0.99, "neither silent nor clipped"
    compare(f"vocoder {version}", ours(mel), expected, tolerance=1e-4)
    assert ours.sample_rate == theirs.output_sampling_rate


@torch.inference_mode()
def test_vector_of_2_0():
    expected = golden.vectors("vae_audio")["vocoder_2.0"]
    formula.check(formula_vocoder("2.0")(formula.signal(*expected["input"])), expected["output"])


@torch.inference_mode()
def test_vector_of_2_3_at_every_step():
    expected, vocoder = golden.vectors("vae_audio")["vocoder_2.3"], formula_vocoder("2.3")
    mel = formula.signal(*expected["input"])
    low = vocoder.low(mel)
    formula.check(low, expected["low_rate"])
    formula.check(vocoder.mel(low).mT, expected["bwe_mel"])
    formula.check(vocoder.high(vocoder.mel(low)), expected["residual"])
    formula.check(resample(low, 16000, 48000, edges="replicate"), expected["skip"])
    formula.check(vocoder(mel), expected["output"])


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_every_released_key_has_its_place(version):
    with torch.device("meta"):
        vocoder = make_vocoder(VocoderConfig.from_json(golden.config(version)["vocoder"]))
    listed = golden.key_list("vocoder", version)
    assert (len(listed), sum(map(prod, listed.values()))) == TOTALS[version]
    ours = {VOCODER.ours(key, "vocoder."): shape for key, shape in listed.items()}
    assert ours.pop(None, None) == ((514, 1, 512) if version == "2.3" else None)  # the inverse basis
    assert ours == {name: tuple(value.shape) for name, value in vocoder.state_dict().items()}
    assert {VOCODER.official(name) for name in ours} == set(listed) - {f"vocoder.{UNWANTED}"}


@pytest.mark.parametrize("version, frames, samples", [
    ("2.0", 1, 240), ("2.0", 501, 120_240), ("2.3", 1, 480), ("2.3", 97, 46_560), ("2.3", 501, 240_480),
])  # fmt: skip
@pytest.mark.slow
def test_length(version, frames, samples):
    with torch.device("meta"):
        vocoder = make_vocoder(VocoderConfig.from_json(section(version)))
        assert vocoder(torch.empty(1, 2, frames, 64)).shape == (1, 2, samples)
    assert samples * 100 == frames * vocoder.sample_rate


@torch.inference_mode()
@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_half_precision_frames_make_a_float32_waveform(version):
    vocoder, mel = formula_vocoder(version), formula.signal(1, 2, 2, 64).bfloat16()
    assert torch.equal(vocoder(mel), vocoder(mel.float()))
    assert vocoder.compute_dtype == vocoder(mel).dtype == torch.float32


@torch.inference_mode()
def test_a_loud_waveform_is_held_to_full_scale():
    """What the extension hears is, too; what it adds is not, by itself."""
    vocoder, mel = formula_vocoder("2.3"), formula.signal(1, 2, 3, 64)
    vocoder.high.conv_post.weight *= 100
    vocoder.low.conv_post.weight *= 100
    low = vocoder.low(mel)
    assert low.abs().max() == vocoder(mel).abs().max() == 1 < vocoder.high(vocoder.mel(low)).abs().max()


@torch.no_grad()
@pytest.mark.parametrize("taps, rate", [(16, 6), (11, 5), (4, 2)])
def test_an_upsampling_product_is_the_convolution(monkeypatch, taps, rate):
    """Where it is taken: not in small layers, and not of long sounds."""
    products, fold = [], F.fold
    monkeypatch.setattr(F, "fold", lambda *args, **how: products.append(args) or fold(*args, **how))
    monkeypatch.setattr(vocoder, "LEAST_WEIGHT", 6 * 4 * 5)
    monkeypatch.setattr(vocoder, "WEIGHT_OF_POSITION", 24)
    up = vocoder.Upsample(6, 4, taps, rate)
    for positions in 1, taps, taps + 1:
        x = torch.randn(2, 6, positions, generator=torch.Generator().manual_seed(0))
        found = up(x)
        torch.testing.assert_close(found, F.conv_transpose1d(x, up.weight, up.bias, rate, (taps - rate) // 2))
        assert found.shape == (2, 4, rate * positions)
    assert len(products) == (2 if taps > 4 else 0)


def test_half_band_filter():
    half = torch.tensor([0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098])
    torch.testing.assert_close(half_band().flatten(), torch.cat([half, half.flip(0)]), atol=2e-7, rtol=0)


@torch.inference_mode()
def test_an_impulse_between_two_rates():
    impulse = torch.zeros(1, 1, 8)
    impulse[..., 4] = 1
    activation = AntiAliasedSnake(1)
    up = activation.upsample(impulse)
    side = torch.tensor([0.004058, 0.018779, -0.051087, -0.115315, 0.257145, 0.88642])
    expected = torch.cat([torch.zeros(3), side, side.flip(0), torch.zeros(1)])
    torch.testing.assert_close(up.flatten(), expected, atol=1e-6, rtol=0)
    assert activation.downsample(up).shape == impulse.shape


@torch.inference_mode()
def test_snake():
    activation = AntiAliasedSnake(1)
    assert activation.snake(torch.full((1, 1, 1), 0.5)).item() == pytest.approx(0.7298489)
    activation.beta.fill_(-torch.inf)
    assert activation.snake(torch.full((1, 1, 1), 1e-6)).item() == pytest.approx(1e-6 + 1e-12 / 1e-9)


@torch.inference_mode()
def test_an_anti_aliased_snake_leaves_a_constant_constant():
    x = torch.full((1, 3, 20), 0.5)
    torch.testing.assert_close(AntiAliasedSnake(3)(x), torch.full_like(x, 0.7298489))


def test_the_skip_is_torchaudios_resampling_away_from_the_edges():
    functional = pytest.importorskip("torchaudio.functional")
    waveform = formula.signal(2, 400)
    ours, theirs = resample(waveform, 16000, 48000, edges="replicate"), functional.resample(waveform, 16000, 48000)
    torch.testing.assert_close(ours[:, 30:-30], theirs[:, 30:-30], atol=1e-6, rtol=0)
    assert not torch.allclose(ours[:, :3], theirs[:, :3], atol=1e-3)


def test_an_unknown_generator_is_refused():
    plain_snake = section("2.3")
    plain_snake["bwe"]["activation"] = "snake"
    with pytest.raises(CheckpointError, match=r"vocoder\.bwe .*activation: 'snake'; .*'snakebeta'"):
        VocoderConfig.from_json(plain_snake)
    with pytest.raises(CheckpointError, match="resblock: missing"):
        VocoderConfig.from_json({})


def test_an_incomplete_extension_is_refused():
    incomplete = section("2.3")
    del incomplete["bwe"]["n_fft"]
    with pytest.raises(CheckpointError, match=r"vocoder\.bwe .*n_fft"):
        VocoderConfig.from_json(incomplete)


def precise(version):
    """With few channels, in float64, since rounding grows in these weights to nearly as much as the tolerance."""
    vocoder = formula_vocoder(version, narrow=True)
    for part in vocoder.modules():
        part.compute_dtype = torch.float64
    return vocoder.double()


@torch.inference_mode()
@pytest.mark.parametrize(
    "version, frames, length", [("2.0", 1, 45), ("2.0", 30, 45), ("2.3", 45, 131), ("2.3", 500, 9)]
)
@pytest.mark.slow
def test_a_waveform_in_pieces_is_the_whole(version, frames, length):
    vocoder, mel = precise(version), torch.randn(1, 2, length, 64)
    compare(f"vocoder {version} in pieces", vocode_chunked(vocoder, mel, frames), vocoder(mel), tolerance=1e-10)


@torch.inference_mode()
@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.slow
def test_a_sample_depends_on_nothing_beyond_its_receptive_field(version):
    vocoder = precise(version)
    frames = vocoder.receptive_frames
    middle = frames + 5
    mel = torch.randn(1, 2, 2 * middle + 1, 64, dtype=torch.float64)
    other = mel.clone()
    other[:, :, middle] += 1
    waveform = vocoder(mel)
    each = waveform.shape[-1] // mel.shape[2]
    changed = (waveform != vocoder(other)).any(1).flatten().nonzero().flatten()
    before, after = middle - changed.min() // each, changed.max() // each - middle
    assert frames / 3 < max(before, after) <= frames


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.slow
def test_pieces_need_the_memory_of_one(version):
    with torch.device("meta"):
        vocoder = make_vocoder(VocoderConfig.from_json(section(version)))
        peaks = [cost(lambda n=n: vocode_chunked(vocoder, torch.empty(1, 2, n, 64))).peak for n in (1500, 3000)]
    waveform = 1500 * vocoder.sample_rate // 100 * 2 * 4
    assert peaks[1] <= peaks[0] + 2 * waveform


@torch.inference_mode()
@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_no_line_is_longer_than_a_device_makes(monkeypatch, version):
    """Apple's GPUs refuse results of more than 65,536 numbers, which three seconds of sound have."""
    vocoder, mel, convolve, made = precise(version), torch.randn(1, 2, 4, 64), F.conv1d, []
    expected = vocoder(mel)

    def watch(x, *arguments, **more):
        made.append(convolve(x, *arguments, **more))
        return made[-1]

    monkeypatch.setitem(lines.LONGEST, "cpu", 100)
    monkeypatch.setattr(F, "conv1d", watch)
    found = vocoder(mel)
    assert max(each.shape[-1] for each in made) == 100 and found.shape[-1] > 900
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_pieces_can_be_stopped_and_must_not_be_empty():
    def stop():
        raise KeyboardInterrupt

    vocoder = formula_vocoder("2.0")
    with pytest.raises(KeyboardInterrupt):
        vocode_chunked(vocoder, torch.zeros(1, 2, 5, 64), check=stop)
    with pytest.raises(SettingError, match=r"0 frames .*at least 1"):
        vocode_chunked(vocoder, torch.zeros(1, 2, 5, 64), 0)
