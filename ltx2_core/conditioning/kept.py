"""What a finished clip carries as it was given, one sound or one video; and what it does not show of what was given."""

from collections.abc import Iterable

from ..errors import SettingError
from ..geometry import ClipShape
from .conditions import Change, Condition, InitClip, KeepAudio, KeepVideo
from .pictures import Picture
from .sources import AudioSource, VideoSource


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
