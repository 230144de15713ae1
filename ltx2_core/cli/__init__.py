"""The command line: a request is written in flags, and errors are one sentence."""

import os
import sys
from collections.abc import Sequence

import torch

from ..errors import LTX2Error, plain_text
from .commands import COMMANDS
from .parser import parse
from .progress import shown_log

__all__ = ["main", "sentence"]

STOPPED = 130  # exit status of a shell for a command that was interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words of the command line; those of this process by default.

    Returns:
        The exit status: 0, 2 after an error, which is told in one sentence on stderr, 130 after an interruption.
    """
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        with shown_log():
            COMMANDS[options.command](options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # whoever read our output has gone; nothing can be told any more
        _silence_output()
        return 1
    except (LTX2Error, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


def sentence(error: BaseException) -> str:
    """Return what an error says, in one line; errors of the system say what is wrong with which file."""
    if isinstance(error, OSError) and not isinstance(error, LTX2Error) and error.strerror:
        return plain_text(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
    if isinstance(error, torch.OutOfMemoryError) and not isinstance(error, LTX2Error):
        return f"Memory ran out: {_one_line(error)} Make the clip smaller or shorter, or close other programs."
    return _one_line(error) or type(error).__name__


def _one_line(error: BaseException) -> str:
    return plain_text(" ".join(str(error).split()))


def _silence_output() -> None:
    """Let what is still in the buffer of stdout go nowhere, so that nothing is said about it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
