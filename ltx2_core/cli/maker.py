"""The worker of a batch: makes clip after clip with models that are opened once, and says what became of each."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import Models
from ..errors import LTX2Error, one_line, plain_text
from ..pipeline.engines.local import LocalEngine
from ..pipeline.generate import completed, next_engine, run_complete, settled
from ..pipeline.read_ahead import Prompts, check_clip, read_ahead
from ..pipeline.stage import Events
from ..pipeline.takes import Take
from ..settings import Request
from .arguments import request_of
from .clips import find_rescued, models_of, rescued, tagged, write_clips
from .lines import Job
from .progress import log_of
from .values import Notes

TRIES = 2  # of a clip that fails
MADE, KEPT, FAILED, REFUSED, LEFT = "made", "there already", "failed", "refused", "left"


@dataclass(frozen=True)
class Outcome:
    """What became of a line.

    Attributes:
        line: its number.
        files: what it makes.
        state: made, there already, failed, refused before anything was made, or left because the batch was stopped.
        seconds: that it took.
        reason: why it is not there; empty if it is.
    """

    line: int
    files: tuple[str, ...]
    state: str
    seconds: float = 0.0
    reason: str = ""


class Maker:
    """Makes clips one after the other, with models that are opened once and prompts that are read once.

    A clip that fails leaves nothing to the next one.
    """

    def __init__(self, prompts: Path, events: Events = Events()):
        """Open nothing yet; ``prompts`` is the folder for those that are encoded."""
        self._folder, self._events = prompts, replace(events, on_latent=self._sampled)
        self._take: Take | None = None  # of the clip that is being made
        self._models: dict[tuple, Models] = {}
        self._prompts: dict[tuple[str, ...], Prompts] = {}
        self._engine: LocalEngine | None = None  # of the clip before

    def _opened(self, job: Job) -> tuple[Models, Request]:
        options = job.options()
        key = tuple(options.checkpoint or ()), options.text_encoder, options.distilled
        if key not in self._models:
            self._models[key] = models_of(options)
        request = request_of(options, self._models[key])
        return self._models[key], replace(request, resources=replace(request.resources, cache=self._folder))

    def check(self, job: Job) -> None:
        """Raise LTX2Error if the clip cannot be; that it does not fit the card shows later."""
        with log_of(job.name):
            models, request = self._opened(job)
            self._prompts[job.files] = check_clip(models, request, self._folder)

    def read(self, jobs: Sequence[Job]) -> int:
        """Read the prompts of all clips, in one load of each text encoder; returns how many were read."""
        groups: dict[str, tuple[Job, list[str]]] = {}
        for job in jobs:
            if job.files not in self._prompts:
                self.check(job)
            prompts = self._prompts[job.files]
            groups.setdefault(prompts.identity, (job, []))[1].extend(prompts.words)
        return sum(self._read(job, words) for job, words in groups.values())

    def _read(self, job: Job, words: Sequence[str]) -> int:
        with log_of(job.name):
            models, request = self._opened(job)
        return read_ahead(models, completed(models, request), words, self._folder, self._events)

    def make(self, job: Job) -> Outcome:
        """Make a clip and write it, if need be twice; what another try has finished, or sampled, is there already."""
        with log_of(job.name):
            return self._made(job)

    def _made(self, job: Job) -> Outcome:
        began, files = time.monotonic(), job.files
        if job.is_done:
            return Outcome(job.number, files, MADE)
        found = find_rescued(job.targets[0], job.digest)
        kept, self._take = found or (None, None)
        for attempt in range(1, TRIES + 1):
            try:
                models, request = self._opened(job)
                complete = settled(models, request, self._events)
                engine, self._engine = next_engine(models, complete, self._events, self._engine), None
                sampled = None if self._take is None else self._take.content
                clips = run_complete(models, complete, engine, sampled)
                write_clips(job.targets, clips, Notes(job.values, models.kind, job.digest))
                self._engine = engine
                if kept is not None:
                    with suppress(OSError):
                        kept.unlink()
                return Outcome(job.number, files, MADE, round(time.monotonic() - began, 3))
            except Exception as error:  # whatever it is, the other clips are made
                self._engine = None
                if attempt == TRIES:
                    reason = f"{sentence_of(error)} {self._rescued(job, kept)}".rstrip()
                    return Outcome(job.number, files, FAILED, round(time.monotonic() - began, 3), reason)
        raise AssertionError(TRIES)

    def _sampled(self, take: Take) -> None:
        self._take = take

    def _rescued(self, job: Job, kept: Path | None) -> str:
        """Where the latent of a clip that cannot be decoded or written is kept; empty if there is none."""
        if self._take is None:
            return ""
        if kept is not None:
            return f"What was sampled is still kept in {kept}."
        models, _ = self._opened(job)
        take = tagged(self._take, Notes(job.values, models.kind, job.digest))
        return rescued(take, job.targets[0], ", and so does this batch when it is started again")


def sentence_of(error: BaseException) -> str:
    """Return what an error says in one line, with its kind where it is none that is meant for people."""
    kind = "" if isinstance(error, LTX2Error) else f"{type(error).__name__}: "
    return plain_text(kind + one_line(error))
