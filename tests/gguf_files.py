"""GGUF files for tests, whole and broken, written without the official package."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.checkpoint import TensorFile
from ltx2_core.checkpoint.keys.gemma import GEMMA, LLAMA_CPP
from ltx2_core.quantization import BLOCKS

NUMBERS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
    "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21,
    "IQ2_S": 22, "IQ4_XS": 23, "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41,
}  # fmt: skip
# Where blocks have float16 numbers, which random bytes would make infinite.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)}  # fmt: skip
SCALE_BYTES = {"MXFP4": (1, 116, 122), "NVFP4": (4, 8, 40)}  # how many there are, and which are not too large
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PREFIX = "model.diffusion_model."

Stored = tuple[str, tuple[int, ...], bytes]  # type, shape, content
Pack = Callable[[Tensor, str], Stored]


def text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def field(value: Any) -> bytes:
    """The kind and the content of a field."""
    if isinstance(value, bytes):  # as it is, kind included
        return value
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, (list, tuple)):
        kind = 8 if isinstance(value[0], (str, bytes)) else 6 if isinstance(value[0], float) else 5
        items = map(text, value) if kind == 8 else (struct.pack("<f" if kind == 6 else "<i", each) for each in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def write(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Stored], version: int = 3) -> Path:
    """Write a file; shapes are those of torch."""
    alignment = fields.get("general.alignment", 32)
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    header += b"".join(text(key) + field(value) for key, value in fields.items())
    content = b""
    for name, (type, shape, stored) in tensors.items():
        header += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += struct.pack("<IQ", NUMBERS[type], len(content))
        content += stored + bytes(-len(stored) % alignment)
    path.write_bytes(header + bytes(-len(header) % alignment) + content)
    return path


def write_parts(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Stored], count: int) -> list[Path]:
    """Write several files that are one model; the first has the fields, as llama.cpp's tool leaves them."""
    paths = []
    for number in range(count):
        own = {"split.no": number, "split.count": count} | (dict(fields) if number == 0 else {})
        some = {name: tensors[name] for name in list(tensors)[number::count]}
        paths.append(write(path.with_name(f"{path.name}-{number + 1:05}-of-{count:05}.gguf"), own, some))
    return paths


def packed(tensor: Tensor, type: str) -> Stored:
    """A tensor as numbers, as Q8_0, or as blocks of any type that have nothing to do with it."""
    shape = tuple(tensor.shape)
    if type in PLAIN:
        return type, shape, tensor.to(PLAIN[type]).contiguous().view(torch.uint8).numpy().tobytes()
    blocks = _q8_0(tensor) if type == "Q8_0" else random_blocks(type, tensor.numel() // BLOCKS[type].numbers)
    return type, shape, blocks.numpy().tobytes()


def random_blocks(type: str, count: int) -> Tensor:
    blocks = torch.randint(0, 256, (count, BLOCKS[type].nbytes), dtype=torch.uint8)
    if type in SCALE_BYTES:
        scales, low, high = SCALE_BYTES[type]
        blocks[:, :scales] = torch.randint(low, high, (count, scales))
        return blocks
    if type == "IQ1_M":  # whose float16 lies in four pieces
        blocks[:, 49:56:2] = blocks[:, 49:56:2] & 15 | torch.tensor([0, 0, 0, 2 << 4], dtype=torch.uint8)
        return blocks
    for at in HALVES.get(type, (0,)):
        blocks[:, at : at + 2] = (0.02 * torch.rand(count, 1)).half().view(torch.uint8)
    return blocks


def _q8_0(tensor: Tensor) -> Tensor:
    blocks = tensor.float().reshape(-1, 32)
    scale = (blocks.abs().amax(dim=1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float().clamp(min=1e-12)).round().to(torch.int8)
    return torch.cat((scale.view(torch.uint8), numbers.view(torch.uint8)), dim=1)


def common(type: str) -> Callable[[str, Tensor], str]:
    """The choice of the usual converter: matrices in ``type`` where it fits, the ends in BF16, small things in F32."""

    def choose(name: str, tensor: Tensor) -> str:
        if tensor.ndim == 1 or "scale_shift_table" in name:
            return "F32"
        ends = ("adaln_single.", "caption_projection.", "patchify_proj.", "proj_out.")
        fits = tensor.shape[-1] % (BLOCKS[type].numbers if type in BLOCKS else 1) == 0
        return (
            type
            if name.endswith("weight") and tensor.ndim == 2 and fits and not any(e in name for e in ends)
            else "BF16"
        )

    return choose


def transformer(
    source: Path, choose: Callable[[str, Tensor], str], pack: Pack = packed, **more: Any
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return fields and tensors of a checkpoint's transformer, connectors and text projection, as converters write
    them; a further field that is None is left out."""
    whole = {k: v for k, v in load_file(source).items() if k.startswith((PREFIX, "text_embedding_projection."))}
    fields = {"general.architecture": "ltxv", "config": TensorFile(source).metadata["config"]} | more
    tensors = {name.removeprefix(PREFIX): pack(value, choose(name, value)) for name, value in whole.items()}
    return {key: value for key, value in fields.items() if value is not None}, tensors


def vocabulary(model: bytes) -> dict[str, Any]:
    """The fields of a tokenizer, from a SentencePiece model."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(pieces.vocab_size())
    kinds = [2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1 for i in ids]
    fields = {"model": "llama", "tokens": [pieces.id_to_piece(i) for i in ids], "token_type": kinds}
    fields |= {"scores": [pieces.get_score(i) for i in ids], "add_space_prefix": False, "unknown_token_id": 3}
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


GEMMA_FIELDS = {
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window", "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}  # fmt: skip


def gemma_tensors(folder: Path) -> dict[str, Tensor]:
    """Gemma's weights in llama.cpp's names and numbers."""
    tensors = {}
    for key, value in load_file(next(folder.glob("*.safetensors"))).items():
        prefix = next((prefix for prefix in GEMMA.prefixes if GEMMA.knows(key, prefix)), None)
        if prefix is None:
            continue
        name = LLAMA_CPP.official(str(GEMMA.ours(key, prefix)))
        tensors[name] = value.float() + 1 if name.endswith("norm.weight") else value
    return tensors


def gemma(folder: Path, type: str, pack: Pack = packed) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return fields and tensors of Gemma, as llama.cpp's converter writes them."""
    config = json.loads((folder / "config.json").read_text())["text_config"]
    fields = {"general.architecture": "gemma3"}
    fields |= {f"gemma3.{ours}": config[theirs] for ours, theirs in GEMMA_FIELDS.items()}
    fields["gemma3.rope.freq_base"] = float(fields["gemma3.rope.freq_base"])
    fields["gemma3.rope.scaling.factor"] = 8.0
    tensors = {
        name: pack(value, "F32" if value.ndim == 1 or value.shape[1] % 32 else type)
        for name, value in gemma_tensors(folder).items()
    }
    return fields | vocabulary((folder / "tokenizer.model").read_bytes()), tensors


# The fields and tensors of a file that is small and whole.
GOOD = {"general.architecture": "ltxv", "a.word": "some text"}
BIAS = {"a.bias": packed(torch.ones(40), "F32"), "b.weight": packed(torch.ones(4, 64), "Q8_0")}
