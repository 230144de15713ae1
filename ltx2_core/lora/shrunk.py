"""A LoRA that is opened with lower ranks: it is shrunk once, and kept on disk with the error that it makes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..checkpoint.kept_files import open_kept
from ..errors import CheckpointError
from ..errors.foreign import Fields, parse_json
from ..fields import Checked, Number, settings_of
from .parse import Lora, open_lora
from .shrink import SHRUNK, low_rank_layers, shrink_lora

_REVISION = 1  # grows whenever the same LoRA would be shrunk to other numbers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shrink(Checked):
    """How small a LoRA becomes when it is opened."""

    energy: Annotated[
        float,
        Number(0.1, 1, 0.05, 0.001),
        "1 takes the file as it is. Less gives each layer the lowest rank that keeps this share of its change (of the "
        "Frobenius norm), which saves memory and time: the distilled LoRA of 8.9 GB becomes about 2 GB at 0.9. Done "
        "once, which takes minutes, and kept on disk; the size and what is lost are said.",
    ] = 1.0


@dataclass(frozen=True)
class Shrunk:
    """What a file that was shrunk says of it: bytes before and after, and the share of all changes that was lost."""

    before: int
    after: int
    error: float

    @classmethod
    def of(cls, lora: Lora) -> "Shrunk | None":
        """Return what the header of ``lora`` says; None of a file that was not shrunk, or says nonsense."""
        stated = lora.file.metadata.get(SHRUNK)
        if stated is None:
            return None
        try:
            fields = Fields(parse_json(stated, SHRUNK), SHRUNK)
            return cls(int(fields.number("before", most=1e15)), lora.file.nbytes, fields.number("error", most=1))
        except CheckpointError:
            return None

    def __str__(self) -> str:
        return f"{self.before / 1e9:.3g} GB before, {self.after / 1e9:.3g} GB now, {self.error:.1%} of its change lost"


def open_shrunk(
    path: str | Path,
    shrink: Shrink,
    opened: Callable[[str | Path], Lora] = open_lora,
    on_layer: Callable[[int, int], object] = lambda done, total: None,
) -> Lora:
    """Open a LoRA with the lowest ranks that keep ``shrink.energy``: what is kept on disk, else the file is shrunk now.

    Args:
        path: a LoRA of any trainer.
        shrink: an energy of 1 opens the file itself.
        opened: ``open_lora`` or ``open_text_lora``.
        on_layer: called with (done, total) while layers are shrunk; it may raise to interrupt.

    Raises:
        SettingError: an energy that cannot be, or nothing may be kept on this machine.
        CheckpointError: the file is no LoRA, has nothing that could be shrunk, or holds NaN.
        UnreadableFileError: the disk has no room, or refuses.
    """
    lora = opened(path)
    settings_of(Shrink)["energy"].check(shrink.energy)
    if shrink.energy == 1:
        return lora

    layers = low_rank_layers(lora.file)

    def make(target: Path) -> None:
        _log.info(
            "%s is shrunk to an energy of %g, once: %d layers, of which one of rank 384 takes about a second.",
            lora.path.name,
            shrink.energy,
            len(layers),
        )
        shrink_lora(lora.path, target, shrink.energy, overwrite=True, on_layer=on_layer)

    name = lora.path.with_suffix(".safetensors").name
    scales = {layer.name: layer.scale for layer in layers}  # which a file beside it may say
    return open_kept("loras", name, (_REVISION, lora.file, scales, shrink.energy), make, opened)
