"""Pictures and sound out of files, as streams: a long file is never held whole.

Time 0 is where the pictures of a file begin, or its sound where it has no pictures.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LTX2Error, MediaError
from . import colour
from . import pyav as av
from .length import is_cut_off
from .local import READ_ALONE, Source, name_of, open_source
from .mix import Mixer, layout_of
from .values import FASTEST, rate_of, sample_rate_of, seconds_of, whole

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

    Stream = VideoStream | AudioStream

_log = logging.getLogger(__name__)

BT601 = 5  # FFmpeg's number for the colour matrix that is meant where a file names none
ROUNDING = Fraction(1, 1000)  # of the times in a file: Matroska has milliseconds
PAUSE = Fraction(1, 10)  # in sound, or many small ones together; less is rounding
ALMOST = Fraction(1, 100)  # in the length of a file
MISSING = 1  # second, from a file that is cut off
LONGEST_PAUSE = 3600  # seconds of silence that the times of a file may ask for
MOST_FRAMES = 100_000  # that are read of one file
WIDEST = 8  # a pixel can be so many times as wide as it is high, or as high as it is wide
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # others may guess their length, and where a seek lands


@dataclass(frozen=True)
class MediaInfo:
    """The content of a media file; None for what is not there, or not said."""

    seconds: Fraction | None  # of the pictures, or else of the sound
    size: tuple[int, int] | None  # width and height of the pictures as they are seen
    fps: Fraction | None  # on average
    sample_rate: int | None

    @property
    def has_audio(self) -> bool:
        """True if there is sound."""
        return self.sample_rate is not None


def probe(source: Source) -> MediaInfo:
    """Look into a video or sound file.

    Raises MediaError if it is neither, or damaged, and MissingFileError if there is none.
    """
    with _opened(source) as container:
        video, audio = _video(container), _audio(container)
        stream, size = video or audio, None
        if stream is None:
            raise MediaError(f"{name_of(container)} has neither pictures nor sound; choose a video or a sound file.")
        if video is not None:
            first = next(container.decode(video), None)
            if first is None:
                raise MediaError(f"{name_of(container)} has no picture that can be read; save it anew.")
            size = _seen_width(container, video, first), first.height
            size = size[::-1] if _display_matrix(first)[0] else size
        return MediaInfo(
            seconds=_seconds(container, stream),
            size=size,
            fps=None if video is None else _rate(video),
            sample_rate=None if audio is None else audio.rate,
        )


def widened(frames: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return decoded frames (F, H, W, 3) as wide as they are seen, where whoever decoded them left pixels unsquare.

    Args:
        frames: in 0..1.
        size: width and height as ``probe`` says them; None, or another height, changes nothing.
    """
    height, width = frames.shape[1:3]
    if size is None or size[1] != height or size[0] == width:
        return frames
    channels_first = frames.movedim(-1, 1)
    resized = F.interpolate(channels_first, (height, size[0]), mode="bilinear", antialias=True)
    return resized.clamp(0, 1).movedim(1, -1)


