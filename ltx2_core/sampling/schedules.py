"""Schedules: noise levels from 1 to 0, and parts of them (``README.md``, "Schedules")."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch

from ..errors import SettingError, counted
from ..fields import Checked, Choice, Number, Whole, Words, plain_numbers

MOST_STEPS = 1000
LEAST_STRENGTH = 0.001
ALL_NOISE = 0.99  # from here on nothing is seen of what the noise is added to; ltx2 begins just below 1
LEAST_SIGMA = 1e-5  # before 0: what is predicted is divided by it, and with it the rounding of float32

Schedule = Callable[[int], list[float]]


MOST_TOKENS = 36_000  # in float32, the levels of 15 steps repeat from 37,000 on, and are no numbers from 55,000 on


def ltx2(
    steps: int = 30,
    tokens: int = 4096,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    terminal: float | None = 0.1,
) -> list[float]:
    """Return the schedule of the dev models: steps + 1 numbers, the last one 0.

    The shift grows with ``tokens`` along the line through (1024, base_shift) and (4096, max_shift); the official
    one-stage pipelines use 4096 whatever the size. ``terminal`` is the last level before 0; None leaves it where it
    falls. Raises SettingError for a shift so large that levels repeat, and for a terminal of 0.
    """
    _check_steps(steps)
    if steps == 1:
        return [1.0, 0.0]  # stretching one level would start the only step at the terminal
    shift = math.exp(base_shift + (tokens - 1024) * (max_shift - base_shift) / (4096 - 1024))
    linear = torch.linspace(1, 0, steps + 1)[:-1]
    sigmas = shift / (shift + (1 / linear - 1))
    if terminal is not None:
        if terminal <= 0:
            raise SettingError(f"terminal is {terminal:g}, so the last step would begin without noise: take 0.1.")
        signal = 1 - sigmas
        sigmas = 1 - signal * (1 - terminal) / signal[-1]
    if not bool((sigmas.diff() < 0).all() & (sigmas[0] <= 1)):
        raise _runs_together(steps, tokens, max_shift, base_shift)
    return [*sigmas.tolist(), 0.0]


def linear_quadratic(steps: int = 20, threshold: float = 0.025, linear_steps: int | None = None) -> list[float]:
    """Small even steps from 1 to 1 - threshold, then ever longer ones to 0 (Movie Gen, arXiv:2410.13720).

    Half of the steps are even ones, or ``linear_steps``. With 8 steps it is the distilled schedule.

    Raises SettingError for as many linear steps as steps, or none.
    """
    _check_steps(steps)
    if steps == 1:
        return [1.0, 0.0]
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 0 < linear < steps:
        raise SettingError(f"linear_steps is {linear}; of {steps} steps it must be between 1 and {steps - 1}.")
    slope, rest = threshold / linear, steps - linear
    bend = (1 - slope * steps) / rest**2  # reaches 0 with the last step
    return [*(1 - slope * i - bend * max(0, i - linear) ** 2 for i in range(steps)), 0.0]


def beta(steps: int = 20) -> list[float]:
    """Short steps at both ends, long ones between: quantiles of the distribution Beta(0.6, 0.6) (arXiv:2407.12173).

    Levels are those of ComfyUI's table; where very many steps meet the same one, it is taken once.
    """
    _check_steps(steps)
    remaining = torch.arange(steps, dtype=torch.float64) / steps  # probability above the quantile
    mirrored = remaining <= 0.5
    below = torch.searchsorted(_beta_borders(), torch.where(mirrored, remaining, 1 - remaining))
    entries = torch.where(mirrored, _TABLE - below, below + 1)
    return [*(_table_level(entry) for entry in dict.fromkeys(entries.tolist())), 0.0]


def simple(steps: int = 20) -> list[float]:
    """Even steps through ComfyUI's table of levels; where very many steps meet the same one, it is taken once."""
    _check_steps(steps)
    entries = dict.fromkeys(_TABLE - int(i * (_TABLE / steps)) for i in range(steps))
    return [*(_table_level(entry) for entry in entries), 0.0]


FIXED: dict[str, tuple[float, ...]] = {
    "distilled": (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0),  # what they were trained for
    "distilled_refine": (0.909375, 0.725, 0.421875, 0.0),  # of the second stage
}


def _fixed(name: str, steps: int | None = None) -> list[float]:
    sigmas = FIXED[name]
    if steps not in (None, len(sigmas) - 1):
        raise SettingError(
            f"steps is {steps}; the schedule {name} has exactly {len(sigmas) - 1}. For a part of it, set a start step."
        )
    return list(sigmas)


