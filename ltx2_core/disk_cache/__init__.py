"""What is kept on disk between runs: encoded prompts, finished windows, the measured machine.

A cache is only a cache: whatever goes wrong with the disk is logged, and costs no more than making the thing anew.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError
from ..errors.atomic import write_atomically

LIMIT_BYTES = 2**30  # of one folder; an encoded prompt takes 12 MB in bfloat16

# What we call a file, complete or not: nothing else in the folder is ours to remove.
_OURS = re.compile(r"[0-9a-f]{64}\.safetensors(\.[0-9a-f]+\.partial)?")

# What is logged when something is found, by the kind of cache.
_FOUND_MESSAGES = {
    "prompt": "This prompt was encoded before: %s is read instead of the text encoder.",
    "enhanced prompt": "This prompt was enhanced before: %s is read instead of writing it again.",
    "window": "This window was made before: %s is read instead.",
}

_log = logging.getLogger(__name__)


@runtime_checkable
class Identified(Protocol):
    """Something that says itself what tells it from others of its kind, such as a file by its header and age."""

    @property
    def identity(self) -> object:
        """Anything that ``fingerprint`` understands."""


def cache_folder(inside: str = "") -> Path | None:
    """Return the folder for files that can be made again: LTX2_CACHE if it is set, else the platform's own place.

    ``inside`` is what to return of it. None if LTX2_CACHE is set and empty, or for a user without a home, as in some
    containers: then nothing is kept.
    """
    if (chosen := os.environ.get("LTX2_CACHE")) is not None:
        return Path(os.path.expanduser(chosen)) / inside if chosen else None
    place = _own_place()
    return place / inside if place.is_absolute() else None


# What names the place for files that can be made again, where that is below the home otherwise, and what ours is in it.
_PLACES = {"win32": ("LOCALAPPDATA", "AppData/Local", "ltx2-av/Cache"), "darwin": ("", "Library/Caches", "ltx2-av")}
_OTHER_PLACE = "XDG_CACHE_HOME", ".cache", "ltx2-av"  # which counts only if it is absolute, by its specification


def _own_place() -> Path:
    """Where this platform has our files; not absolute without a home."""
    variable, below, own = _PLACES.get(sys.platform, _OTHER_PLACE)
    stated = Path(os.environ.get(variable, ""))
    return (stated if stated.is_absolute() else Path(os.path.expanduser("~")) / below) / own


class DiskCache:
    """Tensors by key, in one safetensors file each; files that were not used for longest go first.

    Keys are not written to disk, only their hashes, and blanks at their ends do not count.
    """

    def __init__(
        self,
        folder: str | Path | None,
        identity: str | Callable[[], str],
        kind: str = "prompt",
        limit_bytes: int = LIMIT_BYTES,
    ):
        """Describe the cache; nothing is read or made yet.

        Args:
            folder: Where the files lie; None keeps nothing.
            identity: Names all that a result depends on beside its key, or a function that finds the name when it is
                asked for first: where nothing is kept, nobody asks.
            kind: "prompt", "enhanced prompt" or "window": how a find is logged.
            limit_bytes: How large all files of the folder may become together.
        """
        self.folder = None if folder is None else Path(folder)
        self._identity, self._kind, self._limit_bytes = identity, kind, limit_bytes
        self._fails = False

    @cached_property
    def identity(self) -> str:
        """What names all that a result depends on beside its key."""
        return self._identity if isinstance(self._identity, str) else self._identity()

    def path(self, key: str) -> Path | None:
        """Return the file that holds, or would hold, the tensors of ``key``; None if nothing is kept."""
        if self.folder is None:
            return None
        return self.folder / f"{fingerprint(self.identity, key.strip())}.safetensors"

    def find(self, key: str, /) -> dict[str, Tensor] | None:
        """Return the tensors that ``keep`` was given for ``key``, on the CPU; None if there are none, or damaged ones.

        The file counts as used from now on.
        """
        path = self.path(key)
        if path is None or not os.path.isfile(path):
            return None
        try:
            tensors = self._read(path, key)
        except Exception as error:  # a damaged file can fail in any way
            _log.warning("What was kept cannot be used and will be made anew: %s", error)
            return None
        with suppress(OSError):  # of a cache that may only be read
            os.utime(path)
        _log.info(_FOUND_MESSAGES[self._kind], path)
        return tensors

    def keep(self, key: str, /, **tensors: Tensor) -> None:
        """Remember ``tensors`` for ``key``; other files go if there is no room for all."""
        path = self.path(key)
        if path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            write_atomically(path, save(tensors, {"digest": self._digest(key, tensors)}))
            _prune(path.parent, self._limit_bytes)
        except OSError as error:
            if not self._fails:  # the next one will fail for the same reason
                elsewhere = "" if self._kind == "window" else " LTX2_CACHE names another one."
                _log.warning("Nothing is kept in %s: %s%s", path.parent, error, elsewhere)
            self._fails = True

    def _read(self, path: Path, key: str) -> dict[str, Tensor]:
        """All tensors of a file, in memory of their own. CheckpointError unless they were kept so, and for ``key``."""
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("digest")
        if digest != self._digest(key, tensors):
            raise CheckpointError(f"{path.name} is damaged, or was kept for something else.")
        return tensors

    def _digest(self, key: str, tensors: Mapping[str, Tensor]) -> str:
        """The fingerprint of tensors by name, whatever their order, and of what they were made from."""
        return fingerprint(self.identity, key.strip(), dict(sorted(tensors.items())))


NOWHERE = DiskCache(None, "")  # keeps nothing


def fingerprint(*values: Any) -> str:
    """Return a hash that differs wherever one of ``values`` does, also in another process.

    Understood are numbers, words, paths, tensors, mappings, sequences, sets, dataclasses, objects with an
    ``identity`` (files of weights), and whatever is made of them; all else counts by its ``repr``.
    """
    sha256 = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            sha256.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
            # A view of bytes needs an axis.
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            sha256.update(content.numpy().tobytes())
        else:
            sha256.update(_written(value).encode("utf-8", "surrogatepass"))
        sha256.update(b"\0")
    return sha256.hexdigest()


_PLAIN = str, bytes, int, float, type(None)


def _written(value: Any) -> str:
    """Words for a value that is not a tensor; of what has parts, the hash of these."""
    if isinstance(value, _PLAIN):  # nearly all, of which the questions below would take long
        return repr(value)
    if isinstance(value, Mapping):
        return f"mapping {fingerprint(*value.keys(), *value.values())}"
    if isinstance(value, Set):
        return f"set {sorted(map(fingerprint, value))}"
    if isinstance(value, Sequence):
        return f"sequence {fingerprint(*value)}"
    if isinstance(value, Identified):
        return f"{type(value).__name__} {fingerprint(value.identity)}"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__} {fingerprint([getattr(value, field.name) for field in fields(value)])}"
    return repr(value)


def _prune(folder: Path, limit_bytes: int) -> None:
    """Remove what we did not use for longest until ``limit_bytes`` are left, remains of a crash included."""
    files, total = list[tuple[os.stat_result, Path]](), 0
    for path in folder.glob("*"):
        with suppress(OSError):  # others may prune, too
            files += [(path.stat(), path)] if _OURS.fullmatch(path.name) else []
    for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns, reverse=True):
        total += stat.st_size
        if total > limit_bytes:
            with suppress(OSError):  # Windows keeps what another program reads
                path.unlink()


Stamp = tuple[str, int, int, int]  # a file, its size, when it was written, and when it was put where it is


def stamps(paths: Sequence[Path]) -> list[Stamp]:
    """Return something that changes when one of these files, or a file in one of these folders, does.

    Another file of the same size and time of writing, as archives leave them, has another time of change (on Windows:
    of creation), which nobody sets. Numbers of files are not asked for: those of some network disks change by
    themselves. Links in folders that lead nowhere, as in a cache that was partly cleared, are left out.
    """
    inside = (filter(Path.exists, sorted(path.iterdir())) if path.is_dir() else [path] for path in paths)
    found = [(file, file.stat()) for each in inside for file in each]
    return [(str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in found]
