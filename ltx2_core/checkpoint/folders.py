"""Folders of weights: what Hugging Face's libraries write, and the files that belong together in them."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from os.path import isdir, isfile  # which are no error for a path that cannot be
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..disk_cache.mapped import FileSpan
from ..errors import CheckpointError, LTX2Error, MissingFileError
from ..errors.files import visible_files
from ..errors.foreign import Fields
from .files import OF_DIFFUSERS, TensorFile, read_json
from .joined import joined
from .loading import shorten_list

# Subfolders of a model as diffusers writes it: those that hold components of ours, and that of Gemma. The diffusion
# decoder counts before the convolutional one in ``vae``.
TRANSFORMER = "transformer"
SUBFOLDERS = (TRANSFORMER, "connectors", "diffusion_decoder", "vae", "audio_vae", "vocoder", "duration_head")
GEMMA = "text_encoder"
FULL = "transformer_full"  # the dev model of 2.5, beside the distilled one in ``TRANSFORMER``

GGUF = ".gguf"

# What may lie in a folder without safetensors files, and what to do then.
_PICKLE = "{file} there is a pickle, which is not read: download the .safetensors files"
_PARTIAL = "{file} there is a download that is not complete: wait for it, or start it again"
_INSTEAD = {
    "[!.]*.gguf": "choose the file {file} in it",
    "*/[!.]*.safetensors": "choose the folder {folder} in it",
    "snapshots/*/[!.]*.safetensors": "choose the folder {folder} in it",
    **{f"[!.]*.{end}": _PICKLE for end in ("bin", "pt", "pth", "ckpt")},
    **{f"[!.]*.{end}": _PARTIAL for end in ("incomplete", "part", "crdownload", "download", "aria2")},
}


class ShardedFile(TensorFile):
    """Several files that are one: each holds some of the tensors."""

    def __init__(self, path: Path, shards: Sequence[TensorFile]):
        """Take ``shards`` together under the name of ``path``, their folder or the first of them.

        Raises CheckpointError if two of them hold the same tensor.
        """
        self.path, self._shards = path, tuple(shards)
        self.metadata = {name: value for shard in reversed(shards) for name, value in shard.metadata.items()}
        self._shard_of: dict[str, TensorFile] = {}
        for shard in shards:
            for key in shard.entries:
                if (other := self._shard_of.setdefault(key, shard)) is not shard:
                    raise CheckpointError(
                        f"Two of the files of {path.name} hold the tensor {key}: {other.path.name} and "
                        f"{shard.path.name}. Choose one of them alone, or download all of them from one place."
                    )
        self.entries = {key: shard.entries[key] for key, shard in self._shard_of.items()}

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells these files from others."""
        return tuple(shard.identity for shard in self._shards)

    def get(self, key: str) -> Tensor:
        """Return the tensor ``key``, backed by its file."""
        return self._shard_of[key].get(key)

    def spans(self, keys: Iterable[str]) -> list[FileSpan]:
        """Return where the bytes of these tensors lie, file by file."""
        wanted = set(keys)
        return [span for shard in self._shards for span in shard.spans(wanted & shard.entries.keys())]

    @property
    def tokenizer_inside(self) -> tuple[str, bytes] | None:
        """The tokenizer that the fields of one of them describe; None without one."""
        return next((inside for shard in self._shards if (inside := shard.tokenizer_inside) is not None), None)

    @cached_property
    def _mapped(self) -> torch.UntypedStorage:
        raise NotImplementedError("Every shard is mapped by itself.")


def as_one(path: Path, files: Sequence[TensorFile]) -> TensorFile:
    """Return the files of ``path`` as one: the only one itself. Raises CheckpointError as ``ShardedFile``."""
    return files[0] if len(files) == 1 else ShardedFile(path, files)


def weight_files(folder: Path, whose: str) -> list[Path]:
    """List the safetensors files of a folder, all those that its index names.

    Args:
        folder: As Hugging Face's libraries write it.
        whose: Ends the sentence about a folder without any, such as "Gemma's weights".

    Raises:
        MissingFileError: There are none, or some are missing.
        CheckpointError: They are stored in an order that is not read.
    """
    check_order(folder)
    for index in visible_files(folder, ".safetensors.index.json"):
        fields = Fields(read_json(index), str(index))
        names = set(map(str, fields.section("weight_map").content.values()))
        if not names or any(Path(name).name != name for name in names):
            raise fields.refusal("weight_map", "an object of names of files in this folder")
        files = [folder / name for name in sorted(names)]
        if absent := [file.name for file in files if not isfile(file)]:
            raise MissingFileError(
                f"{folder} lacks {shorten_list(absent)}, which {index.name} names; download the rest."
            )
        return files
    files = visible_files(folder, ".safetensors")
    if not files:
        raise MissingFileError(f"No .safetensors file is in {folder}; {_instead_in(folder, whose)}.")
    return sorted({shard for file in files for shard in shards_of(file)})


