"""How much memory do the tensors of a computation, or a process while it does something, take at most?"""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations inside of it have made and that are still alive.

    What existed before (weights, inputs) does not count, nor what is only a shape; what one kernel takes for itself is
    not seen.
    """

    def __init__(self):
        super().__init__()
        self.live = self.bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = operation(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not leaf.is_meta and _storage(leaf) not in given | self._known:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.bytes = max(self.bytes, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Yield what returns by how many bytes the process has been larger since than before; 0 where only Linux knows.

    The usual peak (``ru_maxrss``) is that of all that ran before, and of the process that began this one.
    """
    process = Path("/proc/self")
    try:
        (process / "clear_refs").write_text("5")  # forget the peak
        before = _kilobytes(process, "VmRSS")
    except OSError:
        yield lambda: 0
        return
    yield lambda: max(0, _kilobytes(process, "VmHWM") - before) * 1024


def _kilobytes(process: Path, name: str) -> int:
    (found,) = re.findall(rf"^{name}:\s*(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
    return int(found)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
