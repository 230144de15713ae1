"""What a GGUF file holds, in the words of a safetensors file: its names, shapes, markers and metadata (see README.md,
"GGUF")."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..quantization import BLOCKS, gguf_marker
from .entries import MARKER, Entry, check_places, marker_entry
from .gguf_gemma4 import GEMMA_4, gemma4_fields, gemma4_section
from .gguf_header import GGUFHeader, StoredTensor, original_shape, read_gguf_header
from .keys.gemma import LLAMA_CPP

# What general.architecture says of language models that LTX-2 reads prompts with, and what their files have added to
# the weights of norms, beside those of Hugging Face.
_GEMMA_3 = "gemma3"
_TEXT_MODELS = {_GEMMA_3: 1.0, GEMMA_4: 0.0}
_NORM = "norm.weight"
PACKED_CONFIG = "gemma_config"  # in the header of a packed file of 2.5, whatever kind of file it is
_CONTEXT = 131_072  # words that Gemma 3 12B can read, which other programs want to know

# What it says of LTX-2, and what converters write who say the same of all models.
_LTX = ("ltxv", "pig", "cow", "")
_OTHERS = {"clip": "an mmproj, the part of a language model that looks at pictures"}  # what it says of them
_LTX_MARK = re.compile(r"transformer_blocks\.\d+\.audio_attn1\.|_embeddings_connector\.|text_embedding_projection\.")

# By our name's end, tensors whose first axis, which is 1, GGUF leaves away.
_LOST_AXES = ("keyframes_abs_pos_embedding",)

# Fields of Gemma 3 in the words of Hugging Face's config.
_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}


def read_gguf(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Return the metadata of a GGUF file, and its tensors by the names that safetensors files give them.

    A matrix in blocks has the shape of its bytes, (rows, bytes of a row), and a marker beside it that names its type.

    Raises:
        CheckpointError: The header cannot be read, or is that of another model.
        OSError: The system cannot read it.
    """
    header = read_gguf_header(path)
    architecture = _architecture(path, header)
    entries: dict[str, Entry] = {}
    for stored, tensor in header.tensors.items():
        name = _name(stored)
        if name in entries:
            raise CheckpointError(f"The header of {path.name} has {name} under two names; download the file again.")
        shape = original_shape(path, header, stored)
        excess = _TEXT_MODELS.get(architecture, 0.0) if name.endswith(_NORM) and name != stored else 0.0
        entries |= _entries(name, tensor, shape, excess)
    check_places(entries, f"The header of {path.name}")
    return _metadata(path, header, architecture), entries


def _architecture(path: Path, header: GGUFHeader) -> str:
    """What kind of model a file holds, or the files that it is one of. CheckpointError if it is another than LTX-2 or
    a text encoder."""
    found = re.search(r"-\d{5}(-of-\d{5}\.gguf)$", path.name)
    first = path.with_name(path.name[: found.start()] + "-00001" + found[1]) if found else path
    stated = header.text("general.architecture")
    if not stated and first != path and first.is_file():  # only the first of several says it
        stated = read_gguf_header(first).text("general.architecture")
    if stated in _TEXT_MODELS:
        return stated
    if any(_name(name) != name for name in header.tensors):
        kind = f"of the kind {stated}" if stated else "which does not say of which kind"
        raise CheckpointError(
            f"{path.name} is a language model, {kind}; LTX-2.0 and 2.3 read prompts with Gemma 3 12B: choose a "
            "GGUF of gemma-3-12b-it."
        )
    if stated not in _LTX and not any(map(_LTX_MARK.search, header.tensors)):
        raise CheckpointError(
            f"{path.name} is {_OTHERS.get(stated, f'a model of the kind {stated}')}, as its general.architecture says; "
            "LTX-2 (ltxv) or its text encoder (gemma3) was expected: choose another file."
        )
    return stated


def _name(stored: str) -> str:
    """What Hugging Face calls a tensor that llama.cpp has named; any other keeps its name."""
    return LLAMA_CPP.ours(stored, "") or stored


def _entries(name: str, tensor: StoredTensor, original: tuple[int, ...] | None, excess: float) -> dict[str, Entry]:
    """A tensor, with its marker if it is a matrix in blocks."""
    shape = tensor.shape if original is None else original
    if name.endswith(_LOST_AXES) and len(shape) == 1:
        shape = (1, *shape)
    if tensor.type not in BLOCKS:
        return {name: Entry(tensor.type, shape, tensor.nbytes, tensor.start, excess=excess)}
    if len(shape) != 2 or shape != tensor.shape or not name.endswith(".weight") or excess:
        return {name: Entry(tensor.type, shape, tensor.nbytes, tensor.start, expands=True, excess=excess)}
    packed = (shape[0], tensor.nbytes // max(1, shape[0]))
    return {
        name: Entry(tensor.type, packed, tensor.nbytes, tensor.start),
        f"{name.removesuffix('weight')}{MARKER}": marker_entry({"format": gguf_marker(tensor.type)}),
    }


def _metadata(path: Path, header: GGUFHeader, architecture: str) -> dict[str, str]:
    """The texts among the fields, those about words aside, and the config of Gemma, unless one is among them."""
    texts = {
        key: value
        for key, value in header.fields.items()
        if isinstance(value, str) and not key.startswith("tokenizer.")
    }
    section: Mapping[str, Any] = {}
    if architecture == _GEMMA_3:
        section = _text_config(header.fields)
    elif architecture == GEMMA_4 and PACKED_CONFIG not in texts:
        section = gemma4_section(path, header)
    return texts | ({"config": json.dumps({"text_config": section})} if section else {})


def gemma_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe Gemma 3 or 4, from its config in the words of Hugging Face: what ``read_gguf``
    reads."""
    if "layer_types" in section:
        return gemma4_fields(section)
    decimal = ("attention.layer_norm_rms_epsilon", "rope.freq_base")
    fields: dict[str, Any] = {
        f"{_GEMMA_3}.{ours}": (float if ours in decimal else int)(section[theirs]) for ours, theirs in _SIZES.items()
    }
    if scaling := section.get("rope_scaling"):
        fields |= {f"{_GEMMA_3}.rope.scaling.type": "linear"}
        fields |= {f"{_GEMMA_3}.rope.scaling.factor": float(scaling["factor"])}
    return {"general.architecture": _GEMMA_3, f"{_GEMMA_3}.context_length": _CONTEXT} | fields


def gemma_tensor(name: str, tensor: Tensor, architecture: str) -> tuple[str, Tensor]:
    """Return what a GGUF file calls a tensor of Gemma, which is ``name`` here, and holds of it: of Gemma 3 norms and
    one."""
    excess = _TEXT_MODELS[architecture] if name.endswith(_NORM) else 0.0
    return LLAMA_CPP.official(name), tensor.float() + excess if excess else tensor


def _text_config(fields: Mapping[str, object]) -> dict[str, object]:
    """What the fields say of Gemma 3, in the words of Hugging Face."""
    stated = {theirs: fields.get(f"{_GEMMA_3}.{ours}") for ours, theirs in _SIZES.items()}
    section: dict[str, object] = {name: value for name, value in stated.items() if isinstance(value, int | float)}
    if section:
        section["model_type"] = f"{_GEMMA_3}_text"
        # Queries are divided by the root of this, which has no field.
        if "head_dim" in section:
            section["query_pre_attn_scalar"] = section["head_dim"]
        factor = fields.get(f"{_GEMMA_3}.rope.scaling.factor")  # none in the 1B model, as llama.cpp reads it
        section["rope_scaling"] = {"rope_type": "linear", "factor": factor} if isinstance(factor, float) else None
    return section
