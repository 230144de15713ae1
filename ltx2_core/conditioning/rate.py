"""What is given for a clip, for a second stage at twice its frame rate: it stays at its seconds, not at its frames."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..geometry import ClipShape
from .conditions import Condition, InpaintMask, Picture, ReferenceVideo, VideoSource


def at_rate(conditions: Sequence[Condition], shape: ClipShape, final: ClipShape) -> Sequence[Condition]:
    """Return what is given for a clip of ``shape`` as it is given for the same clip at the frame rate of ``final``.

    Args:
        conditions: frames in them are those of ``shape``.
        shape: of the first stage.
        final: of the second one; its rate is a whole multiple.
    """
    times = round(final.fps / shape.fps)
    return conditions if times == 1 else [_at_rate(condition, shape, times) for condition in conditions]


def _at_rate(condition: Any, shape: ClipShape, times: int) -> Condition:
    video = getattr(condition, "video", None)
    if isinstance(video, VideoSource) and isinstance(video.source, Tensor) and video.fps is None:
        condition = replace(condition, video=replace(video, fps=shape.fps))
    if isinstance(condition, Picture):
        first = condition.frame + shape.frames if condition.frame < 0 else condition.frame
        return replace(condition, frame=first * times, image=_lasting(condition.image, times))
    if isinstance(condition, InpaintMask | ReferenceVideo) and condition.mask is not None:
        return replace(condition, mask=_lasting(condition.mask, times))
    return condition


def _lasting(frames: Tensor, times: int) -> Tensor:
    """Show each of (F, ...) for so many frames, the last for one."""
    return frames.repeat_interleave(times, dim=0)[: (len(frames) - 1) * times + 1]
