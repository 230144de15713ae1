"""The command line: a request is written in flags, and errors are one sentence."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from ..errors import LTX2Error, SettingError, memory_told, one_line, plain_text
from ..pipeline.engines.launch import follow_starter
from ..pipeline.engines.processes import Launch
from .commands import COMMANDS
from .parser import parse
from .progress import lossy_output, shown_log
from .together import Tell, check_command, run_together

__all__ = ["main", "sentence"]

_AT_ONCE = 1.0  # seconds within which a signal is the same wish as the one before
STOPPED = 128 + signal.SIGINT  # the exit status of a shell for a command that was interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words of the command line; those of this process by default.

    Returns:
        The exit status: 0, 2 after an error, which is told in one sentence on stderr, 130 after an interruption, 143
        after SIGTERM, 129 where the terminal was closed (SIGHUP), 149 after Ctrl+Break.
    """
    _let_consoles_lack_something()
    follow_starter()
    tell = partial(print, file=sys.stderr)
    try:
        launch = Launch.of_environment()
    except SettingError as error:
        return _told(error, tell)
    if launch.size > 1:
        return run_together(launch, partial(_run, arguments, launch), sentence)
    return _run(arguments, launch, tell)


def _run(arguments: Sequence[str] | None, launch: Launch, tell: Tell) -> int:
    with _ending_tidily() as asked:
        try:
            _work(sys.argv[1:] if arguments is None else arguments, launch)
        except (KeyboardInterrupt, Exception) as error:
            if not asked and not isinstance(error, KeyboardInterrupt):
                return _told(error, tell)
            # Libraries that are interrupted may fail in other ways.
            with suppress(OSError):  # of a terminal that is gone
                tell("Stopped; nothing half-written is left.")
            return asked[0] if asked else STOPPED
    return 0


def _work(arguments: Sequence[str], launch: Launch) -> None:
    with lossy_output(), shown_log(), memory_told():
        options = parse(arguments)
        check_command(options.command, launch)
        COMMANDS[options.command](options)


def _told(error: Exception, tell: Tell) -> int:
    """Tell an error that is meant for people, and return the exit status; others are raised again."""
    if isinstance(error, BrokenPipeError):  # whoever read our output has gone; nothing can be told any more
        _silence_output()
        return 1
    if not isinstance(error, (LTX2Error, OSError)):
        raise error
    with suppress(OSError):  # of a log that cannot be written
        tell(f"error: {sentence(error)}")
    return 2


def sentence(error: BaseException) -> str:
    """Return what an error says, in one line; errors of the system say what is wrong with which file."""
    if isinstance(error, OSError) and not isinstance(error, LTX2Error) and error.strerror:
        return plain_text(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
    return plain_text(one_line(error)) or type(error).__name__


def _let_consoles_lack_something() -> None:
    """Write nowhere where there is no console, and "?" for what its encoding has no letter for: old ones have few."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as services start programs, or >&- in a shell
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", errors="replace"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def _ending_tidily() -> Iterator[list[int]]:
    """Let SIGTERM, SIGHUP and Ctrl+Break interrupt the work as Ctrl+C does, so that nothing half-written stays behind.

    Gives a list, to which the exit status for such a signal is added when one comes.

    What follows at once is the same wish: starters of programs hand on what the terminal has sent to all, and people
    press a key twice. It does not disturb the tidying.
    """
    if threading.current_thread() is not threading.main_thread():  # others may not ask for signals
        yield []
        return
    asked = list[int]()
    heard = -_AT_ONCE

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if time.monotonic() - heard >= _AT_ONCE:
            heard = time.monotonic()
            asked.append(128 + number)
            raise KeyboardInterrupt

    names = "SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"  # the third is not on Windows, the last nowhere else
    wishes = (getattr(signal, name) for name in names if hasattr(signal, name))
    kinds = [kind for kind in wishes if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, end) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, answer in before.items():
            signal.signal(kind, answer)


def _silence_output() -> None:
    """Let what is still in the buffer of stdout go nowhere, so that nothing is said about it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
