"""The language model that encodes the prompts of 2.5: Gemma 4, all of whose layers count (see README.md, "Gemma 4").

Written from the architecture, without transformers, whose releases name and build it differently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors.foreign import Fields
from .encoder import LIMITS, TextEncoder, WeightShapes, read_sizes

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
}


@dataclass(frozen=True)
class Gemma4Config:
    """Sizes of a Gemma 4 text model; the defaults are the 12B model that LTX-2.5 was trained with.

    Of every ``full_every`` layers the last attends to everything and has other heads, ``full_*``, whose values are its
    keys; the others attend within the window.
    """

    layers: int = 48
    width: int = 3840
    hidden: int = 15360
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 256
    full_kv_heads: int = 1
    full_head_dim: int = 512
    vocabulary: int = 262144
    window: int = 1024
    full_every: int = 6
    theta: float = 1e6  # of the layers that attend to everything
    local_theta: float = 1e4
    rotated: float = 0.25  # share of the channels that positions rotate, in these layers
    eps: float = 1e-6

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "Gemma4Config":
        """Read the text part of a Hugging Face config, or a whole one.

        Raises:
            CheckpointError: The sizes do not go together, or describe a Gemma 4 that LTX-2.5 does not read.
        """
        fields = Fields.of(section, "The config of Gemma 4")
        if "text_config" in fields:
            fields = fields.section("text_config")
        values = read_sizes(fields, _SIZES, cls)
        layer_types = fields.items("layer_types", longest=LIMITS["layers"][1])
        if "full_attention" in layer_types:
            values["full_every"] = layer_types.index("full_attention") + 1
        if "per_layer_config" in fields:
            values |= _of_full_layers(fields, layer_types, cls(**values))
        parameters = fields.section("rope_parameters")
        for kind, ours in ("sliding_attention", "local_theta"), ("full_attention", "theta"):
            values[ours] = parameters.section(kind).number("rope_theta", getattr(cls, ours), *LIMITS[ours])
        values["rotated"] = parameters.section("full_attention").number("partial_rotary_factor", cls.rotated, 0.0, 1.0)
        return cls(**values).checked(fields)

    def checked(self, fields: Fields) -> "Gemma4Config":
        """Return this if its sizes, read from ``fields``, go together. Raises CheckpointError if not."""
        for count, name in ((self.kv_heads, "kv_heads"), (self.full_kv_heads, "full_kv_heads")):
            if self.heads % count:
                raise fields.refusal(_SIZES[name], f"a number that divides the {self.heads} heads")
        for width, name in ((self.head_dim, "head_dim"), (self.full_head_dim, "full_head_dim")):
            if width % 2:
                raise fields.refusal(_SIZES[name], "an even number")
        return self

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

    def is_full(self, layer: int) -> bool:
        """Return whether a layer attends to everything."""
        return layer % self.full_every == self.full_every - 1

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
        return {_SIZES[name]: value for name, value in asdict(self).items() if name in _SIZES} | {
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": kinds,
            "rope_parameters": {
                "full_attention": partial,
                "sliding_attention": {"rope_type": "default", "rope_theta": self.local_theta},
            },
        }


def _of_full_layers(fields: Fields, layer_types: Sequence[object], sizes: Gemma4Config) -> dict[str, Any]:
    """Sizes of the layers that attend to everything, where a config says by layer what differs (transformers 5.24)."""
    if "full_attention" not in layer_types:
        return {}
    layer = fields.section("per_layer_config").section(str(layer_types.index("full_attention")))
    same = {"full_kv_heads": sizes.kv_heads, "full_head_dim": sizes.head_dim}
    return same | read_sizes(layer, {"full_kv_heads": _SIZES["kv_heads"], "full_head_dim": "head_dim"}, Gemma4Config)


class Norm(nn.Module):
    """Root-mean-square norm in float32, times a weight for each channel; cast back behind the weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D) over its last axis."""
        return _normalise(x, self.eps, self.weight)


def _normalise(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    wide = None if weight is None else weight.float()
    return functional.rms_norm(x.float(), x.shape[-1:], wide, eps).to(x.dtype)


@dataclass(frozen=True)
class Sight:
    """What layers of one kind share: which tokens see which, and how positions rotate."""

    visible: Tensor  # (B, 1, L, L) bool
    cos: Tensor  # (L, d / 2)
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate channels (i, i + d / 2) of ``x`` (B, H, L, d) by their angle."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


class Attention(nn.Module):
    """Causal attention with a norm on queries, keys and values of each head; without ``v_proj`` values are the keys."""

    def __init__(self, config: Gemma4Config, full: bool):
        super().__init__()
        self.head_dim = config.full_head_dim if full else config.head_dim
        self.heads, self.kv_heads = config.heads, config.full_kv_heads if full else config.kv_heads
        self.eps = config.eps
        self.q_proj = nn.Linear(config.width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = None if full else nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.width, bias=False)
        self.q_norm, self.k_norm = Norm(self.head_dim, config.eps), Norm(self.head_dim, config.eps)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """Attend from each token of ``x`` (B, L, D) to those it sees."""
        keys = self._heads(self.k_proj(x), self.kv_heads)
        values = keys if self.v_proj is None else self._heads(self.v_proj(x), self.kv_heads)
        query = sight.rotate(self.q_norm(self._heads(self.q_proj(x), self.heads)))
        group = self.heads // self.kv_heads
        key = sight.rotate(self.k_norm(keys)).repeat_interleave(group, dim=1)
        value = _normalise(values, self.eps).repeat_interleave(group, dim=1)
        seen = functional.scaled_dot_product_attention(query, key, value, sight.visible, scale=1.0)
        return self.o_proj(seen.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, count: int) -> Tensor:
        """(B, L, H * d) to (B, H, L, d)."""
        return x.unflatten(-1, (count, self.head_dim)).transpose(1, 2)


class Mlp(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, config: Gemma4Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of ``x`` (B, L, D) by itself."""
        return self.down_proj(functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each between two norms, and a number that scales the result."""

    def __init__(self, config: Gemma4Config, full: bool):
        super().__init__()
        self.self_attn, self.mlp = Attention(config, full), Mlp(config)
        self.input_layernorm = Norm(config.width, config.eps)
        self.post_attention_layernorm = Norm(config.width, config.eps)
        self.pre_feedforward_layernorm = Norm(config.width, config.eps)
        self.post_feedforward_layernorm = Norm(config.width, config.eps)
        self.layer_scalar = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """Return the state (B, L, D) after this layer."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), sight))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * self.layer_scalar


class TextModel(nn.Module):
    """The modules of the text model, by the names that its files give them."""

    def __init__(self, config: Gemma4Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config, config.is_full(number)) for number in range(config.layers))
        self.norm = Norm(config.width, config.eps)


