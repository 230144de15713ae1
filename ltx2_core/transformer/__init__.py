"""Given tokens of both streams and their noise level, what is the velocity?"""

from .config import StreamConfig, TransformerConfig
from .inputs import UNPERTURBED, Perturbation, StreamInput
from .model import Transformer

__all__ = ["UNPERTURBED", "Perturbation", "StreamConfig", "StreamInput", "Transformer", "TransformerConfig"]
