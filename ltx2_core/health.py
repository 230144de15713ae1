"""Health checks of what a stage made: NaN ends the run, ugly results become findings, which stop nothing."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .errors import Finding, NotANumberError, holds_numbers
from .latents import AVLatent

# ----------------------------------------------------------------------------------------------------------- thresholds

# Pixels that are looked at in each frame. A thing on half a percent of the picture has twenty of them, and the mean of
# even a black-and-white pattern that rushes by is right within 0.01.
PIXELS = 4096
# A frame is black if nothing in it is brighter: the black of video (16 of 255 levels) and a little noise.
BLACK = 20 / 255
# A frame is one flat colour if its pixels differ less (standard deviation): rounding to 8 bits and dither.
FLAT = 1.5 / 255
# The share of the frames that is black or flat in a clip that is: a given first frame or a flash may look different.
MOST_FRAMES = 0.9
# A clip is static if no frame differs more from the first (effective value). A decoder's own shimmer of two levels
# makes up to 3; lips that change one percent of the picture by a fifth of full scale make 5.
STATIC = 3 / 255
# A clip flickers if its mean colour goes up and down by more than this each frame, on average: five levels are seen
# at once; candle light, which varies by 4 %, makes 0.015, and blinds that rush by 0.014.
FLICKER = 0.02
# A sound is silent if no twentieth of a second is louder (effective value): -60 dB of full scale, below room noise.
SILENT = 1e-3
# A sound is clipped if in a channel a larger share of the samples ends three equal ones at the ceiling. Full scale
# alone is a crest that was well levelled; a thousandth is five milliseconds of distortion in five seconds.
CEILING = 0.999
CLIPPED = 1e-3
# A sound is one-sided if one channel has less than this share of the other's effective value (-26 dB). A head shades
# an ear by 20 dB at most, so nothing in nature sounds like it.
ONE_SIDED = 0.05
# Tiles show if the picture changes so many times more across a line where one begins or ends than across the pixels or
# frames beside it, two levels more or less aside. Of a line the median counts: things may end there, but not along half
# of it.
SEAM = 1.5
UNSEEN = 2 / 255
BESIDE = 8
# A latent is empty if it varies less from cell to cell in all channels; the statistics of the VAE make 1 usual.
EMPTY = 0.01
# A latent is noise if the neighbours in no channel correlate more, along no axis. Some channel of a picture
# or a sound does by 0.6 and more, noise by 0.2 at most in 256 cells; in far fewer cells chance hides noise.
NOISE = 0.3


# ------------------------------------------------------------------------------------------------------------- findings

# What may be found, and why it likely is so and what to try.
_CAUSES = {
    "is not a number": "a file is damaged, a LoRA is too strong, or the numbers do not fit the chosen precision. "
    "Download the checkpoint again, lower the strengths of LoRAs, or choose a higher precision (bf16 or fp32).",
    "is empty": "it was encoded from something plain, or the network computes wrongly on this card. Look at what goes "
    "in, or choose a higher precision (bf16 or fp32).",
    "is still noise": "parts of different LTX-2 versions were loaded together, the attention in use computes wrongly, "
    "or the schedule ends too early. Load all parts from one release, choose PyTorch's own attention, and let the "
    "sigmas end in 0.",
    "is black": "the video decoder likely computes wrongly in this precision, or the clip began with a black picture. "
    "Choose a higher precision (bf16 or fp32), or look at the picture that was given.",
    "is one flat colour": "likely it had too few steps, an empty latent was decoded without being sampled, or the "
    "video VAE belongs to another LTX-2 version. Take the steps of the recipe, connect the decoder to the sampler, and "
    "load the VAE of the same release.",
    "stands still": "a given picture is too clean or held too firmly, a given voice is too clean, or the prompt names "
    "no movement. Lower the strength of the picture, compress it or roughen the voice a little, or write who moves and "
    "how.",
    "flickers": "unless lights are meant to flash, guidance is likely too strong, or tiles overlap too little in time. "
    "Lower the text scale or raise rescale, and decode with a longer temporal overlap or without tiles.",
    "shows seams": "its tiles overlap too little to agree, or they were made one by one. Let them overlap more, make "
    "them together step by step, or take fewer tiles.",
    "is silent": "likely the prompt says nothing of sound, or the audio VAE and the vocoder belong to another LTX-2 "
    "version. Write what is to be heard, and load all parts from one release.",
    "is clipped": "it is louder than a file can hold, so it distorts; most often guidance of the sound is too strong. "
    "Lower the text scale of the sound, or raise rescale.",
    "is one-sided": "it comes almost only from the left or the right; likely a given sound had an empty channel, or "
    "the prompt places it there. Give the sound as mono, write where it comes from, or try another seed.",
}


def _finding(stage: str, subject: str, what: str) -> Finding:
    return Finding(stage, f"the {subject} {what}", _CAUSES[what])


def check_finite(what: AVLatent | Tensor, stage: str) -> None:
    """Stop a run whose numbers are broken.

    Args:
        what: the result of a stage.
        stage: its name, for the error.

    Raises:
        NotANumberError: if ``what`` holds a NaN or an infinity.
    """
    tensors = what.streams() if isinstance(what, AVLatent) else {"result": what}
    if not holds_numbers(*tensors.values()):
        name = next(name for name, tensor in tensors.items() if not holds_numbers(tensor))
        raise NotANumberError(f"The {name} is not a number after {stage}", _CAUSES["is not a number"])


# -------------------------------------------------------------------------------------------------------------- latents


def latent_findings(latent: AVLatent, stage: str) -> list[Finding]:
    """Return the faults of a clean latent: one that was encoded, or sampled down to sigma 0.

    Args:
        latent: (B, C, F, H, W) and (B, C, T, M), normalised.
        stage: the name of the stage that made it.
    """
    subjects = {"video": "picture", "audio": "sound"}
    faults = ((name, _latent_fault(x.float())) for name, samples in latent.streams().items() for x in samples)
    return list(dict.fromkeys(_finding(stage, subjects[name], fault) for name, fault in faults if fault))


def _latent_fault(x: Tensor) -> str | None:
    """Return the fault of one sample (C, ...) of a stream; None if it has none."""
    if not x.isfinite().all():
        return "is not a number"
    axes = [axis for axis in range(1, x.ndim) if x.shape[axis] > 1]
    if not axes:  # of a single cell nothing can be said
        return None
    x = x - x.mean(axes, keepdim=True)
    variance = x.square().mean(axes).flatten()
    varies = variance > EMPTY**2
    if not varies.any():
        return "is empty"
    alike = max((_neighbours(x, axis) / variance)[varies].amax() for axis in axes)
    return "is still noise" if alike < NOISE else None


def _neighbours(x: Tensor, axis: int) -> Tensor:
    """Return the covariance (C,) of cells that are neighbours along ``axis``."""
    pairs = x.shape[axis] - 1
    return (x.narrow(axis, 0, pairs) * x.narrow(axis, 1, pairs)).flatten(1).mean(1)


# -------------------------------------------------------------------------------------------------------------- picture


class PictureHealth:
    """Looks for faults of the picture while frames are decoded.

    It keeps a sample of the first frame, and six numbers of each.
    """

    def __init__(self) -> None:
        # By chance, but always the same: a grid would fall in step with fences and blinds.
        self._places = torch.rand(2, PIXELS, generator=torch.Generator().manual_seed(0))
        self._first: Tensor | None = None  # (B, 1, PIXELS, 3)
        self._figures: list[Tensor] = []  # of each chunk (B, f, 6)

    def see(self, chunk: Tensor) -> None:
        """Measure the next frames (B, f, H, W, 3) in 0..1."""
        rows, columns = (self._places * Tensor([[chunk.shape[2]], [chunk.shape[3]]])).long().to(chunk.device)
        pixels = chunk[:, :, rows, columns].float().cpu()
        if self._first is None:
            self._first = pixels[:, :1].clone()
        peak = pixels.mean(-1).amax(-1)
        spread = pixels.std(-2).amax(-1)
        changed = (pixels - self._first).square().mean((-2, -1)).sqrt()
        self._figures.append(torch.cat((torch.stack((peak, spread, changed), -1), pixels.mean(-2)), -1))

    def findings(self) -> list[Finding]:
        """Return the faults of the frames so far, in any clip of the batch."""
        clips = torch.cat(self._figures, 1) if self._figures else ()
        faults = dict.fromkeys(_picture_fault(clip) for clip in clips)
        return [_finding("decoding the video", "picture", fault) for fault in faults if fault]


class Seams:
    """Looks for visible lines where tiles meet, while frames are decoded.

    Args:
        frames: the first frame after each line in time.
        rows: the first row of pixels after each line across.
        columns: the first column of pixels after each line down.
        beside: how many steps on either side a line is compared with.
    """

    def __init__(
        self,
        frames: Sequence[int] = (),
        rows: Sequence[int] = (),
        columns: Sequence[int] = (),
        beside: int = BESIDE,
    ):
        self._frames, self._beside = frames, beside
        self._lines = [(2, row) for row in rows] + [(3, column) for column in columns]
        self._steps: list[Tensor] = [torch.zeros(())] * len(self._lines)  # (length, 2 * beside + 1), of all frames
        self._changes: list[Tensor] = []  # from each frame to the next
        self._last: Tensor | None = None

    def see(self, chunk: Tensor) -> None:
        """Measure the next frames (B, f, H, W, 3) in 0..1."""
        for number, (axis, line) in enumerate(self._lines):
            start, stop = self._near(line, chunk.shape[axis])
            steps = chunk.narrow(axis, start - 1, stop - start + 1).float().diff(dim=axis).abs().mean((0, 4))
            self._steps[number] = self._steps[number] + steps.movedim(axis - 1, -1).sum(0).cpu()
        small = chunk[:, :, ::4, ::4].float()
        before = small[:, :1] if self._last is None else self._last
        self._changes.append(torch.cat((before, small), 1).diff(dim=1).abs().mean((0, 2, 3, 4)).cpu())
        self._last = small[:, -1:].clone()

    def measure(self) -> float:
        """Return the change across the most visible line, divided by the change beside it; 1 means invisible."""
        changes = torch.cat(self._changes)
        found = [
            _sharpness(steps / len(changes), min(self._beside, line - 1))
            for (_, line), steps in zip(self._lines, self._steps)
        ]
        for frame in self._frames:
            start, stop = self._near(frame, len(changes))
            found.append(_sharpness(changes[None, start:stop], frame - start))
        return max(found, default=1.0)

    def _near(self, line: int, length: int) -> tuple[int, int]:
        """Return the steps that ``line`` is compared with, its own included; step 1 leads to row 1."""
        return max(1, line - self._beside), min(length, line + self._beside + 1)

    def findings(self) -> list[Finding]:
        """Return a finding if tiles show in the frames so far."""
        return [_finding("refining", "picture", "shows seams")] if self.measure() > SEAM else []


def _sharpness(changes: Tensor, line: int) -> float:
    """Return the change at ``line`` divided by the mean change beside it, as the median of all rows (N, places)."""
    across = changes[:, line]
    beside = (changes.sum(1) - across) / max(1, changes.shape[1] - 1)
    return float(((across + UNSEEN) / (beside + UNSEEN)).median())


def _picture_fault(figures: Tensor) -> str | None:
    """Return the fault of a clip, from the figures (F, 6) of its frames; None if it has none."""
    peak, spread, changed, *_ = figures.unbind(-1)
    if not figures.isfinite().all():
        return "is not a number"
    if (peak < BLACK).float().mean() > MOST_FRAMES:
        return "is black"
    if (spread < FLAT).float().mean() > MOST_FRAMES:
        return "is one flat colour"
    if _restlessness(figures[:, 3:]) > FLICKER:
        return "flickers"
    return "stands still" if len(figures) > 1 and changed.amax() < STATIC else None


def _restlessness(colour: Tensor) -> float:
    """Return how far the mean colour (F, 3) moves per frame, beyond what one fade in and out or a flash needs."""
    way = colour.diff(dim=0).abs().sum(0)
    there_and_back = 2 * (colour.amax(0) - colour.amin(0))
    return float((way - there_and_back).amax() / len(colour))


# ---------------------------------------------------------------------------------------------------------------- sound


def sound_findings(waveform: Tensor, sample_rate: int) -> list[Finding]:
    """Return the faults of a waveform.

    Args:
        waveform: (1 or 2, N) in -1..1.
        sample_rate: in Hz.
    """
    return [_finding("decoding the sound", "sound", fault) for fault in _sound_faults(waveform.float(), sample_rate)]


def _sound_faults(waveform: Tensor, sample_rate: int) -> Iterator[str]:
    if not waveform.isfinite().all():
        yield "is not a number"
        return
    pieces = waveform.split(sample_rate // 20, dim=-1)
    if max(piece.std(-1, correction=0).amax() for piece in pieces) < SILENT:  # a constant offset is not heard
        yield "is silent"
        return
    level = waveform.diff() == 0
    cut_off = level[:, 1:] & level[:, :-1] & (waveform[:, 2:].abs() >= CEILING)
    if cut_off.float().mean(-1).amax() > CLIPPED:
        yield "is clipped"
    loudness = waveform.std(-1, correction=0)
    if loudness.amin() < ONE_SIDED * loudness.amax():
        yield "is one-sided"
