"""Clips that are longer than what the model makes at once: windows that overlap in time, in both streams.

Each window is a clip by itself that begins with the end of the one before it (``README.md``, "Windows"). The first
latent of a clip is one frame instead of eight, so that of a later window fits nowhere: it is made, and dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..conditioning import Inpaint, LatentCondition, State
from ..errors import SettingError
from ..fields import Checked, Number, Whole, settings_of, zero
from ..geometry import AUDIO_RATE, TIME_SCALE, audio_latents, latent_frames, nearest_frames, pixel_frames
from ..latents import AVLatent, draw_toward


@dataclass(frozen=True)
class StreamSpan:
    """The latents [start, stop) of a stream of the whole clip that belong to a window."""

    start: int
    stop: int
    lead: int = 0  # of these latents, that are made and dropped
    known: int = 0  # after them, that come from the window before


@dataclass(frozen=True)
class Window:
    """A stretch of a long clip, sampled as a clip by itself."""

    number: int
    video: StreamSpan
    audio: StreamSpan
    fps: Fraction

    @property
    def frames(self) -> range:
        """Its frames, as numbered in the whole clip."""
        first = self.video.start * TIME_SCALE
        return range(first, first + pixel_frames(self.video.stop - self.video.start))

    @property
    def delay(self) -> Fraction:
        """The time from its first frame to the start of its first audio latent, in seconds; at most 1/50."""
        return Fraction(self.audio.start, AUDIO_RATE) - self.frames.start / self.fps

    @property
    def middle(self) -> Fraction:
        """The middle of its new frames, in seconds of the whole clip."""
        known = pixel_frames(self.video.start + self.video.lead + self.video.known)
        return (max(0, known) + self.frames.stop) / self.fps / 2


def split_windows(frames: int, fps: Fraction, size: int = 121, overlap: int = 24) -> list[Window]:
    """Split a clip into windows that overlap in time; the last two share more than the others.

    Args:
        frames: Those of the clip, 8 k + 1.
        fps: Frames per second.
        size: Frames of a window, 8 k + 1.
        overlap: Frames that neighbours share, a multiple of 8.

    Raises:
        SettingError: For sizes that are not of whole latents.
    """
    _check_window(size, overlap)
    length, width = latent_frames(frames), latent_frames(size)
    step = width - 1 - overlap // TIME_SCALE
    windows: list[Window] = []
    while not windows or windows[-1].video.stop < length:
        start = max(0, min(len(windows) * step, length - width))
        stop = min(start + width, length)
        sound = round(start * TIME_SCALE / fps * AUDIO_RATE), audio_latents(pixel_frames(stop), fps)
        known = (windows[-1].video.stop, windows[-1].audio.stop) if windows else (0, 0)
        windows.append(Window(len(windows), _span(start, stop, known[0]), _span(*sound, known[1]), fps))
    return windows


def _check_window(size: int, overlap: int) -> None:
    if size != nearest_frames(size) or overlap % TIME_SCALE or not TIME_SCALE <= overlap < size - TIME_SCALE:
        raise SettingError(
            f"Windows of {size} frames that share {overlap} cannot be: the size must be {TIME_SCALE} k + 1, for "
            f"example {max(17, nearest_frames(size))}, and the overlap a multiple of {TIME_SCALE} that leaves "
            f"{TIME_SCALE} new frames or more."
        )


def _span(start: int, stop: int, known: int) -> StreamSpan:
    lead = min(1, known - start)
    return StreamSpan(start, stop, lead, known - start - lead)


@dataclass(frozen=True)
class Windowing(Checked):
    """The settings of a long clip that is made window by window."""

    window: Annotated[
        int,
        Whole(17, 2881, 8, unit="frames"),
        "Frames that are made at once, 8 k + 1: as many as the model does well and the card has room for.",
    ] = 121
    overlap: Annotated[
        int,
        Whole(8, 512, 8, unit="frames"),
        "Frames that a window sees of the one before it; what both make is faded over. More keep motion and voices "
        "going, and take longer.",
    ] = 24
    drift_control: Annotated[
        float,
        Number(0, 1, 0.05, digits=0),
        "Draws colours, contrast and loudness of every window to those of the first one. Raise it if a long clip grows "
        "garish; too much hides changes that you want.",
    ] = 0.0
    overlap_strength: Annotated[
        float,
        Number(0, 1, 0.05, digits=0, advanced=True),
        "How firmly a window keeps the frames that it sees. Lower lets it repaint them a little, and fade over.",
    ] = 1.0
    transition: Annotated[
        float,
        Number(0, 10, 0.1, unit="s", instead=zero("prompts change where windows do", usual=1.0)),
        "Above 0, segments begin at their own second, also inside one window, and fade over in this time; 0: a window "
        "has one prompt, as its middle says.",
    ] = 0.0

    def __post_init__(self) -> None:
        """Raise SettingError for sizes that are not of whole latents."""
        super().__post_init__()
        settings_of(Windowing)["window"].check(self.window)
        _check_window(self.window, self.overlap)

    def windows(self, frames: int, fps: Fraction) -> list[Window]:
        """Split a clip of ``frames`` at ``fps``."""
        return split_windows(frames, fps, self.window, self.overlap)


@dataclass(frozen=True)
class Segment(Checked):
    """A prompt of a long clip, and when it begins."""

    start: Annotated[
        float | Fraction,
        Number(0, 3600, 0.1, unit="s", shown=5.0),
        "When it begins, in seconds. A window has the prompt that holds in the middle of what is new in it, so "
        "prompts change where windows do; with a transition of LTX-2 Long Video they change at this second.",
    ]
    prompt: str


def texts_in(starts: Sequence[float], window: Window, transition: float) -> range:
    """Return the numbers of the prompts that count somewhere in ``window``, by their rising ``starts`` in seconds."""
    first, last = (float(frame / window.fps) for frame in (window.frames.start, window.frames.stop))
    begun = sum(start - transition / 2 < last for start in starts[1:])
    ended = sum(start + transition / 2 <= first for start in starts[1:])
    return range(ended, begun + 1)


def prompts_in(starts: Sequence[float], window: Window, transition: float) -> list[int]:
    """Return the numbers of the prompts that ``window`` reads, in the order of time.

    Args:
        starts: when each begins, in seconds, in any order.
        window: reads the one that holds in the middle of what is new in it.
        transition: seconds in which prompts fade over; above 0 the window reads all that hold in it.
    """
    if transition > 0:
        order = sorted(range(len(starts)), key=starts.__getitem__)
        return [order[number] for number in texts_in(sorted(starts), window, transition)]
    begun = [number for number, start in enumerate(starts) if start <= window.middle]
    return [max(begun, key=starts.__getitem__, default=0)]


def sample_windows(
    sample: Callable[[Window, AVLatent, list[LatentCondition]], AVLatent],
    latent: AVLatent,
    windows: Sequence[Window],
    windowing: Windowing = Windowing(),
) -> AVLatent:
    """Sample a long clip window by window; each new window fades in, linearly, over what was known of it.

    Args:
        sample: Makes a window from its stretch of the clip and the conditions that hold what is known of it.
        latent: The start of the whole clip.
        windows: From ``split_windows``.
        windowing: How firmly a window keeps what is known, and how far the mean and deviation of each channel are drawn
            to those of the first window, against colours and loudness that drift.

    Returns:
        The whole clip on the CPU, float32.
    """
    whole, first = latent.to("cpu", torch.float32), None
    for window in windows:
        begin = slice_window(whole, window)
        made = sample(window, begin, _conditions(window, begin, windowing.overlap_strength)).to("cpu", torch.float32)
        if first is None:
            first = made
        elif windowing.drift_control:
            made = made.map(partial(_toward, factor=windowing.drift_control), first, begin)
        whole = whole.map(_joined, made, window)
    return whole


def slice_window(latent: AVLatent, window: Window) -> AVLatent:
    """Return the part of a clip's ``latent`` that belongs to ``window``."""
    return latent.map(lambda x, span: x[:, :, span.start : span.stop], window)


