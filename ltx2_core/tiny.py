"""Complete miniature models in the official file layout, with random but fixed weights, for tests and trials."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .audio_vae.vocoder import half_band
from .checkpoint.components import COMPONENTS, Component
from .checkpoint.models import BUILT_IN_GEMMA
from .checkpoint.text_encoder import EncoderKind, kind_titled
from .checkpoint.versions import VERSIONS, Shapes
from .checkpoint.write import safetensors_layout, write_tensors
from .errors import SettingError
from .text import EncoderConfig, Gemma4Config, GemmaConfig
from .transformer.config import REQUIRED
from .upscaler import binomial_blur

_LAYERS = 2

_TRANSFORMER = {
    "num_layers": _LAYERS,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "caption_channels": 32,
    "connector_num_layers": 1,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 16,
}
# Said by every release and meant by us without it; ComfyUI computes other positions where it is not said.
_POSITIONS = {"causal_temporal_positioning": True}
_AUDIO_CONNECTOR = {"audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 8}

_RESIDUAL = ["res_x", {"num_layers": 1}]  # ComfyUI knows a decoder by that it begins with one, the last of its list
_ENCODER = [
    _RESIDUAL,
    ["compress_space_res", {"multiplier": 1}],
    ["compress_time_res", {"multiplier": 1}],
    ["compress_all_res", {"multiplier": 1}],
    ["compress_all_res", {"multiplier": 1}],
]
_DECODER = {
    "2.0": [_RESIDUAL, *[["compress_all", {"multiplier": 2, "residual": True}]] * 3, _RESIDUAL],
    "2.3": [
        _RESIDUAL,
        ["compress_space", {"multiplier": 2}],
        ["compress_time", {"multiplier": 2}],
        ["compress_all", {"multiplier": 1}],
        ["compress_all", {"multiplier": 2}],
        _RESIDUAL,
    ],
}

_DECODER["2.5"] = _DECODER["2.3"]

# Of two stages with a block each: the published ones have 63 blocks, and the sound was half of a tiny clip's time.
_VOCODER = {
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
}

_SIZES = {"layers": _LAYERS, "width": 32, "hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocabulary": 512}
_GEMMA: dict[str, EncoderConfig] = {
    "Gemma 3": GemmaConfig(**_SIZES, attention_scalar=16),
    "Gemma 4": Gemma4Config(**_SIZES, full_head_dim=32, full_every=2),
}
_TRAINING = "gemma4-tiny-v1"  # by which the text encoder of 2.5 and its transformer know each other


def config(version: str, transformer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the config of a miniature, as its metadata has it: that of the release with small numbers.

    Args:
        version: a key of ``VERSIONS``.
        transformer: other numbers for the transformer than the smallest ones.
    """
    known = VERSIONS[version].config
    vae = VERSIONS["2.3"].config["vae"] if version == "2.5" else known["vae"]  # the convolutional one of both
    audio = json.loads(json.dumps(known["audio_vae"]))
    # The official reader sizes the statistics of the latent, 8 channels x 16 bins, by ``ch``: it must stay 128.
    audio["model"]["params"]["ddconfig"] |= {"ch_mult": [1, 1, 1], "num_res_blocks": 0}
    vocoder = json.loads(json.dumps(known["vocoder"]))
    for part in [vocoder] if version == "2.0" else vocoder.values():
        first, *others = part["upsample_rates"]
        rates = [first, math.prod(others)]
        part |= _VOCODER | {"upsample_rates": rates, "upsample_kernel_sizes": [rate + 4 for rate in rates]}
    return {
        "transformer": REQUIRED
        | known["transformer"]
        | _TRANSFORMER
        | _POSITIONS
        | ({} if version == "2.0" else _AUDIO_CONNECTOR)
        | dict(transformer or {}),
        "vae": vae
        | {"encoder_blocks": _ENCODER, "decoder_blocks": _DECODER[version], "decoder_base_channels": 8, "dims": 3},
        "audio_vae": audio,
        "vocoder": vocoder,
    }


