"""Looking at and listening to clips of the one-ball world: what is in them, and do picture and sound agree?

Needs scipy, which making clips does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from . import world

RATE = 24000  # samples per second of the miniature's vocoder
_WINDOW = RATE // 200  # 5 ms


@dataclass(frozen=True)
class Seen:
    """A ball, as far as one is seen."""

    colour: str | None
    place: str | None
    impacts: np.ndarray  # seconds
    visible: float  # share of frames that show it


@dataclass(frozen=True)
class Heard:
    """The tones of a sound, as far as any are heard."""

    onsets: np.ndarray  # seconds
    colour: str | None  # whose pitch it is
    place: str | None


def look(pictures: np.ndarray) -> Seen:
    """Find the ball in (F, H, W, 3) by its colour, and its impacts by the turning points of its path."""
    from scipy.signal import find_peaks

    names = list(world.COLOURS)
    palette = np.array([*world.COLOURS.values(), *(c for room in world.ROOMS.values() for c in room)], np.float32)
    square = (pictures**2).sum(-1)[..., None] + (palette**2).sum(-1) - 2 * pictures @ palette.T
    nearest = np.where(square.min(-1) < 0.3**2, square.argmin(-1), -1)
    counts = np.array([(nearest == i).sum() for i in range(len(names))])
    if counts.max() < 30 * len(pictures) / 2:
        return Seen(None, None, np.array([]), 0.0)
    mask = nearest == counts.argmax()
    present = mask.sum((1, 2)) >= 30
    rows, columns = np.mgrid[0 : world.SIZE, 0 : world.SIZE] + 0.5
    frames = np.flatnonzero(present)
    y = np.interp(np.arange(len(mask)), frames, [rows[mask[f]].mean() for f in frames])
    x = np.median([columns[mask[f]].mean() for f in frames])
    peaks, _ = find_peaks(y, height=world.REST - 10, prominence=6, distance=4)
    impacts = np.array([_turning_point(y, int(peak)) / world.FPS for peak in peaks])
    place = min(world.PLACES, key=lambda name: abs(world.PLACES[name] - x))
    return Seen(names[counts.argmax()], place, impacts, float(present.mean()))


def _turning_point(y: np.ndarray, peak: int) -> float:
    """Where the straight lines before and after ``peak`` meet, in frames."""
    if not 2 <= peak < len(y) - 2:
        return float(peak)
    down, up = y[peak - 1] - y[peak - 2], y[peak + 2] - y[peak + 1]
    if down - up <= 1:
        return float(peak)
    meet = peak + ((y[peak + 1] - up) - (y[peak - 1] + down)) / (down - up)
    return float(np.clip(meet, peak - 0.7, peak + 0.7))


def listen(sound: np.ndarray) -> Heard:
    """Find the tones in (2, N) at 24 kHz: sudden rises of the loudness, the strongest pitch, the balance."""
    usable = sound[:, : sound.shape[1] // _WINDOW * _WINDOW]
    envelope = np.abs(usable).sum(0).reshape(-1, _WINDOW).max(1)
    if envelope.max() < 0.05:
        return Heard(np.array([]), None, None)
    onsets: list[float] = []
    last = -100
    for t in range(2, len(envelope) - 8):
        before, peak = envelope[max(0, t - 5) : max(1, t - 3)].min(), envelope[t : t + 8].max()
        loud = peak > max(0.05, 0.3 * envelope.max())
        if loud and envelope[t] >= 0.5 * peak and envelope[t] > 1.8 * before and t - last > 28:
            onsets.append(t * _WINDOW / RATE)
            last = t
    spectrum = np.abs(np.fft.rfft(usable.sum(0)))
    pitch = np.fft.rfftfreq(usable.shape[1], 1 / RATE)[spectrum.argmax()]
    colour = min(world.PITCHES, key=lambda name: abs(world.PITCHES[name] - pitch))
    power = np.sqrt((usable**2).mean(1)) + 1e-9
    column = (np.arctan2(power[1], power[0]) / (np.pi / 2) - 0.1) / 0.8 * world.SIZE
    return Heard(np.array(onsets), colour, min(world.PLACES, key=lambda name: abs(world.PLACES[name] - column)))


def describe(
    clips: Iterable[tuple[np.ndarray, np.ndarray]], wanted: Iterable[tuple[str, str, int]]
) -> dict[str, float]:
    """Shares and timing errors over clips (pictures, sound) that were made for ``wanted`` (colour, place, count).

    An impact and a tone agree when they lie within two frames. Of clips, ``every_bounce_heard`` is the share in which
    each impact that is seen has its tone; of impacts and tones, ``sync_within_2_frames`` is the share that agree, where
    missing and surplus tones count as failures.
    """
    rows, errors, within, total = [], [], 0, 0
    for (pictures, sound), (colour, place, count) in zip(clips, wanted):
        seen, heard = look(pictures), listen(sound)
        apart = np.abs(seen.impacts[:, None] - heard.onsets[None]).min(1, initial=np.inf)
        in_time = int((apart <= 2 / world.FPS).sum())
        rows.append(
            {
                "ball_visible": seen.visible,
                "ball_colour": seen.colour == colour,
                "ball_place": seen.place == place,
                "colour_and_place": seen.colour == colour and seen.place == place,
                "bounce_count": len(seen.impacts) == count,
                "every_bounce_heard": 0 < len(seen.impacts) == in_time,
                "sound_count": len(heard.onsets) == count,
                "sound_pitch": heard.colour == colour,
                "sound_side": heard.place == place,
                "counts_agree": len(heard.onsets) == len(seen.impacts),
            }
        )
        total += max(len(seen.impacts), len(heard.onsets))
        errors += list(apart[np.isfinite(apart)])
        within += min(in_time, len(heard.onsets))
    result = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
    result["sync_error_ms_median"] = round(1000 * float(np.median(errors)), 1) if errors else float("nan")
    result["sync_within_2_frames"] = round(within / max(total, 1), 3)
    return result
