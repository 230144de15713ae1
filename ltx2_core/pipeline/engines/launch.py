"""Starts several processes that make one clip together, and watches them (see README.md, "Several processes")."""

import codecs
import logging
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ...checkpoint.models import Models, open_models
from ...errors import LostPeerError, LTX2Error, SettingError, UnreadableFileError
from ...fields import settings_of
from ...lora import Lora, Stack, Strengths
from ...lora.strengths import StrengthSchedule
from ...media.write import check_target
from ...settings import Resources
from ..stage import Events
from .processes import GONE

# How many processes, in words: a power of two, since the heads of the transformer are dealt out.
EACH_CARD = "one for each card"
PROCESSES = {EACH_CARD: 0, "2": 2, "4": 4, "8": 8, "16": 16, "32": 32}

GRACE = 10.0  # seconds that a process has to end by itself
_TICK = 0.2  # seconds between two looks at whether to go on
_PROGRAM = "-m", "ltx2_core"
_ROOT = Path(__file__).parents[3]  # where Python finds this package
_FOLLOWS = "LTX2_ENDS_WITH_STDIN"

_BAR = re.compile(r"(?P<stage>.+?): +\d+%\|.*\| (?P<done>\d+)/(?P<total>\d+) \[")
_ERROR = re.compile(r"(?:process \d+: )?error: (?P<sentence>.+)")

_log = logging.getLogger(__name__)


def count_of(word: str, device: str) -> int:
    """Return how many processes a word of ``PROCESSES`` means, on a kind of device such as "cuda".

    Raises SettingError where cards are to be counted, and there are none.
    """
    if count := PROCESSES[word]:
        return count
    if not (cards := torch.cuda.device_count() if device == "cuda" else 0):
        raise SettingError(f"There is no card for {EACH_CARD!r}: choose how many processes share the CPU, such as 2.")
    return cards


def words_of_files(models: Models, encoder: Path, loras: Stack, how: Resources) -> list[str]:
    """Return the flags of ``generate`` that open what is open here, and compute in the same way.

    Args:
        models: the opened files.
        encoder: the text encoder.
        loras: on the model, and on the text encoder.
        how: where (the kind of device) and in what each of them computes; what is not said there is as usual.

    Raises:
        SettingError: other devices are to share the work, or a process could not be told which files these are.
    """
    if how.devices:
        raise SettingError("Each process takes a card of its own: leave devices of the model empty.")
    paths = list(dict.fromkeys(source.file.path for source in models.sources.values()))
    again = open_models(paths, encoder, distilled=models.distilled)
    if _origins(again) != _origins(models) or again.config != models.config:
        raise SettingError(
            "Files of this model hold the same parts, and other processes would take those of another file: choose "
            "files that hold only what is taken from them."
        )
    words = ["--checkpoint", *(str(path.absolute()) for path in paths), f"--text-encoder={encoder.absolute()}"]
    words += ["--distilled" if models.distilled else "--no-distilled"]
    words += [_word_of(lora, strengths) for lora, strengths in loras]
    told = ((setting, getattr(how, name)) for name, setting in settings_of(Resources).items())
    return [*words, *(setting.word_for(value) for setting, value in told if value != setting.default)]


def words_of_clip(prompt: str, negative: str, settings: Mapping[str, object], told: bool = True) -> list[str]:
    """Return the flags of ``generate`` for a prompt, a negative one unless it is empty, and settings by their names;
    not ``told``, the file keeps them to itself."""
    words = [f"--prompt={prompt}"]
    if negative.strip():
        words.append(f"--negative={negative}")
    words += [f"--{name}={value}" for name, value in settings.items()]
    return words if told else [*words, "--no-metadata"]


def make_together(words: Sequence[str], target: Path, count: int, events: Events = Events()) -> None:
    """Make a clip by several processes of ``generate``, and put it at ``target`` once it is whole.

    Args:
        words: flags of ``generate``, without that of the output.
        target: of the clip; what is there is replaced.
        count: how many processes.
        events: is told the progress, and every line that the processes say; ``check`` may raise, which ends them all.

    Raises:
        LTX2Error: what the process that failed first said in its sentence, or that one was killed. Neither processes
            nor files are left then.
    """
    if sys.platform == "win32":
        raise SettingError(
            "Several processes make one clip on Linux only: on Windows set devices of the model instead."
        )
    check_target(target := target.absolute())
    try:
        with TemporaryDirectory(dir=target.parent, prefix=".ltx2-") as folder:
            clip = Path(folder, target.name)
            with _started(["generate", *words, f"--output={clip}"], count) as workers:
                _watch(workers, [Talk(events, hidden=str(clip)) for _ in workers])
            os.replace(clip, target)
    except (OSError, ValueError) as error:  # such as of a prompt that is too long for a command line
        if isinstance(error, LTX2Error):
            raise
        raise UnreadableFileError(
            f"The processes could not be started, or their clip not be moved: {error}."
        ) from error


