"""What does a prompt say to each stream?  prompt -> hidden states -> features -> contexts."""

from .connector import Connector, ConnectorConfig
from .encode import Contexts, Reading, connect, encode_prompts, extract_features, read_prompts
from .features import Features, TextFeatures, TextFeaturesConfig
from .gemma import GemmaConfig, GemmaEncoder
from .tokenizer import Tokenizer

__all__ = [
    "Connector",
    "ConnectorConfig",
    "Contexts",
    "Features",
    "GemmaConfig",
    "GemmaEncoder",
    "Reading",
    "TextFeatures",
    "TextFeaturesConfig",
    "Tokenizer",
    "connect",
    "encode_prompts",
    "extract_features",
    "read_prompts",
]
