"""As long as the prompt needs: the duration head of 2.5 reads the contexts of the prompt before the clip is planned.

Or as long as a sound or a video that is given.
"""

import logging
from dataclasses import replace

from ..checkpoint import Models
from ..checkpoint.duration_head import DurationHeadFile
from ..conditioning.sources import AudioSource, VideoSource
from ..errors import MissingFileError, SettingError, counted
from ..fields import settings_of
from ..geometry import covering_frames, nearest_frames, predicted_frames
from ..settings import AS_GIVEN, AS_PROMPT, AUTO, STREAM_CHOICES, ClipSettings, Request
from ..text import Contexts
from ..text.duration import predict_seconds
from .encode_text import EncodeText, contexts_cache
from .engines.local import LocalEngine
from .stage import Events

_log = logging.getLogger(__name__)


def head_of(models: Models) -> DurationHeadFile:
    """Return the duration head of a model. Raises MissingFileError if it has none."""
    if models.duration_head is None:
        raise MissingFileError(
            f"length is {AS_PROMPT}, and there is no duration head: put that of LTX-2.5, such as "
            "ltx-2.5-duration-head-bf16.safetensors of huggingface.co/Lightricks/LTX-2.5, into models/model_patches, "
            "or give it with --checkpoint and the rest; without it, choose the length of the "
            f"{models.kind} clip yourself."
        )
    return models.duration_head


def fit_length(clip: ClipSettings, models: Models, contexts: Contexts) -> ClipSettings:
    """Return the settings with as many frames as the prompt needs, and log them.

    Args:
        clip: Its frame rate, streams, and shortest and longest length count.
        models: The model, with a duration head.
        contexts: Those of the positive prompt.

    Raises:
        MissingFileError: There is no duration head.
        CheckpointError: It cannot be read.
    """
    seconds = predict_seconds(head_of(models).build(), contexts, STREAM_CHOICES[clip.streams])
    frames = predicted_frames(seconds, clip.fps, clip.least_seconds, clip.most_seconds)
    _log.info("The prompt needs %.1f s: %s at %g fps.", seconds, counted(frames, "frame"), float(clip.fps))
    return clip.lasting(frames)


def follow_given(clip: ClipSettings, sound: AudioSource | None, video: VideoSource | None) -> ClipSettings:
    """Return the settings as long as what is given, where they follow it: a sound counts before a video.

    ``auto`` follows a sound, unless it has seconds. A sound is not cut off: up to seven frames more are made.

    Raises:
        SettingError: It is longer than a clip can be.
    """
    is_free = clip.length == AUTO and not clip.seconds
    if sound is not None and (is_free or clip.length == AS_GIVEN):
        return _lasting(clip, covering_frames(sound.seconds * float(clip.fps)), "sound")
    if video is not None and clip.length == AS_GIVEN:
        return _lasting(clip, nearest_frames(video.count(clip.fps)), "video")
    return clip


def _lasting(clip: ClipSettings, frames: int, given: str) -> ClipSettings:
    try:
        settings_of(ClipSettings)["frames"].check(frames)
    except SettingError as error:
        raise SettingError(
            f"The {given} lasts {float(frames / clip.fps):.1f} s, longer than a clip can be: take a part of it, or "
            f"choose the length of the clip. {error}"
        ) from None
    return clip.lasting(frames)


def with_length(models: Models, request: Request, events: Events) -> Request:
    """Return the request with a length in frames, where it asks for what the prompt needs; else as it is.

    Encoded prompts are kept as for the clip itself, so that they need not be read twice.

    Args:
        models: The opened files.
        request: What is asked.
        events: Whom to tell.

    Raises:
        MissingFileError: There is no duration head.
        CheckpointError: It cannot be read.
    """
    if not request.clip.follows_prompt:
        return request
    engine = LocalEngine(models, request.resources, events, request.loras)
    cache = contexts_cache(engine, request.resources.cache)
    contexts = EncodeText.of([request.prompt], cache, engine, request.encoded).run(engine, cache)
    return replace(request, clip=fit_length(request.clip, models, contexts[request.prompt]))
