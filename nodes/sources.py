"""What pictures and sound come in from other nodes?"""

from fractions import Fraction
from typing import Any

from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..ltx2_core.conditioning.conditions import AudioSource, VideoSource
from ..ltx2_core.media import probe

Audio = dict[str, Any]


def picture_inputs(what: str) -> list[io.Input]:
    """``what`` as frames or as a video."""
    return [
        io.Image.Input("images", optional=True, tooltip=f"{what}, as frames: each is one frame of the clip."),
        io.Video.Input(
            "video",
            optional=True,
            tooltip=f"{what}, as a video, from Load Video: it is read piece by piece, at the frame rate of the clip.",
        ),
    ]


def footage(images: Tensor | None, video: Any) -> VideoSource:
    """What ``picture_inputs`` were given; a file is read when it is needed."""
    if (images is None) == (video is None):
        raise ValueError("Connect either images or a video to this node.")
    if images is None and (file := _file(video)):
        return VideoSource(*file)
    if images is not None:
        return VideoSource(images[..., :3])
    parts = video.get_components()
    return VideoSource(parts.images[..., :3], fps=Fraction(parts.frame_rate))


def recording(audio: Audio) -> AudioSource:
    """AUDIO as a waveform of one or two channels; of a batch the first."""
    waveform = audio["waveform"][0]
    if not waveform.shape[-1]:
        raise ValueError("This AUDIO is empty: connect a sound that lasts.")
    if len(waveform) > 2:
        waveform = waveform.mean(dim=0, keepdim=True)
    return AudioSource(waveform, audio["sample_rate"])


def sound_of(video: Any) -> AudioSource | None:
    """The sound of a VIDEO; None if it has none."""
    if file := _file(video):
        source, start, seconds = file
        return AudioSource.of(source, start, seconds) if probe(source).has_audio else None
    audio = video.get_components().audio
    return None if audio is None else recording(audio)


def _file(video: Any) -> tuple[Any, float, float | None] | None:
    """Where a VIDEO lies and what is meant of it: from when on, and for how long. None if it is not a file.

    Older versions of ComfyUI do not say what is meant; there it is decoded as a whole.
    """
    window = getattr(video, "get_active_trim_window", None)
    if window is None or not isinstance(video, InputImpl.VideoFromFile):
        return None
    start, seconds = window()
    return video.get_stream_source(), start, seconds or None
