"""Given tokens of both streams and their noise level, what is the velocity?"""

from ..layers import TextSchedule, Visibility
from ..layers.kernels import (
    ATTENTIONS,
    attending_with,
    compiling,
    compiling_pays,
    count_with,
    describe_missing,
    note_step,
)
from .block import TextAttention
from .config import StreamConfig, TransformerConfig
from .graphs import find_obstacle_of_allocator
from .inputs import UNPERTURBED, Nag, Network, Pass, Perturbation, StreamInput, Velocities
from .model import Transformer
from .sequence import SequenceParallel, check_heads
from .share import ImaginedPeers, Peers
from .step_cache import StepCache
from .text_cache import TextCache

__all__ = [
    "ATTENTIONS",
    "UNPERTURBED",
    "ImaginedPeers",
    "Nag",
    "Network",
    "Pass",
    "Peers",
    "Perturbation",
    "SequenceParallel",
    "StepCache",
    "StreamConfig",
    "StreamInput",
    "TextAttention",
    "TextCache",
    "TextSchedule",
    "Transformer",
    "TransformerConfig",
    "Velocities",
    "Visibility",
    "attending_with",
    "check_heads",
    "compiling",
    "compiling_pays",
    "count_with",
    "describe_missing",
    "find_obstacle_of_allocator",
    "note_step",
]
