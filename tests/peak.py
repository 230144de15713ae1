"""How much memory do the tensors of a computation, or a process while it does something, take at most?"""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ltx2_core.memory.outlines import tensors_in


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations inside of it have made and that are still alive.

    What existed before (weights, inputs) does not count, nor what is only a shape; what one kernel takes for itself is
    not seen.
    """

    def __init__(self):
        super().__init__()
        self.live = self.bytes = 0
        self._known: set[int] = set()

    def run(self, operation, types, args=(), kwargs=None):
        """Return what ``operation`` makes of its arguments."""
        kwargs = kwargs or {}
        given = set(map(_storage, tensors_in((args, kwargs))))
        result = operation(*args, **kwargs)
        for each in tensors_in(result):
            if not each.is_meta and _storage(each) not in given | self._known:
                self._count(each)
        return result

    def _count(self, tensor: Tensor) -> None:
        key, size = _storage(tensor), tensor.nbytes if tensor.is_mkldnn else tensor.untyped_storage().nbytes()
        self._known.add(key)
        self.live += size
        self.bytes = max(self.bytes, self.live)
        weakref.finalize(tensor if tensor.is_mkldnn else tensor.untyped_storage(), self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


# Set here and not in the class, where PyTorch would wrap it in its compiler, whose import takes seconds.
Peak.__torch_dispatch__ = Peak.run


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
    """What tells a storage from others; a tensor in an order of oneDNN's own has none, and is told by itself."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage()._cdata