def read_video(
    source: Source, *, fps: Fraction | None = None, start: float | Fraction = 0, frames: int | None = None
) -> Iterator[Tensor]:
    """Read pictures (F, H, W, 3) in 0..1, in chunks.

    For each moment k / fps the picture whose time is nearest is taken, so any rate, also a variable one, becomes
    exactly this one. Pictures are turned and widened as the file says, all as large as the first, and coloured by the
    matrix and range that it names, else BT.601. Wide gamuts (BT.2020, Display P3) are converted to BT.709, and HDR (PQ,
    HLG) is tone-mapped to SDR, which the log says. Transparency is not read. A file whose end is missing is read as far
    as it goes, if its kind allows that (MKV, WebM, AVI, FLV, TS, GIF), which the log says, too.

    Args:
        source: A path or an open file.
        fps: Pictures per second; None takes the file's own rate.
        start: The first moment, in seconds.
        frames: The most pictures; None reads to the end of the file.

    Raises:
        MediaError: If there are no pictures, if their colours are coded as ICtCp or YCgCo, or if the file is
            damaged or cut off.
        MissingFileError: If there is no such file.
        SettingError: For a number that cannot be, or a source that is no file.
    """
    with _opened(source, tell=True) as container:
        video = _video(container)
        if video is None:
            raise MediaError(f"{name_of(container)} has sound but no pictures; choose a video.")
        video.thread_type = "AUTO"
        fps, start, number = _rate(video) if fps is None else rate_of(fps), seconds_of("start", start), 0
        frames = None if frames is None else whole("frames", frames, 0, 10**9)
        scalers: defaultdict[tuple[int, int], VideoReformatter] = defaultdict(av.video.reformatter.VideoReformatter)
        for picture, until in _shown(container, video, start, fps):
            count = floor((until - start) * fps) + 1 - number
            if frames is not None:
                count = min(count, frames - number)
            elif number + count > MOST_FRAMES:
                raise MediaError(f"{name_of(container)} lasts more than {MOST_FRAMES:,} frames: cut it first.")
            if count > 0:
                if number == 0:
                    _check_colours(name_of(container), picture, _tags(video))
                    _tell_interlaced(name_of(container), picture)
                    size = _seen_width(container, video, picture), picture.height
                pixels = _pixels(picture, size, _tags(video), scalers[picture.colorspace, picture.color_range])
                yield pixels.expand(count, -1, -1, -1)
                number += count
            if number == frames:
                return
        if number == 0:
            where = f"at {float(start):g} s; start earlier" if start else "that can be read; save it anew"
            raise MediaError(f"{name_of(container)} has no picture {where}.")


def read_wide_picture(source: Source) -> Tensor | None:
    """Read a picture (1, H, W, 3) in 0..1 whose tags name a wide gamut or HDR; None for any other.

    Raises MediaError if its colours cannot be read.
    """
    try:
        with _opened(source) as container:
            picture = next(container.decode(video=0))
            tags = _tags(container.streams.video[0])
    except (MediaError, StopIteration):  # which whoever reads other pictures tells better
        return None
    if colour.is_ordinary(*tags):
        return None
    _check_colours(name_of(source), picture, tags)
    size = picture.width, picture.height
    return _pixels(picture, size, tags, av.video.reformatter.VideoReformatter(), still=True)


def read_audio(
    source: Source,
    *,
    sample_rate: int | None = None,
    start: float | Fraction = 0,
    seconds: float | Fraction | None = None,
) -> Iterator[Tensor]:
    """Read sound (2, N) in -1..1, in chunks.

    One channel is heard on both sides; more than two are mixed down as by ``mix_down``. Pauses in the times of the file
    become silence. A file whose end is missing is read as by ``read_video``; so are WAV, AIFF, MP3 and Ogg.

    Args:
        source: A path or an open file.
        sample_rate: Samples per second; None takes the file's own rate.
        start: The first moment, in seconds.
        seconds: The longest to read; None reads to the end of the file.

    Raises:
        MediaError: If there is no sound, or if the file is damaged or cut off.
        MissingFileError: If there is no such file.
        SettingError: For a number that cannot be, or a source that is no file.
    """
    with _opened(source, tell=True) as container:
        audio = _readable_audio(container)
        if (count := len(container.streams.audio)) > 1:
            place = container.streams.audio.index(audio) + 1
            _log.info("%s has %d sounds, of which the one in place %d is read.", name_of(container), count, place)
        sample_rate = audio.rate if sample_rate is None else sample_rate_of(sample_rate)
        start, number = seconds_of("start", start), 0
        wanted = None if seconds is None else round(seconds_of("seconds", seconds) * sample_rate)
        for place, samples in _heard(container, audio, start, sample_rate):
            if place - number > LONGEST_PAUSE * sample_rate:
                raise MediaError(
                    f"{name_of(container)} has a pause of more than {LONGEST_PAUSE} s: save its sound anew."
                )
            samples = F.pad(samples[:, max(0, number - place) :], (max(0, place - number), 0))
            samples = samples if wanted is None else samples[:, : wanted - number]
            if samples.shape[1]:
                yield samples
                number += samples.shape[1]
            if number == wanted:
                return
        if number == 0:
            where = f" at {float(start):g} s; start earlier" if start else ": there is not one sample in it"
            raise MediaError(f"{name_of(container)} has no sound{where}.")