SCHEDULES: dict[str, Callable[..., list[float]]] = {
    "ltx2": ltx2,
    **{name: partial(_fixed, name) for name in FIXED},
    "linear_quadratic": linear_quadratic,
    "beta": beta,
    "simple": simple,
}


def custom(text: str) -> list[float]:
    """Read a list as a person writes it, such as "1.0, 0.9, 0.5, 0", with commas, blanks or lines between.

    Raises SettingError for anything else, and for sigmas that no sampler can follow to 0.
    """
    try:
        sigmas = [float(word) for word in re.findall(r"[^\s,;\[\]()]+", plain_numbers(text))]
    except ValueError:
        raise SettingError(f"{text!r} is not a list of numbers; write sigmas such as 1.0, 0.9, 0.5, 0.") from None
    if check_sigmas(sigmas)[-1] != 0:
        raise SettingError(f"The sigmas end in {sigmas[-1]:g}; the last one must be 0, or noise stays in the clip.")
    return sigmas


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """Return ``sigmas`` if a sampler can follow them, raise SettingError if not.

    They must be at least two, between 1 and 0, and fall with every step; but for 0, none is below LEAST_SIGMA.
    """
    if len(sigmas) < 2:
        raise SettingError(
            f"The schedule has {counted(len(sigmas), 'sigma')}; a step needs two, for example [1.0, 0.0]."
        )
    if len(sigmas) > MOST_STEPS + 1:
        raise SettingError(f"The schedule has {len(sigmas):,} sigmas; at most {MOST_STEPS:,} steps are taken.")
    for sigma in sigmas:
        if not 0 <= sigma <= 1:
            raise SettingError(
                f"One sigma is {sigma:.9g}; those of LTX-2 are between 1 and 0, as its schedules give them."
            )
        if 0 < sigma < LEAST_SIGMA:
            raise SettingError(f"One sigma is {sigma:g}, where rounding is all that is left of noise: write 0 instead.")
    for before, after in zip(sigmas, sigmas[1:]):
        if before <= after:
            raise SettingError(f"Sigmas must fall with every step, but after {before:g} comes {after:g}.")
    return list(sigmas)


def slice_steps(sigmas: Sequence[float], start_step: int = 0, end_step: int | None = None) -> list[float]:
    """Cut steps out of a schedule.

    Args:
        sigmas: The whole schedule.
        start_step: The first step to take, counted from 0.
        end_step: The first step not to take any more; None goes to the end.

    Raises:
        SettingError: For steps that the schedule does not have.
    """
    total = len(sigmas) - 1
    end = total if end_step is None else end_step
    if not 0 <= start_step < end <= total:
        raise SettingError(
            f"Steps {start_step} to {end} were asked for, but the schedule has {total}: "
            f"the start must be at least 0 and before the end, and the end at most {total}."
        )
    return list(sigmas[start_step : end + 1])


def starting_at(sigmas: Sequence[float], level: float) -> list[float]:
    """Let ``sigmas`` begin at ``level``; those that are not below it are left out."""
    return [level, *(sigma for sigma in sigmas if sigma < level)]


def with_strength(schedule: Schedule, steps: int, strength: float) -> list[float]:
    """Take the last ``steps`` steps of a schedule with steps / strength of them, as ComfyUI's "denoise" means it.

    At ``strength`` 1 all is made anew; below, the first level is lower and more of the content is kept. Raises
    SettingError for a strength that is not from LEAST_STRENGTH to 1.
    """
    if not LEAST_STRENGTH <= strength <= 1:
        raise SettingError(
            f"The denoise strength is {strength:g}; it must be at least {LEAST_STRENGTH:g}, and at most 1 (all anew)."
        )
    return schedule(int(steps / strength))[-(steps + 1) :]


CUSTOM = "custom"


