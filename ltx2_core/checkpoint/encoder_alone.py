"""A text encoder by itself, with what it sees pictures by: what writes prompts need not be what reads them."""

from functools import cached_property
from pathlib import Path
from typing import Any

from .files import TensorFile
from .models import Models, Source
from .text_encoder import open_text_encoder

VISION = "vision_encoder"  # the component that sees pictures


class EncoderAlone(Models):
    """A text encoder without a model; its only component is what it sees pictures by."""

    def __init__(self, text_encoder: str | Path, sees: bool = False):
        """Open nothing yet, unless it ``sees`` pictures.

        Raises:
            SettingError: It has no part for pictures.
        """
        self.files, self.sources, self.duration_head, self._distilled = (), {}, None, None
        self.text_encoder, self.version, self._unknown = Path(text_encoder), "", {}
        if sees:
            files = open_text_encoder(text_encoder)
            variant, names = files.vision
            self.files, self._stated = (files.file,), files.stated
            self.sources = {VISION: Source(files.file, names, variant)}

    @cached_property
    def config(self) -> dict[str, Any]:
        """What Gemma's own config says; nothing where no picture is seen, or the file says nothing."""
        return dict(self._stated.content) if self.sources and self._stated is not None else {}

    def unknown(self, file: TensorFile) -> list[str]:
        """List nothing: what is not of the part for pictures is of the text model, which checks its own."""
        return []