@contextmanager
def _opened(source: Source, *, tell: bool = False) -> Iterator[InputContainer]:
    """The file, opened; ``tell`` lets the log say if its end is missing, of a kind that can be read without it."""
    try:
        with open_source(source) as file:
            if tell and is_cut_off(file):
                _log.warning("%s is cut off: only what is there can be read.", name_of(source))
            with av.open(file, "r", options=READ_ALONE) as container:
                yield container
    except LTX2Error:
        raise
    except (av.FFmpegError, OSError) as error:  # the system's own for a place that a damaged file names
        name = name_of(source)
        way_out = " WebP that moves is read once it is saved as GIF or MP4." if name.lower().endswith(".webp") else ""
        raise MediaError(
            f"{name} cannot be read as video or sound: it is of another kind, damaged or cut off.{way_out}"
        ) from error


def _video(container: InputContainer) -> VideoStream | None:
    """The pictures that a player shows: not the cover of an album, nor the still beside them in an AVIF that moves."""
    pictures = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
    return min(filter(_is_known, pictures), key=lambda stream: (stream.frames == 1, _is_second(stream)), default=None)


def _readable_audio(container: InputContainer) -> AudioStream:
    """The sound. Raises MediaError if there is none, or none of a known kind."""
    if (audio := _audio(container)) is not None:
        return audio
    if container.streams.audio:
        raise MediaError(f"{name_of(container)} has sound of a kind that cannot be read here; save it as WAV or MP4.")
    # FFmpeg knows single pictures as "png_pipe" and the like; those of GIF and AVIF could be films.
    is_picture = container.format.name.endswith("_pipe") or any(each.frames == 1 for each in container.streams.video)
    kind = "picture" if is_picture else "video"
    raise MediaError(f"{name_of(container)} is a {kind} without sound; choose a video that has sound, or a sound file.")


def _audio(container: InputContainer) -> AudioStream | None:
    return min(filter(_is_known, container.streams.audio), key=_is_second, default=None)


def _is_second(stream: Stream) -> bool:
    """Whether players take another stream of its kind before this one, if there is one."""
    return not stream.disposition & av.stream.Disposition.default


def _is_known(stream: Stream) -> bool:
    """Whether FFmpeg knows the codec; without one, a stream has neither a rate nor channels."""
    return stream.codec_context is not None


def _rate(video: VideoStream) -> Fraction:
    rates = (rate for rate in (video.average_rate, video.guessed_rate) if rate and rate <= FASTEST)
    return next(rates, Fraction(25))


def _seconds(container: InputContainer, stream: Stream) -> Fraction | None:
    if stream.duration is not None:
        return _time(stream, stream.duration)
    if container.duration is None:  # of what was written while it was sent, or of a picture that moves
        return _end(container, stream, Fraction(0))
    said = Fraction(container.duration, av.time_base)
    return _measured(container, stream, said) if container.format.name in INDEXED else said


def _measured(container: InputContainer, stream: Stream, said: Fraction) -> Fraction:
    """The length of one stream of Matroska, which only says when the last one ends, counted from 0 on."""
    measured = _end(container, stream, said)
    return said if measured is None or abs(said - measured) < ALMOST else measured


def _end(container: InputContainer, stream: Stream, start: Fraction) -> Fraction | None:
    """How long after its beginning a stream ends, by its packets from ``start`` on; None if nothing says it."""
    try:
        container.seek(floor(start / _time(stream, 1)), stream=stream)
    except av.FFmpegError:  # of a stream without a container, such as .h264
        return None
    last = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    return _time(stream, max(last) - (stream.start_time or 0)) if last else None


