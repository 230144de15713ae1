"""What is read is what was meant: the right picture at the right time, upright, in its colours, with its sound."""

import io
import os
import re
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from timed_media import heard, mux, numbered, numbers, ramp

from ltx2_core.cli.syntax import read_text
from ltx2_core.conditioning import VideoSource
from ltx2_core.errors import MediaError, SettingError, UnreadableFileError
from ltx2_core.media import probe, read, read_audio, read_picture, read_video, write_audio, write_video

NTSC = Fraction(24000, 1001)


def nearest(times: list[Fraction], moment: Fraction) -> int:
    return min(range(len(times)), key=lambda number: abs(times[number] - moment))


# Time


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("source", "fps"),
    [(24, 24), (24, 12), (24, 48), (24, 25), (25, 24), (30, 24), (60, 24), (NTSC, 24), (24, NTSC), (NTSC, 30)],
)
@pytest.mark.slow
def test_any_rate_becomes_any_other_by_the_nearest_picture(tmp_path, suffix, source, fps):
    count, length = 3 * round(source), 3 * round(source) / Fraction(source)
    times = [number / Fraction(source) for number in range(count)]
    path = mux(tmp_path / f"clip.{suffix}", list(range(count)), 1 / Fraction(source))
    for start in (0, Fraction(1, 3), Fraction(13, 5)):
        moments = [start + number / Fraction(fps) for number in range(200)]
        expected = [nearest(times, moment) for moment in moments if moment + Fraction(1, 2) / fps <= length]
        assert numbers(read_video(path, fps=Fraction(fps), start=start)) == expected


def test_what_prepares_a_conversion_is_made_once_for_all_pictures(tmp_path, monkeypatch):
    made, real = [], av.video.reformatter.VideoReformatter
    monkeypatch.setattr(av.video.reformatter, "VideoReformatter", lambda: made.append(real()) or made[-1])
    path = mux(tmp_path / "clip.mkv", [0, 1, 2, 3], Fraction(1, 25))
    assert numbers(read_video(path)) == [0, 1, 2, 3] and len(made) == 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_becomes_a_constant_one(tmp_path, suffix):
    path = mux(tmp_path / f"clip.{suffix}", [0, 40, 55, 200, 210, 800, 840])
    # Moments are 0, 100, 200 ... ms.
    assert numbers(read_video(path, fps=Fraction(10))) == [0, 2, 3, 4, 4, 4, 5, 5, 5]


