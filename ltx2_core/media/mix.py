"""Sound of many channels as two, and at another rate: the same for files and for samples that are given."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MediaError
from . import pyav as av

# What is meant where only the number of channels is known; the order is that of WAV files.
LAYOUTS = {3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_FILTER = 64  # samples that FFmpeg's resampler is given before it gives some; more where it lowers the rate


def layout_of(channels: int, layout: str | None) -> str:
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


def mix_down(waveform: Tensor, layout: str | None = None) -> Tensor:
    """Mix a waveform (C, N) of more than two channels down to stereo (2, N); one or two channels stay as they are.

    By ITU-R BS.775: centre and surrounds count -3 dB, the low-frequency channel not at all. The sum is so much quieter
    that nothing can clip. ``layout`` is FFmpeg's name for where the channels are; by default as in WAV files. Raises
    MediaError for more channels than 7.1 has, if nobody says where they are.
    """
    if len(waveform) <= 2:
        return waveform
    return _weights(layout_of(len(waveform), layout)).to(waveform) @ waveform


def change_rate(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Return a waveform (1 or 2, N) at another sample rate, as long as before."""
    if rate == new_rate:
        return waveform
    layout, wanted = layout_of(len(waveform), None), round(waveform.shape[-1] * new_rate / rate)
    made = torch.from_numpy(resampled(waveform.float().numpy(), layout, layout, rate, new_rate))
    return F.pad(made, (0, max(0, wanted - made.shape[-1])))[:, :wanted]


@cache
def _weights(layout: str) -> Tensor:
    """How much of each channel is heard on the left and on the right, (2, C), at most 1 together."""
    channels = len(av.AudioLayout(layout).channels)
    mixed = torch.from_numpy(resampled(np.eye(channels), layout, "stereo", 48_000, 48_000))
    return mixed / mixed.abs().sum(1).max().clamp(min=1)


def resampled(samples: np.ndarray, layout: str, target: str, rate: int, target_rate: int) -> np.ndarray:
    """Return ``samples`` (C, N), floating-point, as FFmpeg brings them from one layout and rate to others.

    Of fewer than its filter is long it makes nothing: they go through it with silence behind them.
    """
    form = "dbl" if samples.dtype == np.float64 else "flt"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), format=form, layout=layout)
    frame.sample_rate = rate
    resampler = av.AudioResampler(form, target, target_rate)
    pieces = [samples_of(piece) for given in (frame, None) for piece in resampler.resample(given)]
    if not pieces:
        count, behind = samples.shape[1], _FILTER * -(-max(rate, target_rate) // target_rate)
        longer = np.pad(samples, ((0, 0), (0, behind)))
        return resampled(longer, layout, target, rate, target_rate)[:, : max(1, round(count * target_rate / rate))]
    return np.ascontiguousarray(np.concatenate(pieces, axis=1))


def samples_of(frame: av.Part) -> np.ndarray:
    """Return the samples (C, N) of a frame whose channels are interleaved: PyAV fails at eight that are not."""
    return frame.to_ndarray().reshape(frame.samples, -1).T


class Mixer:
    """Mixes decoded sound down piece by piece, and brings it to one rate.

    Rate and channels of what is given may change on the way, as where a film in surround follows the news.
    """

    def __init__(self, form: str, full: float, sample_rate: int):
        """Begin with the first piece; ``form`` is FFmpeg's name for the samples between, whose loudest is ``full``."""
        self._form, self._full, self._sample_rate = form, full, sample_rate
        self._kind: tuple[str, str, int] | None = None  # of the piece before
        self._layout = ""
        self._resampler: av.Part = None

    def mix(self, frame: av.Part | None) -> Iterator[Tensor]:
        """Yield what is finished, (1 or 2, N); after the last piece the rest, for None.

        Raises MediaError for channels of which nobody says where they are.
        """
        kind = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            yield from self._resampled(None)
            self._kind = kind
            if frame is not None:
                channels = len(frame.layout.channels)
                self._layout = layout_of(channels, frame.layout.name if channels > 2 else None)
                self._resampler = av.AudioResampler(self._form, self._layout, self._sample_rate)
        if frame is not None:
            yield from self._resampled(frame)

    def _resampled(self, frame: av.Part | None) -> Iterator[Tensor]:
        for piece in self._resampler.resample(frame) if self._resampler is not None else ():
            yield mix_down(torch.from_numpy(samples_of(piece)).float() / self._full, self._layout)
