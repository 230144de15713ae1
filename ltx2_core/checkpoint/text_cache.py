"""What prompts were encoded to, kept on disk: a repeated prompt needs no text encoder, also after a restart."""

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from .files import CheckpointError, TensorFile
from .models import Models
from .text_encoder import TextEncoderFiles

LIMIT = 2**30  # bytes on disk; a prompt takes 12 MB in bfloat16
REVISION = 1  # one more whenever the same prompt would be encoded to other numbers than before

TEXT_COMPONENTS = ("text_features", "video_connector", "audio_connector")

# What may lie beside the weights of the text encoder and changes what it makes of a prompt.
_BESIDE = ("config.json", "tokenizer.json", "tokenizer.model")

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where this program may keep what it can make again: LTX2_CACHE, else as the platform has it.

    None if LTX2_CACHE is set and empty: then nothing is kept.
    """
    if (chosen := os.environ.get("LTX2_CACHE")) is not None:
        return Path(chosen).expanduser() if chosen else None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "ltx2-av" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/ltx2-av"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx2-av"


class TextCache:
    """Tensors by prompt, in one safetensors file each; files that were not used for longest go first.

    Whatever goes wrong with the disk is logged and costs nothing but an encoding. The prompts themselves are not
    written, only their hashes.
    """

    found = "This prompt was encoded before: %s is read instead of the text encoder."

    def __init__(self, folder: str | Path | None, identity: str, limit: int = LIMIT):
        """``folder`` None keeps nothing; ``identity`` names all that the result depends on beside the prompt."""
        self._folder = None if folder is None else Path(folder)
        self._identity, self._limit = identity, limit

    def find(self, prompt: str, /) -> dict[str, Tensor] | None:
        """What ``keep`` was given for ``prompt``, on the CPU; None if that is not here, or damaged."""
        path = self._path(prompt)
        if path is None or not path.is_file():
            return None
        try:
            file = TensorFile(path)
            tensors = {key: file.get(key).clone() for key in file.entries}
            if file.metadata.get("sha256") != _digest(tensors):
                raise CheckpointError(f"{path.name} is damaged.")
            os.utime(path)
        except Exception as error:  # a damaged file can fail in any way
            _log.warning("What was kept cannot be used and will be made anew: %s", error)
            return None
        _log.info(self.found, path)
        return tensors

    def keep(self, prompt: str, /, **tensors: Tensor) -> None:
        """Remember ``tensors`` for ``prompt``; other encodings go if there is no room for all."""
        path = self._path(prompt)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})
            _prune(path.parent, self._limit)
        except OSError as error:
            _log.warning("Nothing could be kept in %s: %s", path.parent, error)

    def _path(self, prompt: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{_hash(self._identity, prompt.strip())}.safetensors"


def text_cache(
    folder: str | Path | bool | None,
    models: Models,
    encoder: TextEncoderFiles,
    dtype: torch.dtype,
    components: Sequence[str] = TEXT_COMPONENTS,
    changes: Sequence[tuple[TensorFile, str]] = (),
) -> TextCache:
    """The cache for what ``encoder`` and then ``components`` make of prompts, computing in ``dtype``.

    ``folder`` True is the user's own (``cache_folder``); False or None keeps nothing. ``changes`` are the files that
    change the components, and how.
    """
    if folder is True:
        folder = None if (root := cache_folder()) is None else root / "prompts"
    files = {models.source(name).file.path: models.source(name).file for name in components}
    place = encoder.path if encoder.path.is_dir() else encoder.path.parent
    beside = [
        there / name
        for there in (place, place / "tokenizer", place.parent / "tokenizer")
        for name in _BESIDE
        if (there / name).is_file()
    ]
    identity = _hash(
        str(REVISION),
        str(dtype),
        *components,
        *(_identity(file) for file in encoder.shards),
        *(_stamp(path) for path in beside),
        *(_identity(file) for file in files.values()),
        *(f"{_identity(file)} {how}" for file, how in changes),
    )
    return TextCache(folder or None, identity)


def _identity(file: TensorFile) -> str:
    """What tells a file from another one, wherever it lies: its header, size and time of writing."""
    header = [f"{key} {entry}" for key, entry in [*file.metadata.items(), *file.entries.items()]]
    return _hash(_stamp(file.path), *header)


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _digest(tensors: dict[str, Tensor]) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        sha256.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """The whole file or none of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        try:
            file.write(save(tensors, {"sha256": _digest(tensors)}))
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def _prune(folder: Path, limit: int) -> None:
    """Remove what was not used for longest until ``limit`` bytes are left, remains of a crash included."""
    files = [(path.stat(), path) for path in folder.glob("*") if path.suffix in (".safetensors", ".partial")]
    total = 0
    for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns, reverse=True):
        total += stat.st_size
        if total > limit:
            path.unlink(missing_ok=True)
