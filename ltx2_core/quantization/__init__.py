"""How is a weight stored in fewer bits, and how does a layer compute with it?"""

from .cast import cast, castable, check_format
from .formats import (
    CASTS,
    FORMATS,
    SCALE_SUFFIXES,
    SCALED_PRODUCTS,
    Format,
    check_stored,
    expand_weight,
    find_format,
    format_of,
    install_quantized_layers,
    is_file_marker,
    is_linear,
    plain_dtype,
    split_companion,
    use_scaled_products,
    wants_exact_products,
)

__all__ = [
    "CASTS",
    "FORMATS",
    "SCALED_PRODUCTS",
    "SCALE_SUFFIXES",
    "Format",
    "cast",
    "castable",
    "check_format",
    "check_stored",
    "expand_weight",
    "find_format",
    "format_of",
    "install_quantized_layers",
    "is_file_marker",
    "is_linear",
    "plain_dtype",
    "split_companion",
    "use_scaled_products",
    "wants_exact_products",
]