def check_order(folder: Path) -> None:
    """CheckpointError if the settings in ``folder`` say that its weights are in four bits of ModelOpt, or in its mxfp8:
    their tensors have the names and shapes of ComfyUI's, and their numbers and scales lie in another order."""
    for name in ("config.json", "hf_quant_config.json"):
        try:
            stated = json.dumps(read_json(folder / name)) if (folder / name).is_file() else ""
        except LTX2Error:  # which whoever needs it tells
            continue
        if "modelopt" in stated and re.search(r'"quant_algo": "[^"]*(?:FP4|MXFP8)', stated):
            raise CheckpointError(
                f"{folder / name} says that the weights are stored in NVFP4 or MXFP8 by NVIDIA's ModelOpt, whose "
                "numbers lie in another order than those of ComfyUI's files: choose these weights in another format, "
                "or in such a file."
            )


def _instead_in(folder: Path, whose: str) -> str:
    """What to choose in place of a folder that has no safetensors files itself."""
    for pattern, advice in _INSTEAD.items():
        found = next((path for path in sorted(folder.glob(pattern)) if "mmproj" not in path.name), None)
        if found is not None:
            return advice.format(file=found.relative_to(folder), folder=found.parent.relative_to(folder))
    return f"choose the folder with {whose}"


def is_shard(name: str) -> bool:
    """Return whether a file of this name holds only some of the tensors of a model that is cut into several files; the
    first of GGUF stands for all."""
    found = re.search(r"-(\d{5})-of-\d{5}\.", name)
    return found is not None and not (found[1] == "00001" and name.lower().endswith(GGUF))


def shards_of(path: Path) -> list[Path]:
    """List the files that are one model with ``path``, as ``-00001-of-00003`` in its name says; else it alone.

    Raises MissingFileError if some of them are not there.
    """
    found = re.fullmatch(r"(.*-)\d{5}(-of-(\d{5})\.(?:gguf|safetensors))", path.name, re.IGNORECASE)
    if found is None:
        return [path]
    files = [path.with_name(f"{found[1]}{number + 1:05}{found[2]}") for number in range(int(found[3]))]
    if absent := [file.name for file in files if not isfile(file)]:
        raise MissingFileError(
            f"{path.name} is one of {len(files):,} files of a model, and {shorten_list(absent)} is missing in "
            f"{path.parent}; download the rest."
        )
    return files or [path]


def files_of(path: Path) -> list[Path]:
    """List what a model in ``path`` depends on: the file itself with those that it is one of, or the files of a folder
    and of its subfolders, which may be links."""
    if not path.is_dir():
        return shards_of(path)
    folders = [path, *filter(Path.is_dir, path.iterdir())]
    return sorted(each for folder in folders for each in folder.iterdir() if each.is_file())


def open_file(path: Path) -> TensorFile:
    """Open a file of weights; if it is one of several files of a model, all of them.

    Raises:
        MissingFileError: A file is not there.
        CheckpointError: A file is not what it has to be, or two of them hold the same tensor.
    """
    if path.name.startswith(OF_DIFFUSERS):  # whose settings lie beside it
        check_order(path.parent)
    return joined(as_one(path, [TensorFile(each) for each in shards_of(path)]))


def open_files(path: Path) -> list[TensorFile]:
    """Open a file of weights, or those of a folder: of diffusers, or of one component of it.

    Raises:
        MissingFileError: A file is not there, or the folder holds none.
        CheckpointError: A file is not what it has to be.
    """
    if not isdir(path):
        return [open_file(path)]
    parts = [path / name for name in SUBFOLDERS if (path / name).is_dir()]
    return [_open_folder(folder) for folder in parts or [path]]


def _open_folder(folder: Path) -> TensorFile:
    return joined(as_one(folder, [TensorFile(path) for path in weight_files(folder, "the weights of LTX-2")]))
