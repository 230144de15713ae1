"""What making one clip and making many have in common: models are opened, and clips written with their settings."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..checkpoint import Models, open_models
from ..checkpoint.versions import VERSIONS
from ..errors import LTX2Error, SettingError, UnreadableFileError
from ..media import write_clip
from ..media.notes import DIGEST_TAG, marked
from ..pipeline.finish import Clip
from ..pipeline.takes import Take, load_take, rescue_take, rescued_takes
from ..settings import ClipSettings
from .flags import given
from .values import Notes


def models_of(options: argparse.Namespace) -> Models:
    """Open the files of a model. Raises SettingError where nothing could read the prompts that there are."""
    models = open_models(options.checkpoint or "miniature", options.text_encoder, distilled=options.distilled)
    if models.text_encoder is None and options.latent is None and options.encoded_prompt is None:
        needed = VERSIONS[models.version].text_encoder
        raise SettingError(f"--checkpoint needs --text-encoder: {needed}.")
    return models


def write_clips(targets: Sequence[Path], clips: Sequence[Clip], notes: Notes, overwrite: bool = True) -> list[Path]:
    """Write each clip with what it says of itself, and return where they are; ``overwrite`` as for ``write_clip``."""
    return [
        write_clip(
            target,
            clip.chunks,
            clip.fps,
            clip.waveform,
            clip.sample_rate,
            metadata=notes.beside(clip.tags),
            grading=clip.grading,
            overwrite=overwrite,
        )
        for target, clip in zip(targets, clips, strict=True)
    ]


def tagged(take: Take, notes: Notes) -> Take:
    """Return a latent with what a file of its clip would say of itself."""
    return replace(take, tags=marked(notes.beside(take.tags)))


def rescued(take: Take, output: Path, other_way: str = "") -> str:
    """Keep the latent of a clip that cannot be decoded or written, and say where, and what decodes it besides.

    Empty if the disk refuses that.
    """
    try:
        return f"What was sampled is kept: generate --latent {rescue_take(take, output)} decodes it{other_way}."
    except UnreadableFileError:
        return ""


def find_rescued(output: Path, digest: str) -> tuple[Path, Take] | None:
    """Return the latent that was kept of a clip, of the settings and files that ``digest`` tells; None for none."""
    for path in rescued_takes(output):
        with suppress(LTX2Error, OSError):  # of a file that is damaged, or something else
            if (take := load_take(path)).tags.get(DIGEST_TAG) == digest:
                return path, take
    return None


def batch_size_of(options: argparse.Namespace) -> int:
    """Return how many clips are made at once."""
    return int(given(options, ClipSettings).get("batch_size", 1))


def numbered(output: Path, count: int) -> list[Path]:
    """Return ``count`` names made from ``output``, which is the only one of one."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}_{number}{output.suffix}") for number in range(1, count + 1)]
