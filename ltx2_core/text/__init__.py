"""What does a prompt mean to each stream? Prompt -> hidden states -> features -> contexts."""

from .connector import Connector, ConnectorConfig
from .encode import Contexts, HiddenStates, compute_hidden_states, connect, encode_prompts, extract_features
from .features import Features, TextFeatures, TextFeaturesConfig
from .gemma import GemmaConfig, GemmaEncoder
from .prompts import ContextsOverSigma, over_sigma, read_extras
from .tokenizer import Tokenizer

__all__ = [
    "Connector",
    "ConnectorConfig",
    "Contexts",
    "ContextsOverSigma",
    "Features",
    "GemmaConfig",
    "GemmaEncoder",
    "HiddenStates",
    "TextFeatures",
    "TextFeaturesConfig",
    "Tokenizer",
    "compute_hidden_states",
    "connect",
    "encode_prompts",
    "extract_features",
    "over_sigma",
    "read_extras",
]
