"""Text encoders as people have them: a Hugging Face folder, or one file with its tokenizer inside, also as GGUF (see
README.md, "Text encoders").

A further encoder is one more row of ENCODERS.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import isdir  # which is no error for a path that cannot be
from pathlib import Path

import torch

from ..errors import CheckpointError, MissingFileError, SettingError
from ..errors.files import as_path
from ..errors.foreign import Fields, foreign_call, parse_json
from ..quantization import (
    check_library,
    install_quantized_layers,
    is_file_marker,
    join_companion,
    split_companion,
)
from ..text import EncoderConfig, Gemma4Config, GemmaConfig, TextEncoder, Tokenizer, VisionConfig, VisionEncoder
from .components import Variant, is_claimed
from .contents import tell_contents
from .entries import MARKER
from .files import TensorFile, named_errors, read_file, read_json, weight_beside
from .folders import as_one, check_order, shards_of, weight_files
from .gguf import PACKED_CONFIG
from .keys import Keys
from .keys.gemma import GEMMA, GEMMA4, NOT_GEMMA4, NOT_THE_TEXT_MODEL, VISION
from .keys.table import prefix_before
from .loading import load_strict, shorten_list
from .stored import StoredNetwork
from .unfilled import outline_network

# Where a tokenizer may be, in order of preference: as a tensor among the weights, or as a file beside them.
_SPIECE = "spiece_model"
_EMBEDDED = {"tokenizer_json": Tokenizer.from_json, _SPIECE: Tokenizer.from_sentencepiece}
_BESIDE = {"tokenizer.json": "tokenizer_json", "tokenizer.model": _SPIECE}

# What other models of the family have among their tensors.
_SIBLINGS = {
    "per_layer": "a Gemma 4 with embeddings for each layer (E2B, E4B)",
    ".experts.": "a Gemma 4 of several experts (26B-A4B)",
}


@dataclass(frozen=True)
class EncoderKind:
    """One text encoder that a version of LTX-2 reads prompts with."""

    title: str  # as people call it
    needed: str  # the sentence that says which versions want it
    keys: Keys  # its prefixes are those of the text model in the kinds of files that people have
    mark: str  # a tensor behind the prefix that every file of this kind has, and none of the kinds after it
    ignored: tuple[str, ...]  # beginnings of names that are not the text model's
    model_types: tuple[str, ...]  # in config.json
    config: type[EncoderConfig]
    vision: Variant | None = None  # the part for pictures that it may have

    def claims(self, key: str, prefix: str) -> bool:
        """Return whether the file's ``key`` is of an encoder of this kind, wanted or not."""
        return self.keys.knows(split_companion(key)[0], prefix) or key.startswith(self.ignored)

    def prefix_in(self, keys: Collection[str]) -> str | None:
        """Return the prefix of the text model among ``keys``, whatever it is; None if it is of another kind."""
        known = next((prefix for prefix in self.keys.prefixes if prefix + self.mark in keys), None)
        return known if known is not None else prefix_before(self.mark, keys)