def follow_starter() -> None:
    """End this process as soon as the one that started it is gone, if that was ``make_together``."""
    if os.environ.pop(_FOLLOWS, ""):
        threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    """Wait until nobody holds the other end of stdin; then end tidily or, if that does not help, at once."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def _origins(models: Models) -> dict[str, Path]:
    return {name: source.file.path for name, source in models.sources.items()}


def _word_of(lora: Lora, strengths: Strengths) -> str:
    """The flag of a LoRA as people write it. Raises SettingError for a schedule that is no list of points."""
    schedule, usual = strengths.schedule, Strengths(strengths.strength)
    names = "video", "audio", "audio_to_video", "video_to_audio", "text", "schedule_over"
    changed = {name: getattr(strengths, name) for name in names if getattr(strengths, name) != getattr(usual, name)}
    if strengths.blocks is not None:
        changed["blocks"] = "+".join(map(str, sorted(strengths.blocks)))
    if isinstance(schedule, StrengthSchedule):
        changed["schedule"] = "+".join(f"{moment}@{strength}" for moment, strength in schedule.points)
    elif schedule is not None:
        raise SettingError(f"{lora.path.name} has a schedule that is no list of points: write one.")
    settings = ",".join(f"{name}={value}" for name, value in changed.items())
    more = f":{settings}" if changed else ""
    flag = "text-encoder-lora" if lora.is_for_text_encoder else "lora"
    return f"--{flag}={lora.path.absolute()}:{strengths.strength}{more}"


@contextmanager
def _started(words: Sequence[str], count: int) -> Iterator[list[subprocess.Popen]]:
    """Processes as torchrun starts them, of which none is left behind.

    Each leads a group of its own, and holds the end of a pipe as stdin, by which it knows that we are there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *_PROGRAM, *words]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    workers: list[subprocess.Popen] = []
    try:
        for rank in range(count):
            told = _environment(rank, count, port)
            workers.append(subprocess.Popen(command, env=told, cwd=_ROOT, start_new_session=True, **pipes))
        yield workers
    finally:
        _end(workers)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun says to a process, and how many threads are its share of the CPU."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    usual = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    fixed = {"MASTER_ADDR": "127.0.0.1", "PYTHONIOENCODING": "utf-8", _FOLLOWS: "yes"}
    return usual | os.environ | fixed | {name: str(value) for name, value in told.items()}


def _end(workers: Sequence[subprocess.Popen]) -> None:
    """Ask all that still run to end, and end those that do not, with whatever they started."""
    for each in workers:
        assert each.stdin is not None and each.stdout is not None
        each.stdout.close()  # so that nobody waits for room in it
        each.terminate()
    _wait(workers, time.monotonic() + GRACE)
    for each in workers:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left in its group
            os.killpg(each.pid, signal.SIGKILL)
        each.wait()
        if each.stdin is not None:
            each.stdin.close()


class Talk:
    """What a process says: bars become progress, an error is kept, and all other lines are remarks."""

    def __init__(self, events: Events, hidden: str):
        """Tell ``events``; lines with ``hidden`` are of no interest."""
        self.events, self.error = events, ""
        self._hidden, self._last, self._rest = hidden, "", ""
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._progress: tuple[str, ...] = ()

    @property
    def last_words(self) -> str:
        """The last line that was said, such as that of an error that nobody expected."""
        return self._last or "it said nothing"

    def hear(self, chunk: bytes) -> None:
        """Take what came through the pipe, however it is cut."""
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + self._decode(chunk))
        for line in lines:
            self._take(line.strip())
        self._show_bar(self._rest)  # which ends when the next one begins

    def _take(self, line: str) -> None:
        if not line or self._show_bar(line) or self._hidden in line:
            return
        self._last = line
        if found := _ERROR.fullmatch(line):
            self.error = self.error or found["sentence"]
        else:
            self.events.on_remark(line)

    def _show_bar(self, line: str) -> bool:
        found = _BAR.match(line)
        if found and found.groups() != self._progress:
            self._progress = found.groups()
            self.events.on_progress(found["stage"], int(found["done"]), int(found["total"]))
        return found is not None


def _watch(workers: Sequence[subprocess.Popen], talks: Sequence[Talk]) -> None:
    """Hear the processes until all have ended, or long enough after one of them failed; LTX2Error says why."""
    with selectors.DefaultSelector() as ready:
        for each, talk in zip(workers, talks):
            assert each.stdout is not None
            ready.register(each.stdout, selectors.EVENT_READ, talk)
        limit = float("inf")
        while ready.get_map() and time.monotonic() < limit:
            talks[0].events.check()
            _listen(ready)
            ended = [each.poll() for each in workers]
            if limit == float("inf") and (any(ended) or None not in ended):
                limit = time.monotonic() + GRACE
    _wait(workers, min(limit, time.monotonic() + GRACE))
    _judge([each.returncode for each in workers], talks)


def _listen(ready: selectors.BaseSelector) -> None:
    """Take what has been said, for a moment; who has closed its end says nothing more."""
    for key, _ in ready.select(_TICK):
        chunk = os.read(key.fd, 65536)
        key.data.hear(chunk or b"\n")
        if not chunk:
            ready.unregister(key.fileobj)


def _wait(workers: Sequence[subprocess.Popen], limit: float) -> None:
    for each in workers:
        with suppress(subprocess.TimeoutExpired):
            each.wait(max(0.0, limit - time.monotonic()))


def _judge(statuses: Sequence[int | None], talks: Sequence[Talk]) -> None:
    """Raise what made processes end with these statuses; None is of one that has not ended."""
    errors = sorted((talk.error for talk in talks if talk.error), key=_is_of_a_peer)
    if errors and not _is_of_a_peer(errors[0]):
        raise LTX2Error(errors[0])
    _refuse_killed(statuses)
    for status, talk in zip(statuses, talks):
        if status:
            last = f"A process ended with an error; its last words were: {talk.last_words}"
            raise LTX2Error(errors[0] if errors else last)
    if None in statuses:
        raise LostPeerError("A process did not end after the others had: start the clip again.")


def _is_of_a_peer(error: str) -> bool:
    return error.startswith(GONE)


def _refuse_killed(statuses: Sequence[int | None]) -> None:
    """Raise LostPeerError for the first that a signal ended."""
    for rank, status in enumerate(statuses):
        if status is not None and status < 0:
            raise LostPeerError(
                f"Process {rank} of {len(statuses)} was ended by {signal.Signals(-status).name}, and without it the "
                "others cannot go on. Systems end processes where RAM runs out: start fewer, or make the clip smaller."
            )
