"""Waveform -> log mel frames, at any sample rate and without torchaudio."""

from importlib import import_module
from math import ceil

import formula
import golden
import pytest
import torch
from agreement import compare
from peak import Peak

from ltx2_core.audio_vae import AudioVAEConfig, log_mel, resample
from ltx2_core.audio_vae.mel import mel_bank
from ltx2_core.errors import SettingError

CONFIG = AudioVAEConfig.from_json(golden.config("2.3")["audio_vae"])


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_mel_is_the_official_one():
    ops = pytest.importorskip("ltx_core.model.audio_vae.ops")
    types = pytest.importorskip("ltx_core.types")
    processor = ops.AudioProcessor(target_sample_rate=16000, mel_bins=64, mel_hop_length=160, n_fft=1024)
    for rate in 16000, 48000:
        waveform = noise(2, 2, rate // 4)
        theirs = processor.waveform_to_mel(types.Audio(waveform=waveform, sampling_rate=rate))
        compare("mel", log_mel(waveform, rate, CONFIG), theirs)


def test_mel_vector():
    expected = golden.vectors("vae_audio")["log_mel"]
    formula.check(log_mel(formula.signal(*expected["input"]), 16000, CONFIG), expected["output"])


def test_a_sine_of_440_hz():
    sine = torch.sin(2 * torch.pi * 440 * torch.arange(16000, dtype=torch.float64) / 16000).float()
    mel = log_mel(sine.expand(1, 2, -1), 16000, CONFIG)
    expected = torch.tensor([1.7789, 1.6730, -2.8085, -4.9091, -6.0155, -6.8034, -7.4183])
    # The weak bands depend on how the sine is rounded.
    torch.testing.assert_close(mel[0, 0, 50, 8:15], expected, atol=1e-3, rtol=0)


def test_silence_lies_at_the_floor():
    assert log_mel(torch.zeros(1, 2, 1000), 16000, CONFIG).unique().tolist() == pytest.approx([-11.512925])


def test_mel_bank():
    bank = mel_bank(513, 64, 8000.0)
    bins = (bank > 0).sum(0).tolist()
    assert bank.sum().item() == pytest.approx(4.09588, abs=1e-5)
    assert bank.max().item() == pytest.approx(0.0213312, abs=1e-7)
    assert (bins[:3], bins[-2:]) == ([5, 6, 6], [45, 46])


@pytest.mark.parametrize("samples, frames", [(16000, 101), (15999, 100), (80666, 505)])
def test_a_frame_every_ten_milliseconds(samples, frames):
    assert log_mel(noise(1, 2, samples), 16000, CONFIG).shape == (1, 2, frames, 64)


def test_mono_is_heard_on_both_sides():
    mono = noise(1, 1, 2000)
    assert torch.equal(log_mel(mono, 16000, CONFIG), log_mel(mono.expand(-1, 2, -1), 16000, CONFIG))


@pytest.mark.parametrize("rate, samples, expected", [(44100, 44100, 16000), (48000, 96007, 32003), (8000, 99, 198)])
def test_resampled_length(rate, samples, expected):
    assert resample(noise(2, samples), rate, 16000).shape == (2, expected)


@pytest.mark.parametrize("rate, tolerance", [(48000, 1e-6), (24000, 1e-6), (8000, 1e-6), (44100, 1e-4), (22050, 1e-4)])
def test_resampling_is_that_of_torchaudio(rate, tolerance):
    """The looser tolerances are torchaudio's: it evaluates the kernel in float32."""
    functional = pytest.importorskip("torchaudio.functional")
    waveform = noise(2, 3001)
    ours, theirs = resample(waveform, rate, 16000), functional.resample(waveform, rate, 16000)
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 8000])
def test_resampling_keeps_a_sine(rate):
    seconds, hertz = 0.1, 1000
    before = torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)
    after = torch.sin(2 * torch.pi * hertz * torch.arange(ceil(seconds * 16000), dtype=torch.float64) / 16000)
    inner = slice(200, -200)
    torch.testing.assert_close(resample(before, rate, 16000)[inner], after[inner], atol=5e-3, rtol=0)


@pytest.mark.parametrize("edges", ["constant", "replicate"])
@pytest.mark.parametrize("rate, new", [(44100, 16000), (16000, 48000), (211, 97), (97, 211)])
def test_rates_that_share_no_divisor_are_resampled_without_the_zeros_of_a_kernel(rate, new, edges, monkeypatch):
    module, waveform = import_module("ltx2_core.audio_vae.resample"), noise(2, 3001)
    expected = resample(waveform, rate, new, edges)
    monkeypatch.setattr(module, "DENSE", 0)
    monkeypatch.setattr(module, "AT_ONCE", 500)
    torch.testing.assert_close(resample(waveform, rate, new, edges), expected, atol=2e-6, rtol=0)


def test_no_rate_needs_gigabytes():
    """A kernel for all phases of 47123 Hz, which is what a clip played 7 % faster has, would be one of 6 GB."""
    with Peak() as peak:
        assert resample(noise(2, 47123), 47123, 16000).shape == (2, 16000)
    assert peak.bytes < 50e6


def test_five_channels_are_refused():
    with pytest.raises(SettingError, match="mono or stereo"):
        log_mel(noise(1, 6, 2000), 16000, CONFIG)


def test_a_click_is_refused():
    with pytest.raises(SettingError, match=r"0\.010 s.* 0\.032 s"):
        log_mel(noise(1, 2, 480), 48000, CONFIG)
