"""Noise levels from 1 to 0 (spec: sampling.md, sections 1 and 2)."""

import math
from collections.abc import Callable

import torch


def ltx2(
    steps: int = 30,
    tokens: int = 4096,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    terminal: float | None = 0.1,
) -> list[float]:
    """The schedule of the dev models: steps + 1 numbers, the last one 0.

    The shift grows with ``tokens`` along the line through (1024, base_shift) and (4096, max_shift); the official
    one-stage pipelines use 4096 whatever the size. ``terminal`` is the last level before 0; None leaves it where it
    falls.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1, for example 20.")
    if steps == 1:
        return [1.0, 0.0]  # stretching one level would start the only step at the terminal
    shift = math.exp(base_shift + (tokens - 1024) * (max_shift - base_shift) / (4096 - 1024))
    linear = torch.linspace(1, 0, steps + 1)[:-1]
    sigmas = shift / (shift + (1 / linear - 1))
    if terminal is not None:
        signal = 1 - sigmas
        sigmas = 1 - signal * (1 - terminal) / signal[-1]
    return [*sigmas.tolist(), 0.0]


def distilled(steps: int = 8) -> list[float]:
    """The eight steps that the distilled models were trained for."""
    return _fixed("distilled", (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0), steps)


def distilled_refine(steps: int = 3) -> list[float]:
    """The three steps of the second stage."""
    return _fixed("distilled_refine", (0.909375, 0.725, 0.421875, 0.0), steps)


def _fixed(name: str, sigmas: tuple[float, ...], steps: int) -> list[float]:
    if steps != len(sigmas) - 1:
        raise ValueError(f"steps is {steps}; the schedule {name} has exactly {len(sigmas) - 1}.")
    return list(sigmas)


SCHEDULES: dict[str, Callable[..., list[float]]] = {
    "ltx2": ltx2,
    "distilled": distilled,
    "distilled_refine": distilled_refine,
}
