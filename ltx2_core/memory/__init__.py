"""Where are the bytes now?"""

from .link import Plain, Streamed
from .pinned import PinnedMemory
from .residency import Residency, best_device, compute_dtype
from .store import Store

__all__ = ["PinnedMemory", "Plain", "Residency", "Store", "Streamed", "best_device", "compute_dtype"]
