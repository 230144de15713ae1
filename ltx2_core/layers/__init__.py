"""What are the transformer and the text connectors both made of?"""

from .alike import alike
from .attention import Attention, KeyValue, Query
from .autograd import needs_grad
from .feed_forward import FeedForward
from .kernels import convolve
from .levels import TokenLevels
from .linear import Linear, apply_gelu
from .norms import rms_norm
from .repeat import repeat
from .rope import Rope, Rotation
from .schedule import TextSchedule
from .sharing import find_rounding, is_adapted, merge_axes, shared_input
from .visibility import Visibility

__all__ = [
    "Attention", "FeedForward", "KeyValue", "Linear", "Query", "Rope", "Rotation", "TextSchedule", "TokenLevels",
    "Visibility", "alike", "apply_gelu", "convolve", "find_rounding", "is_adapted", "merge_axes", "needs_grad",
    "repeat", "rms_norm", "shared_input",
]  # fmt: skip
