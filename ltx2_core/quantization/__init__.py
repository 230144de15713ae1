"""How is a weight stored in fewer bits, and how does a layer compute with it?"""

from .cast import CASTS, KEPT, cast, castable, check_format
from .fp8 import FORMATS, SCALE_SUFFIXES, Fp8Linear, adopt_fp8, use_scaled_products

__all__ = [
    "CASTS",
    "FORMATS",
    "KEPT",
    "SCALE_SUFFIXES",
    "Fp8Linear",
    "adopt_fp8",
    "cast",
    "castable",
    "check_format",
    "use_scaled_products",
]
