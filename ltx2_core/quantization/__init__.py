"""How is a weight stored in fewer bits, and how does a layer compute with it?"""

from .fp8 import FORMATS, SCALE_SUFFIXES, Fp8Linear, adopt_fp8

__all__ = ["FORMATS", "SCALE_SUFFIXES", "Fp8Linear", "adopt_fp8"]
