"""What callers of this room give, checked where it comes in: numbers, frames and samples."""

from collections.abc import Mapping
from fractions import Fraction
from math import nan
from numbers import Rational, Real
from typing import cast

from torch import Tensor

from ..errors import MediaError, SettingError, short

SLOWEST, FASTEST = 0.001, 1000  # pictures per second
MOST_SAMPLES = 768_000  # per second
LATEST = 1_000_000  # seconds after the beginning of a file


def rate_of(fps: object) -> Fraction:
    """Return frames per second as a fraction that files can hold; SettingError for no number from 0.001 to 1000."""
    number = _number(fps)
    if not SLOWEST <= number <= FASTEST:
        raise SettingError(
            f"fps is {_shown(fps)}; it must be a number from {SLOWEST} to {FASTEST}, such as 24 or "
            "Fraction(24000, 1001)."
        )
    return Fraction(number if isinstance(number, Rational) else float(number)).limit_denominator(100_000)


def sample_rate_of(sample_rate: object) -> int:
    """Return samples per second; SettingError for what is no whole number from 1 to 768,000."""
    return whole("sample_rate", sample_rate, 1, MOST_SAMPLES)


def whole(name: str, value: object, least: int, most: int) -> int:
    """Return ``value`` as a whole number; SettingError for anything else than one from ``least`` to ``most``."""
    number = _number(value)
    if not least <= number <= most or number % 1:
        raise SettingError(f"{name} is {_shown(value)}; it must be a whole number from {least:,} to {most:,}.")
    return int(number)


def seconds_of(name: str, value: object) -> Fraction:
    """Return ``value`` as seconds; SettingError for anything else than a number from 0 to LATEST."""
    number = _number(value)
    if not 0 <= number <= LATEST:
        raise SettingError(f"{name} is {_shown(value)} s; it must be a number from 0 to {LATEST:,}.")
    return Fraction(number if isinstance(number, Rational) else float(number)).limit_denominator(1_000_000)


def check_frames(chunk: object) -> None:
    """Raise MediaError for what is no tensor (F, H, W, 3) of pictures in 0..1."""
    meant = "Frames come as (frames, height, width, 3)"
    if not isinstance(chunk, Tensor):
        raise MediaError(f"{meant} in tensors, chunk after chunk, not as {type(chunk).__name__}.")
    if chunk.ndim != 4 or chunk.shape[-1] != 3 or 0 in chunk.shape[1:]:
        raise MediaError(f"{meant}, chunk after chunk, not as {tuple(chunk.shape)}.")
    if not chunk.is_floating_point():
        raise MediaError(f"{meant} of numbers in 0..1, not as {chunk.dtype}: divide whole numbers by 255.")


def check_samples(waveform: object) -> None:
    """Raise MediaError for what is no tensor (1 or 2, N) of samples in -1..1."""
    meant = "Sound comes as (1 or 2 channels, samples)"
    if not isinstance(waveform, Tensor):
        raise MediaError(f"{meant} in a tensor, not as {type(waveform).__name__}.")
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or not waveform.shape[1]:
        raise MediaError(f"{meant}, not as {tuple(waveform.shape)}.")
    if not waveform.is_floating_point():
        raise MediaError(f"{meant} of numbers in -1..1, not as {waveform.dtype}: divide 16-bit numbers by 32768.")


def texts_of(tags: object) -> dict[str, str]:
    """Return tags by name, numbers among them as text; SettingError for what is no mapping."""
    if not isinstance(tags, Mapping):
        raise SettingError(f"metadata is {_shown(tags)}; it must be a dictionary of texts.")
    return {str(name): str(text) for name, text in tags.items()}


def _number(value: object) -> float:
    """``value``, or NaN, which is in no range, for what is no number."""
    return cast(float, value) if isinstance(value, Real) and not isinstance(value, bool) else nan


def _shown(value: object) -> str:
    return short(cast(float, value)) if isinstance(value, Real) else repr(value)[:50]
