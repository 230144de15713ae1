"""Where are the bytes now?"""

from .residency import Residency, best_device, compute_dtype
from .store import Store

__all__ = ["Residency", "Store", "best_device", "compute_dtype"]
