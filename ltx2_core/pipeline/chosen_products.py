"""Which products were found to pay on a device: remembered on disk, so that the next run chooses the same."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..disk_cache import cache_folder, fingerprint, write_atomically
from ..errors import CheckpointError
from ..errors.foreign import parse_json
from ..memory.machine import identity_of

_FILE = "products.json"


def find_choice(device: torch.device, question: str) -> bool | None:
    """Return what was chosen before for ``question`` on this device and torch; None if nothing was."""
    kept = _read(_path()).get(key := _key(device, question))
    chosen = kept.get("multiplied") if isinstance(kept, dict) else None
    whole = isinstance(chosen, bool) and isinstance(kept, dict) and kept.get("digest") == fingerprint(key, chosen)
    return chosen if whole else None


def keep_choice(device: torch.device, question: str, chosen: bool) -> None:
    """Remember what was chosen, if anything may be kept."""
    if (path := _path()) is not None:
        key = _key(device, question)
        entry = {"multiplied": chosen, "digest": fingerprint(key, chosen)}
        with suppress(OSError):  # it will be timed again
            write_atomically(path, json.dumps(_read(path) | {key: entry}, indent=1).encode())


def _key(device: torch.device, question: str) -> str:
    return f"{identity_of(device)} torch {torch.__version__} {question}"


def _path() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / _FILE


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return {} if path is None else dict(parse_json(path.read_bytes(), str(path)))
    except (OSError, CheckpointError):
        return {}