class Gemma4Encoder(TextEncoder):
    """Computes all hidden states of prompts; the dtype comes with the weights."""

    config: Gemma4Config

    def __init__(self, config: Gemma4Config):
        super().__init__()
        self.config = config
        self.model = TextModel(config).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return layers + 1 hidden states (B, L, D), as TextEncoder says.

        Positions count the padding, too. The last state is that behind the final norm, whose weights reach 600: too
        large for float16.
        """
        x, states = self.embed(ids), []
        near, far = self._sight(mask, x, full=False), self._sight(mask, x, full=True)
        for number, layer in enumerate(self.model.layers):
            states.append(x)
            x = layer(x, far if self.config.is_full(number) else near)
        return [*states, self.model.norm(x)]

    def _sight(self, mask: Tensor, x: Tensor, full: bool) -> Sight:
        config, length = self.config, x.shape[1]
        at = torch.arange(length, device=x.device)
        distance = at[:, None] - at
        visible = (distance >= 0) & ((distance < config.window) | full) & mask.bool()[:, None, None]
        half = (config.full_head_dim if full else config.head_dim) // 2
        frequencies = (config.theta if full else config.local_theta) ** -(torch.arange(half, device=x.device) / half)
        if full:
            frequencies[int(config.rotated * half) :] = 0
        angles = at[:, None] * frequencies.float()
        # Padding sees itself alone: a softmax over nothing would be no number.
        return Sight(visible | (distance == 0), angles.cos().to(x.dtype), angles.sin().to(x.dtype))
