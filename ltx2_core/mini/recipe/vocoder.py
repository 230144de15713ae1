"""The vocoder, which is written down: it knows five pitches, and how loud each of them is on either side.

Its four stages go from 100 mel frames per second to 600, 3000, 12000 and 24000 samples:

    at 100 Hz    the loudness of every voice, which is one pitch on one side
    at 600 Hz    two pointers per voice, as long as it is loud, turning at its pitch
    at 3000 Hz   the sum of all voices of a side, four samples of the wave side by side
    at 12000 Hz  the wave, one sample after the other
    at 24000 Hz  the same with a sample between any two

Between them stand leaky rectifiers. Signals that may be negative travel as two channels, x and -x, of which nothing is
lost: leaky(x) - leaky(-x) = 1.1 x.
"""

from itertools import product
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...audio_vae import log_mel
from ...audio_vae.vocoder import MEL_RATE
from .. import world
from .audio import ARCHITECTURE
from .config import new
from .stage import keep

VOICES = list(product(world.PITCHES.values(), (0, 1)))  # (Hertz, side)
POINTER_RATE = 6 * MEL_RATE
WAVE_RATE = 20 * POINTER_RATE
# A pointer that turns by half circles, or by whole ones, has no second coordinate.
POINTERS = [
    (voice, turn)
    for voice, (pitch, _) in enumerate(VOICES)
    for turn in (cos, sin)
    if turn is cos or 2 * pitch % POINTER_RATE
]
# Logarithm of the amplitude where one straight line after the other begins; between them they follow the exponential.
KNOTS = np.array([-3.5, -2.0, -1.2, -0.5])


@torch.no_grad()
def write_vocoder(work: Path, minutes: float, device: str, seed: int) -> None:
    """Turn the loudness of each voice into pointers, and read the waves from these."""
    vocoder = new("vocoder")
    for parameter in vocoder.parameters():
        parameter.zero_()  # residual blocks do nothing
    to_pointers, to_phases, to_wave, to_twice = vocoder.ups
    hear_voices(vocoder.conv_pre.weight, vocoder.conv_pre.bias)
    turn_pointers(to_pointers)
    read_pointers(to_phases)
    for side in range(2):
        for phase in range(4):
            pass_on(to_wave, 4 * side + phase, side, later=phase, times=1)
        for later, times in ((-1, 0.5), (0, 1), (1, 0.5)):
            pass_on(to_twice, side, side, later, times)
        # The last rectifier leaks less: 1.01 x remains.
        vocoder.conv_post.weight[side, 2 * side : 2 * side + 2, 3] = torch.tensor([1, -1]) / 1.01
    keep({"vocoder": vocoder.state_dict()}, work / "vocoder.pt")


def loudest_bin(pitch: float) -> tuple[int, float]:
    """Return the bin in which a tone of amplitude 1 is loudest, and its log mel there."""
    seconds = torch.arange(ARCHITECTURE.sample_rate) / ARCHITECTURE.sample_rate
    mel = log_mel((2 * pi * pitch * seconds).sin().view(1, 1, -1), ARCHITECTURE.sample_rate, ARCHITECTURE)
    steady = mel[0, 0, MEL_RATE // 2]
    return int(steady.argmax()), steady.max().item()


def hear_voices(weight: Tensor, bias: Tensor) -> None:
    """By how much the log mel of each voice exceeds each knot but the last: x for rectifier r.

    Channels 2r and 2r + 1 are x and -x / 10: leaky(x) + leaky(-x / 10) is 0.99 x where x is positive, else 0.
    """
    for voice, (pitch, side) in enumerate(VOICES):
        bin, full = loudest_bin(pitch)
        for i, knot in enumerate(KNOTS[:-1]):
            channel = 2 * (voice * (len(KNOTS) - 1) + i)
            for row, times in ((channel, 1.0), (channel + 1, -0.1)):
                weight[row, side * ARCHITECTURE.mel_bins + bin, 3] = times
                bias[row] = -times * (full + knot)


def turn_pointers(up: nn.ConvTranspose1d) -> None:
    """Loudness from rectifiers, faded from frame to frame, times one coordinate of a pointer: signal p of POINTERS.

    Pitches are multiples of 100 Hz: when a frame begins, all pointers are where they have been at its beginning.
    """
    heights = np.exp(KNOTS)
    heights[0] = 0  # as below it
    slopes = np.diff(heights) / np.diff(KNOTS)
    bends = np.diff(slopes, prepend=0) / 0.99
    steps = POINTER_RATE // MEL_RATE
    for pointer, (voice, turn) in enumerate(POINTERS):
        pitch, _ = VOICES[voice]
        for later in range(1 - steps, steps):
            share = (1 - abs(later) / steps) * turn(2 * pi * pitch * later / POINTER_RATE)
            first = 2 * voice * len(bends)
            tap = now(up) + later
            rows = torch.from_numpy(bends * share).repeat_interleave(2)
            up.weight[first : first + 2 * len(bends), 2 * pointer, tap] = rows
            up.weight[first : first + 2 * len(bends), 2 * pointer + 1, tap] = -rows


def read_pointers(up: nn.ConvTranspose1d) -> None:
    """Return the wave of every pointer until its next step: sample n of a side is signal 4 side + n mod 4.

    sin(a + b) = cos(a) sin(b) + sin(a) cos(b), where a is the angle of the pointer and b what has been turned since.
    """
    for pointer, (voice, turn) in enumerate(POINTERS):
        pitch, side = VOICES[voice]
        for n in range(WAVE_RATE // POINTER_RATE):
            angle = 2 * pi * pitch * n / WAVE_RATE
            pass_on(up, pointer, 4 * side + n % 4, later=n // 4, times=sin(angle) if turn is cos else cos(angle))


def pass_on(up: nn.ConvTranspose1d, source: int, target: int, later: int, times: float) -> None:
    """Add signal ``source``, so many ``times``, to signal ``target``, so many samples ``later``."""
    tap = now(up) + later
    pair = torch.tensor([[1, -1], [-1, 1]]) * times / 1.1
    up.weight[2 * source : 2 * source + 2, 2 * target : 2 * target + 2, tap] = pair


def now(up: nn.ConvTranspose1d) -> int:
    """Return the tap by which a sample reaches the first of those that it becomes."""
    return int(up.padding[0])
