"""Frames and sound into files; a file appears when it is complete, or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import Finding, LTX2Error, MediaError, SettingError, TargetExistsError, holds_numbers
from ..errors.atomic import Naming, check_place, whole_or_nothing
from ..errors.files import check_names, not_written, plain_path
from ..errors.stopping import check_stop
from . import pyav as av
from .behind import do_behind
from .exr import BRIGHTEST, ExrEncoder
from .light import Grading, to_hlg
from .local import check_no_address
from .mix import resampled
from .notes import add_xmp, container_tags, marked, picture_tags
from .values import check_frames, check_samples, rate_of, sample_rate_of

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

LIMITED_RANGE = 1


@dataclass(frozen=True)
class VideoFormat:
    """How the frames of an MP4 file are coded.

    Attributes:
        name: what people call it.
        codec: FFmpeg's name.
        bits: of each sample.
        tags: FFmpeg's numbers for primaries, transfer and matrix (ISO/IEC 23091-2).
        weights: of red, green and blue in the luma.
        crf: the quality, lower is better.
        options: of the codec.
        tag: of the codec in the file.
    """

    name: str
    codec: str
    bits: int
    tags: tuple[int, int, int]
    weights: tuple[float, float, float]
    crf: int
    options: Mapping[str, str]
    tag: str = ""

    @property
    def pixels(self) -> str:
        """FFmpeg's name for planes of such samples."""
        return "yuv420p" if self.bits == 8 else f"yuv420p{self.bits}le"


# Measured: with its code for this CPU alone, x264 makes other bits of the same frames each time at some widths (64,
# 160, 544, 704 and 1216 pixels; x86-64). It is mbtree, for without that it does not.
SDR = VideoFormat(
    "H.264",
    "libx264",
    8,
    (1, 1, 1),
    (0.2126, 0.7152, 0.0722),
    19,
    {"preset": "veryfast", "x264-params": "cpu-independent=1"},
)
# ITU-R BT.2100 with Hybrid Log-Gamma; players of Apple take HEVC as hvc1 only. Without pictures that look ahead (B), of
# which x265 mistakes the times in clips of two frames.
HLG = VideoFormat(
    "HEVC",
    "libx265",
    10,
    (9, 18, 9),
    (0.2627, 0.678, 0.0593),
    12,
    {"preset": "veryfast", "x265-params": "log-level=error:repeat-headers=1:info=0:bframes=0"},
    "hvc1",
)