ENCODERS = (
    EncoderKind(
        title="Gemma 4",
        needed="LTX-2.5 reads prompts with its own Gemma 4 12B, such as gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
        keys=GEMMA4,
        mark="layers.0.layer_scalar",
        ignored=NOT_GEMMA4,
        model_types=("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
        config=Gemma4Config,
    ),
    EncoderKind(
        title="Gemma 3",
        needed="LTX-2.0 and 2.3 read prompts with Gemma 3 12B",
        keys=GEMMA,
        mark="layers.0.post_feedforward_layernorm.weight",
        ignored=NOT_THE_TEXT_MODEL,
        model_types=("gemma3", "gemma3_text"),
        config=GemmaConfig,
        vision=Variant(VISION, lambda config, shapes: VisionEncoder(VisionConfig.from_json(config, shapes))),
    ),
)


@dataclass(frozen=True)
class TextEncoderFiles(StoredNetwork):
    """A text encoder on disk; headers only, no weights are read."""

    path: Path
    shards: tuple[TensorFile, ...]
    kind: EncoderKind
    prefix: str  # of the text model's tensors

    @cached_property
    def names(self) -> dict[str, str]:
        """Our name of every tensor of the text model, and its key in ``file``.

        CheckpointError if there are unknown ones, or if what lies beside them says that they cannot be read.
        """
        check_order(self.folder)
        self._check_markers()
        names, unknown = {}, list[str]()
        for key in self.file.entries:
            weight, suffix = split_companion(key)
            if ours := self.kind.keys.ours(weight, self.prefix):
                names[join_companion(ours, suffix)] = key
            elif not self.kind.claims(key, self.prefix) and not is_file_marker(key):
                unknown.append(key)
        if unknown := self._without_model(unknown):
            self._check_unknown(unknown)
            if sibling := next((title for mark, title in _SIBLINGS.items() if any(mark in key for key in unknown)), ""):
                raise CheckpointError(
                    f"{self.path.name} is {sibling}, which is not read here, neither for prompts nor to enhance them: "
                    f"take an instruct model that is dense, such as gemma_3_12B_it or Gemma 4 12B. {self.kind.needed}."
                )
            raise CheckpointError(
                f"{self.path.name} is not a {self.kind.title} that we know: it has {shorten_list(unknown)}. "
                f"{self.kind.needed}."
            )
        return names

    def _check_markers(self) -> None:
        """CheckpointError for nvfp4 without markers, which ComfyUI and ``convert`` write into text encoders and
        ModelOpt does not: its numbers lie in another order, which shows nowhere else."""
        for key in self.file.entries:
            weight, suffix = split_companion(key)
            unmarked = suffix == "weight_scale_2" and f"{key.removesuffix(suffix)}{MARKER}" not in self.file.entries
            if unmarked and self.kind.keys.knows(weight, self.prefix):
                raise CheckpointError(
                    f"{self.path.name} stores {weight} in NVFP4 without a marker, as NVIDIA's ModelOpt does, "
                    "whose numbers lie in another order than those of ComfyUI's files: take such a file, for example "
                    "gemma_3_12B_it_fp4_mixed, or another format."
                )

    def _without_model(self, unknown: Sequence[str]) -> list[str]:
        """The ``unknown`` keys; none if this is the file of a whole model, which tells of its own."""
        if not unknown:
            return []
        official = {key: name for name, key in self.file.official_names.items()}
        return [] if any(is_claimed(official[key]) for key in unknown) else [*unknown]

    def _check_unknown(self, unknown: Collection[str]) -> None:
        with named_errors(self.path.name):
            check_library(unknown)
            self.file.check_unknown(key for key in unknown if weight_beside(key) in self.file.entries)
        if others := [shard.path.name for shard in self.shards if shard.entries.keys() <= {*unknown}]:
            raise CheckpointError(
                f"{self.path} holds files of other models, too, such as {others[0]}: choose the file of "
                f"{self.kind.title} in it alone, or give that a folder of its own."
            )

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"The text encoder {self.path.name}"

    def outline(self) -> TextEncoder:
        """Make the encoder without weights. Raises CheckpointError if the files will not fill it."""
        return outline_network(lambda: self.config.build(), self, self.title, self.kind.keys.official)

    @cached_property
    def config(self) -> EncoderConfig:
        """The sizes of the encoder, from its own config, else from the shapes of the tensors.

        Raises CheckpointError where they are those of another model.
        """
        if (content := self.stated) is None:
            return self.kind.config.from_shapes(self.shapes)
        section = content.section("text_config") if "text_config" in content else content
        model_type = section.word("model_type", content.word("model_type", "another model"))
        if model_type not in self.kind.model_types:
            raise CheckpointError(f"The config in {self.path} is that of {model_type}. {self.kind.needed}.")
        try:
            return self.kind.config.from_json(section.content)
        except CheckpointError as error:
            raise CheckpointError(f"{content.where}: {error}") from None

    @cached_property
    def stated(self) -> Fields | None:
        """The config that ``config.json`` in the folder is, or the header of a packed or GGUF file says."""
        if (path := self.path / "config.json").is_file():
            return Fields(read_json(path), str(path))
        if "text_config" in self.file.config:
            stated = Fields(self.file.config, f"The config in the header of {self.path.name}").section("text_config")
            rows = [self.file.shape(key)[0] for name, key in self.names.items() if "embed_tokens" in name]
            return Fields(dict(zip(["vocab_size"], rows)) | dict(stated.content), stated.where)  # rows have no field
        packed, where = self.file.metadata.get(PACKED_CONFIG), f"{PACKED_CONFIG} in the header of {self.path.name}"
        return Fields(parse_json(packed, where), where) if packed else None

    @property
    def gemma_version(self) -> str | None:
        """The training that LTX-2.5 asks for by name, such as "gemma4-12b-ltx-v1"; None where nothing is stated."""
        return None if self.stated is None else self.stated.word("gemma_version", "") or None

    @property
    def vision(self) -> tuple[Variant, dict[str, str]]:
        """The part for pictures, and our name of each of its tensors with the file's.

        Raises:
            SettingError: There is none, or none that can be read.
        """
        if self.kind.vision is None:
            raise SettingError(
                f"{self.path.name} is a {self.kind.title}, of which only the text is read here: pictures are looked at "
                "by a Gemma 3, such as gemma_3_12B_it."
            )
        if not (names := self.kind.vision.names_in(self.file.entries)):
            raise SettingError(
                f"{self.path.name} cannot look at pictures: it has no vision_tower, which GGUF files never have. Take "
                "the whole gemma_3_12B_it, as safetensors, for that."
            )
        return self.kind.vision, names

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer among the weights or beside them.

        Raises MissingFileError if there is none, CheckpointError if it is damaged or belongs to another encoder.
        """
        key, content, where = self.tokenizer_content()
        tokenizer = foreign_call(lambda: _EMBEDDED[key](content), f"The tokenizer {where} cannot be read")
        rows = self.config.vocabulary
        if not rows // 2 < tokenizer.words <= rows:
            raise CheckpointError(
                f"The tokenizer of {self.path.name} belongs to another {self.kind.title}: it knows {tokenizer.words:,} "
                f"words, and the weights have {rows:,} rows. Download both from one place."
            )
        return tokenizer

    def tokenizer_content(self, wanted: Collection[str] = tuple(_EMBEDDED)) -> tuple[str, bytes, str]:
        """Return what a packed file calls the tokenizer of these files, the tokenizer itself, and where it is from.

        Args:
            wanted: the kinds that will do, "tokenizer_json" and "spiece_model".

        Raises:
            MissingFileError: There is none.
        """
        for key in self.file.entries:
            if (name := key.removeprefix("text_encoders.")) in wanted:
                where = f"{key} in {self.file.path.name}"
                if self.file.dtype(key) not in (torch.uint8, torch.int8):
                    raise CheckpointError(f"{where} does not hold bytes; download it again.")
                return name, self.file.get(key).numpy().tobytes(), where
        if (inside := self.file.tokenizer_inside) is not None and inside[0] in wanted:
            return *inside, f"in the header of {self.path.name}"
        for file in self.companion_files():
            if (key := _BESIDE.get(file.name, "")) in wanted:
                return key, read_file(file), str(file)
        names = [name for name, key in _BESIDE.items() if key in wanted]
        raise MissingFileError(
            f"{self.path} has no tokenizer: no {' or '.join(names)} lies in {self.folder} or its subfolder "
            f"tokenizer, no {' or '.join(wanted)} among the weights. Download {names[0]} from where the weights "
            "came from."
        )

    @property
    def folder(self) -> Path:
        """The folder that the weights lie in."""
        return self.path if self.path.is_dir() else self.path.parent

    def companion_files(self) -> list[Path]:
        """List the files beside the weights on which an encoded prompt depends: tokenizers, best first, and configs."""
        folders = self.folder, self.folder / "tokenizer", self.folder.parent / "tokenizer"
        return [folder / name for folder in folders for name in (*_BESIDE, "config.json") if (folder / name).is_file()]

    @cached_property
    def file(self) -> TensorFile:
        """All shards as one file, since what belongs to a weight may lie in another shard."""
        return as_one(self.path, self.shards)


def open_text_encoder(path: str | Path) -> TextEncoderFiles:
    """Look at the folder or the file of a text encoder, safetensors or GGUF; only headers are read.

    Raises MissingFileError, or CheckpointError for anything but an encoder of ENCODERS.
    """
    path = as_path(path, "The text encoder")
    files = weight_files(path, "Gemma's weights") if isdir(path) else shards_of(path)
    shards = tuple(map(TensorFile, files))
    keys = {key for shard in shards for key in shard.entries}
    if (found := find_kind(keys)) is not None:
        return TextEncoderFiles(path, shards, *found)
    titles = " or ".join(kind.title for kind in reversed(ENCODERS))
    needed = ". ".join(kind.needed for kind in reversed(ENCODERS))
    what = tell_contents(keys, "Gemma text encoder")
    raise CheckpointError(f"{path.name} is not a {titles} text encoder: {what}. {needed}.")


def find_kind(keys: Collection[str]) -> tuple[EncoderKind, str] | None:
    """Return which encoder has tensors of these names, and their prefix; None if it is none of ENCODERS."""
    return next(((kind, prefix) for kind in ENCODERS if (prefix := kind.prefix_in(keys)) is not None), None)


def kind_titled(title: str) -> EncoderKind:
    """Return the row of ENCODERS that people call ``title``."""
    return next(kind for kind in ENCODERS if kind.title == title)


def build_text_encoder(
    files: TextEncoderFiles, dtype: torch.dtype = torch.bfloat16, deferred: Collection[torch.dtype] = ()
) -> TextEncoder:
    """Build the text encoder on the CPU, computing in ``dtype``.

    Tensors that need no conversion, or are of a ``deferred`` dtype, stay memory-mapped, and quantised ones stay
    quantised. Raises CheckpointError if tensors are missing, unknown or of the wrong shape.
    """
    encoder = files.outline()
    with named_errors(files.path.name):
        state = files.tensors()
        install_quantized_layers(encoder, state, dtype, deferred, files.names.__getitem__)
    load_strict(encoder, state, files.title, files.kind.keys.official)
    return encoder
