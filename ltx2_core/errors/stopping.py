"""Has whoever asked for the work taken it back?

Stages of a network ask their engine. What passes frames on without one, such as a file that is written, asks here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """Let the work inside be stopped by ``check``, which raises once it is taken back; only in this thread."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


def check_stop() -> None:
    """Raise what the ``check`` of ``stoppable`` does if the work is taken back; cheap enough for every frame."""
    if (check := _check.get()) is not None:
        check()
