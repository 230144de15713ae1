"""The language model that encodes the prompt: Gemma 3, all of whose layers count (see README.md, "Gemma")."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LTX2Error
from ..errors.foreign import Fields, foreign_call
from .encoder import LIMITS, TextEncoder, WeightShapes, read_sizes

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


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of a Gemma 3 text model; the defaults are the 12B model that LTX-2 was trained with."""

    layers: int = 48
    width: int = 3840
    hidden: int = 15360
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 256
    vocabulary: int = 262208
    attention_scalar: int = 256  # queries are divided by its root
    window: int = 1024
    full_every: int = 6  # every sixth layer attends to everything, the others within the window
    theta: float = 1e6
    local_theta: float = 1e4
    rope_factor: float = 8.0
    eps: float = 1e-6

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "GemmaConfig":
        """Read the text part of a Hugging Face ``config.json``, as written by transformers 4 or 5."""
        fields = Fields.of(section, "The config of Gemma")
        values = read_sizes(fields, _SIZES, cls)
        layer_types = fields.items("layer_types", longest=LIMITS["layers"][1])
        if "full_attention" in layer_types:
            values["full_every"] = layer_types.index("full_attention") + 1
        return cls(**values | _ropes(fields)).checked(fields)

    def checked(self, fields: Fields) -> "GemmaConfig":
        """Return this if its sizes, read from ``fields``, go together. Raises CheckpointError if not."""
        if self.heads % self.kv_heads:
            raise fields.refusal("num_key_value_heads", f"a number that divides the {self.heads} heads")
        if self.head_dim % 2:
            raise fields.refusal("head_dim", "an even number")
        return self

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "GemmaConfig":
        """Derive the sizes from the shapes of the tensors (our names); CheckpointError if a needed one is missing."""
        sizes = WeightShapes(shapes).sizes
        return cls.from_json(cls(**sizes, attention_scalar=sizes["head_dim"]).to_json())

    @property
    def query_width(self) -> int:
        """Channels of the queries of all layers together."""
        return self.layers * self.heads * self.head_dim

    def build(self) -> "GemmaEncoder":
        """Make the network without weights."""
        return GemmaEncoder(self)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of ``Gemma3TextConfig`` in the older form that all releases of transformers accept."""
        values = {_SIZES[name]: value for name, value in asdict(self).items() if name in _SIZES}
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
    """Computes all hidden states of prompts.

    Weights have the names of transformers' ``Gemma3TextModel``, under ``model``. The dtype comes with the weights
    (``load_state_dict(assign=True)``); ``.to(dtype)`` would round the rotary tables.
    """

    def __init__(self, config: GemmaConfig):
        super().__init__()
        from transformers import Gemma3TextConfig, Gemma3TextModel

        self.config = config
        settings = foreign_call(lambda: Gemma3TextConfig(**config.to_json()), "transformers refuses Gemma's config")
        self.model = Gemma3TextModel(settings).eval().requires_grad_(False)
        self._restore_tables()

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return layers + 1 hidden states (B, L, D), as TextEncoder says."""
        states: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for layer in self.model.layers
        ]
        try:
            result = self.model(inputs_embeds=self.embed(ids), attention_mask=mask, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return [*states, result.last_hidden_state]

    def _restore_tables(self) -> None:
        """Recompute the tables that no file contains and that are lost when the model is built on the meta device."""
        with torch.device("cpu"):
            for name, module in list(self.model.named_children()):
                if name.startswith("rotary_emb"):
                    setattr(self.model, name, type(module)(module.config))
            self.model.embed_tokens.embed_scale = torch.tensor(self.config.width**0.5)  # which is not used
        if lost := [name for name, table in self.model.named_buffers() if table.is_meta]:
            raise LTX2Error(
                f"This release of transformers keeps unknown tables in Gemma 3: {', '.join(lost)}. Install an older "
                "release."
            )
