"""Clips that are longer than what the model makes at once: windows that overlap in time, in both streams.

Each window is a clip by itself that begins with the end of the one before it (spec: conditioning.md, section 7c, which
knows no sound). The first latent of a clip is one frame instead of eight, so that of a later window fits nowhere: it is
made, and dropped.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..conditioning import Inpaint, LatentCondition, State
from ..geometry import AUDIO_RATE, TIME_SCALE, latent_frames, nearest_frames, pixel_frames
from ..latents import AVLatent


@dataclass(frozen=True)
class Part:
    """What a window has of a stream: latents [start, stop) of the whole clip."""

    start: int
    stop: int
    lead: int = 0  # of these latents, that are made and dropped
    known: int = 0  # after them, that come from the window before


@dataclass(frozen=True)
class Window:
    """A part of a long clip, sampled as a clip by itself."""

    number: int
    video: Part
    audio: Part
    fps: Fraction

    @property
    def frames(self) -> range:
        """Its frames, as they are numbered in the whole clip."""
        first = self.video.start * TIME_SCALE
        return range(first, first + pixel_frames(self.video.stop - self.video.start))

    @property
    def delay(self) -> Fraction:
        """By how much its first latent of sound begins after its first frame, in seconds; at most 1/50."""
        return Fraction(self.audio.start, AUDIO_RATE) - self.frames.start / self.fps

    @property
    def middle(self) -> Fraction:
        """The middle of what is new in it, in seconds of the whole clip."""
        known = pixel_frames(self.video.start + self.video.lead + self.video.known)
        return (max(0, known) + self.frames.stop) / self.fps / 2


def cover(frames: int, fps: Fraction, size: int = 121, overlap: int = 24) -> list[Window]:
    """Cover a clip of ``frames`` with windows of ``size`` frames that share ``overlap``; the last two share more.

    Raises ValueError for sizes that are not of whole latents.
    """
    if size != nearest_frames(size) or overlap % TIME_SCALE or not TIME_SCALE <= overlap < size - TIME_SCALE:
        raise ValueError(
            f"Windows of {size} frames that share {overlap} cannot be: the size must be {TIME_SCALE} k + 1, for "
            f"example {max(17, nearest_frames(size))}, and the overlap a multiple of {TIME_SCALE} that leaves "
            f"{TIME_SCALE} new frames or more."
        )
    length, width = latent_frames(frames), latent_frames(size)
    step = width - 1 - overlap // TIME_SCALE
    found: list[Window] = []
    while not found or found[-1].video.stop < length:
        start = max(0, min(len(found) * step, length - width))
        stop = min(start + width, length)
        sound = round(start * TIME_SCALE / fps * AUDIO_RATE), round(pixel_frames(stop) / fps * AUDIO_RATE)
        known = (found[-1].video.stop, found[-1].audio.stop) if found else (0, 0)
        found.append(Window(len(found), _part(start, stop, known[0]), _part(*sound, known[1]), fps))
    return found


def _part(start: int, stop: int, known: int) -> Part:
    lead = min(1, known - start)
    return Part(start, stop, lead, known - start - lead)


@dataclass(frozen=True)
class Segment:
    """What happens from ``start`` seconds on."""

    start: float | Fraction
    prompt: str


def prompt_of(window: Window, segments: Sequence[Segment]) -> str:
    """The prompt of the segment in which the middle of what is new in ``window`` lies; else of the first one."""
    begun = [segment for segment in segments if segment.start <= window.middle]
    return max(begun, key=lambda segment: segment.start, default=segments[0]).prompt


class Store(Protocol):
    """Where finished windows are kept, so that a run can be resumed."""

    def find(self, key: str, /) -> Mapping[str, Tensor] | None: ...

    @property
    def keep(self) -> Callable[..., None]:
        """keep(key, name=tensor, ...)"""


SampleWindow = Callable[[Window, AVLatent, list[LatentCondition]], AVLatent]


def sample_windows(
    sample: SampleWindow,
    latent: AVLatent,
    windows: Sequence[Window],
    *,
    strength: float = 1.0,
    adain: float = 0.0,
    store: Store | None = None,
    settings: Callable[[Window], str] = lambda window: "",
) -> AVLatent:
    """Sample the whole clip that begins as ``latent``, window by window.

    ``sample(window, latent, items)`` makes one of them from its part of the clip, in which ``items`` hold what is known
    with ``strength``. What it makes is faded in over what was known, linearly. With ``adain`` (0..1) the mean and
    deviation of each channel are drawn to those of the first window, against colours and loudness that drift
    (Huang and Belongie, arXiv:1703.06868).

    Finished windows are kept in ``store``, and taken from there if they were begun with the same latent and
    ``settings(window)``, which names all else that ``sample`` depends on.
    """
    whole, first = latent.to("cpu", torch.float32), None
    for window in windows:
        begin = whole.map(lambda x, part: x[:, :, part.start : part.stop], window)
        key = _key(f"{window} {strength} {settings(window)}", begin)
        kept = None if store is None else store.find(key)
        if kept is not None:
            made = AVLatent(kept.get("video"), kept.get("audio"))
        else:
            made = sample(window, begin, _items(window, begin, strength)).to("cpu", torch.float32)
            if store is not None:
                store.keep(key, **made.streams())
        if first is None:
            first = made
        elif adain:
            made = made.map(partial(_toward, factor=adain), first, begin)
        whole = whole.map(_joined, made, window)
    return whole


@dataclass(frozen=True)
class _Delayed:
    """A stream that begins a little later, or earlier, than the other."""

    stream: str
    seconds: float

    def __call__(self, state: State) -> State:
        positions = state.positions.clone()
        positions[:, 0] += self.seconds
        return replace(state, positions=positions)


def _items(window: Window, begin: AVLatent, strength: float) -> list[LatentCondition]:
    """What this window has from the one before it."""
    items: list[LatentCondition] = (
        [_Delayed("audio", float(window.delay))] if begin.audio is not None and window.delay else []
    )
    for name, x in begin.streams().items():
        part, new = getattr(window, name), torch.ones_like(x[:1, :1] if x.ndim == 5 else x[:1, :1, :, :1])
        new[:, :, part.lead : part.lead + part.known] = 0
        if part.known:
            items.append(Inpaint(name, new, strength=strength))
    return items


def _joined(whole: Tensor, made: Tensor, part: Part) -> Tensor:
    """``whole`` with what was made of this part; what was known fades over to it."""
    start, end = part.start + part.lead, part.start + part.lead + part.known
    made = made[:, :, part.lead :]
    share = torch.arange(1, part.known + 1).view(-1, *[1] * (made.ndim - 3)) / (part.known + 1)
    faded = torch.lerp(whole[:, :, start:end], made[:, :, : part.known], share)
    return torch.cat((whole[:, :, :start], faded, made[:, :, part.known :], whole[:, :, part.stop :]), dim=2)


def _toward(made: Tensor, first: Tensor, begin: Tensor, factor: float) -> Tensor:
    """``made`` with the mean and deviation of each channel nearer to those of ``first``, if it was made at all."""
    if torch.equal(made, begin):
        return made
    axes = tuple(range(2, made.ndim))
    deviation, mean = torch.std_mean(made, axes, keepdim=True)
    first_deviation, first_mean = torch.std_mean(first, axes, keepdim=True)
    return torch.lerp(made, (made - mean) / deviation.clamp(min=1e-6) * first_deviation + first_mean, factor)


def _key(settings: str, begin: AVLatent) -> str:
    sha256 = hashlib.sha256(settings.encode("utf-8", "surrogatepass"))
    for name, x in begin.streams().items():
        sha256.update(f"{name} {tuple(x.shape)}".encode())
        sha256.update(x.contiguous().numpy().tobytes())
    return sha256.hexdigest()
