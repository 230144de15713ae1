"""Files of diffusers in which queries, keys and values are three matrices where the official file has one."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..disk_cache.mapped import FileSpan
from .entries import Entry
from .files import TensorFile

# In the diffusion decoder and in the duration head; the transformer has three matrices in official files, too.
_QUERY = re.compile(r"(.*\.attn|attention_pooler)\.to_q\.(weight|bias)")


class JoinedFile(TensorFile):
    """Such a file as if each three of them were one, ``qkv``."""

    def __init__(self, file: TensorFile, joined: dict[str, tuple[str, ...]]):
        """Take ``file`` with ``joined``, new names and those of the tensors that are behind one another in them."""
        self.path, self.metadata = file.path, file.metadata
        self._file, self._joined = file, joined
        behind = {name for names in joined.values() for name in names}
        self.entries = {key: entry for key, entry in file.entries.items() if key not in behind}
        for key, names in joined.items():
            entries = [file.entries[name] for name in names]
            shape = sum(entry.shape[0] for entry in entries), *entries[0].shape[1:]
            self.entries[key] = Entry(entries[0].dtype, shape, sum(entry.nbytes for entry in entries))

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells the file from others."""
        return self._file.identity

    def get(self, key: str) -> Tensor:
        """Return the tensor ``key``: a copy if it is joined, else backed by the file."""
        if key not in self._joined:
            return self._file.get(key)
        return torch.cat([self._file.get(name) for name in self._joined[key]])

    def spans(self, keys: Iterable[str]) -> list[FileSpan]:
        """Return where the bytes of these tensors lie, those of the three where they are joined."""
        return self._file.spans(name for key in keys for name in self._joined.get(key, (key,)))

    @property
    def tokenizer_inside(self) -> tuple[str, bytes] | None:
        """As the file's own."""
        return self._file.tokenizer_inside


def joined(file: TensorFile) -> TensorFile:
    """Return ``file``, with queries, keys and values as one tensor each where official files have them so.

    What is quantised, or does not fit together, stays as it is, which loading tells.
    """
    found = {}
    for key in file.entries:
        if match := _QUERY.fullmatch(key):
            module, leaf = match.groups()
            names = tuple(f"{module}.to_{each}.{leaf}" for each in "qkv")
            if _fit(file, names):
                found[f"{module}.qkv.{leaf}"] = names
    return JoinedFile(file, found) if found else file


def _fit(file: TensorFile, names: tuple[str, ...]) -> bool:
    kinds = {(entry.dtype, entry.shape[1:]) for name in names if (entry := file.entries.get(name)) is not None}
    plain = all(name in file.entries and file.with_companions(name) == [name] for name in names)
    return plain and len(kinds) == 1 and all(file.entries[name].shape for name in names)
