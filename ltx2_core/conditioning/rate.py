"""What is given for a clip, for a second stage at twice its frame rate: it stays at its seconds, not at its frames."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..geometry import ClipShape
from .characters import PictureBefore
from .conditions import Condition, KeepAudio, of_second_stage
from .pictures import GeneratedKeyframes, Picture
from .sources import Numbered, VideoSource


def at_rate(conditions: Sequence[Condition], final: ClipShape, times: int) -> Sequence[Condition]:
    """Return what is given for the clip of a first stage as it is given for ``final``.

    Args:
        conditions: frames in them are those of the first stage.
        final: the same clip in the second stage.
        times: how many times the frame rate of the first stage it has.
    """
    return conditions if times == 1 else [_at_rate(condition, final, times) for condition in conditions]


def of_round(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return what is given where the frame rate is raised: the sound and the keyframes come with the latent."""
    dropped = (KeepAudio, PictureBefore)
    return tuple(each for each in of_second_stage(conditions, False) if not isinstance(each, dropped))


def _at_rate(condition: Any, final: ClipShape, times: int) -> Condition:
    video = getattr(condition, "video", None)
    if isinstance(video, VideoSource) and isinstance(video.source, Tensor | Numbered) and video.fps is None:
        condition = replace(condition, video=replace(video, fps=final.fps / times))
    if isinstance(condition, Picture):
        frames = (final.frames - 1) // times + 1
        first = condition.place(frames)
        return replace(condition, frame=first * times, image=_lasting(condition.image, times))
    if isinstance(condition, GeneratedKeyframes):
        places = condition.places((final.frames - 1) // times + 1)
        return GeneratedKeyframes(frames=", ".join(str(frame * times) for frame in places))
    masks = {name: getattr(condition, name, None) for name in ("mask", "fill")}
    lasting = {name: _lasting(x, times) for name, x in masks.items() if isinstance(x, Tensor)}
    return replace(condition, **lasting) if lasting else condition


def _lasting(frames: Tensor, times: int) -> Tensor:
    """Show each of (F, ...) for so many frames, the last for one."""
    return frames.repeat_interleave(times, dim=0)[: (len(frames) - 1) * times + 1]
