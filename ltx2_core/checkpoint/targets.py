"""The two kinds of files that a conversion writes: what they call tensors, and how they hold what stays plain."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, MissingFileError
from .files import TensorFile
from .gguf import PACKED_CONFIG, gemma_fields, gemma_tensor
from .gguf_tokenizer import tokenizer_fields, tokenizer_text
from .keys.gemma import GEMMA, PROJECTION
from .text_encoder import TextEncoderFiles
from .write import GGUFTensor, Layout, Piece, gguf_layout, safetensors_layout

# What general.file_type says of a file most of whose matrices are in a type, by the word that chooses it.
_FILE_TYPES = {"q8_0": 7, "q4_k": 14}
_QUANTIZATION_VERSION = 2  # of ggml, since its blocks have float16 scales
_PLAIN = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "I8",
}  # fmt: skip
_SMALL = 1024  # numbers of a tensor that is stored in float32, as others read it


@dataclass(frozen=True)
class Stored:
    """A tensor of the new file.

    Attributes:
        key: its name in the source.
        word: the format that it is written in; "" if it stays plain.
        shape: of its numbers.
        tensors: what is written, by suffix; "weight" is the tensor itself. On the meta device, or some rows of it.
    """

    key: str
    word: str
    shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]


class SafetensorsTarget:
    """A file in which everything has the name that it had, with ComfyUI's markers beside quantised matrices."""

    end = ".safetensors"

    def __init__(self, source: TensorFile, encoder: TextEncoderFiles | None):
        """Keep the metadata of ``source``, and put the tokenizer of an ``encoder`` among the weights."""
        self._metadata = {name: value for name, value in source.metadata.items() if name != "_quantization_metadata"}
        self.added: dict[str, Tensor] = {}
        if encoder is not None:
            try:
                key, content, _ = encoder.tokenizer_content()
            except MissingFileError:
                return  # the new file needs one beside it, as this one does
            if key not in source.entries:
                self.added[key] = torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def holds(self, key: str) -> bool:
        """Return True: nothing is left out."""
        return True

    def plain(self, key: str, tensor: Tensor) -> Tensor:
        """Return the tensor as it is."""
        return tensor

    def layout(self, stored: Iterable[Stored]) -> Layout:
        """Return how the file begins, and where everything lies."""
        tensors = {name: tensor for each in stored for name, tensor in self.pieces(each)}
        return safetensors_layout(tensors | self.added, self._metadata)

    def pieces(self, stored: Stored) -> Iterable[Piece]:
        """Return a tensor and what stands beside it, by their names in the file."""
        module = stored.key.removesuffix("weight")
        for suffix, tensor in stored.tensors.items():
            yield stored.key if suffix == "weight" else f"{module}{suffix}", tensor


class GGUFTarget:
    """A GGUF file: LTX-2 by its official names, or the text model of Gemma by those of llama.cpp.

    Beside Gemma 4 stay the text projection that it is packed with, its config and its training.
    """

    added: Mapping[str, Tensor] = {}

    def __init__(self, source: TensorFile, encoder: TextEncoderFiles | None, word: str):
        """Take the config of ``source``, or that of an ``encoder`` with its tokenizer.

        Raises:
            MissingFileError: The encoder lacks its tokenizer; of Gemma 3 the SentencePiece model, which readers want.
        """
        self._architecture = ""  # of an encoder
        if encoder is None:
            self._names = {key: name for name, key in source.official_names.items()}
            fields = {"general.architecture": "ltxv"} | source.metadata
        else:
            self._names = {key: ours for ours, key in encoder.names.items()}
            fields = _encoder_fields(encoder)
            self._architecture = fields["general.architecture"]
        own = {"general.file_type": _FILE_TYPES[word], "general.quantization_version": _QUANTIZATION_VERSION}
        self._fields: dict[str, Any] = fields | own

    def holds(self, key: str) -> bool:
        """Return whether a tensor is one of the model: of an encoder what sees and hears is not."""
        return key in self._names or self._is_beside(key)

    def _is_beside(self, key: str) -> bool:
        return bool(self._architecture) and key.startswith(PROJECTION)

    def plain(self, key: str, tensor: Tensor) -> Tensor:
        """Return a tensor in the numbers that others read: small ones and tables of modulation in float32."""
        if self._architecture and key in self._names:
            tensor = gemma_tensor(self._names[key], tensor, self._architecture)[1]
        small = tensor.ndim <= 1 or tensor.numel() <= _SMALL or "scale_shift_table" in key
        return tensor.float() if small and tensor.is_floating_point() else tensor

    def layout(self, stored: Iterable[Stored]) -> Layout:
        """Return how the file begins, and where everything lies. CheckpointError for numbers that GGUF has not."""
        tensors = {}
        for each in stored:
            tensor = each.tensors["weight"]
            if not each.word and tensor.dtype not in _PLAIN:
                raise CheckpointError(
                    f"{each.key} is stored as {str(tensor.dtype).removeprefix('torch.')}, which GGUF files do not hold;"
                    " choose fp8, int8 or nvfp4."
                )
            type = each.word.upper() or _PLAIN[tensor.dtype]
            tensors[self._name(each.key)] = GGUFTensor(type, each.shape, tensor.nbytes)
        return gguf_layout(tensors, self._fields)

    def pieces(self, stored: Stored) -> Iterable[Piece]:
        """Return a tensor by its name in the file; its type stands in the header."""
        yield self._name(stored.key), stored.tensors["weight"]

    def _name(self, key: str) -> str:
        name = self._names.get(key, key)
        if not self._architecture or self._is_beside(key):
            return name
        return gemma_tensor(name, torch.empty(0, device="meta"), self._architecture)[0]


def _encoder_fields(encoder: TextEncoderFiles) -> dict[str, Any]:
    """The sizes of an encoder, and its tokenizer; of Gemma 4 also its config, which says how it was trained."""
    sizes = gemma_fields(encoder.config.to_json())
    if encoder.kind.keys is GEMMA:
        _, model, where = encoder.tokenizer_content(["spiece_model"])
        return sizes | tokenizer_fields(model, where)
    _, content, where = encoder.tokenizer_content(["tokenizer_json"])
    stated = {} if encoder.stated is None else {PACKED_CONFIG: json.dumps(encoder.stated.content)}
    return sizes | stated | tokenizer_text(content, where)
