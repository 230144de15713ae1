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
from .encoder import EncoderConfig, TextEncoder
from .features import Features, TextFeatures, TextFeaturesConfig
from .gemma import GemmaConfig, GemmaEncoder
from .gemma4 import Gemma4Config, Gemma4Encoder
from .prompts import Extent, JoinedContexts, join_prompts, read_extras
from .relay import RelayedContexts, relay_prompts
from .tokenizer import Tokenizer
from .vision import VisionConfig, VisionEncoder, prepare_picture

__all__ = [
    "Connector",
    "ConnectorConfig",
    "Contexts",
    "EncoderConfig",
    "Extent",
    "Features",
    "Gemma4Config",
    "Gemma4Encoder",
    "GemmaConfig",
    "GemmaEncoder",
    "HiddenStates",
    "JoinedContexts",
    "PromptWeight",
    "RelayedContexts",
    "TextEncoder",
    "TextFeatures",
    "TextFeaturesConfig",
    "Tokenizer",
    "VisionConfig",
    "VisionEncoder",
    "compute_hidden_states",
    "connect",
    "encode_prompts",
    "extract_features",
    "join_prompts",
    "prepare_picture",
    "read_extras",
    "relay_prompts",
]
