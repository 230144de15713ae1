"""The sizes of Gemma 4 in the fields of a GGUF file, in the words of Hugging Face, and the other way round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .gguf_header import Array, GGUFHeader, numbers_in

GEMMA_4 = "gemma4"
_CONTEXT = 262_144  # words that Gemma 4 12B can read, which other programs want to know

_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.key_length": "global_head_dim",
    "attention.key_length_swa": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
}
_KV_HEADS = "attention.head_count_kv"  # of each layer, or of all
_PATTERN = "attention.sliding_window_pattern"  # for each layer, whether it attends within the window
_THETAS = {"full_attention": "rope.freq_base", "sliding_attention": "rope.freq_base_swa"}
_KINDS = ("full_attention", "sliding_attention")


def gemma4_section(path: Path, header: GGUFHeader) -> dict[str, Any]:
    """Return what the fields say, as the text part of a config of Hugging Face; empty if they say no pattern of layers.

    Raises:
        CheckpointError: lists do not have an item for each layer.
    """
    fields = header.fields
    if f"{GEMMA_4}.{_PATTERN}" not in fields:
        return {}
    stated = {theirs: _size(path, fields, ours) for ours, theirs in _SIZES.items()}
    section: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    layers = section.get("num_hidden_layers", 0)
    kinds = [_KINDS[bool(near)] for near in _each_layer(path, fields, _PATTERN, layers)]
    heads = dict(zip(kinds, _each_layer(path, fields, _KV_HEADS, layers)))
    thetas = {kind: fields.get(f"{GEMMA_4}.{name}") for kind, name in _THETAS.items()}
    section |= {
        name: heads[kind]
        for name, kind in zip(("num_global_key_value_heads", "num_key_value_heads"), _KINDS)
        if kind in heads
    }
    return section | {
        "model_type": f"{GEMMA_4}_text",
        "layer_types": kinds,
        "rope_parameters": {kind: {"rope_theta": theta} for kind, theta in thetas.items() if theta is not None},
    }


def gemma4_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe Gemma 4, from the text part of its config: what ``gemma4_section`` reads."""
    near = [kind == "sliding_attention" for kind in section["layer_types"]]
    heads = [int(section["num_key_value_heads" if each else "num_global_key_value_heads"]) for each in near]
    fields: dict[str, Any] = {
        ours: (float if ours.endswith("epsilon") else int)(section[theirs]) for ours, theirs in _SIZES.items()
    }
    fields |= {name: float(section["rope_parameters"][kind]["rope_theta"]) for kind, name in _THETAS.items()}
    fields |= {_KV_HEADS: heads, _PATTERN: near, "context_length": _CONTEXT}
    return {"general.architecture": GEMMA_4} | {f"{GEMMA_4}.{name}": value for name, value in fields.items()}


def _size(path: Path, fields: Mapping[str, Any], name: str) -> Any:
    """A number; of a list the one that all layers have."""
    value = fields.get(f"{GEMMA_4}.{name}")
    if not isinstance(value, Array):
        return float(f"{value:.7g}") if isinstance(value, float) else value  # as it was before float32 rounded it
    numbers = set(numbers_in(path, value).tolist())
    if len(numbers) != 1:
        raise CheckpointError(
            f"{GEMMA_4}.{name} in {path.name} differs from layer to layer, as in no Gemma 4 that LTX-2.5 reads; choose "
            "a GGUF of its own Gemma 4 12B."
        )
    return numbers.pop()


def _each_layer(path: Path, fields: Mapping[str, Any], name: str, layers: int) -> list[Any]:
    """The number of each layer; CheckpointError for a list of another length."""
    value = fields.get(f"{GEMMA_4}.{name}")
    if not isinstance(value, Array):
        return [] if value is None else [value] * layers
    if value.count != layers:
        raise CheckpointError(
            f"{GEMMA_4}.{name} in {path.name} has {value.count} items for {layers} layers; download the file again."
        )
    return [int(each) for each in numbers_in(path, value).tolist()]
