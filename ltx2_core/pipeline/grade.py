"""What the numbers of an HDR clip mean, as its model and its LoRAs have it, and how precise it is."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor

from ..checkpoint import Models
from ..checkpoint.versions import VERSIONS
from ..conditioning.light import (
    FILE_SPACES,
    MODEL_SPACES,
    Grading,
    LightDecoding,
    LightSource,
    check_light,
    holds_light,
)  # fmt: skip
from ..errors import CheckpointError, SettingError
from ..errors.foreign import shown
from ..lora import Stack
from .engine import EngineT
from .stage import VIDEO_DECODER, VIDEO_ENCODER


def grade(models: Models, loras: Stack, kept: str | None) -> Grading | None:
    """Return the spaces of an HDR clip; None for SDR.

    Args:
        models: LTX-2.5 sees light as ACEScct.
        loras: an HDR IC-LoRA, which older models need, says what its frames are.
        kept: the space of files, a key of ``FILE_SPACES``; None for SDR.

    Raises:
        SettingError: for a model that knows no HDR.
        CheckpointError: for a LoRA whose frames are of an unknown space.
    """
    if kept is None:
        return None
    stated = {lora.light: lora for lora, _ in loras if lora.light is not None}
    if (seen := next(iter(stated), VERSIONS[models.version].light)) is None:
        able = " and ".join(f"LTX-{name}" for name, version in VERSIONS.items() if version.light)
        raise SettingError(
            f"HDR needs {able}, or an HDR IC-LoRA whose header says so, and this is {models.kind}: choose one of them, "
            "or make the clip in SDR."
        )
    if seen not in MODEL_SPACES:
        raise CheckpointError(
            f"The header of {stated[seen].path.name} says hdr_transform = {shown(seen)}; known are "
            f"{', '.join(MODEL_SPACES)}: download the file again."
        )
    return Grading(MODEL_SPACES[seen], FILE_SPACES[kept])


def in_full_precision(engine: EngineT) -> EngineT:
    """Return the same engine with both video networks in float32, whose steps are finer than those of half floats."""
    return engine.in_float32((VIDEO_ENCODER, VIDEO_DECODER))


def prepare_decoding(engine: EngineT, asked: LightDecoding) -> tuple[EngineT, Callable[[Tensor], Tensor]]:
    """Return the engine to decode with, and what is done to the frames.

    Raises SettingError where light is asked of a model that knows no HDR.
    """
    grading = grade(engine.models, engine.loras, LightSource().space if asked.hdr else None)
    if grading is None:
        return engine, _same
    return in_full_precision(engine), partial(grading.to_light, wide=True)


def prepare_encoding(engine: EngineT, conditions: Iterable[Any]) -> EngineT:
    """Return the engine to encode what is given with, where nobody says whether the clip is one of HDR: light says so.

    Raises SettingError for light that the model does not see, and for light beside ordinary pictures.
    """
    if not holds_light(conditions := tuple(conditions)):
        return engine
    check_light(conditions, grade(engine.models, engine.loras, LightSource().space), takes_ordinary=False)
    return in_full_precision(engine)


def _same(frames: Tensor) -> Tensor:
    return frames
