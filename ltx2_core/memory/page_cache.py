"""Read ahead: weights come into the system's page cache while something else computes, as far as RAM is free."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from io import FileIO

from ..disk_cache.mapped import FileSpan

_log = logging.getLogger(__name__)

PIECE = 2**24  # bytes that are read at once; what is under way when reading ends is waited for


def read_span(span: FileSpan, buffer: bytearray) -> None:
    """Read a span that fits ``buffer``, through a handle that is closed behind it, so that files may be deleted.

    All systems keep what was read. Asking for pages without reading them (``posix_fadvise``) is no way: Linux brings
    only the first megabytes of each wish, and others know no such call.

    Raises:
        OSError: The file cannot be read.
    """
    with FileIO(span.path) as file:
        file.seek(span.start)
        wanted = memoryview(buffer)[: span.nbytes]
        while wanted and (count := file.readinto(wanted)):
            wanted = wanted[count:]


class ReadAhead:
    """Reads spans of files one after the other, in a thread, between entering and leaving it as a context.

    It never takes more than ``room`` says at the moment: pages that it reads count as available RAM all the while, so
    what it has read so far is held against what is free. Whatever the disk says is no error here: whoever needs the
    weights will read them, and can tell.

    Args:
        pieces: what to read, in this order; each fits ``PIECE``.
        room: how many bytes may be read ahead in all; asked before every piece.
        done: what was read before; what is read here is added. Leave it out to remember nothing.
        read: reads a piece into a buffer, whose content nobody wants.
    """

    def __init__(
        self,
        pieces: Sequence[FileSpan],
        room: Callable[[], int],
        done: set[FileSpan] | None = None,
        read: Callable[[FileSpan, bytearray], object] = read_span,
    ):
        self.pieces, self._room, self._read = pieces, room, read
        self._done = set[FileSpan]() if done is None else done
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self.nbytes, self.seconds = 0, 0.0  # read here, and how long that took

    def __enter__(self) -> "ReadAhead":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        begin, buffer = time.perf_counter(), bytearray(PIECE)
        held = sum(piece.nbytes for piece in self.pieces if piece in self._done)
        try:
            for piece in self.pieces:
                if piece in self._done:
                    continue
                if self._stopped.is_set() or held + piece.nbytes > self._room():
                    break
                self._read(piece, buffer)
                self._done.add(piece)
                held += piece.nbytes
                self.nbytes += piece.nbytes
        except OSError as error:
            _log.debug("Reading ahead ended: %s", error)
        self.seconds = time.perf_counter() - begin


def cut(spans: Sequence[FileSpan]) -> Iterator[FileSpan]:
    """Yield ``spans`` in pieces of at most ``PIECE`` bytes."""
    for span in spans:
        for start, stop in itertools.pairwise((*range(span.start, span.stop, PIECE), span.stop)):
            yield FileSpan(span.path, start, stop)
