"""Which implementation of an operation is fast here, and gives the same numbers? (see README.md)"""

from .light import LINEAR_GELU, NORM_MODULATE, NORM_ROTATE
from .operation import Kernel, Operation, count_with

__all__ = ["LINEAR_GELU", "NORM_MODULATE", "NORM_ROTATE", "Kernel", "Operation", "count_with"]
