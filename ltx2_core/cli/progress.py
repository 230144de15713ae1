"""What a terminal shows while a command works: progress bars (steps, time left, memory) and lines beside them."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from ..errors import plain_text


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
    """Writes what the library logs as plain lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message of ``record``."""
        write_line(self.format(record))


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


def _memory() -> str:
    """The most memory used so far: on the card, or of the process where there is none."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GB on the card"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GB"
