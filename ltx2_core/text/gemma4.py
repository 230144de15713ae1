"""The language model that encodes the prompts of 2.5: Gemma 4, all of whose layers count (see README.md, "Gemma 4")."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors.foreign import Fields
from ..layers import repeat
from .encoder import LIMITS, EncoderConfig, TextEncoder, WeightShapes, read_pattern, read_sizes
from .gemma_layers import CausalAttention, Heads, Layer, Norm, Past, Sight, TextModel, normalise

_SIZES = {  # our name: the name in a Hugging Face config
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "full_kv_heads": "num_global_key_value_heads",
    "full_head_dim": "global_head_dim",
    "vocabulary": "vocab_size",
    "window": "sliding_window",
    "eps": "rms_norm_eps",
    "score_limit": "final_logit_softcapping",
}


@dataclass(frozen=True)
class Gemma4Config(EncoderConfig):
    """Sizes of a Gemma 4 text model; the defaults are the 12B model that LTX-2.5 was trained with.

    Layers that attend to everything have other heads, ``full_*``, whose values are their keys.
    """

    full_kv_heads: int = 1
    full_head_dim: int = 512
    rotated: float = 0.25  # share of the channels that positions rotate, in these layers

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "Gemma4Config":
        """Read the text part of a Hugging Face config, or a whole one.

        Raises:
            CheckpointError: The sizes do not go together, or describe a Gemma 4 that LTX-2.5 does not read.
        """
        fields = Fields.of(section, "The config of Gemma 4")
        if "text_config" in fields:
            fields = fields.section("text_config")
        values = read_sizes(fields, _SIZES, cls) | read_pattern(fields)
        if "per_layer_config" in fields and "full_every" in values:
            values |= _of_full_layers(fields, cls(**values))
        parameters = fields.section("rope_parameters")
        for kind, ours in ("sliding_attention", "local_theta"), ("full_attention", "theta"):
            values[ours] = parameters.section(kind).number("rope_theta", getattr(cls, ours), *LIMITS[ours])
        values["rotated"] = parameters.section("full_attention").number("partial_rotary_factor", cls.rotated, 0.0, 1.0)
        sizes = cls(**values)
        for name in ("kv_heads", "full_kv_heads"):
            if sizes.heads % getattr(sizes, name):
                raise fields.refusal(_SIZES[name], f"a number that divides the {sizes.heads} heads")
        for name in ("head_dim", "full_head_dim"):
            if getattr(sizes, name) % 2:
                raise fields.refusal(_SIZES[name], "an even number")
        return sizes

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Gemma4Config":
        """Derive the sizes from the shapes of the tensors (our names); CheckpointError if a needed one is missing."""
        shape = WeightShapes(shapes)
        full = next((n for n in range(shape.layers) if not shape.has(f"layers.{n}.self_attn.v_proj")), shape.layers)
        sizes = cls(**shape.sizes, full_every=full + 1)
        if full < shape.layers:
            full_head_dim = shape(f"layers.{full}.self_attn.q_norm", axes=1)[0]
            keys = shape(f"layers.{full}.self_attn.k_proj")[0]
            sizes = replace(sizes, full_head_dim=full_head_dim, full_kv_heads=keys // full_head_dim)
        return cls.from_json(sizes.to_json())

    def frequencies(self, full: bool) -> Tensor:
        """Return the radians per position of each pair of channels of a head, (d / 2)."""
        half = (self.full_head_dim if full else self.head_dim) // 2
        frequencies = (self.theta if full else self.local_theta) ** -(torch.arange(half) / half)
        if full:
            frequencies[int(self.rotated * half) :] = 0
        return frequencies

    @property
    def query_width(self) -> int:
        """Channels of the queries of all layers together."""
        return sum(
            self.heads * (self.full_head_dim if self.is_full(layer) else self.head_dim) for layer in range(self.layers)
        )

    def build(self) -> "Gemma4Encoder":
        """Make the network without weights."""
        return Gemma4Encoder(self)

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as transformers' text config has them."""
        kinds = ["full_attention" if self.is_full(layer) else "sliding_attention" for layer in range(self.layers)]
        partial = {"rope_type": "proportional", "rope_theta": self.theta, "partial_rotary_factor": self.rotated}
        return {theirs: getattr(self, ours) for ours, theirs in _SIZES.items()} | {
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": kinds,
            "rope_parameters": {
                "full_attention": partial,
                "sliding_attention": {"rope_type": "default", "rope_theta": self.local_theta},
            },
        }


def _of_full_layers(fields: Fields, sizes: Gemma4Config) -> dict[str, Any]:
    """Sizes of the layers that attend to everything, where a config says by layer what differs (transformers 5.24)."""
    layer = fields.section("per_layer_config").section(str(sizes.full_every - 1))
    same = {"full_kv_heads": sizes.kv_heads, "full_head_dim": sizes.head_dim}
    return same | read_sizes(layer, {"full_kv_heads": _SIZES["kv_heads"], "full_head_dim": "head_dim"}, Gemma4Config)


class Attention(CausalAttention):
    """Causal attention whose values have a norm without a weight; in layers that see everything they are the keys."""

    def __init__(self, config: Gemma4Config, full: bool, norm: Callable[[int], Norm]):
        near = Heads(config.heads, config.kv_heads, config.head_dim)
        far = Heads(config.heads, config.full_kv_heads, config.full_head_dim)
        super().__init__(config.width, far if full else near, norm, scale=1.0, own_values=not full)
        self.eps = config.eps

    def finish_values(self, values: Tensor) -> Tensor:
        """Normalise ``values`` (B, H, L, d)."""
        return normalise(values, self.eps)


class ScaledLayer(Layer):
    """A layer, and a number that scales its result."""

    def __init__(self, config: Gemma4Config, full: bool, norm: Callable[[int], Norm]):
        super().__init__(config.width, config.hidden, Attention(config, full, norm), norm)
        self.layer_scalar = nn.Parameter(torch.empty(1))

    def read(self, x: Tensor, sight: Sight, past: Past | None = None) -> Tensor:
        """Return the state (1, L, D) after this layer; what is read is added to ``past``."""
        return super().read(x, sight, past) * self.layer_scalar


class Gemma4Encoder(TextEncoder):
    """Computes all hidden states of prompts; the dtype comes with the weights.

    The last state is that behind the final norm, whose weights reach 600: too large for float16.
    """

    config: Gemma4Config

    def __init__(self, config: Gemma4Config):
        super().__init__()
        norm = partial(Norm, eps=config.eps)
        kinds = {full: repeat(partial(ScaledLayer, config, full, norm), config.layers) for full in (False, True)}
        layers = (next(kinds[config.is_full(number)]) for number in range(config.layers))
        self.config, self.model = config, TextModel(config.vocabulary, config.width, layers, norm)
