"""What goes through our sockets: the types, and the Python value that each one carries."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

from comfy_api.latest import Input, InputImpl, Types, io
from torch import Tensor

from ..ltx2_core.conditioning.conditions import Condition, InitClip
from ..ltx2_core.conditioning.light import ORDINARY, GivenLight
from ..ltx2_core.conditioning.sockets import NOT_ONE, check_pictures
from ..ltx2_core.conditioning.sources import AudioSource, VideoSource, samples_of
from ..ltx2_core.errors import SettingError
from ..ltx2_core.fields import check_number
from ..ltx2_core.media import probe, widened, write_clip
from ..ltx2_core.media.notes import marked, marking
from ..ltx2_core.media.provenance import check_unsigned
from ..ltx2_core.pipeline.graph.codec import audio_source
from ..ltx2_core.pipeline.graph.latents import KEYFRAMES, Conditioning, Latent
from . import host

ModelType = io.Custom("LTX2AV_MODEL")
GemmaType = io.Custom("LTX2AV_GEMMA")
MelType = io.Custom("LTX2AV_MEL")
GuidanceType = io.Custom("LTX2AV_GUIDANCE")
PlanType = io.Custom("LTX2AV_PLAN")
ConditionsType = io.Custom("LTX2AV_CONDITIONS")
WindowsType = io.Custom("LTX2AV_WINDOWS")

Chain = tuple[Condition, ...]
Video = Any  # a VIDEO of the host: of a file, or of components


def video_source(images: Tensor | None, video: Video, space: str = ORDINARY) -> VideoSource:
    """Return what frames, in this ``space``, or a VIDEO hold, just one of which is given; a file is read later."""
    if (images is None) == (video is None):
        raise SettingError(NOT_ONE)
    if images is not None:
        return VideoSource(images[..., :3], light=GivenLight(space).meant)
    if space != ORDINARY:
        raise SettingError(f"A video is read as ordinary pictures, not as {space}: set space to {ORDINARY}.")
    if file := _file_of(video):
        return VideoSource(*file)
    parts = video.get_components()
    check_number("The frame rate of the video", parts.frame_rate, 0.001, 1000)
    images = check_pictures("video", parts.images)[..., :3]
    if isinstance(video, InputImpl.VideoFromFile):
        images = widened(images, probe(video.get_stream_source()).size)
    return VideoSource(images, fps=Fraction(parts.frame_rate))


def clip_of(video: Video) -> InitClip:
    """Return a VIDEO as a clip that there is: its pictures, and its sound if it has one."""
    return InitClip(video_source(None, video), audio_of_video(video))


def audio_of_video(video: Video) -> AudioSource | None:
    """Return the sound of a VIDEO; None if it has none."""
    if file := _file_of(video):
        return AudioSource.of(*file) if probe(file[0]).has_audio else None
    audio = video.get_components().audio
    return audio_source(audio) if audio and audio["waveform"].numel() else None


def save_video(video: Video, path: Path, tags: Mapping[str, str]) -> Path:
    """Write a VIDEO as an MP4 file that says of itself ``tags``, and that a model made it.

    What is a file already is not coded anew. Raises MediaError for one that is signed.
    """
    if not isinstance(video, InputImpl.VideoFromFile):
        film, sound = video_source(None, video), audio_of_video(video)
        fps = film.fps or Fraction(24)
        return write_clip(path, film.chunks(fps, film.count(fps)), fps, *samples_of(sound), metadata=tags)
    if isinstance(source := video.get_stream_source(), str):
        check_unsigned(Path(source))
    with marking(path) as unfinished:
        video.save_to(unfinished, format=Types.VideoContainer.MP4, metadata=marked(tags))
    return path


def video_file(video: Video) -> Path:
    """Return where a VIDEO lies. Raises SettingError for one that is no file."""
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    if not isinstance(source, str):
        raise SettingError("This VIDEO is no file: connect Load Video, or LTX-2 Sign Clip.")
    return Path(source)


class _Generated(Input.Video):
    """A VIDEO whose files say that a model made it, whoever saves it or cuts it, and whatever is switched off."""

    def save_to(self, path: str | BytesIO, *settings: Any, **more: Any) -> None:
        """Save it as the host does, whole or not at all, and add the digital source type of IPTC as XMP."""
        with marking(path) as unfinished:
            super().save_to(unfinished, *settings, **more)

    def as_trimmed(self, *window: Any, **more: Any) -> Video:
        """Return what the host cuts out of it, which is a file; None where it is too short."""
        if (part := super().as_trimmed(*window, **more)) is not None:
            part.__class__ = _GeneratedFile
        return part


class GeneratedVideo(_Generated, InputImpl.VideoFromComponents):
    """A VIDEO that a model made, as its components."""


class _GeneratedFile(_Generated, InputImpl.VideoFromFile):
    """A part of it."""


def _file_of(video: Video) -> tuple[Any, float, float | None] | None:
    """Return where a VIDEO lies, from when on it is meant, and for how long; None if it is not a file.

    Older versions of ComfyUI do not say what is meant; there it is decoded as a whole.
    """
    window = getattr(video, "get_active_trim_window", None)
    if window is None or not isinstance(video, InputImpl.VideoFromFile):
        return None
    start, seconds = window()
    return video.get_stream_source(), start, seconds or None


def to_host_latent(latent: Latent) -> Latent:
    """Return a LATENT as the host passes it between nodes."""
    passed = dict(latent)
    for name in ("samples", "noise_mask"):
        if isinstance(streams := latent.get(name), tuple):
            first, *others = map(host.to_host_format, streams)
            passed[name] = host.nested(first, others[0]) if others else first
    if (keyframes := latent.get(KEYFRAMES)) is not None:
        passed[KEYFRAMES] = keyframes.map(host.to_host_format)
    return passed


def to_host_prompt(pairs: Iterable[tuple[Tensor, dict[str, Any]]]) -> Conditioning:
    """Return a CONDITIONING as the host passes it between nodes."""
    return [[host.to_host_format(tensor), extras] for tensor, extras in pairs]
