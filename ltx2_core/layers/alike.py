"""What is alike runs once while its work is counted (see ``memory/trace.py``), for as often as it would run.

To walk through all of a large clip on the meta device would take as long as on a card.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Times:
    """How often that what runs now counts."""

    now: int = 1


_TIMES: ContextVar[Times | None] = ContextVar("times", default=None)


@contextmanager
def counting() -> Iterator[Times]:
    """Let ``alike`` leave out what is alike in this context, and yield how often that counts which is not left out."""
    token = _TIMES.set(times := Times())
    try:
        yield times
    finally:
        _TIMES.reset(token)


def alike(
    items: Iterable[Item], kind: Callable[[Item], Hashable] = lambda item: None, chained: bool = False
) -> Iterator[Item]:
    """Yield all of ``items``; while work is counted the first of each kind, which then counts for all of its kind.

    Args:
        items: of which each costs what others of its kind cost, and makes what has the same shape.
        kind: tells kinds apart; by default all are alike.
        chained: whether each takes what the one before has made. The first then finds memory that was there before, and
            a second one counts for the others.
    """
    times = _TIMES.get()
    if times is None:
        yield from items
        return
    kinds: dict[Hashable, list[Item]] = {}
    for item in items:
        kinds.setdefault(kind(item), []).append(item)
    before = times.now
    try:
        for same in kinds.values():
            if chained and len(same) > 1:
                yield same.pop(0)
            times.now = before * len(same)
            yield same[0]
            times.now = before
    finally:
        times.now = before
