"""Small answers that took time to find, such as how fast a machine is: kept in a file of JSON, each by its key."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..errors.atomic import write_atomically
from ..errors.foreign import parse_json
from . import fingerprint


class Remembered:
    """The answers in one file, each with a digest: what was changed or damaged is not found, and so found out anew."""

    def __init__(self, folder: Path | None, file: str, kind: str):
        """Describe the file; nothing is read yet.

        Args:
            folder: where it lies; None remembers nothing.
            file: its name.
            kind: what the answers are, as the file calls them.
        """
        self._path, self._kind = None if folder is None else folder / file, kind

    def find(self, key: str) -> object:
        """Return the answer for ``key``; None if there is none."""
        return self._read().get(key, {}).get(self._kind)

    def keep(self, key: str, answer: object) -> None:
        """Remember ``answer``, which JSON can hold, for ``key``."""
        self._write(self._read() | {key: {self._kind: answer, "digest": fingerprint(key, answer)}})

    def forget(self, begin: str) -> None:
        """Forget the answers for all keys that begin so."""
        self._write({key: entry for key, entry in self._read().items() if not key.startswith(begin)})

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = {} if self._path is None else parse_json(self._path.read_bytes(), str(self._path))
        except (OSError, CheckpointError):
            return {}
        return {key: entry for key, entry in found.items() if self._is_whole(key, entry)}

    def _is_whole(self, key: str, entry: object) -> bool:
        return isinstance(entry, dict) and entry.get("digest") == fingerprint(key, entry.get(self._kind))

    def _write(self, entries: dict[str, dict[str, Any]]) -> None:
        if self._path is not None:
            with suppress(OSError):  # it will be found out again
                write_atomically(self._path, json.dumps(entries, indent=1).encode())
