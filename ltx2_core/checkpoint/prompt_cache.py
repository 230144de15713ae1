"""Which encoded prompts are kept on disk, and when they can no longer be used."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..disk_cache import LIMIT_BYTES, DiskCache, cache_folder, fingerprint
from .files import TensorFile, file_stamp
from .models import Models
from .text_encoder import TextEncoderFiles

TEXT_ENCODING_REVISION = 2  # one more whenever the same prompt would be encoded to other numbers than before

TEXT_COMPONENTS = ("text_features", "video_connector", "audio_connector")


def prompt_cache(
    folder: str | Path | bool | None,
    models: Models,
    encoder: TextEncoderFiles,
    dtype: torch.dtype,
    components: Sequence[str],
    loras: Sequence[tuple[TensorFile, str]] = (),
    limit: int = LIMIT_BYTES,
) -> DiskCache:
    """Return the cache for encoded prompts; a repeated prompt then needs no text encoder, also after a restart.

    Args:
        folder: Where it lies; True is the user's own (``cache_folder``), False or None keeps nothing.
        models: The files that hold ``components``.
        encoder: The text encoder that reads the prompts.
        dtype: What encoder and components compute in.
        components: What follows the encoder, in order; the cache holds the output of the last.
        loras: The LoRA files that change the components, and how, from ``lora.stack.text_identity``.
        limit: How many bytes the folder may have.
    """
    if folder is True:
        folder = cache_folder("prompts")
    files = {models.source(name).file.path: models.source(name).file for name in components}

    def identity() -> str:
        return fingerprint(
            TEXT_ENCODING_REVISION,
            dtype,
            list(components),
            encoder.shards,
            [file_stamp(path) for path in encoder.companion_files()],
            list(files.values()),
            list(loras),
        )

    return DiskCache(folder or None, identity, limit_bytes=limit)