@dataclass(frozen=True)
class ScheduleSettings(Checked):
    """The settings of a schedule, for every surface.

    ``steps`` and ``schedule`` are None where the recipe of the model decides; without one they are 20 and ltx2.
    """

    steps: Annotated[
        int | None,
        Whole(1, 200, shown=20),
        "How many steps. More take longer and give cleaner detail; the official models use 40 (2.0) and 30 (2.3), the "
        "miniature 20. The distilled schedules have their own number.",
    ] = None
    schedule: Annotated[
        str | None,
        Choice((*SCHEDULES, CUSTOM), shown="ltx2"),
        "ltx2 for the dev models and the miniature; distilled for distilled models (8 steps, with all scales at 1); "
        "distilled_refine for a second pass over a finished latent (3 steps); linear_quadratic, beta and simple for "
        "comparison with other workflows; custom takes the list below.",
    ] = None
    max_shift: Annotated[
        float,
        Number(0, 10, 0.01, advanced=True),
        "How long a large clip (4096 tokens) stays at high noise. Higher gives calmer composition and less detail. "
        "Only for ltx2.",
    ] = 2.05
    base_shift: Annotated[
        float,
        Number(0, 10, 0.01, advanced=True),
        "The same for a small clip (1024 tokens). Only for ltx2, and only with a latent connected.",
    ] = 0.95
    terminal: Annotated[
        float,
        Number(0, 0.99, 0.01, advanced=True),
        "The last noise level before 0. Higher leaves more to the last step. Only for ltx2.",
    ] = 0.1
    denoise: Annotated[
        float,
        Number(0, 1, 0.01, advanced=True),
        "How much is made anew. Below 1 the steps are those at the end of a longer schedule, so that the given latent "
        "is kept the more, the lower this is.",
    ] = 1.0
    custom_sigmas: Annotated[
        str,
        Words(advanced=True),
        "Noise levels of your own, from at most 1 down to 0; used when the schedule is custom.",
    ] = "1.0, 0.9, 0.75, 0.5, 0.25, 0"

    def __post_init__(self) -> None:
        """Raise SettingError for a list that is none, where it counts."""
        super().__post_init__()
        if self.schedule == CUSTOM:
            custom(self.custom_sigmas)

    def sigmas(self, tokens: int | None = None) -> list[float]:
        """Compute the noise levels.

        Args:
            tokens: The video tokens of one sample, to which ltx2 fits its shift; None takes the official 4096.

        Raises:
            SettingError: For settings that make no schedule.
        """
        name = self.schedule or "ltx2"
        if name == CUSTOM:
            return custom(self.custom_sigmas)
        if name in FIXED:
            return list(FIXED[name])
        make: Schedule = SCHEDULES[name]
        if name == "ltx2":
            make = partial(
                ltx2,
                tokens=4096 if tokens is None else tokens,
                max_shift=self.max_shift,
                base_shift=self.base_shift,
                terminal=self.terminal,
            )
        return with_strength(make, self.steps or 20, self.denoise)

    @property
    def note(self) -> str:
        """A sentence for the user where a setting has no effect, else empty."""
        fixed = FIXED.get(self.schedule or "ltx2")
        if fixed is None or self.steps in (None, len(fixed) - 1):
            return ""
        return f"{self.schedule} has {len(fixed) - 1} steps; {self.steps} is ignored"


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise SettingError(f"steps is {steps}; it must be at least 1, for example 20.")


def _runs_together(steps: int, tokens: int, max_shift: float, base_shift: float) -> SettingError:
    if tokens > MOST_TOKENS:
        return SettingError(
            f"{tokens} tokens (latent frames x rows x columns) are too many for a schedule that shifts with the size, "
            f"as that of the HQ recipe: its steps run together. 15 steps go up to {MOST_TOKENS} tokens; make the clip "
            "smaller or shorter, or leave hq off."
        )
    return SettingError(
        f"With max_shift {max_shift:g} and base_shift {base_shift:g}, the {steps} steps of a schedule for {tokens} "
        "tokens run together: use smaller shifts (the official ones are 2.05 and 0.95), fewer steps or a smaller clip."
    )


_TABLE = 10_000  # levels, as ComfyUI has them for LTX-2
_TABLE_SHIFT = math.exp(2.37)


def _table_level(entry: int) -> float:
    """Level ``entry`` of the table, counted from 1."""
    return _TABLE_SHIFT / (_TABLE_SHIFT + _TABLE / entry - 1)


def _beta_borders() -> torch.Tensor:
    """The distribution function of Beta(0.6, 0.6) half-way between the entries of the table, up to 1/2.

    It is x^a times the hypergeometric series of (a, 1 - a; a + 1), which halves with every term up to there.
    """
    a = 0.6
    x = (torch.arange(_TABLE // 2, dtype=torch.float64) + 0.5) / (_TABLE - 1)
    n = torch.arange(1, 60, dtype=torch.float64)
    coefficients = torch.cumprod((n - a) / n, 0) / (a + n)
    integral = x**a * (1 / a + (coefficients * x[:, None] ** n).sum(1))
    return integral / (2 * integral[-1])
