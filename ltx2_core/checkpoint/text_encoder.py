"""Gemma as people have it: a Hugging Face folder, or one file with its tokenizer inside.

Names and layouts: spec, checkpoints.md, section 9.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, MissingFileError
from ..quantization import install_quantized_layers, is_file_marker, split_companion
from ..text import GemmaConfig, GemmaEncoder, Tokenizer
from .files import TensorFile, is_lfs_pointer
from .keys.gemma import GEMMA, NOT_THE_TEXT_MODEL
from .loading import load_strict, shorten_list

_NEEDED = "LTX-2.0 and 2.3 read prompts with Gemma 3 12B"

# Where a tokenizer may be, in order of preference: as a tensor among the weights, or as a file beside them.
_EMBEDDED = {"tokenizer_json": Tokenizer.from_json, "spiece_model": Tokenizer.from_sentencepiece}
_BESIDE = {"tokenizer.json": Tokenizer.from_json, "tokenizer.model": Tokenizer.from_sentencepiece}


@dataclass(frozen=True)
class TextEncoderFiles:
    """A text encoder on disk; headers only, no weights are read."""

    path: Path
    shards: tuple[TensorFile, ...]
    prefix: str  # of the text model's tensors

    @cached_property
    def names(self) -> dict[str, tuple[TensorFile, str]]:
        """Our name of every tensor of the text model, and where it lies. CheckpointError if there are unknown ones."""
        names, unknown = {}, []
        for shard, key in self.keys():
            weight, suffix = split_companion(key)
            if GEMMA.knows(weight, self.prefix):
                ours = str(GEMMA.ours(weight, self.prefix))
                names[ours.removesuffix("weight") + suffix if suffix else ours] = (shard, key)
            elif not key.startswith(NOT_THE_TEXT_MODEL) and not is_file_marker(key):
                unknown.append(key)
        if unknown:
            raise CheckpointError(
                f"{self.path.name} is not a Gemma 3 that we know: it has {shorten_list(unknown)}. {_NEEDED}."
            )
        return names

    @cached_property
    def config(self) -> GemmaConfig:
        """From ``config.json`` in the folder, else from the shapes of the tensors."""
        if not (self.path / "config.json").is_file():
            return GemmaConfig.from_shapes({ours: shard.shape(key) for ours, (shard, key) in self.names.items()})
        content = _read_json(self.path / "config.json")
        section = content.get("text_config", content)
        kind = section.get("model_type", content.get("model_type"))
        if kind not in ("gemma3", "gemma3_text"):
            raise CheckpointError(f"The config in {self.path} is that of {kind}. {_NEEDED}.")
        return GemmaConfig.from_json(section)

    @property
    def nbytes(self) -> int:
        """Of the weights that are used."""
        return sum(shard.entries[key].nbytes for shard, key in self.names.values())

    def tokenizer(self) -> Tokenizer:
        """The tokenizer among the weights or beside them; MissingFileError if there is none."""
        for shard, key in self.keys():
            if key in _EMBEDDED:
                return _tokenizer(_EMBEDDED[key], shard.get(key).numpy().tobytes(), f"{key} in {shard.path.name}")
        for file in self.companion_files():
            if file.name in _BESIDE:
                return _tokenizer(_BESIDE[file.name], _read(file), str(file))
        raise MissingFileError(
            f"{self.path} has no tokenizer: no {' or '.join(_BESIDE)} lies in {self.folder} or its subfolder "
            f"tokenizer, no {' or '.join(_EMBEDDED)} among the weights. Download tokenizer.json from where the weights "
            "came from."
        )

    @property
    def folder(self) -> Path:
        """The folder that the weights lie in."""
        return self.path if self.path.is_dir() else self.path.parent

    def companion_files(self) -> list[Path]:
        """The files beside the weights on which an encoded prompt depends: tokenizers, best first, and configs."""
        folders = self.folder, self.folder / "tokenizer", self.folder.parent / "tokenizer"
        return [folder / name for folder in folders for name in (*_BESIDE, "config.json") if (folder / name).is_file()]

    def keys(self) -> list[tuple[TensorFile, str]]:
        """Everything in these files, wanted or not."""
        return [(shard, key) for shard in self.shards for key in shard.entries]


def open_text_encoder(path: str | Path) -> TextEncoderFiles:
    """Look at a Gemma 3 folder or safetensors file; raises MissingFileError or CheckpointError."""
    path = Path(path)
    shards = tuple(TensorFile(file) for file in (_weights_in(path) if path.is_dir() else [path]))
    keys = {key for shard in shards for key in shard.entries}
    for prefix in GEMMA.prefixes:
        if f"{prefix}layers.0.post_feedforward_layernorm.weight" in keys:
            if f"{prefix}layers.0.layer_scalar" in keys:
                raise CheckpointError(f"{path.name} is Gemma 4, which belongs to LTX-2.5. {_NEEDED}.")
            return TextEncoderFiles(path, shards, prefix)
    raise CheckpointError(f"{path.name} is not a Gemma 3 text encoder: it has {shorten_list(sorted(keys))}. {_NEEDED}.")


def build_text_encoder(files: TextEncoderFiles, dtype: torch.dtype = torch.bfloat16) -> GemmaEncoder:
    """Gemma on the CPU, computing in ``dtype``; memory-mapped where nothing is converted, scaled fp8 stays fp8."""
    with torch.device("meta"):
        encoder = GemmaEncoder(files.config)
    state = {ours: shard.get(key) for ours, (shard, key) in files.names.items()}
    try:
        install_quantized_layers(encoder, state, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{files.path.name}: {error}") from None
    load_strict(encoder, state, f"The text encoder {files.path.name}", GEMMA.official)
    return encoder


def _weights_in(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, all those that its index names."""
    for index in folder.glob("*.safetensors.index.json"):
        files = [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
        if absent := [file.name for file in files if not file.is_file()]:
            raise MissingFileError(
                f"{folder} lacks {shorten_list(absent)}, which {index.name} names; download the rest."
            )
        return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingFileError(f"No .safetensors file is in {folder}; choose the folder with Gemma's weights.")
    return files


def _read(file: Path) -> bytes:
    if is_lfs_pointer(file):
        raise CheckpointError(
            f"{file} is a git-LFS pointer, not the file itself; run `git lfs pull` in its folder, or download the real "
            "file with the browser."
        )
    return file.read_bytes()


def _read_json(file: Path) -> dict[str, Any]:
    content = _read(file)
    try:
        return json.loads(content)
    except ValueError:
        raise CheckpointError(f"{file} is not valid JSON; download it again.") from None


def _tokenizer(make: Callable[[bytes], Tokenizer], content: bytes, where: str) -> Tokenizer:
    try:
        return make(content)
    except Exception as error:  # the libraries have no common type for a file that they cannot read
        raise CheckpointError(f"The tokenizer {where} cannot be read ({error}); download it again.") from error
