"""Contenders that do the same work by turns in one process, and the table of what they took.

What counts is the median of the ratios within a round, since other programs slow all of a round down alike; and CPU
time, on one thread, since they take turns with us on the processor.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from peak import Peak
from torch import Tensor, nn

from .markdown import markdown

OURS, LTX_CORE, DIFFUSERS, COMFY, TRANSFORMERS = "ours", "ltx-core", "diffusers", "ComfyUI", "transformers"
ROUNDS = 5
NEAR = 1e-4  # as a share of the largest number: the same but for rounding

Run = Callable[[], Tensor]


def call(network: nn.Module, x: Tensor) -> Run:
    """Return the run that is one call of ``network``."""
    return lambda: network(x)


@dataclass(frozen=True)
class Case:
    """One piece of work, and who does it.

    Attributes:
        name: of the work, a row of the table.
        contenders: by name, ``OURS`` among them; each returns the same numbers.
        limit: our share of the time of every other one, at most.
        limits: the same for one alone, by name, instead of ``limit``.
        far: by name, how far the numbers of those may be from ours that follow another rule; ``NEAR`` for others.
        unit: bytes that memory is told in, and their name.
    """

    name: str
    contenders: Mapping[str, Run]
    limit: float = 1.0
    limits: Mapping[str, float] = field(default_factory=dict)
    far: Mapping[str, float] = field(default_factory=dict)
    unit: tuple[float, str] = (1e6, "MB")

    def limit_of(self, name: str) -> float:
        """Return our share of the time of ``name``, at most."""
        return self.limits.get(name, self.limit)


@dataclass(frozen=True)
class Taken:
    """What a contender took: CPU seconds, seconds of the clock, our share of its CPU time, and memory in units."""

    cpu: float
    wall: float
    share: float
    peak: float


@dataclass(frozen=True)
class Result:
    """A case, without its contenders, which would hold their networks until the table is made; and what they took."""

    case: Case
    taken: Mapping[str, Taken]

    @property
    def missed(self) -> list[str]:
        """The contenders whose time ours is not far enough below."""
        others = (name for name in self.taken if name != OURS)
        return [name for name in others if self.taken[name].share > self.case.limit_of(name)]


class Disagreement(AssertionError):
    """Contenders that do not compute the same."""


@torch.no_grad()
def measure(case: Case, rounds: int = ROUNDS) -> Result:
    """Let all contenders of ``case`` do their work once, by turns, in every round.

    Raises:
        Disagreement: one of them computes something else.
    """
    peaks, outputs = {}, {}
    for name, run in case.contenders.items():
        with Peak() as peak:
            outputs[name] = run()
        peaks[name] = peak.bytes / case.unit[0]
    for name, output in outputs.items():
        if not (error := error_of(outputs[OURS], output)) <= case.far.get(name, NEAR):
            raise Disagreement(f"{case.name}: {name} is off by {error:.1e} of the largest number.")
    outputs.clear()
    found: list[dict[str, tuple[float, float]]] = []
    for number in range(rounds):
        order = list(case.contenders)[:: -1 if number % 2 else 1]
        found.append({name: spent(case.contenders[name]) for name in order})

    def taken(name: str) -> Taken:
        cpu, wall = (median(each[name][which] for each in found) for which in (0, 1))
        return Taken(cpu, wall, median(each[OURS][0] / each[name][0] for each in found), peaks[name])

    result = Result(replace(case, contenders={}), {name: taken(name) for name in case.contenders})
    print(f"{case.name}:", ", ".join(f"{name} {each}" for name, each in _cells(result).items()), flush=True)
    return result


def spent(run: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds, and those of the clock, that one call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def table(results: Iterable[Result]) -> str:
    """Return results as a table: our seconds; for each other one our share of its time; what they hold; the limit."""
    results = list(results)
    others = list(dict.fromkeys(name for each in results for name in each.taken if name != OURS))
    rows = []
    for result in results:
        cells = _cells(result)
        limits = dict.fromkeys(f"{result.case.limit_of(name):.2f}" for name in result.taken if name != OURS)
        verdict = f"missed: {', '.join(result.missed)}" if result.missed else "met"
        own = [cells.get(name, "") for name in others]
        rows.append([result.case.name, cells[OURS], *own, f"{' / '.join(limits)}: {verdict}"])
    return markdown(["", "ours: CPU s, wall s (peak)", *(f"ours / {name}" for name in others), "at most"], rows)


def _cells(result: Result) -> dict[str, str]:
    """The cell of each contender."""
    cells, unit = {}, result.case.unit[1]
    for name, each in result.taken.items():
        figure = f"{each.cpu:.3g}, {each.wall:.3g}" if name == OURS else f"{each.share:.2f}"
        cells[name] = f"{figure} ({each.peak:.3g} {unit})"
    return cells


def error_of(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, as a share of the largest number; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp(min=1e-12)).item()
