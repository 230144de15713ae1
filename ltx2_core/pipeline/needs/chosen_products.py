"""Which products were found to pay on a device: remembered on disk, so that the next run chooses the same."""

import torch

from ...disk_cache import cache_folder
from ...disk_cache.remembered import Remembered
from ...memory.machine import identity_of


def find_choice(device: torch.device, question: str) -> bool | None:
    """Return what was chosen before for ``question`` on this device and torch; None if nothing was."""
    chosen = _choices().find(_key(device, question))
    return chosen if isinstance(chosen, bool) else None


def keep_choice(device: torch.device, question: str, chosen: bool) -> None:
    """Remember what was chosen, if anything may be kept."""
    _choices().keep(_key(device, question), chosen)


def _choices() -> Remembered:
    return Remembered(cache_folder(), "products.json", "multiplied")


def _key(device: torch.device, question: str) -> str:
    return f"{identity_of(device)} torch {torch.__version__} {question}"
