"""The command line, as ``python -m ltx2_core`` and as the program ``ltx2``."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, as ``cli.main`` does.

    Without ``arguments`` this is a whole process, in which Ctrl+C and SIGTERM are answered from the beginning: while
    PyTorch is imported, which takes seconds and may forget them, and at the end, when all is written.
    """
    if arguments is None:
        _answer_signals(_stop)
    from .cli import main as run

    if arguments is None:
        _answer_signals(_leave)
    return run(arguments)


def _stop(number: int, frame: object) -> None:
    """End the process, which has not begun yet."""
    with suppress(OSError):  # of a terminal that is gone
        os.write(2, b"Stopped; nothing half-written is left.\n")
    _leave(number, frame)


def _leave(number: int, frame: object) -> None:
    """End the process at once, with the exit status of a shell for such a signal."""
    os._exit(128 + number)


def _answer_signals(answer: Callable[[int, object], None]) -> None:
    """Let ``answer`` answer Ctrl+C, Ctrl+Break, SIGTERM and SIGHUP, but for those that are to be ignored, as whoever
    started this process asked."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the third is not on Windows, the last nowhere else
        kind = getattr(signal, name, signal.SIGTERM)
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, answer)


if __name__ == "__main__":
    sys.exit(main())
