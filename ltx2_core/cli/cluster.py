"""Clips over the cards of a machine or of many, by Ray: a worker on each; the clip of a lost one goes to another.

Ray starts, places and watches the workers. What is finished is a file with its settings, so nothing else has to be
remembered: a clip is made again unless its file is there.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import LTX2Error, SettingError, counted, one_line
from .lines import Job
from .maker import Maker, Outcome

CPUS = 8  # of a worker, where there are no cards
LOST = 3  # workers that may be lost with one clip


def over_workers(
    jobs: Sequence[Job], prompts: Path, workers: int, address: str | None, say: Callable[[object], None]
) -> Iterator[tuple[Job, Outcome | str]]:
    """Make clips by workers, and yield each with what became of it as soon as it is known.

    Args:
        jobs: the clips.
        prompts: the folder for encoded prompts, which all workers see.
        workers: how many; 0 for one on each card, or on each 8 CPUs where there is none.
        address: of a running cluster, or "auto"; None starts one on this machine.
        say: shows a sentence.

    Yields:
        The clip with the ``Outcome`` of its worker, or with a sentence if too many workers were lost with it.

    Raises:
        SettingError: Ray is not installed, or there is no such cluster.
    """
    if workers < 0:
        raise SettingError(f"--workers is {workers}; it must be at least 0.")
    ray = _started(address, workers)
    try:
        make_worker, count = _workers(ray, prompts, workers, len(jobs))
        say(f"{counted(count, 'worker')}.")
        work = _Work(ray, jobs, make_worker, say)
        for _ in range(count):
            work.begin_worker()
        yield from work.outcomes()
    finally:
        ray.shutdown()


def _started(address: str | None, workers: int) -> Any:
    """Ray, connected to a cluster."""
    try:
        import ray
    except ImportError:
        raise SettingError(
            '--workers and --cluster need Ray: pip install "ltx2-av[cluster]", or pip install ray.'
        ) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers that it is used
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    cpus = None if address else max(workers, os.cpu_count() or 1)
    try:
        ray.init(
            address=address or "local",
            num_cpus=cpus,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = one_line(error, 200)
        raise SettingError(f"Ray does not start or answer at {address or 'this machine'}: {reason}") from error
    return ray


def _workers(ray: Any, prompts: Path, workers: int, clips: int) -> tuple[Callable[[], Any], int]:
    """What starts a worker, and how many there are to be."""
    found = ray.cluster_resources()
    cards, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    count = workers or cards or max(1, cpus // CPUS)
    if cards and count > cards:
        raise SettingError(f"--workers is {count}, and there are {cards} cards: one worker is on each.")
    share = 1 if cards else cpus // count or 1
    actor = ray.remote(num_cpus=share, num_gpus=1 if cards else 0, max_restarts=0)(Worker)
    return lambda: actor.remote(str(prompts), os.getcwd()), min(count, clips)


class Worker:
    """Makes clips in a process of its own."""

    def __init__(self, prompts: str, folder: str):
        """Begin where the command was given, so that names of files mean the same; ``prompts`` is a folder."""
        if Path(folder).is_dir():
            os.chdir(folder)
        self._maker = Maker(Path(prompts))

    def ready(self) -> bool:
        """Return True once the worker runs."""
        return True

    def read(self, jobs: Sequence[Job]) -> int:
        """Read the prompts of all clips; returns how many were read."""
        return self._maker.read(jobs)

    def make(self, job: Job) -> Outcome:
        """Return what becomes of a clip."""
        return self._maker.make(job)


class _Work:
    """The clips that wait, and what each worker does; a worker that is free takes the next clip."""

    def __init__(self, ray: Any, jobs: Sequence[Job], make_worker: Callable[[], Any], say: Callable[[object], None]):
        self._ray, self._make_worker, self._say = ray, make_worker, say
        self._waiting, self._lost = deque(jobs), Counter[tuple[str, ...]]()
        self._running: dict[Any, tuple[Any, Job | None]] = {}
        self._is_read = False

    def begin_worker(self) -> None:
        """Begin a worker, which takes its first clip when it is there."""
        worker = self._make_worker()
        self._running[worker.ready.remote()] = worker, None

    def outcomes(self) -> Iterator[tuple[Job, Outcome | str]]:
        """Yield each clip with what became of it. Raises LTX2Error if no worker starts."""
        while self._waiting or any(job for _, job in self._running.values()):
            (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
            worker, job = self._running.pop(done)
            try:
                outcome = self._ray.get(done)
                self._read(worker)
            except self._ray.exceptions.RayError as error:
                self._say("A worker was lost, and another one is begun.")
                if reason := self._lose(job, error):
                    yield reason
                self.begin_worker()
                continue
            if job is not None:
                yield job, outcome
            if self._waiting:
                following = self._waiting.popleft()
                self._running[worker.make.remote(following)] = worker, following

    def _lose(self, job: Job | None, error: Exception) -> tuple[Job, str] | None:
        """Let the clip of a lost worker come again, or return why it does not."""
        lost, reason = (() if job is None else job.files), one_line(error, 300)
        self._lost[lost] += 1
        if self._lost[lost] < LOST:
            self._waiting.extendleft([] if job is None else [job])
            return None
        if job is None:
            raise LTX2Error(f"Workers do not start: {reason}") from error
        return job, f"{LOST} workers were lost with it: {reason}"

    def _read(self, worker: Any) -> None:
        """Let the first worker that is there read all prompts, while the others start."""
        if self._is_read:
            return
        self._is_read = True
        try:
            self._ray.get(worker.read.remote(list(self._waiting)))
        except self._ray.exceptions.RayTaskError as error:  # then each clip reads its own, or says why not
            self._say(error.cause if isinstance(error.cause, LTX2Error) else error)