def write(folder: str | Path, version: str, seed: int = 0, transformer: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a complete set of files with random weights.

    Args:
        folder: where; it is made if need be.
        version: a key of ``VERSIONS``.
        seed: of the weights.
        transformer: as for ``config``.

    Returns:
        The checkpoint, Gemma as a folder, and Gemma as a single file.

    Raises:
        SettingError: for another version.
        UnreadableFileError: the disk refuses.
    """
    if version not in VERSIONS:
        raise SettingError(f"version is {version}; miniatures can be written of {' and '.join(VERSIONS)}.")
    folder = Path(folder)
    checkpoint = folder / f"ltx-{version}-tiny.safetensors"
    sections = config(version, transformer)
    metadata = {"config": json.dumps(sections), "model_version": f"{version}.0"}
    kind = kind_titled(VERSIONS[version].encoder)
    if kind.title != "Gemma 3":
        metadata["gemma_source_checkpoint"] = json.dumps({"ltx_version": f"{version}.0", "gemma_version": _TRAINING})
    save(_checkpoint(sections, seed), checkpoint, metadata)
    return [checkpoint, *_write_gemma(folder, kind, seed)]


def _write_gemma(folder: Path, kind: EncoderKind, seed: int) -> list[Path]:
    """Write a text encoder as a folder of Hugging Face, and as a single file."""
    encoder_config = _GEMMA[kind.title]
    tensors, whole = weights_of(encoder_config.build, str, seed), folder / "gemma-tiny"
    save({f"language_model.{key}": value for key, value in tensors.items()}, whole / "model.safetensors")
    model_type = kind.model_types[0]
    about = {
        "model_type": model_type,
        "text_config": encoder_config.to_json() | {"model_type": f"{model_type}_text"},
    }
    about |= {} if model_type == "gemma3" else {"gemma_version": _TRAINING}
    (whole / "config.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(BUILT_IN_GEMMA / name, whole / name)
    single = folder / "gemma-tiny.safetensors"
    # ComfyUI's single files have the names without "language_model." and the tokenizer among the weights.
    packed = {"gemma3": ("spiece_model", "tokenizer.model")}.get(model_type, ("tokenizer_json", "tokenizer.json"))
    tokenizer = torch.from_numpy(np.frombuffer((whole / packed[1]).read_bytes(), dtype=np.uint8).copy())
    header = {} if model_type == "gemma3" else {"format": "pt", "gemma_config": json.dumps(about)}
    save(tensors | {packed[0]: tokenizer}, single, header)
    return [whole, single]


def save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write ``tensors`` by their names in files; a folder is made if need be."""
    write_tensors(path, safetensors_layout(tensors, metadata), tensors.items())


def _checkpoint(sections: dict[str, Any], seed: int) -> dict[str, Tensor]:
    states = _LAYERS + 1
    flat = {"projection.weight": (1, states * _TRANSFORMER["caption_channels"])}
    tensors: dict[str, Tensor] = {}
    for component in COMPONENTS.values():
        tensors |= _component(component, sections, flat, seed)
    if not sections["transformer"].get("ff_bias", True):  # the files of 2.5 have their tables in float32
        tensors |= {key: value.float() for key, value in tensors.items() if "scale_shift_table" in key}
    return tensors


def _component(component: Component, sections: dict[str, Any], shapes: Shapes, seed: int) -> dict[str, Tensor]:
    return weights_of(partial(component.make, sections, shapes), component.variant_for(sections).keys.official, seed)


def weights_of(make: Callable[[], nn.Module], official: Callable[[str], str], seed: int) -> dict[str, Tensor]:
    """Draw bfloat16 weights of sensible size by their names in files, the same on every machine."""
    with torch.device("meta"):
        network = make()
    generator = torch.Generator().manual_seed(seed)
    return {
        official(name): _draw(name, value.shape, generator).to(torch.bfloat16)
        for name, value in sorted(network.state_dict().items())
    }


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if "norm" in name or name.endswith(("std", "layer_scalar")):
        return 1 + 0.1 * values.abs()
    if name.endswith("mel.bank"):
        return values.abs()  # energies, whose logarithm is taken
    if name.endswith("blur"):
        return binomial_blur()
    if tuple(shape) == (1, 1, 12):
        return half_band().reshape(shape)  # the only filters of a vocoder that were not learned
    return 0.7 * values / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1 * values