def _time(stream: Stream, ticks: int | None) -> Fraction:
    assert stream.time_base is not None
    return (ticks or 0) * stream.time_base


def _frames(container: InputContainer, stream: Stream, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """Decode ``stream`` from before ``start`` on: each frame with its time, then None with the time of the end."""
    beginning = _video(container) or stream
    origin = _time(beginning, beginning.start_time)
    _seek(container, stream, origin + start if start > 1 else None)
    end = following = Fraction(0)
    for packet in container.demux(stream):
        if packet.pts is not None and packet.duration:
            end = max(end, _time(stream, packet.pts + packet.duration) - origin)
        frames: list[Any] = packet.decode()
        for frame in frames:
            time = following if frame.pts is None else _time(stream, frame.pts) - origin
            yield time, frame
            following = time + _length(frame, stream)
    end = end or following
    _check_end(container, stream, end, origin)
    yield end, None


def _seek(container: InputContainer, stream: Stream, time: Fraction | None) -> None:
    """Go to a little before ``time`` where the file has an index; None stays at the beginning."""
    if time is not None and container.format.name in INDEXED:
        # A second early, because indexes have the times of decoding, which differ a little.
        container.seek(floor((time - 1) / _time(stream, 1)), stream=stream)


def _check_end(container: InputContainer, stream: Stream, end: Fraction, origin: Fraction) -> None:
    """Raise MediaError if the file ends at ``end``, earlier than it says."""
    due = _time(stream, (stream.start_time or 0) + (stream.duration or 0)) - origin
    if container.format.name in INDEXED and end < due - MISSING:
        raise MediaError(f"{name_of(container)} is cut off: it says that it lasts {float(due):.1f} s, but ends before.")


def _length(frame: Any, stream: Stream) -> Fraction:
    return 1 / _rate(stream) if stream.type == "video" else Fraction(frame.samples, frame.sample_rate)


def _shown(
    container: InputContainer, video: VideoStream, start: Fraction, fps: Fraction
) -> Iterator[tuple[VideoFrame, Fraction]]:
    """Decode every picture, with the moment until which it is the nearest one.

    After the end of the file, none is: a moment counts if half of 1 / ``fps`` lies before it. ``start`` always counts.
    """
    before, rate = None, _rate(video)
    for time, picture in _frames(container, video, start):
        regular = Fraction(round(time * rate)) / rate
        time = regular if abs(time - regular) <= ROUNDING else time
        if before is not None:
            shown, began = before
            end = time - 1 / fps / 2 if time <= start else max(start, time - 1 / fps / 2)
            yield shown, (began + time) / 2 if picture is not None else end
        before = picture, time


def _tags(video: VideoStream) -> tuple[int, int]:
    """The numbers of primaries and transfer that the codec says, of which pictures know nothing before PyAV 17."""
    context = video.codec_context
    return context.color_primaries, context.color_trc


def _check_colours(name: str, picture: VideoFrame, tags: tuple[int, int]) -> None:
    """Say that HDR is tone-mapped; raise MediaError for colours that cannot be read."""
    hdr = colour.HDR.get(tags[1])
    if picture.colorspace not in (colour.HDR_MATRICES if hdr else colour.MATRICES):
        kind = f"HDR ({hdr})" if hdr else "a video"
        raise MediaError(
            f"{name} is {kind} whose colours are coded in a way that cannot be read here (such as ICtCp, YCgCo, or one "
            "of constant luminance): convert it to SDR (BT.709) first, for example with HandBrake."
        )
    if hdr:
        _log.info("%s is HDR (%s): it is tone-mapped to SDR (BT.709).", name, hdr)


def _tell_interlaced(name: str, picture: VideoFrame) -> None:
    if picture.interlaced_frame:
        _log.warning(
            "%s is interlaced and read as it is, with two moments in the lines of each picture: deinterlace it first, "
            "for example with HandBrake.",
            name,
        )


def _seen_width(container: InputContainer, video: VideoStream, picture: VideoFrame) -> int:
    """The width at which a picture is shown, before it is turned; pixels of anamorphic video are not square."""
    shape = video.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, WIDEST) <= shape <= WIDEST:
        raise MediaError(
            f"{name_of(container)} says that its pixels are {float(shape):g} times as wide as high: save it anew with "
            "square pixels."
        )
    return max(1, round(picture.width * shape))


