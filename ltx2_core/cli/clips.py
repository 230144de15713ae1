"""What making one clip and making many have in common: models are opened, and clips written with their settings."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint import Models, open_models
from ..checkpoint.versions import VERSIONS
from ..errors import SettingError, UnreadableFileError
from ..media import write_clip
from ..media.notes import marked
from ..pipeline.finish import Clip
from ..pipeline.takes import Take, rescue_take
from ..settings import ClipSettings
from .flags import given
from .values import Values, notes_of


def models_of(options: argparse.Namespace) -> Models:
    """Open the files of a model. Raises SettingError where nothing could read the prompts that there are."""
    models = open_models(options.checkpoint or "miniature", options.text_encoder, distilled=options.distilled)
    if models.text_encoder is None and options.latent is None and options.encoded_prompt is None:
        needed = VERSIONS[models.version].text_encoder
        raise SettingError(f"--checkpoint needs --text-encoder: {needed}.")
    return models


def write_clips(
    targets: Sequence[Path], clips: Sequence[Clip], values: Values, models: Models, digest: str
) -> list[Path]:
    """Write each clip with what it says of itself; ``values`` are the settings that were written."""
    return [
        write_clip(
            target,
            clip.chunks,
            clip.fps,
            clip.waveform,
            clip.sample_rate,
            metadata=tags_of(clip.tags, values, models, digest),
            grading=clip.grading,
        )
        for target, clip in zip(targets, clips, strict=True)
    ]


def tags_of(tags: Mapping[str, str], values: Values, models: Models, digest: str) -> dict[str, str]:
    """Return what a file says of itself: ``tags`` of its clip and its settings, unless they are switched off."""
    return {**(tags if values.get("metadata") is not False else {}), **notes_of(values, models.kind, digest)}


def tagged(take: Take, values: Values, models: Models, digest: str) -> Take:
    """Return a latent with what a file of its clip would say of itself."""
    return replace(take, tags=marked(tags_of(take.tags, values, models, digest)))


def rescued(take: Take, output: Path) -> str:
    """Keep the latent of a clip that cannot be decoded or written, and say where; empty if the disk refuses that."""
    try:
        return f"What was sampled is kept: generate --latent {rescue_take(take, output)} decodes it."
    except UnreadableFileError:
        return ""


def batch_size_of(options: argparse.Namespace) -> int:
    """Return how many clips are made at once."""
    return int(given(options, ClipSettings).get("batch_size", 1))


def numbered(output: Path, count: int) -> list[Path]:
    """Return ``count`` names made from ``output``, which is the only one of one."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}_{number}{output.suffix}") for number in range(1, count + 1)]
