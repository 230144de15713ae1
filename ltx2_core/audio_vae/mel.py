"""From a waveform to log mel frames (see README.md, "Mel frames")."""

from math import log

import torch
from torch import Tensor

from ..errors import SettingError
from .config import AudioVAEConfig
from .resample import resample

FLOOR = 1e-5  # of the mel magnitude, before the logarithm


def log_mel(waveform: Tensor, sample_rate: int, config: AudioVAEConfig) -> Tensor:
    """Compute log mel frames (B, 2, T, 64), float32, T = 1 + N' // 160 for N' samples at 16 kHz.

    Args:
        waveform: (B, 1 or 2, N) in -1..1; mono is copied to both sides.
        sample_rate: Of the waveform, Hz.
        config: Sizes of the front end.

    Raises:
        SettingError: The waveform has other channels, or is shorter than half a window.
    """
    if waveform.ndim != 3 or waveform.shape[1] not in (1, 2):
        raise SettingError(
            f"This waveform has the shape {tuple(waveform.shape)}; the audio VAE takes mono or stereo as "
            "(batch, channels, samples). Mix other channels down to two first."
        )
    waveform = resample(waveform.float(), sample_rate, config.sample_rate)
    if waveform.shape[-1] <= config.n_fft // 2:
        raise SettingError(
            f"This sound is {waveform.shape[-1] / config.sample_rate:.3f} s long; the audio VAE needs more than "
            f"{config.n_fft / 2 / config.sample_rate:.3f} s. Take a longer piece, or add silence at its end."
        )
    magnitude = torch.stft(
        waveform.flatten(0, 1),
        config.n_fft,
        config.hop,
        window=torch.hann_window(config.n_fft, device=waveform.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    ).abs()  # (B * channels, n_fft/2 + 1, T)
    bank = mel_bank(config.n_fft // 2 + 1, config.mel_bins, config.sample_rate / 2)
    mel = (magnitude.mT @ bank.to(magnitude)).clamp(min=FLOOR).log()
    return mel.unflatten(0, waveform.shape[:2]).expand(-1, 2, -1, -1)


def mel_bank(bins: int, bands: int, nyquist: float) -> Tensor:
    """Return the filters (bins, bands), float64: triangles of equal area, equally spaced on Slaney's mel scale."""
    frequency = torch.linspace(0, nyquist, bins, dtype=torch.float64)[:, None]
    points = _hertz(torch.linspace(0, _mel(nyquist), bands + 2, dtype=torch.float64))
    low, peak, high = points[:-2], points[1:-1], points[2:]
    triangle = torch.minimum((frequency - low) / (peak - low), (high - frequency) / (high - peak))
    return triangle.clamp(min=0) * 2 / (high - low)


# Slaney's scale is linear up to 1 kHz (15 mel) and logarithmic above, 27 mel per factor of 6.4.
def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * log(hertz / 1000) / log(6.4)


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * (log(6.4) / 27)))
