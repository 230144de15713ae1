"""What a finished clip carries as it was given, one sound or one video; and what it does not show of what was given."""

from collections.abc import Iterable

from .. import latents
from ..errors import SettingError
from ..geometry import ClipShape, latent_frames
from ..latents import STREAMS, AVLatent
from .conditions import Change, Condition, InitClip, KeepAudio, KeepVideo, encode_conditions
from .pictures import Picture
from .sizes import SizeOnlyEncoders
from .sources import AudioSource, VideoSource
from .state import apply_conditions


def kept_audio(conditions: Iterable[Condition]) -> AudioSource | None:
    """Return the sound that the finished clip carries as it is, None if there is none."""
    return next((condition.audio for condition in conditions if isinstance(condition, KeepAudio)), None)


def kept_video(conditions: Iterable[Condition]) -> VideoSource | None:
    """Return the frames that the finished clip carries as they are, None if there are none."""
    return next((condition.video for condition in conditions if isinstance(condition, KeepVideo)), None)


def chained(*given: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return the conditions in all of ``given``, one after the other.

    Raises SettingError for a second sound that the clip keeps, or a second video, since one of them would be lost.
    """
    chain = tuple(condition for conditions in given for condition in conditions)
    for kind, what in ((KeepAudio, "sounds"), (KeepVideo, "videos")):
        if (count := sum(isinstance(each, kind) for each in chain)) > 1:
            raise SettingError(f"The clip is given {count} {what}, and keeps one: leave the others out.")
    return chain


def not_shown(conditions: Iterable[Condition], frames: int) -> list[str]:
    """Say which of the given pictures a clip of ``frames`` frames does not show."""
    return [
        f"Of {len(each.image)} pictures at frame {each.frame} {each.shown(frames)} can be shown: from there to the end "
        "of the clip, 1 and then 8 at a time. For pictures at frames of their own there is LTX-2 Keyframes."
        for each in conditions
        if isinstance(each, Picture) and each.shown(frames) < len(each.image)
    ]


def is_replaced(conditions: Iterable[Condition], shape: ClipShape) -> bool:
    """Return whether all of a clip that is given to be changed is made anew: nothing says which part, or follows it."""
    given = tuple(conditions)
    begins = any(isinstance(each, InitClip) and each.frames_in(shape) == shape.frames for each in given)
    return begins and not any(isinstance(each, Change) for each in given)


def remade(conditions: Iterable[Condition], shape: ClipShape) -> AVLatent:
    """Return how much is made anew of a clip of ``shape`` that begins as another one; nothing is encoded.

    Args:
        conditions: that other clip, and what is made anew of it; others do not count, but a picture that takes the
            place of the first frame.
        shape: of the clip.

    Returns:
        (1, 1, F, H, W) and (1, 1, T, M) in 0..1, cells of its latents: 1 where all is new.

    Raises:
        SettingError: for a range outside the clip, or a mask of another length.
    """
    given = tuple(conditions)
    counted = [each for each in given if isinstance(each, InitClip | Change)]
    state = apply_conditions(
        latents.empty(shape), shape.fps, encode_conditions(counted, shape, STREAMS, SizeOnlyEncoders())
    )
    masks = state.map(lambda each: each.unpacked(each.mask.expand_as(each.latent))[:, :1].clone())
    assert masks.video is not None
    for each in given:
        if isinstance(each, Picture) and not each.append and each.place(shape.frames) == 0:
            masks.video[:, :, : latent_frames(each.shown(shape.frames))] = 1
    return masks
