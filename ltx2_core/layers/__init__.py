"""What are the transformer and the text connectors both made of?"""

from .attention import Asked, Attention, Seen
from .feed_forward import FeedForward
from .norms import rms_norm
from .recorded import recorded
from .rope import Rope, Rotation
from .visibility import Visibility

__all__ = [
    "Asked", "Attention", "FeedForward", "Rope", "Rotation", "Seen", "Visibility", "recorded", "rms_norm",
]  # fmt: skip
