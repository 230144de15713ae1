"""The language model that encodes the prompt: Gemma 3, all of whose layers count (see README.md, "Gemma")."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, LTX2Error

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
        values = {ours: section[theirs] for ours, theirs in _SIZES.items() if section.get(theirs) is not None}
        if "full_attention" in (section.get("layer_types") or ()):
            values["full_every"] = section["layer_types"].index("full_attention") + 1
        ropes = section.get("rope_parameters") or {}
        if "rope_theta" in ropes.get("sliding_attention", {}):
            values["local_theta"] = ropes["sliding_attention"]["rope_theta"]
        if "rope_theta" in ropes.get("full_attention", {}):
            values["theta"] = ropes["full_attention"]["rope_theta"]
        scaling = ropes.get("full_attention", section.get("rope_scaling"))
        if scaling or "rope_scaling" in section:
            values["rope_factor"] = (scaling or {}).get("factor", 1.0)
        return cls(**values)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "GemmaConfig":
        """Derive the sizes from the shapes of the tensors (our names); CheckpointError if a needed one is missing."""

        def shape(name: str) -> tuple[int, ...]:
            if f"model.{name}.weight" not in shapes:
                raise CheckpointError(
                    f"The text encoder lacks {name}.weight; the file is not complete, download it again."
                )
            return shapes[f"model.{name}.weight"]

        head_dim = shape("layers.0.self_attn.q_norm")[0]
        return cls(
            layers=1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("model.layers.")),
            width=shape("embed_tokens")[1],
            hidden=shape("layers.0.mlp.gate_proj")[0],
            heads=shape("layers.0.self_attn.q_proj")[0] // head_dim,
            kv_heads=shape("layers.0.self_attn.k_proj")[0] // head_dim,
            head_dim=head_dim,
            vocabulary=shape("embed_tokens")[0],
            attention_scalar=head_dim,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of ``Gemma3TextConfig`` in the older form that all releases of transformers accept."""
        values = {_SIZES[name]: value for name, value in asdict(self).items() if name in _SIZES}
        scaled = {"rope_type": "linear", "factor": self.rope_factor} if self.rope_factor != 1 else None
        return values | {"rope_scaling": scaled}


class GemmaEncoder(nn.Module):
    """Computes all hidden states of prompts.

    Weights have the names of transformers' ``Gemma3TextModel``, under ``model``. The dtype comes with the weights
    (``load_state_dict(assign=True)``); ``.to(dtype)`` would round the rotary tables.
    """

    def __init__(self, config: GemmaConfig):
        super().__init__()
        from transformers import Gemma3TextConfig, Gemma3TextModel

        self.config = config
        self.model = Gemma3TextModel(Gemma3TextConfig(**config.to_json())).eval().requires_grad_(False)
        self._restore_tables()

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return layers + 1 hidden states (B, L, D): the input of each layer, then the output of the final norm.

        The last layer's own output is never used. Rows of padding are meaningless.

        Args:
            ids: Token ids (B, L), padded on the left.
            mask: 0 on padding, (B, L).
        """
        states: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for layer in self.model.layers
        ]
        try:
            result = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
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
            self.model.embed_tokens.embed_scale = torch.tensor(self.config.width**0.5)
        if lost := [name for name, table in self.model.named_buffers() if table.is_meta]:
            raise LTX2Error(
                f"This release of transformers keeps unknown tables in Gemma 3: {', '.join(lost)}. Install an older "
                "release."
            )
