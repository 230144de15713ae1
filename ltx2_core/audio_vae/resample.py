"""A waveform at another sample rate."""

from math import ceil, gcd, pi

import torch
import torch.nn.functional as F
from torch import Tensor

ZEROS = 6  # of the sinc, on either side
ROLLOFF = 0.99  # of the lower Nyquist frequency


def resample(waveform: Tensor, rate: int, new_rate: int, edges: str = "constant") -> Tensor:
    """Resample (..., N) to (..., ceil(N * new_rate / rate)) by a Hann-windowed sinc (see README.md, "Resampling").

    Like the default of torchaudio, but with a kernel computed in float64.

    Args:
        waveform: (..., N).
        rate: Its sample rate, Hz.
        new_rate: That of the result, Hz.
        edges: Padding beyond both ends: "constant" for silence, "replicate" for the last sample.
    """
    divisor = gcd(rate, new_rate)
    step, phases = rate // divisor, new_rate // divisor
    if step == phases:
        return waveform
    width, kernels = _kernels(step, phases)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (width, width + step), mode=edges)
    samples = F.conv1d(padded, kernels.to(waveform), stride=step).mT  # (rows, N/step, phases)
    length = ceil(phases * waveform.shape[-1] / step)
    return samples.reshape(*waveform.shape[:-1], -1)[..., :length]


def _kernels(step: int, phases: int) -> tuple[int, Tensor]:
    """The taps before a group of ``step`` samples, and the weights (phases, 1, taps) of its new samples."""
    cutoff = ROLLOFF * min(step, phases)
    width = ceil(ZEROS * step / cutoff)
    taps = torch.arange(-width, width + step, dtype=torch.float64) / step
    phase = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    t = ((taps - phase) * cutoff).clamp(-ZEROS, ZEROS)
    return width, (t.sinc() * (t * (pi / 2 / ZEROS)).cos() ** 2 * (cutoff / step))[:, None]
