"""Which implementation of an operation is fast here, and gives the same numbers? (see README.md)"""

from .attention import ATTENTIONS, attend, attending_with, describe_missing, is_sparse, note_step
from .compiled import compiling, compiling_pays
from .convolution import convolve
from .light import (
    GATE_ROUND,
    GELU_ROUND,
    NORM_MODULATE,
    NORM_ROTATE,
    NORM_ROUND,
    NORM_SILU,
    SUM_NORM,
    norm_pixels,
)
from .linear import LINEAR, LINEAR_FEW, LINEAR_GELU, gelu_, multiply, multiply_gelu
from .operation import Kernel, Operation, count_with, tolerance_in

__all__ = [
    "ATTENTIONS",
    "GATE_ROUND",
    "GELU_ROUND",
    "LINEAR",
    "LINEAR_FEW",
    "LINEAR_GELU",
    "NORM_MODULATE",
    "NORM_ROTATE",
    "NORM_ROUND",
    "NORM_SILU",
    "SUM_NORM",
    "Kernel",
    "Operation",
    "attend",
    "attending_with",
    "compiling",
    "compiling_pays",
    "convolve",
    "count_with",
    "describe_missing",
    "gelu_",
    "is_sparse",
    "multiply",
    "multiply_gelu",
    "norm_pixels",
    "note_step",
    "tolerance_in",
]
