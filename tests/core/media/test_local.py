"""Only regular files of this machine are read and written, whatever a name or a file asks for."""

import os
import re
import socket
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_core.conditioning.conditions import InitClip
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import LTX2Error, MediaError, MissingFileError, SettingError
from ltx2_core.media import check_target, probe, read_audio, read_picture, read_video, write_audio, write_video

pytestmark = pytest.mark.slow

FPS, RATE = Fraction(24), 24_000
FRAMES, SOUND = torch.rand(9, 64, 64, 3), torch.zeros(2, RATE)


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", [FRAMES], FPS, SOUND, RATE)


READERS = [
    probe,
    read_picture,
    lambda name: list(read_video(name)),
    lambda name: list(read_audio(name)),
    AudioSource.of,
    lambda name: VideoSource(name).size(),
]


@pytest.mark.parametrize("read", READERS)
def test_an_address_is_not_followed(read):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        for name in (
            f"http://{host}/a.mp4",
            f"tcp://{host}",
            f"tcp:{host}",
            f"rtmp://{host}/x",
            f"HTTP://{host}/a.mp4",
        ):
            with pytest.raises(MissingFileError, match="is an address; only files of this machine are read"):
                read(name)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("read", READERS)
def test_other_words_of_ffmpeg_are_only_names(read, clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    for name in (
        "file:clip.mp4",
        "concat:clip.mp4|clip.mp4",
        "pipe:0",
        "data:;base64,AAAA",
        "subfile,,start,0,end,9,,:clip.mp4",
    ):
        with pytest.raises(MissingFileError):
            read(name)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_refused_at_once(read, tmp_path):
    names = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        names += [tmp_path / "pipe.png", Path("/dev/zero")]
    for name in names:
        with pytest.raises(MediaError, match="choose a regular file"):
            read(name)


@pytest.mark.parametrize("name", ["a\0b.mp4", "x" * 5000, "\ud800.mp4"])
@pytest.mark.parametrize("read", READERS)
def test_a_name_that_no_file_can_have_is_refused_in_words(read, name):
    with pytest.raises(LTX2Error):
        read(name)


def test_what_is_not_there_is_called_as_it_was_written(tmp_path, monkeypatch):
    """``0,5:pictures/a.png`` is no frame and its file, and the file is there."""
    monkeypatch.chdir(tmp_path)
    written = Path("0,5:pictures/a.png")
    with pytest.raises(MissingFileError, match=re.escape(f"There is no file {written};")):
        read_picture(written)
    with pytest.raises(MissingFileError, match=r"There is no file a\.png;"):
        read_picture(tmp_path / "a.png")


PLAYLISTS = {
    "list.ffconcat": "ffconcat version 1.0\nfile clip.mp4\n",
    "list.mp4": "ffconcat version 1.0\nfile {folder}/clip.mp4\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\n{folder}/clip.mp4\n#EXT-X-ENDLIST\n",
    "other.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\nhttp://127.0.0.1:9/clip.mp4\n#EXT-X-ENDLIST\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_that_names_other_files_opens_none_of_them(name, clip):
    path = clip.with_name(name)
    path.write_text(PLAYLISTS[name].format(folder=clip.parent))
    assert probe(clip).has_audio
    for source in (path, str(path)):
        with pytest.raises(MediaError, match="cannot be read as video or sound"):
            probe(source)
    with path.open("rb") as file, pytest.raises(MediaError):
        probe(file)


def test_a_picture_runs_no_other_program(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize(
    "name", ["file:out/c.mp4", "pipe:1.mp4", "http://127.0.0.1/x.mp4", "FILE:x.wav", "concat:a|b.mp4", "tcp://x/y.flac"]
)
def test_an_address_is_not_written_to(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="is an address; only files of this machine are written"):
        check_target(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="a colon is no letter of a name there")
def test_a_colon_in_a_name_is_only_a_letter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("take:2.mp4", "at 10:30.mp4", "%d.mp4", "a,b|c.mp4"):
        check_target(name)
        write_video(name, [FRAMES], FPS, SOUND, RATE)
        assert probe(name).size == (64, 64) and probe(Path(name)).has_audio
        assert stat.S_ISREG(os.stat(name).st_mode)
    for name in ("take:2.wav", "take:2.flac"):
        write_audio(name, SOUND, RATE)
        assert sum(chunk.shape[1] for chunk in read_audio(name)) == RATE
    assert {path.name for path in tmp_path.iterdir()} == {
        "take:2.mp4",
        "at 10:30.mp4",
        "%d.mp4",
        "a,b|c.mp4",
        "take:2.wav",
        "take:2.flac",
    }


def with_a_gap(path: Path, seconds: int) -> Path:
    """A file of two pictures and two short sounds, the second ones so many seconds after the first."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start in (0, seconds):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            picture.pts, picture.time_base = start * 24, Fraction(1, 24)
            container.mux(video.encode(picture))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 8000, start * 8000, Fraction(1, 8000)
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def test_the_times_of_a_file_cannot_ask_for_more_than_memory_holds(tmp_path):
    path = with_a_gap(tmp_path / "gap.mkv", 10**6)
    with pytest.raises(MediaError, match="lasts more than 100,000 frames"):
        list(read_video(path))
    with pytest.raises(MediaError, match="a pause of more than 3600 s"):
        list(read_audio(path))
    assert sum(len(chunk) for chunk in read_video(path, frames=50)) == 50
    assert sum(chunk.shape[1] for chunk in read_audio(path, seconds=0.05)) == 400
    short = with_a_gap(tmp_path / "pause.mkv", 10)
    assert sum(chunk.shape[1] for chunk in read_audio(short)) == 80_800


def test_a_source_of_very_many_frames_is_taken_in_part_only(monkeypatch):
    class Endless(VideoSource):
        def count(self, fps):
            return 10**12

    with pytest.raises(SettingError, match="at most 100,000 are taken"):
        InitClip(Endless(FRAMES)).shape(FPS)
    assert InitClip(Endless(FRAMES)).shape(FPS, frames=9).frames == 9


@pytest.mark.skipif(sys.platform != "linux", reason="files have no limit there that a test could set")
@pytest.mark.slow
def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path):
    """At once, and after the first bytes."""
    script = """
import itertools, resource, signal, torch
from fractions import Fraction
from ltx2_core.media import write_audio, write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writers = (
    lambda: write_video("a.mp4", [torch.rand(9, 64, 64, 3)], Fraction(24)),
    lambda: write_audio("a.wav", torch.rand(1, 24000), 24000),
)
for limit, write in itertools.product((0, 3000), writers):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 3000))
    try:
        write()
    except OSError:
        continue
    raise SystemExit("nobody complained")
"""
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": paths})
    assert not list(tmp_path.iterdir())