def test_a_video_shorter_than_half_a_moment_is_one_picture(tmp_path):
    path = mux(tmp_path / "clip.mkv", [0, 1, 2], last=1)
    assert numbers(read_video(path, fps=Fraction(24))) == [0] and VideoSource(path).count(Fraction(24)) == 1
    assert VideoSource(torch.zeros(1, 32, 32, 3), fps=Fraction(100)).count(Fraction(1)) == 1
    with pytest.raises(MediaError, match="no picture at 1 s; start earlier"):
        numbers(read_video(path, fps=Fraction(24), start=1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_last_picture_stays_as_long_as_the_file_says(tmp_path, suffix):
    path = mux(tmp_path / f"clip.{suffix}", [0, 40, 80], last=520)
    assert numbers(read_video(path, fps=Fraction(10))) == [0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.sample(1)
def test_a_file_at_its_own_rate_is_every_picture_once(tmp_path, suffix):
    codec = "ffv1" if suffix == "avi" else "libx264"
    path = mux(tmp_path / f"clip.{suffix}", list(range(50)), Fraction(1, 25), codec)
    assert numbers(read_video(path)) == list(range(50))
    assert numbers(read_video(path, start=1.2, frames=5)) == [30, 31, 32, 33, 34]
    assert numbers(read_video(path, start=1.2, frames=50)) == list(range(30, 50))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(("first", "sound_from", "sound_for"), [(0, 0, 5), (12, 0, 1), (240, 240, 2), (0, 24, 3)])
@pytest.mark.sample(1)
def test_pictures_last_as_long_as_they_do_whatever_else_is_in_the_file(tmp_path, suffix, first, sound_from, sound_for):
    """Sound that lasts longer, a late start of either or both: Matroska only says when the last one ends."""
    sound, unit = ramp(48000 * sound_for), Fraction(1, 24)
    starts = tuple(range(sound_from, sound_from + 24 * sound_for, 3))
    path = mux(tmp_path / f"clip.{suffix}", list(range(first, first + 48)), unit, sound=sound, sound_times=starts)
    assert VideoSource(path).count(Fraction(24)) == 48 == len(numbers(read_video(path)))
    assert VideoSource(io.BytesIO(path.read_bytes())).count(Fraction(24)) == 48


def test_a_rate_that_cannot_be_is_not_believed(tmp_path):
    """DV says 60000 pictures per second."""
    path = tmp_path / "tape.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame(720, 576, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe(path).fps == 25 and sum(map(len, read_video(path))) == 5


@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p16le", "gbrp10le"])
def test_video_of_more_bits_is_as_bright_as_one_of_8(tmp_path, form):
    """FFmpeg alone makes 10 bits two levels of 255 darker than 8."""
    path, levels = tmp_path / "clip.mkv", (0, 40, 128, 200, 255)
    pixels = np.array(levels, np.uint8).repeat(16)[None, :, None].repeat(32, 0).repeat(3, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 80, 32, form
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    shown = next(read_video(path))[0, 16, 8::16] * 255
    assert (shown - torch.tensor(levels)[:, None]).abs().max() < 1.01 and shown.max() <= 255


def test_pictures_without_times_follow_their_rate(tmp_path):
    path = mux(tmp_path / "clip.h264", list(range(50)), Fraction(1, 25))
    assert numbers(read_video(path, start=1.2, frames=5)) == [30, 31, 32, 33, 34]


def test_pictures_that_change_their_size_are_all_as_large_as_the_first(tmp_path):
    """As where a broadcast goes from one film to the next."""
    paths = [tmp_path / f"{width}.h264" for width in (64, 128)]
    for path, width in zip(paths, (64, 128)):
        write_raw(path, width)
    (tmp_path / "both.h264").write_bytes(b"".join(path.read_bytes() for path in paths))
    found = torch.cat(list(read_video(tmp_path / "both.h264")))
    assert found.shape == (6, 32, 64, 3)
    assert (found[3:] - found[:3]).abs().mean() < 0.01


def test_pictures_that_a_camera_has_noted_something_in_are_read(tmp_path):
    """MJPEG with Exif, which PyAV does not know; newer FFmpeg turns pictures by it."""
    notes, picture = Image.Exif(), np.zeros((32, 64, 3), np.uint8)
    notes[0x112], picture[:16, :32] = 6, 255
    Image.fromarray(picture).save(path := tmp_path / "clip.jpg", exif=notes, quality=100)
    found, expected = next(read_video(path))[0], torch.from_numpy(picture) / 255
    expected = expected if found.shape == expected.shape else expected.rot90(-1)
    assert (found - expected).abs().mean() < 0.02


def write_raw(path: Path, width: int) -> None:
    """Three pictures whose left half is white."""
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, width // 2, "yuv444p"
        pixels = np.zeros((width // 2, width, 3), np.uint8)
        pixels[:, : width // 2] = 255
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
def test_a_long_file_is_never_held_whole(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", [numbered(200)], Fraction(25))
    made, original = [], read._pixels

    def pixels(*picture):
        frame = original(*picture)
        made.append(weakref.ref(frame.untyped_storage()))
        return frame

    monkeypatch.setattr(read, "_pixels", pixels)
    most = max(sum(each() is not None for each in made) for _ in read_video(path))
    assert most <= 2 and len(made) == 200
    made.clear()
    next(read_video(path, start=4))
    assert len(made) == 1, "pictures before the start are not even converted"


# Looks


def encoded(path: Path, pixels: np.ndarray, codec: str, pix_fmt: str, matrix: int, limits: int) -> Path:
    """Three equal pictures, coded with a matrix (1 = BT.709, 5 = BT.601, 9 = BT.2020) and range (1 limited, 2 full)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={"crf": "1", "x265-params": "log-level=none:bframes=0"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, limits
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=limits)
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "matrix", "limits"),
    [
        ("libx264", "yuv420p", 1, 1),
        ("libx264", "yuv420p", 1, 2),
        ("libx264", "yuv420p", 5, 1),
        ("libx264", "yuv444p", 1, 1),
        ("libx265", "yuv420p10le", 1, 1),
        ("libx265", "yuv420p10le", 1, 2),
        ("libx265", "yuv420p10le", 9, 1),
    ],
)
def test_colours_are_those_that_were_meant(tmp_path, codec, pix_fmt, matrix, limits):
    colours = np.array([[200, 40, 60], [30, 180, 90], [50, 60, 220], [255, 255, 255], [0, 0, 0]], np.uint8)
    pixels = np.repeat(colours, 32, 0)[None].repeat(64, 0)
    path = encoded(tmp_path / "clip.mp4", pixels, codec, pix_fmt, matrix, limits)
    for frame in read_video(path):
        assert np.abs(255 * frame[0, 32, 16::32].numpy() - colours).max() <= 4


def turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Let the track header of an MP4 file say that the pictures are to be turned."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (np.array(value << 16, ">i4").tobytes() for value in matrix)
    data[place : place + 36] = a + b + bytes(4) + c + d + bytes(4) + bytes(8) + np.array(1 << 30, ">i4").tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turns", "mirrored"),
    [
        ((1, 0, 0, 1), 0, False), ((0, 1, -1, 0), -1, False), ((-1, 0, 0, -1), 2, False), ((0, -1, 1, 0), 1, False),
        ((-1, 0, 0, 1), 0, True), ((1, 0, 0, -1), 2, True), ((0, 1, 1, 0), -1, True), ((0, -1, -1, 0), 1, True),
        ((0, 0, 0, 0), 0, False),
    ],
)  # fmt: skip
def test_a_telephone_held_upright_makes_upright_pictures(tmp_path, matrix, turns, mirrored):
    """Those of the camera that looks at its owner may be mirrored."""
    picture = torch.zeros(32, 64, 3)
    picture[:16, :32] = 1
    picture[:16, 32:, 0] = 1
    path = write_video(tmp_path / "clip.mp4", [picture.expand(3, -1, -1, -1)], Fraction(24))
    turned(path, matrix)
    expected = torch.rot90(picture, turns)
    expected = expected.flip(1) if mirrored else expected
    for frame in read_video(path):
        assert (frame[0] - expected).abs().mean() < 0.02
    assert probe(path).size == (expected.shape[1], expected.shape[0])


def anamorphic(path: Path, size: tuple[int, int], pixel: Fraction) -> Path:
    """A white disc on black, as wide as high where it is shown, stored in pixels ``pixel`` times as wide as high."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    disc = np.hypot((x - size[0] / 2) * float(pixel), y - size[1] / 2) < size[1] / 3
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel
        for _ in range(3):
            white = np.repeat(255 * disc[..., None].astype(np.uint8), 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(white, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("stored", "pixel", "seen"),
    [
        ((96, 96), Fraction(2), (192, 96)),
        ((720, 576), Fraction(64, 45), (1024, 576)),
        ((720, 480), Fraction(8, 9), (640, 480)),
        ((96, 96), Fraction(1), (96, 96)),
    ],
)
def test_pixels_that_are_not_square_are_seen_as_they_are_meant(tmp_path, stored, pixel, seen):
    path = anamorphic(tmp_path / "clip.mp4", stored, pixel)
    assert probe(path).size == VideoSource(path).size() == seen
    for frame in read_video(path):
        assert tuple(frame.shape[1:3]) == seen[::-1]
        rows, columns = (frame[0, :, seen[0] // 2, 0] > 0.5).sum(), (frame[0, seen[1] // 2, :, 0] > 0.5).sum()
        assert abs(rows - columns) <= 2
    turned(path, (0, 1, -1, 0))
    assert probe(path).size == seen[::-1] and tuple(next(read_video(path)).shape[1:3]) == seen


def test_pixels_of_a_shape_that_cannot_be_are_refused(tmp_path):
    path = anamorphic(tmp_path / "clip.mp4", (96, 96), Fraction(20))
    for look in (probe, lambda path: list(read_video(path))):
        with pytest.raises(MediaError, match="pixels are 20 times as wide"):
            look(path)


# What a file holds


def test_what_a_file_holds(tmp_path):
    video = write_video(tmp_path / "clip.mp4", [numbered(48)], NTSC, ramp(96096), 48000)
    silent = write_video(tmp_path / "silent.mp4", [numbered(48)], Fraction(24))
    sound = write_audio(tmp_path / "sound.wav", ramp(36000), 24000)
    info = probe(video)
    assert (info.seconds, info.size, info.fps, info.sample_rate) == (48 / NTSC, (64, 32), NTSC, 48000)
    assert info.has_audio
    assert probe(silent).size == (64, 32) and not probe(silent).has_audio
    assert probe(sound).size is None and probe(sound).seconds == 1.5


def test_a_file_may_lie_in_memory(tmp_path):
    file = io.BytesIO(write_video(tmp_path / "clip.mp4", [numbered(9)], Fraction(24), ramp(18000), 48000).read_bytes())
    assert probe(file).size == (64, 32)
    assert numbers(read_video(file)) == list(range(9))
    assert heard(file, seconds=0.25).shape == (2, 12000)


def test_the_cover_of_an_album_is_no_video(tmp_path):
    path = tmp_path / "song.flac"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        audio = container.add_stream("flac", rate=48000, layout="stereo")
        container.mux(cover.encode(av.VideoFrame(32, 32, "rgb24")))
        container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 96000), np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    assert probe(path).size is None and probe(path).seconds == 1
    with pytest.raises(ValueError, match=re.escape("song.flac has sound but no pictures")):
        next(read_video(path))


def test_a_file_that_does_not_say_its_length_is_measured(tmp_path):
    sent = mux(tmp_path / "sent.mkv", list(range(25)), Fraction(1, 25), last=1, live="1")
    assert VideoSource(sent).count(Fraction(25)) == 25
    first, *others = (Image.new("RGB", (32, 32), each) for each in ("red", "green", "blue"))
    first.save(tmp_path / "moves.png", save_all=True, append_images=others, duration=200)
    assert probe(tmp_path / "moves.png").seconds == Fraction(3, 5)


def test_a_picture_that_moves_is_said_to_be_one(tmp_path, caplog):
    first, *others = (Image.new("RGB", (32, 32), each) for each in ("red", "green", "blue"))
    first.save(tmp_path / "moves.webp", save_all=True, append_images=others, lossless=True)
    assert torch.equal(read_picture(tmp_path / "moves.webp")[0, 0, 0], torch.tensor([1.0, 0, 0]))
    assert "moves.webp has several pictures" in caplog.text
    with pytest.raises(MediaError, match=r"saved as GIF or MP4|save it anew, for example as MP4"):
        VideoSource(tmp_path / "moves.webp").count(Fraction(5))


# What cannot be read


def test_files_that_lack_something_are_named(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", [numbered(24)], Fraction(24))
    sound = write_audio(tmp_path / "sound.wav", ramp(24000), 24000)
    text = tmp_path / "notes.txt"
    text.write_text("no media")
    pictures = [tmp_path / f"picture.{kind}" for kind in ("png", "jpg", "webp", "gif", "bmp")]
    for path in pictures:
        Image.new("RGB", (16, 16)).save(path)
    stream = tmp_path / "stream.h264"
    with av.open(str(silent)) as whole, av.open(str(stream), "w") as bare:
        copied = bare.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            packet.stream = copied
            if packet.dts is not None:
                bare.mux(packet)
    for call, message in [
        (lambda: read_video(sound), "sound.wav has sound but no pictures"),
        (lambda: VideoSource(sound).size(), "sound.wav has sound but no pictures"),
        (lambda: VideoSource(stream).count(Fraction(24)), "stream.h264 does not say how long it is"),
        (lambda: read_audio(silent), "silent.mp4 is a video without sound"),
        *((lambda path=path: read_audio(path), f"{path.name} is a picture without sound") for path in pictures),
        (lambda: read_video(text), "notes.txt cannot be read as video or sound"),
        (lambda: [probe(text)], "notes.txt cannot be read as video or sound"),
        (lambda: [probe(io.BytesIO(b"no media"))], "This file cannot be read as video or sound"),
        (lambda: [read_picture(text)], "notes.txt cannot be read as a picture"),
        (lambda: read_video(silent, start=1), "silent.mp4 has no picture at 1 s; start earlier"),
        (lambda: read_audio(sound, start=1), "sound.wav has no sound at 1 s; start earlier"),
        (lambda: read_video(silent, start=-1), "start is -1 s; it must be a number from 0"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            list(call())
    for reader in (probe, read_picture, lambda path: list(read_video(path))):
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "missing.mp4")


def test_a_file_that_was_cut_off_is_refused_but_for_what_is_there(tmp_path):
    for options, length in [({}, 0), ({"movflags": "faststart"}, 24)]:
        path = mux(tmp_path / "clip.mp4", list(range(100)), Fraction(1, 25), **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        with pytest.raises(ValueError, match=re.escape("clip.mp4 ") + ".*cut off"):
            list(read_video(path))
        if length:
            assert numbers(read_video(path, frames=length)) == list(range(length))


def test_a_file_that_ends_before_the_length_that_it_says_is_not_filled_up(tmp_path):
    path = mux(tmp_path / "clip.flv", list(range(0, 4000, 40)), codec="flv1")
    whole = VideoSource(path)
    assert sum(map(len, whole.chunks(Fraction(25), 100))) == 100
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(MediaError, match=r"clip.flv is cut off"):
        list(VideoSource(path).chunks(Fraction(25), 100))


@pytest.mark.parametrize(
    "suffix, codec, options",
    [
        ("mkv", "ffv1", {}),
        ("avi", "ffv1", {}),
        ("flv", "flv1", {}),
        ("ts", "mpeg2video", {}),
        ("mp4", "mpeg4", {"movflags": "faststart"}),
        ("wav", None, {}),
        ("ogg", None, {"sound_codec": "libopus"}),
    ],
)
def test_a_file_that_can_be_read_without_its_end_is_and_that_is_told(tmp_path, caplog, suffix, codec, options):
    times, sound = (list(range(100)), None) if codec else ([], ramp(96000))
    path = mux(tmp_path / f"clip.{suffix}", times, Fraction(1, 25), codec, sound, **options)
    read_it = read_video if codec else read_audio
    whole = sum(each.shape[0 if codec else 1] for each in read_it(path))
    assert whole and not caplog.messages
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10 | 1])
    assert 0 < sum(each.shape[0 if codec else 1] for each in read_it(path)) < whole
    assert caplog.messages == [f"clip.{suffix} is cut off: only what is there can be read."]


def test_a_gif_without_its_end_is_told(tmp_path, caplog):
    first, *others = (Image.fromarray(np.full((8, 8, 3), 9 * shade, np.uint8)) for shade in range(9))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert sum(map(len, read_video(tmp_path / "a.gif"))) and not caplog.messages
    (tmp_path / "a.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-1])
    assert sum(map(len, read_video(tmp_path / "a.gif"))) and "a.gif is cut off" in caplog.text


def test_a_stream_without_a_container_is_read_and_has_no_length(tmp_path):
    path = mux(tmp_path / "clip.h264", list(range(10)), Fraction(1, 25))
    assert probe(path).seconds is None and len(numbers(read_video(path))) == 10


def test_colours_that_cannot_be_undone_are_told(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.colorspace = 64, 32, "yuv420p", 8  # YCgCo
        container.mux([*stream.encode(av.VideoFrame(64, 32, "yuv420p")), *stream.encode()])
    with pytest.raises(MediaError, match=r"clip.mkv is a video whose colours .* YCgCo"):
        list(read_video(path))


@pytest.mark.parametrize(
    "call",
    [
        lambda path: read_video(path, fps="24"),
        lambda path: read_video(path, fps=0),
        lambda path: read_video(path, frames=1.5),
        lambda path: read_video(path, frames=10**400),  # larger than a float can be
        lambda path: read_video(path, fps=10**5000),  # longer than Python writes out
        lambda path: read_video(path, start=None),
        lambda path: read_video(path, start=1e30),
        lambda path: read_audio(path, sample_rate=-1),
        lambda path: read_audio(path, seconds="2"),
        lambda path: read_video(path.open()),
        lambda path: read_audio(3),
        lambda path: [probe(torch.zeros(2))],
        lambda path: [read_picture(None)],
    ],
)
def test_what_is_no_number_and_no_file_is_told(tmp_path, call):
    path = mux(tmp_path / "clip.mkv", [0, 1], Fraction(1, 25), sound=ramp(4800))
    with pytest.raises(SettingError):
        list(call(path))


def test_an_avif_that_moves_is_more_than_its_first_picture(tmp_path):
    pictures = [Image.new("RGB", (64, 32), (level,) * 3) for level in (0, 120, 240)]
    pictures[0].save(tmp_path / "clip.avif", save_all=True, append_images=pictures[1:], duration=100, quality=90)
    levels = torch.cat(list(read_video(tmp_path / "clip.avif"))).mean((1, 2, 3)) * 255
    assert torch.allclose(levels, torch.tensor([0.0, 120, 240]), atol=3)


def test_the_sound_that_players_take_is_read_and_that_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "ltx2_core")
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=48000, layout="mono") for _ in range(2)]
        streams[1].disposition = av.stream.Disposition.default
        for level, stream in enumerate(streams):
            frame = av.AudioFrame.from_ndarray(np.full((1, 480), level * 16384, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux([*stream.encode(frame), *stream.encode()])
    assert torch.allclose(heard(path), torch.tensor(0.5)) and "2 sounds, of which the one in place 2" in caplog.text


def test_interlaced_video_is_told(tmp_path, caplog):
    path = tmp_path / "clip.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(720, 576, "yuv420p")), *stream.encode()])
    assert len(list(read_video(path))) == 1 and "clip.dv is interlaced" in caplog.text


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that opens and cannot be read is of Linux")
@pytest.mark.parametrize("reader", [probe, read_picture, lambda path: read_text(path, "make it shorter")])
def test_a_file_that_a_disk_fails_to_read_is_named(reader):
    with pytest.raises(UnreadableFileError, match="/proc/self/mem cannot be read: Input/output error"):
        reader(Path("/proc/self/mem"))
