"""A waveform at another sample rate."""

from math import ceil, gcd, pi

import torch
import torch.nn.functional as F
from torch import Tensor

ZEROS = 6  # of the sinc, on either side
ROLLOFF = 0.99  # of the lower Nyquist frequency


def resample(waveform: Tensor, rate: int, new_rate: int, edges: str = "constant") -> Tensor:
    """(..., N) at ``rate`` -> (..., ceil(N * new_rate / rate)) by a Hann-windowed sinc (spec: audio.md, section 2).

    Like torchaudio's default, but with an exact kernel. ``edges`` is the padding beyond both ends: "constant" is
    silence, "replicate" repeats the last sample.
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
    """Of each group of ``step`` samples, the weights (phases, 1, taps) of its new samples, and the taps before it."""
    cutoff = ROLLOFF * min(step, phases)
    width = ceil(ZEROS * step / cutoff)
    taps = torch.arange(-width, width + step, dtype=torch.float64) / step
    phase = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    t = ((taps - phase) * cutoff).clamp(-ZEROS, ZEROS)
    return width, (t.sinc() * (t * (pi / 2 / ZEROS)).cos() ** 2 * (cutoff / step))[:, None]
