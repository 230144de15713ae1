"""Pinned memory of the host, which is never paged out: a card copies only from it while it computes."""

import mmap
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .ram import kept_free, pin_limit, ram
from .unit import Unit

_PORTABLE = 1  # pinned for every card of the machine


class PinnedMemory:
    """Keeps spans of units in pinned memory of the host, and leaves a tenth of the RAM free.

    Units that rest keep their spans until another unit needs the room. What finds no room stays where it is, in its
    file or in ordinary memory. Units of twin networks share the span of their original: the weights lie in RAM once,
    however many cards they are copied to, and rest when all of these have let go.

    Args:
        limit: the most bytes to pin; None takes ``pin_limit`` of the RAM.
        pin: locks the pages of a tensor; returns False if the system refuses.
        unpin: unlocks them.
    """

    def __init__(
        self,
        limit: int | None = None,
        pin: Callable[[Tensor], bool] | None = None,
        unpin: Callable[[Tensor], object] | None = None,
    ):
        self._limit, self._pin, self._unpin = limit, pin or _register, unpin or _unregister
        self._lock = threading.RLock()  # units are filled by threads, for one card or several
        self._filling: weakref.WeakKeyDictionary[Unit, threading.Lock] = weakref.WeakKeyDictionary()
        self._holders: weakref.WeakKeyDictionary[Unit, weakref.WeakSet[Unit]] = weakref.WeakKeyDictionary()
        self._granted: weakref.WeakKeyDictionary[Unit, weakref.finalize | None] = weakref.WeakKeyDictionary()
        self._resting: weakref.WeakKeyDictionary[Unit, None] = weakref.WeakKeyDictionary()  # longest first

    @property
    def taken(self) -> int:
        """Bytes that are pinned or promised."""
        return sum(unit.nbytes for unit in list(self._granted))

    @property
    def held(self) -> int:
        """Bytes that are pinned, which the system therefore no longer counts as available."""
        return sum(unit.nbytes for unit, finalizer in list(self._granted.items()) if finalizer is not None)

    @property
    def promised(self) -> int:
        """Bytes that are promised, and not pinned yet."""
        return sum(unit.nbytes for unit, finalizer in list(self._granted.items()) if finalizer is None)

    @property
    def free(self) -> int:
        """Bytes of RAM that others may take once everything that is pinned here has been given up."""
        total, available = ram()
        return max(0, available + self.held - kept_free(total))

    def leave(self, nbytes: int) -> None:
        """Give up spans of units that rest, the longest first, until ``nbytes`` of RAM are free for others."""
        with self._lock:
            while self._resting and self.spare(*ram()) < nbytes:
                self._give_up(next(iter(self._resting)))

    def spare(self, total: int, available: int, most: int | None = None) -> int:
        """Return the bytes of RAM that are neither pinned, nor promised, nor kept free; may be negative.

        Args:
            total: bytes of RAM in all.
            available: bytes of it that are.
            most: bytes that may be taken, what is pinned included; None is no limit.
        """
        free = available - self.promised - kept_free(total)
        return free if most is None else min(free, most - self.taken)

    def admit(self, units: Sequence[Unit]) -> None:
        """Promise each of ``units`` a span, in this order, as far as there is room; resting units give theirs up."""
        with self._lock:
            for unit in units:
                self.hold(unit)
            for unit in (each.source for each in units):
                while unit not in self._granted and self._room() < unit.nbytes and self._resting:
                    self._give_up(next(iter(self._resting)))
                if unit not in self._granted and self._room() >= unit.nbytes:
                    self._granted[unit] = None

    def hold(self, unit: Unit) -> None:
        """Keep the span of ``unit``, which is about to be copied, until it rests."""
        with self._lock:
            original = unit.source
            self._holders.setdefault(original, weakref.WeakSet()).add(unit)
            self._resting.pop(original, None)

    def rest(self, units: Sequence[Unit]) -> None:
        """Allow the spans of ``units``, of which no copy is under way, to be given up when others need the room."""
        with self._lock:
            for unit in units:
                original = unit.source
                holders = self._holders.get(original, weakref.WeakSet())
                holders.discard(unit)
                if original in self._granted and not holders:
                    self._resting[original] = None

    def fill(self, unit: Unit) -> Tensor | None:
        """Pin the span of a unit and read its bytes into it; None if it was promised none or the system refuses.

        Raises:
            OSError: if it cannot be read; nothing is pinned then.
        """
        original = unit.source
        with self._lock:
            filling = self._filling.setdefault(original, threading.Lock())
        with filling:  # twins may come for it at once
            return original.span if original.span is not None else self._fill(original)

    def _fill(self, unit: Unit) -> Tensor | None:
        if unit not in self._granted:
            return None
        span = _pages(unit.nbytes)
        if not self._pin(span):
            with self._lock:
                del self._granted[unit]
                self._limit = self.taken  # the system has no more to give
            return None
        self._granted[unit] = finalizer = weakref.finalize(unit, self._unpin, span)
        finalizer.atexit = False
        try:
            unit.read(span)
        except BaseException:
            self._granted[unit] = None  # it may be read again
            finalizer()
            raise
        unit.span = span
        return span

    def _give_up(self, unit: Unit) -> None:
        del self._resting[unit]
        finalizer = self._granted.pop(unit)
        unit.span = None
        if finalizer is not None:
            finalizer()

    def _room(self) -> int:
        total, available = ram()
        limit = pin_limit(total) if self._limit is None else self._limit
        return self.spare(total, available, limit)


def _pages(nbytes: int) -> Tensor:
    """Return bytes that begin with a page."""
    with torch.inference_mode(False):
        memory = torch.empty(nbytes + mmap.PAGESIZE, dtype=torch.uint8)
    start = -memory.data_ptr() % mmap.PAGESIZE
    return memory[start : start + nbytes]


def _register(span: Tensor) -> bool:
    """Pin exactly these bytes; the allocator behind ``pin_memory`` would round them up to a power of two."""
    return int(torch.cuda.cudart().cudaHostRegister(span.data_ptr(), span.nbytes, _PORTABLE)) == 0


def _unregister(span: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(span.data_ptr())
