"""Many clips: all lines are checked, all prompts are read, and then clip after clip is made; what is there is kept."""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from unicodedata import normalize

from ..errors import LTX2Error, SettingError, counted
from ..errors.atomic import clear_unfinished, whole_or_nothing
from ..pipeline.stage import Events
from .cluster import over_workers
from .lines import PROMPTS, WINDOWS, Job, Line, job_of, lines_of_prompts, read_lines
from .maker import FAILED, KEPT, LEFT, MADE, REFUSED, Maker, Outcome, sentence_of
from .progress import Bars

REPORT = "report.json"


def make_batch(options: argparse.Namespace, bars: Bars) -> None:
    """Make a clip for each line of a file, and each seed, that is not there yet, and write ``report.json``.

    Args:
        options: of the command ``batch``.
        bars: shows how far it is.

    Raises:
        LTX2Error: the file cannot be read, or clips are missing at the end.
    """
    folder = options.output.absolute()
    maker = Maker(folder / PROMPTS, Events(on_progress=bars.report, on_finding=bars.say))
    jobs, outcomes = _jobs(options, folder, maker)
    for outcome in outcomes:
        if outcome.state == REFUSED:
            bars.say(_reason(outcome, options))
    total, began = len(jobs) + len(outcomes), time.monotonic()
    bars.say(
        f"{counted(total, 'clip')}: {len(jobs)} to make, {sum(each.state == KEPT for each in outcomes)} there already."
    )
    left = {job.files: Outcome(job.number, job.files, LEFT, reason="stopped") for job in jobs}
    try:
        for outcome in _outcomes(options, jobs, maker, folder, bars.say):
            left.pop(outcome.files)
            outcomes.append(outcome)
            _tell(outcome, options, bars)
            _say_progress(bars, len(jobs) - len(left), len(jobs), time.monotonic() - began)
    finally:
        outcomes.extend(left.values())
        _write_report(folder, outcomes)
    missing = sum(each.state not in (MADE, KEPT) for each in outcomes)
    if missing:
        raise LTX2Error(
            f"{missing} of {counted(total, 'clip')} {'is' if missing == 1 else 'are'} missing; {folder / REPORT} "
            "says why."
        )
    for name in (PROMPTS, WINDOWS):
        shutil.rmtree(folder / name, ignore_errors=True)


def _jobs(options: argparse.Namespace, folder: Path, maker: Maker) -> tuple[list[Job], list[Outcome]]:
    """The clips to make, and what became of all other lines."""
    jobs, outcomes, names = list[Job](), list[Outcome](), _Names()
    for line, seed in _wanted(options):
        number, files = line.number, tuple[str, ...]()
        try:
            job = job_of(line, options.values, folder, seed)
            files = job.files
            names.add(job)
            if job.is_done:
                outcomes.append(Outcome(number, files, KEPT))
                continue
            if job.is_taken and not (options.overwrite or job.values.get("overwrite")):
                raise LTX2Error(
                    f"{job.name} is there with other settings or files: give another output, or --overwrite."
                )
            maker.check(job)
            jobs.append(job)
        except (LTX2Error, OSError) as error:
            outcomes.append(Outcome(number, files, REFUSED, reason=sentence_of(error)))
    clear_unfinished(target for job in jobs for target in job.targets)
    return jobs, outcomes


class _Names:
    """The files and folders that lines make, each with its line.

    They are compared as by systems that take large and small letters, and both ways to write an accent, for the same.
    """

    def __init__(self) -> None:
        self._made, self._around = dict[Path, int](), dict[Path, int]()

    def add(self, job: Job) -> None:
        """Note the files of a clip. Raises LTX2Error if another line makes one, or one would lie in the other."""
        names = [Path(normalize("NFC", file).casefold()) for file in job.files]
        for name, target in zip(names, job.targets):
            if name in self._made:
                raise LTX2Error(f"line {self._made[name]} makes {target.name}, too: give one of them another output.")
            if other := next(filter(None, map(self._made.get, name.parents)), self._around.get(name)):
                raise LTX2Error(
                    f"{target.name} lies in what line {other} makes, or the other way round: give one of them another "
                    "output."
                )
        self._made |= dict.fromkeys(names, job.number)
        self._around |= dict.fromkeys((folder for name in names for folder in name.parents), job.number)


def _wanted(options: argparse.Namespace) -> Iterator[tuple[Line, int | None]]:
    """Each line of the file, or the prompt of the command line, with each seed."""
    seeds: Sequence[int | None] = options.seeds or [None]
    if options.clips is None and options.prompt is None:
        raise SettingError("There is no clip: give a file with one in each line, or --prompt.")
    lines = lines_of_prompts([options.prompt]) if options.clips is None else read_lines(options.clips)
    yield from product(lines, seeds)


def _outcomes(
    options: argparse.Namespace, jobs: Sequence[Job], maker: Maker, folder: Path, say: Callable[[object], None]
) -> Iterator[Outcome]:
    """Make all clips, here or by workers."""
    if not jobs:
        return
    if options.workers is not None or options.cluster is not None:
        for job, outcome in over_workers(jobs, folder / PROMPTS, options.workers or 0, options.cluster, say):
            yield Outcome(job.number, job.files, FAILED, reason=outcome) if isinstance(outcome, str) else outcome
        return
    try:
        maker.read(jobs)
    except LTX2Error as error:  # then each clip reads its own, or says why not
        say(sentence_of(error))
    yield from map(maker.make, jobs)


def _reason(outcome: Outcome, options: argparse.Namespace) -> str:
    where = "--prompt" if options.clips is None else f"{options.clips.name}, line {outcome.line}"
    return f"{where}: {outcome.reason}"


def _tell(outcome: Outcome, options: argparse.Namespace, bars: Bars) -> None:
    if outcome.state == MADE:
        print("\n".join(file.encode(errors="replace").decode() for file in outcome.files), flush=True)
    else:
        bars.say(_reason(outcome, options))


def _say_progress(bars: Bars, done: int, total: int, seconds: float) -> None:
    rest = seconds / done * (total - done)
    bars.say(f"{done} of {counted(total, 'clip')}" + (f", {rest:.0f} s left" if rest else ""))


def _write_report(folder: Path, outcomes: list[Outcome]) -> None:
    outcomes.sort(key=lambda outcome: outcome.line)
    states = [outcome.state for outcome in outcomes]
    report = {state: states.count(state) for state in (MADE, KEPT, FAILED, REFUSED, LEFT)}
    content = json.dumps({**report, "clips": [asdict(each) for each in outcomes]}, indent=1, ensure_ascii=False)
    with whole_or_nothing(folder / REPORT) as unfinished:
        unfinished.write_bytes(content.encode(errors="replace"))
