"""A clip by several processes that torchrun started: the first speaks and writes, and whoever fails first says why."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from ..errors import LTX2Error, SettingError
from ..pipeline.engines.processes import Launch, joining

Tell = Callable[[str], None]  # shows why a command failed


def run_together(launch: Launch, run: Callable[[Tell], int], sentence: Callable[[BaseException], str]) -> int:
    """Run a command in this process, while the others run it, too.

    Args:
        launch: the processes.
        run: runs the command, with what tells why it failed, and returns its exit status.
        sentence: what an error says.

    Returns:
        The exit status of this process.
    """
    tell_here = _teller("" if launch.leads else f"process {launch.rank}: ")
    with ExitStack() as stack:
        if not launch.leads:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8", errors="replace"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            processes = stack.enter_context(joining(launch))
        except LTX2Error as error:
            if launch.leads:
                tell_here(f"error: {sentence(error)}")
            return 2

        def tell(reason: str) -> None:
            if processes.is_first_to_fail():
                tell_here(reason)

        status = run(tell)
        if status:
            stack.pop_all()  # nothing is waited for
        return status


def check_command(command: str, launch: Launch) -> None:
    """Raise SettingError for a command that several processes cannot run together."""
    if launch.size > 1 and command != "generate":
        raise SettingError(
            f"torchrun started {launch.size} processes, which make one clip together, with generate: start {command} "
            "without it."
        )


def _teller(who: str) -> Tell:
    stream = sys.stderr

    def tell(reason: str) -> None:
        print(f"{who}{reason}", file=stream, flush=True)

    return tell