@dataclass(frozen=True)
class _DelayedSound:
    """A sound that begins a little later, or earlier, than the picture."""

    seconds: float
    stream: ClassVar[str] = "audio"

    def __call__(self, state: State) -> State:
        """Move the positions of the sound in time."""
        positions = state.positions.clone()
        positions[:, 0] += self.seconds
        return replace(state, positions=positions)


def _conditions(window: Window, begin: AVLatent, strength: float) -> list[LatentCondition]:
    """Hold what this window has from the one before it."""
    conditions: list[LatentCondition] = (
        [_DelayedSound(float(window.delay))] if begin.audio is not None and window.delay else []
    )
    for name, x in begin.streams().items():
        part, new = getattr(window, name), torch.ones_like(x[:1, :1] if x.ndim == 5 else x[:1, :1, :, :1])
        new[:, :, part.lead : part.lead + part.known] = 0
        if part.known:
            conditions.append(Inpaint(name, new, strength=strength))
    return conditions


def _joined(whole: Tensor, made: Tensor, part: StreamSpan) -> Tensor:
    """Put what was made into ``whole``; what was known fades over to it."""
    start, end = part.start + part.lead, part.start + part.lead + part.known
    made = made[:, :, part.lead :]
    share = torch.arange(1, part.known + 1).view(-1, *[1] * (made.ndim - 3)) / (part.known + 1)
    faded = torch.lerp(whole[:, :, start:end], made[:, :, : part.known], share)
    return torch.cat((whole[:, :, :start], faded, made[:, :, part.known :], whole[:, :, part.stop :]), dim=2)


def _toward(made: Tensor, first: Tensor, begin: Tensor, factor: float) -> Tensor:
    """Draw the mean and deviation of each channel of ``made`` to those of ``first``, if it was made at all."""
    return made if torch.equal(made, begin) else draw_toward(made, first, factor)
