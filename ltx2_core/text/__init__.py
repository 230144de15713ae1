"""What does a prompt mean to each stream? Prompt -> hidden states -> features -> contexts."""

from .connector import Connector, ConnectorConfig
from .encode import (
    Contexts,
    HiddenStates,
    PromptWeight,
    compute_hidden_states,
    connect,
    encode_prompts,
    extract_features,
)
from .features import Features, TextFeatures, TextFeaturesConfig
from .gemma import GemmaConfig, GemmaEncoder
from .prompts import Extent, JoinedContexts, join_prompts, read_extras
from .tokenizer import Tokenizer

__all__ = [
    "Connector",
    "ConnectorConfig",
    "Contexts",
    "Extent",
    "Features",
    "GemmaConfig",
    "GemmaEncoder",
    "HiddenStates",
    "JoinedContexts",
    "PromptWeight",
    "TextFeatures",
    "TextFeaturesConfig",
    "Tokenizer",
    "compute_hidden_states",
    "connect",
    "encode_prompts",
    "extract_features",
    "join_prompts",
    "read_extras",
]