def _display_matrix(picture: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether rows and columns of a picture change places before it is shown, and which sides then do: left and right,
    top and bottom. Other turns than by quarters count as the nearest of these."""
    try:
        said: av.Part = picture.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    except ValueError:  # of PyAV where a picture has notes of a kind that it does not know, such as Exif
        quarters = picture.rotation // 90 % 4
        return quarters in (1, 3), quarters in (2, 3), quarters in (1, 2)
    if said is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(said, np.int32)[:5].tolist()  # x becomes a x + c y, y becomes b x + d y
    lies = abs(b) + abs(c) > abs(a) + abs(d)
    return lies, (c if lies else a) < 0, (b if lies else d) < 0


def _pixels(
    picture: VideoFrame, size: tuple[int, int], tags: tuple[int, int], scaler: VideoReformatter, still: bool = False
) -> Tensor:
    """(1, H, W, 3) in 0..1, of BT.709, upright; ``size`` is the width and height at which it is shown, before that.

    Linear light is coded as for a screen of video, or by sRGB where the picture is a ``still``. What ``scaler``
    prepares takes longer than a picture, and is kept for pictures of the same matrix and range.
    """
    ordinary, matrix = colour.is_ordinary(*tags), picture.colorspace
    if tags[1] in colour.HDR and matrix == colour.UNKNOWN:
        matrix = colour.BT2020
    # With a target matrix, which RGB does not have, all versions of PyAV go by that of the picture.
    # FFmpeg rounds more than 8 bits down on their way to 8, and makes 0xFF00 of a white that is not RGB.
    rgb, bits = picture.format.is_rgb, picture.format.components[0].bits
    deep = bits > 8 and not (ordinary and (rgb or len(picture.format.components) < 3))
    form, most = ("rgb48le", 65535 if rgb else 0xFF00) if deep else ("rgb24", 255)
    coded = scaler.reformat(
        picture,
        width=size[0],
        height=size[1],
        format=form,
        src_colorspace=matrix,
        dst_colorspace=BT601,
        src_color_range=picture.color_range,
    ).to_ndarray()
    lies, mirrored, upside_down = _display_matrix(picture)
    turned = coded.swapaxes(0, 1) if lies else coded
    upright = turned[:: -1 if upside_down else 1, :: -1 if mirrored else 1].astype(np.float32)
    pixels = torch.from_numpy(upright).div_(most).clamp_(max=1)[None]
    return pixels if ordinary else colour.to_bt709(pixels, *tags, srgb=still)


def _heard(
    container: InputContainer, audio: AudioStream, start: Fraction, sample_rate: int
) -> Iterator[tuple[int, Tensor]]:
    """Pieces (2, N) of sound, each with its place in samples after ``start``."""
    if audio.channels > 2:
        audio.codec_context.layout = layout_of(audio.channels, audio.layout.name)
    # 32-bit integers, because FFmpeg would lower one channel of floating-point numbers. Those that were saved as such
    # may be louder than integers can say, or no numbers at all.
    loud = audio.codec_context.name.startswith("pcm_f")
    form, full = ("flt", 1) if loud else ("s32", 2**31)
    mixer = Mixer(form, full, sample_rate)
    place, following = None, Fraction(0)
    least = ROUNDING  # MP4 without an edit list makes its first packet longer, where the rest of the sound begins later
    for time, frame in _frames(container, audio, start):
        if place is None:
            place, following = round((time - start) * sample_rate), time
        elif frame is not None:
            if not -PAUSE <= time - following <= least:
                place += max(0, round((time - following) * sample_rate))
                following = time
            least = PAUSE
        for samples in mixer.mix(frame):
            yield place, samples.expand(2, -1)
            place += samples.shape[1]
        if frame is not None:
            following += _length(frame, audio)
