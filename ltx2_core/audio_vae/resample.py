"""A waveform at another sample rate."""

from math import ceil, gcd, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from .lines import convolve_line

ZEROS = 6  # of the sinc, on either side
ROLLOFF = 0.99  # of the lower Nyquist frequency
DENSE = 2**20  # weights of a kernel for all phases at most; usual rates need a tenth
AT_ONCE = 2**16  # new samples that are computed at once otherwise


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
    cutoff = ROLLOFF * min(step, phases)
    width, length = ceil(ZEROS * step / cutoff), ceil(phases * waveform.shape[-1] / step)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (width, width + step), mode=edges)
    phase = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    if phases * (2 * width + step) <= DENSE:
        taps = torch.arange(-width, width + step, dtype=torch.float64)
        kernels = _kernels(taps / step - phase, cutoff, step)[:, None]
        samples = convolve_line(padded, kernels.to(waveform), stride=step).mT  # (rows, N/step, phases)
    else:  # most weights of a kernel for all phases are 0 where the rates share no divisor, and it takes gigabytes
        taps = torch.arange(phases)[:, None] * step // phases + torch.arange(-width, width + 2)
        kernels = _kernels(taps.double() / step - phase, cutoff, step).to(waveform)
        numbers = torch.arange(length, device=waveform.device).split(AT_ONCE)
        near = padded[:, 0].unfold(-1, kernels.shape[1], 1)  # (rows, N, taps)
        samples = torch.cat([(near[:, n * step // phases] * kernels[n % phases]).sum(-1) for n in numbers], dim=1)
    return samples.reshape(*waveform.shape[:-1], -1)[..., :length]


def _kernels(distances: Tensor, cutoff: float, step: int) -> Tensor:
    """The weights (phases, taps) of samples that are so many groups of ``step`` away from a new one."""
    t = (distances * cutoff).clamp(-ZEROS, ZEROS)
    return t.sinc() * (t * (pi / 2 / ZEROS)).cos() ** 2 * (cutoff / step)
