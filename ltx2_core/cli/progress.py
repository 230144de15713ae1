"""What a terminal shows while a command works: progress bars (steps, time left, memory), lines beside them, and what
is lost of it."""

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

import torch
from tqdm import tqdm

from ..errors import LTX2Error, plain_text
from ..memory.ram import most_ram


class Bars:
    """One bar per stage; use as a context, so that the last one is closed whatever happens."""

    def __init__(self):
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of ``stage`` are finished."""
        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix_str(_memory())

    def show_words(self, written: str) -> None:
        """Show the end of what is ``written`` so far behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(plain_text(written)[-60:])

    def say(self, sentence: object) -> None:
        """Write a line that no bar overwrites."""
        write_line(sentence)


def write_line(sentence: object) -> None:
    """Write a line on stderr that no bar overwrites, and that obeys nothing which it quotes."""
    tqdm.write(plain_text(str(sentence)), file=sys.stderr)


class TerminalLog(logging.Handler):
    """Writes what the library logs, in whichever thread, as plain lines on stderr that begin with their ``subject``."""

    subject = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message of ``record``."""
        write_line(self.subject + self.format(record))


@contextmanager
def log_of(name: str) -> Iterator[None]:
    """Let what is logged meanwhile begin with ``name``: that of one of many clips, made one after the other."""
    before, TerminalLog.subject = TerminalLog.subject, f"{name}: "
    try:
        yield
    finally:
        TerminalLog.subject = before


@contextmanager
def shown_log() -> Iterator[None]:
    """Show what the library logs, from the level INFO on, for as long as a command works."""
    log, handler = logging.getLogger(__package__.rpartition(".")[0]), TerminalLog()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class LossyStream:
    """A stream that loses what cannot be written to it, as on a full disk; only a reader that has gone is an error.

    ``lost`` is the first error of the system.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write ``text``, or lose it. Raises BrokenPipeError."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write what still waits, or lose it. Raises BrokenPipeError."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., object], *given: str) -> None:
        try:
            act(*given)
        except OSError as error:
            if error.errno == (errno.EINVAL if sys.platform == "win32" else errno.EPIPE):  # so the two say it
                raise BrokenPipeError(*error.args) from error
            self.lost = self.lost or error

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def lossy_output() -> Iterator[None]:
    """Let work go on though what it prints cannot be written.

    Raises LTX2Error at the end if any of its output, which is more than its log, was lost.
    """
    output, log = LossyStream(sys.stdout), LossyStream(sys.stderr)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, log)):
        yield
    output.flush()
    if output.lost is not None:
        raise LTX2Error(f"All is done, but what was to be printed is lost: {output.lost.strerror}.") from output.lost


def _memory() -> str:
    """The most memory used so far: on the card, or of the process where there is none."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GB on the card"
    return f"{most_ram() / 2**30:.1f} GB"
