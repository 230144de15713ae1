"""The language model that encodes the prompt: Gemma 3, all of whose layers count (see README.md, "Gemma")."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors.foreign import Fields
from ..layers import repeat
from .encoder import LIMITS, EncoderConfig, TextEncoder, WeightShapes, read_pattern, read_sizes
from .gemma_layers import CausalAttention, Heads, Layer, Norm, TextModel

_SIZES = {  # our name: the name in a Hugging Face config
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocabulary": "vocab_size",
    "attention_scalar": "query_pre_attn_scalar",
    "window": "sliding_window",
    "full_every": "sliding_window_pattern",
    "theta": "rope_theta",
    "local_theta": "rope_local_base_freq",
    "eps": "rms_norm_eps",
}


# What shapes do not tell, by the width of those models that are not as the 12B one (their config.json): 270M and 1B
# were not made for long texts, and the queries of 27B are divided by another root than that of their head.
_UNTOLD: Mapping[int, Mapping[str, Any]] = {
    640: {"rope_factor": 1.0, "window": 512},
    1152: {"rope_factor": 1.0, "window": 512},
    5376: {"attention_scalar": 168},
}


@dataclass(frozen=True)
class GemmaConfig(EncoderConfig):
    """Sizes of a Gemma 3 text model; the defaults are the 12B model that LTX-2.0 and 2.3 were trained with."""

    vocabulary: int = 262208
    attention_scalar: int = 256  # queries are divided by its root
    rope_factor: float = 8.0

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "GemmaConfig":
        """Read the text part of a Hugging Face ``config.json``, as written by transformers 4 or 5.

        Raises CheckpointError if the sizes do not go together.
        """
        fields = Fields.of(section, "The config of Gemma")
        values = read_sizes(fields, _SIZES, cls) | read_pattern(fields)
        sizes = cls(**values | _ropes(fields))
        if sizes.heads % sizes.kv_heads:
            raise fields.refusal("num_key_value_heads", f"a number that divides the {sizes.heads} heads")
        if sizes.head_dim % 2:
            raise fields.refusal("head_dim", "an even number")
        return sizes

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "GemmaConfig":
        """Derive the sizes from the shapes of the tensors (our names); CheckpointError if a needed one is missing."""
        sizes = WeightShapes(shapes).sizes
        untold: dict[str, Any] = {"attention_scalar": sizes["head_dim"], **_UNTOLD.get(sizes["width"], {})}
        return cls.from_json(cls(**(sizes | untold)).to_json())

    def frequencies(self, full: bool) -> Tensor:
        """Return the radians per position of each pair of channels of a head, (d / 2)."""
        exponents = torch.arange(self.head_dim // 2) / (self.head_dim // 2)
        return self.theta**-exponents / self.rope_factor if full else self.local_theta**-exponents

    @property
    def query_width(self) -> int:
        """Channels of the queries of all layers together."""
        return self.layers * self.heads * self.head_dim

    def build(self) -> "GemmaEncoder":
        """Make the network without weights."""
        return GemmaEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as transformers' text config has them, in the older form that all its releases accept."""
        values = {theirs: getattr(self, ours) for ours, theirs in _SIZES.items()}
        scaled = {"rope_type": "linear", "factor": self.rope_factor} if self.rope_factor != 1 else None
        return values | {"rope_scaling": scaled}


def _ropes(fields: Fields) -> dict[str, float]:
    """What a config says of rotary positions, in the words of transformers 4 or 5."""
    values: dict[str, float] = {}
    parameters = fields.section("rope_parameters")
    for kind, ours in ("sliding_attention", "local_theta"), ("full_attention", "theta"):
        if "rope_theta" in (section := parameters.section(kind)):
            values[ours] = section.number("rope_theta", None, *LIMITS[ours])
    scaling = parameters.section("full_attention") if "full_attention" in parameters else fields.section("rope_scaling")
    if scaling.content or "rope_scaling" in fields.content:
        values["rope_factor"] = scaling.number("factor", 1.0, 1e-3, 1e6)
    return values


class GemmaEncoder(TextEncoder):
    """Computes all hidden states of prompts; the dtype comes with the weights."""

    config: GemmaConfig

    def __init__(self, config: GemmaConfig):
        super().__init__()
        norm = partial(Norm, eps=config.eps, offset=1.0)
        heads = Heads(config.heads, config.kv_heads, config.head_dim)

        def layer() -> Layer:
            attention = CausalAttention(config.width, heads, norm, scale=config.attention_scalar**-0.5)
            return Layer(config.width, config.hidden, attention, norm)

        layers = repeat(layer, config.layers)
        self.config, self.model = config, TextModel(config.vocabulary, config.width, layers, norm)
