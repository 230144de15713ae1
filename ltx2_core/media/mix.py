"""Sound of many channels as two, the same for files and for samples that are given."""

import numpy as np
import torch
from torch import Tensor

from ..errors import MediaError
from . import pyav as av

# What is meant where only the number of channels is known; the order is that of WAV files.
LAYOUTS = {3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def layout_of(channels: int, layout: str | None = None) -> str:
    """Return the layout that is meant by ``channels``, which is ``layout`` if a file names one.

    Raises MediaError for channels of which nobody says where they are.
    """
    if layout is not None and not layout.endswith(" channels"):  # FFmpeg's name for an order that it does not know
        return layout
    if channels <= 2:
        return ("mono", "stereo")[channels - 1]
    if channels not in LAYOUTS:
        raise MediaError(
            f"This sound has {channels} channels and does not say where they are: mix it down to stereo first."
        )
    return LAYOUTS[channels]


def mix_down(waveform: Tensor, sample_rate: int) -> Tensor:
    """Mix a waveform (C, N) of more than two channels down to stereo (2, N); one or two channels stay as they are.

    By ITU-R BS.775: centre and surrounds count -3 dB, the low-frequency channel not at all. The sum is so much quieter
    that nothing can clip. Raises MediaError for more channels than 7.1 has.
    """
    if len(waveform) <= 2:
        return waveform
    layout = layout_of(len(waveform))
    loudest = max(1.0, float(waveform.abs().max()))  # samples beyond -1..1 must not clip
    samples = (waveform.double() / loudest * (2**31 - 1)).round().to(torch.int32).T.reshape(1, -1).cpu().numpy()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s32", layout=layout)
    frame.sample_rate = sample_rate
    resampler = av.AudioResampler("s32p", "stereo", sample_rate)
    pieces = [piece.to_ndarray() for given in (frame, None) for piece in resampler.resample(given)]
    return torch.from_numpy(np.concatenate(pieces, axis=1)).float().mul_(loudest / 2**31).to(waveform.device)
