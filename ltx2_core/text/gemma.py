"""The language model that encodes the prompt: Gemma 3, all of whose layers count (see README.md, "Gemma")."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError, LTX2Error
from ..errors.foreign import Fields, foreign_call

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
# Of those that differ from 1 to 65,536: the least and the most that they can be.
_LIMITS: dict[str, tuple[Any, Any]] = {
    "layers": (1, 256), "heads": (1, 1024), "kv_heads": (1, 1024), "head_dim": (2, 4096), "vocabulary": (1, 2**22),
    "window": (1, 2**20), "theta": (1.0, 1e12), "local_theta": (1.0, 1e12), "eps": (1e-12, 0.1),
}  # fmt: skip


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
        values: dict[str, Any] = {}
        for ours, theirs in _SIZES.items():
            default = getattr(cls, ours)
            if theirs in fields:
                read = fields.whole if isinstance(default, int) else fields.number
                values[ours] = read(theirs, default, *_LIMITS.get(ours, (1, 2**16)))
        layer_types = fields.items("layer_types", longest=_LIMITS["layers"][1])
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

        def shape(name: str, axes: int = 2) -> tuple[int, ...]:
            if f"model.{name}.weight" not in shapes:
                raise CheckpointError(
                    f"The text encoder lacks {name}.weight; the file is not complete, download it again."
                )
            found = shapes[f"model.{name}.weight"]
            if len(found) != axes or not all(found):
                raise CheckpointError(
                    f"The text encoder's {name}.weight has the shape {found}; {axes} axes that are not empty were "
                    "expected. Download it again."
                )
            return found

        head_dim = shape("layers.0.self_attn.q_norm", axes=1)[0]
        sizes = cls(
            layers=len({name.split(".")[2] for name in shapes if name.startswith("model.layers.")}),
            width=shape("embed_tokens")[1],
            hidden=shape("layers.0.mlp.gate_proj")[0],
            heads=shape("layers.0.self_attn.q_proj")[0] // head_dim,
            kv_heads=shape("layers.0.self_attn.k_proj")[0] // head_dim,
            head_dim=head_dim,
            vocabulary=shape("embed_tokens")[0],
            attention_scalar=head_dim,
        )
        return cls.from_json(sizes.to_json())

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
            values[ours] = section.number("rope_theta", None, *_LIMITS[ours])
    scaling = parameters.section("full_attention") if "full_attention" in parameters else fields.section("rope_scaling")
    if scaling.content or "rope_scaling" in fields.content:
        values["rope_factor"] = scaling.number("factor", 1.0, 1e-3, 1e6)
    return values


class GemmaEncoder(nn.Module):
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
            result = self.model(inputs_embeds=self._embed(ids), attention_mask=mask, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return [*states, result.last_hidden_state]

    def _embed(self, ids: Tensor) -> Tensor:
        """Look up rows (B, L, D) as they are stored, then convert them: a table need not be in what is computed in.

        One that is stored in fewer bits looks them up by itself.
        """
        table, dtype = self.model.embed_tokens, self.model.norm.weight.dtype
        plain = table.weight.is_floating_point()
        rows = functional.embedding(ids, table.weight) if plain else table(ids)
        return rows.to(dtype) * torch.tensor(self.config.width**0.5).to(dtype)

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
