"""Which implementation of an operation is fast here, and gives the same numbers? (see README.md)"""

from .attention import ATTENTIONS, attend, attending_with
from .compiled import compiling, compiling_pays
from .light import LINEAR_GELU, NORM_MODULATE, NORM_ROTATE
from .operation import Kernel, Operation, count_with

__all__ = [
    "ATTENTIONS",
    "LINEAR_GELU",
    "NORM_MODULATE",
    "NORM_ROTATE",
    "Kernel",
    "Operation",
    "attend",
    "attending_with",
    "compiling",
    "compiling_pays",
    "count_with",
]
