"""What a finished clip carries as it was given: one sound, or one picture."""

from collections.abc import Iterable

from ..errors import SettingError
from .conditions import Condition, KeepAudio, KeepVideo
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