AUDIO_CODECS: dict[str, Literal["pcm_s16le", "flac"]] = {".wav": "pcm_s16le", ".flac": "flac"}
LAYOUTS = {1: "mono", 2: "stereo"}
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_clip(
    path: str | os.PathLike,
    chunks: Iterable[Tensor],
    fps: Fraction,
    waveform: Tensor | None = None,
    sample_rate: int | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    grading: Grading | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a clip as the kind of file that the name asks for; an MP4 of an odd width or height is cut by a line.

    Args:
        path: .mp4, .wav or .flac (sound only), or a name without suffix for a folder of pictures.
        chunks: Frames (F, H, W, 3) in 0..1; of HDR in the space in which they are seen.
        fps: Frames per second.
        waveform: (1 or 2, N) in -1..1; None writes no sound.
        sample_rate: Samples per second.
        metadata: Becomes tags of the file, of each picture in a folder; all say besides that a model made them.
        grading: Of HDR, which becomes an MP4 file of 10 bit in HLG, or a folder of EXR pictures; None for SDR.
        overwrite: Whether what another program writes there meanwhile goes; else this gets a number behind its name.

    Returns:
        Where it is.

    Raises:
        SettingError: For another kind of file.
        MediaError: For frames or sound that cannot be written.
        TargetExistsError: For a folder that has something in it.
    """
    check_target(path)
    suffix, naming = Path(path).suffix.lower(), Naming(Path(path), overwrite)
    if suffix in AUDIO_CODECS:
        return write_audio(path, waveform, sample_rate, metadata=metadata, naming=naming)
    if grading is None:
        if suffix == ".mp4":
            return write_video(path, _evened(chunks), fps, waveform, sample_rate, metadata=metadata, naming=naming)
        return write_frames(path, chunks, waveform, sample_rate, metadata=metadata, naming=naming)
    if suffix == ".mp4":
        signals = (to_hlg(grading.to_light(chunk)) for chunk in _evened(_finite(chunks)))
        return write_video(path, signals, fps, waveform, sample_rate, metadata=metadata, form=HLG, naming=naming)
    exr = ExrEncoder(grading.kept, fps, marked(metadata))
    frames = map(grading.to_file, chunks)
    return write_frames(path, frames, waveform, sample_rate, metadata=metadata, exr=exr, naming=naming)


def even_frames(frames: Tensor) -> tuple[Tensor, list[Finding]]:
    """Cut frames (..., H, W, 3) to an even width and height, which H.264 needs, and say so if any line is lost."""
    height, width = frames.shape[-3:-1]
    even = frames[..., : height - height % 2, : width - width % 2, :]
    if even.shape == frames.shape or not even.numel():
        return frames, []
    what = f"the given frames have {width} x {height} pixels, and a video needs even numbers"
    shown = f"the video shows {even.shape[-2]} x {even.shape[-3]} of them; resize them if each line counts."
    return even, [Finding("reading the frames", what, shown)]


def _evened(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Cut chunks of frames as ``even_frames``; the log says it once."""
    told = False
    for chunk in chunks:
        check_frames(chunk)
        even, findings = even_frames(chunk)
        if findings and not told:
            _log.warning("%s", findings[0])
            told = True
        yield even


def check_target(path: str | os.PathLike) -> None:
    """Refuse, before any work is done, a ``path`` that ``write_clip`` could not write to.

    Raises SettingError for an unknown kind of file, an address and a name that no file can have, UnreadableFileError
    for a place where nothing can be written, and TargetExistsError for a folder that has something in it.
    """
    path = check_name(path)
    if path.name.lower() in (".mp4", *AUDIO_CODECS):  # as of a variable in a script that is empty
        raise SettingError(f"{path} is only the end of a name: write one before it, such as clip{path.name}.")
    # No kind of file has an underscore: in "shot.2_00001_", as ComfyUI numbers it, the dot is one of the name.
    if path.suffix.lower() not in (".mp4", *AUDIO_CODECS, "") and "_" not in path.suffix:
        raise SettingError(
            f"{path.name}: files of the kind {path.suffix} are not written here. "
            "Use .mp4, .wav or .flac, or a name without a suffix for a folder of PNG pictures."
        )
    _refuse_a_full(path)
    check_place(path)


def check_name(path: str | os.PathLike) -> Path:
    """Return ``path``, of what can be written; SettingError for an address, and a name that no file can have."""
    checked = plain_path(path, "The file to be written")
    check_no_address(path)  # as it was written: a path has one slash for two
    path = checked
    if path.name in ("", ".."):
        raise SettingError(f"{path} is a folder that is there: give a name in it, such as {path / 'clip.mp4'}.")
    check_names(path)
    try:
        for part in (path, *map(Path, path.parts)):  # each by itself, since its folder may not be there yet
            with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                os.stat(part)
    except OSError as error:  # of a name that is too long
        reason = error.strerror
        raise SettingError(
            f"{path.name[:50]} is no name that can be written ({reason}): choose another one."
        ) from error
    return path


def check_not_given(target: Path, files: Iterable[str | os.PathLike]) -> None:
    """Raise TargetExistsError if ``target`` is one of the ``files`` that are read for it."""
    if target.exists() and any(os.path.exists(each) and os.path.samefile(target, each) for each in files):
        raise TargetExistsError(f"{target} is read for this and would be written over: choose another name.")


def write_video(
    path: str | os.PathLike,
    chunks: Iterable[Tensor],
    fps: Fraction,
    waveform: Tensor | None = None,
    sample_rate: int | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    form: VideoFormat = SDR,
    naming: Naming | None = None,
) -> Path:
    """Write an MP4 file: H.264 (yuv420p, BT.709, limited range) at exactly ``fps`` pictures a second, and AAC stereo.

    Args:
        path: The file.
        chunks: Frames (F, H, W, 3) in 0..1, which are encoded as they come; for another ``form``, its signals.
        fps: Frames per second.
        waveform: (1 or 2, N) in -1..1; None writes no sound.
        sample_rate: Samples per second.
        metadata: Becomes tags of the file.
        form: How frames are coded: by default SDR, or HLG.
        naming: Gives the file its name; None writes over what is there.

    Raises:
        MediaError: For no frames, odd sizes and NaN.
    """
    naming, fps = naming or Naming(plain_path(path, "The video")), rate_of(fps)
    sound = None if waveform is None else _for_aac(*_checked(waveform, sample_rate))
    frames = _frames(chunks)
    # The muxer holds the sound back, which is small, until the pictures of the same time have come.
    options = {"movflags": "use_metadata_tags+faststart", "max_interleave_delta": "0"}
    with _written(naming, "mp4", options) as container:
        container.metadata.update(container_tags(metadata, "mp4"))
        first = next(frames)
        video = _stream(container, first, fps, form)
        if sound is not None:
            samples, rate = sound
            audio = container.add_stream("aac", rate=rate, layout="stereo", bit_rate=192_000)
            _encode_sound(container, audio, samples, "fltp")

        def encode(number: int, frame: Tensor) -> None:
            picture = _picture(_yuv420(frame, form).cpu().numpy(), form)
            picture.pts, picture.time_base = number, 1 / fps
            container.mux(video.encode(picture))

        do_behind(encode, chain([first], frames))
        container.mux(video.encode())
    return naming.path


def write_audio(
    path: str | os.PathLike,
    waveform: Tensor | None,
    sample_rate: int | None,
    *,
    metadata: Mapping[str, str] | None = None,
    naming: Naming | None = None,
) -> Path:
    """Write a WAV or FLAC file of 16 bit, mono or stereo as ``waveform`` (1 or 2, N) is, with ``metadata`` as tags.

    Raises MediaError for no sound or NaN, and SettingError for another kind of file.
    """
    path = plain_path(path, "The sound file")
    codec = AUDIO_CODECS.get(path.suffix.lower())
    if codec is None:
        raise SettingError(f"{path.name}: sound is written as .wav or .flac, not as {path.suffix or 'a folder'}.")
    if waveform is None:
        raise MediaError(f"{path.name} is a sound file, but this clip has no sound.")
    whole, rate = _checked(waveform, sample_rate)
    samples = (whole * 32767).round().to(torch.int16)
    kind = path.suffix.lower()[1:]
    naming = naming or Naming(path)
    with _written(naming, kind) as container:
        container.metadata.update(container_tags(metadata, kind))
        stream = container.add_stream(codec, rate=rate, layout=LAYOUTS[len(samples)])
        _encode_sound(container, stream, samples.T.reshape(1, -1).numpy(), "s16")
    return naming.path


def write_frames(
    folder: str | os.PathLike,
    chunks: Iterable[Tensor],
    waveform: Tensor | None = None,
    sample_rate: int | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    exr: ExrEncoder | None = None,
    naming: Naming | None = None,
) -> Path:
    """Write a new ``folder`` with frame_00001.png and so on, of 8 bit, and beside them sound.wav if there is sound.

    All of them carry ``metadata``; EXR files have it from their encoder.

    With ``exr`` they are frame_00000.exr and so on, numbered as the official packages do it, of half-float numbers that
    may be beyond 0..1. Raises TargetExistsError if the folder has something in it, and MediaError for frames that
    cannot be written.
    """
    folder = plain_path(folder, "The folder of frames")
    _refuse_a_full(folder)
    naming = naming or Naming(folder)
    with whole_or_nothing(folder, naming=naming) as unfinished:
        unfinished.mkdir()
        if exr is not None:
            _write_light(unfinished, chunks, exr)
        else:
            _write_pictures(unfinished, chunks, metadata)
        if waveform is not None:
            write_audio(unfinished / "sound.wav", waveform, sample_rate, metadata=metadata)
        with suppress(OSError):  # of one that is not there, or that another program has filled
            folder.rmdir()  # Windows does not rename over an empty folder
    return naming.path


def _write_light(folder: Path, chunks: Iterable[Tensor], exr: ExrEncoder) -> None:
    def write(number: int, frame: Tensor) -> None:
        (folder / f"frame_{number:05}.exr").write_bytes(exr.encode(frame))

    do_behind(write, _frames(chunks, -BRIGHTEST, BRIGHTEST))


def _write_pictures(folder: Path, chunks: Iterable[Tensor], metadata: Mapping[str, str] | None) -> None:
    texts = picture_tags(metadata)

    def write(number: int, frame: Tensor) -> None:
        pixels = (frame * 255).round().to(torch.uint8).cpu().numpy()
        Image.fromarray(pixels).save(folder / f"frame_{number:05}.png", pnginfo=texts)

    do_behind(write, _frames(chunks), first=1)


def _refuse_a_full(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise TargetExistsError(f"The folder {folder} is not empty. Choose a new name, so that no picture is lost.")


def place_files(source: Path, target: Path) -> None:
    """Copy the files of one folder into another unless they are there; the log says what cannot be copied."""
    for file in source.iterdir():
        try:
            if not (target / file.name).exists():
                with whole_or_nothing(target / file.name) as unfinished:
                    shutil.copyfile(file, unfinished)
        except (OSError, LTX2Error) as error:
            _log.warning("%s cannot be put into %s: %s", file.name, target, error)


@contextmanager
def _written(naming: Naming, kind: str, options: dict[str, str] | None = None) -> Iterator[OutputContainer]:
    """Give a container of this ``kind``, which gets its name from ``naming``: that of a file, whatever it looks like.

    FFmpeg opens it by itself. Through a file of Python's it would forget what is raised while that writes: why a disk
    refuses, and Ctrl+C, after which a damaged file would be complete.
    """
    target = naming.path
    try:
        with whole_or_nothing(target, naming=naming) as unfinished:
            unfinished.touch()  # in the words of the system, if that is refused
            with av.open(f"file:{unfinished.absolute()}", "w", format=kind, options=options) as container:
                yield container
            with unfinished.open("r+b") as whole:
                add_xmp(whole, kind)
    except av.FFmpegError as error:
        raise not_written(target, error) from error


def _frames(chunks: Iterable[Tensor], least: float = 0.0, most: float = 1.0) -> Iterator[Tensor]:
    """The frames (H, W, 3) of ``chunks`` one by one, float32 from ``least`` to ``most``."""
    count = 0
    for chunk in _finite(chunks):
        check_stop()
        yield from (frame.float().clamp(least, most) for frame in chunk)
        count += len(chunk)
    if not count:
        raise MediaError("There are no frames to write.")


def _finite(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """``chunks`` as they are; MediaError for what is no frames, and for values that are no numbers."""
    count = 0
    for chunk in chunks:
        check_frames(chunk)
        if not holds_numbers(chunk):
            raise MediaError(
                f"There are NaN or infinite values in frames {count + 1} to {count + len(chunk)}, so nothing was "
                "written. Decode the latent in float32, and check the latent itself."
            )
        yield chunk
        count += len(chunk)


def _checked(waveform: Tensor, sample_rate: int | None) -> tuple[Tensor, int]:
    """``waveform`` (1 or 2, N) on the CPU, float32 in -1..1, and its rate."""
    check_samples(waveform)
    if not sample_rate:
        raise MediaError("Sound needs its sample rate, for example 24000 or 48000.")
    rate = sample_rate_of(sample_rate)
    if not waveform.isfinite().all():
        raise MediaError(
            "There are NaN or infinite values in the sound, so nothing was written. "
            "Decode the sound in float32, and check the audio latent itself."
        )
    return waveform.detach().float().cpu().clamp(-1, 1), rate


def _for_aac(waveform: Tensor, sample_rate: int) -> tuple[np.ndarray, int]:
    """Stereo samples at the next rate that AAC has (ISO/IEC 14496-3), and that rate."""
    rate = next((each for each in AAC_RATES if each >= sample_rate), AAC_RATES[-1])
    samples = waveform.expand(2, -1).numpy()
    return (samples if rate == sample_rate else resampled(samples, "stereo", "stereo", sample_rate, rate)), rate


def _stream(container: OutputContainer, frame: Tensor, fps: Fraction, form: VideoFormat) -> VideoStream:
    height, width, _ = frame.shape
    if height % 2 or width % 2:
        raise MediaError(f"{form.name} video needs an even width and height, not {width} x {height}.")
    try:
        stream: Any = container.add_stream(form.codec, rate=fps, options={"crf": str(form.crf), **form.options})
    except ValueError as error:  # some builds have no encoders under the GPL
        raise MediaError(
            f"This FFmpeg has no {form.codec}, which {form.name} video needs: install PyAV anew (pip install av)."
        ) from error
    stream.width, stream.height, stream.pix_fmt = width, height, form.pixels
    context = stream.codec_context
    context.color_primaries, context.color_trc, context.colorspace = form.tags
    context.color_range = LIMITED_RANGE
    if form.tag:
        context.codec_tag = form.tag
    return stream


def _picture(samples: np.ndarray, form: VideoFormat) -> av.Part:
    """The planes Y, Cb, Cr, one below the other, as FFmpeg takes them."""
    if form.bits == 8:
        return av.VideoFrame.from_ndarray(samples, format=form.pixels)
    height, width = samples.shape[0] * 2 // 3, samples.shape[1]
    picture = av.VideoFrame(width, height, form.pixels)
    rest = samples.reshape(-1)
    for plane in picture.planes:  # not every PyAV takes arrays of these formats
        own, rest = np.split(rest, [plane.height * plane.width])
        lines = np.frombuffer(plane, samples.dtype).reshape(-1, plane.line_size // samples.itemsize)
        lines[: plane.height, : plane.width] = own.reshape(plane.height, plane.width)
    return picture


def _encode_sound(container: OutputContainer, stream: AudioStream, samples: np.ndarray, sample_format: str) -> None:
    frame = av.AudioFrame.from_ndarray(samples, format=sample_format, layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = stream.rate, 0, Fraction(1, stream.rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _yuv420(frame: Tensor, form: VideoFormat) -> Tensor:
    """(H, W, 3) in 0..1 to the planes Y, Cb, Cr, one below the other (H * 3 / 2, W).

    ITU-R BT.709 and BT.2020: Y = 219 E + 16, C = 224 E + 128, of 8 bits. A chroma sample stands where H.264 and HEVC
    expect it: in line with the left column of its 2 x 2 pixels, halfway between their rows.
    """
    height, width, _ = frame.shape
    red, green, blue = frame.movedim(-1, 0).contiguous()
    of_red, of_green, of_blue = form.weights
    luma = of_red * red + of_green * green + of_blue * blue
    colour = torch.stack([(blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)])
    rows = colour[:, 0::2] + colour[:, 1::2]
    left, here, right = F.pad(rows, (1, 0), mode="replicate").unfold(-1, 3, 2).unbind(-1)
    chroma = (left + 2 * here + right) / 8
    unit = 2 ** (form.bits - 8)
    planes = [(unit * (219 * luma + 16)).flatten(), (unit * (224 * chroma + 128)).flatten()]
    samples = torch.cat(planes).round().to(torch.int32).view(height * 3 // 2, width)
    return samples.to(torch.uint8 if form.bits == 8 else torch.uint16)
