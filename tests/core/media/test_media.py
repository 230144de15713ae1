"""What is written can be read back: rate, length, colour and sound; and a failure leaves nothing behind."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ltx2_core.errors import LTX2Error, MediaError, UnreadableFileError, atomic
from ltx2_core.media import check_target, probe, read_audio, write, write_audio, write_clip, write_frames, write_video
from ltx2_core.media.behind import MOST_WAITING, do_behind
from ltx2_core.media.write import SDR

FPS = Fraction(24)


@pytest.mark.slow
def test_only_files_of_media_need_pyav():
    program = """
import sys
sys.modules["av"] = None
import ltx2_core
from ltx2_core.media.read import probe
from ltx2_core.errors import MediaError
try:
    probe("README.md")
except MediaError as error:
    assert "pip install av" in str(error), error
else:
    raise AssertionError("it was read")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3], timeout=120)


def noise(frames: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(0))


def tones(seconds: float, sample_rate: int, *pitches: float) -> Tensor:
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    return torch.stack([0.5 * torch.sin(2 * math.pi * pitch * time) for pitch in pitches])


def decoded_sound(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)


def pitch(samples: np.ndarray, sample_rate: int) -> float:
    return np.abs(np.fft.rfft(samples)).argmax() * sample_rate / len(samples)


@pytest.mark.parametrize("fps", ["24000/1001", "24", "25", "30000/1001", "30", "50"])
def test_rate_and_length_are_exact(tmp_path, fps):
    fps = Fraction(fps)
    sound = tones(9 / fps, 48000, 440)
    path = write_video(tmp_path / "clip.mp4", iter([noise(4), noise(5)]), fps, sound, 48000)
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert video.average_rate == fps
        assert video.duration * video.time_base == 9 / fps
        assert abs(audio.duration * audio.time_base - Fraction(sound.shape[1], 48000)) < Fraction(1, 1000)
        times = [frame.pts * frame.time_base for frame in file.decode(video)]
    assert times == [number / fps for number in range(9)]


def test_the_file_says_how_it_is_coloured_and_a_player_sees_these_colours(tmp_path):
    colours = torch.tensor(
        [[0.75, 0.1, 0.1], [0.1, 0.75, 0.1], [0.1, 0.1, 0.75], [1, 1, 1], [0, 0, 0], [0.5, 0.25, 0.7]]
    )
    patches = colours.repeat_interleave(32, dim=0).expand(3, 32, -1, 3)
    path = write_video(tmp_path / "clip.mp4", [patches], FPS)
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        assert (context.name, context.pix_fmt, tags) == ("h264", "yuv420p", (1, 1, 1, 1))
        seen = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)][-1]
    assert np.abs(seen[16, 16::32] - 255 * colours.numpy()).max() <= 2


def test_chroma_is_sited_at_the_left_column_and_between_the_rows(tmp_path):
    ramp = torch.linspace(0.3, 0.7, 64)
    frame = torch.stack([ramp.expand(64, 64), torch.full((64, 64), 0.5), ramp.expand(64, 64).T], dim=-1)
    path = write_video(tmp_path / "clip.mp4", [frame[None]], FPS, form=replace(SDR, crf=1))
    with av.open(str(path)) as file:
        planes = next(file.decode(video=0)).to_ndarray()
    luma, cb, cr = planes[:64], planes[64:80].reshape(32, 32), planes[80:].reshape(32, 32)
    for row, column in [(8, 8), (8, 24), (24, 8)]:
        red, blue = ramp[2 * column].item(), (ramp[2 * row] + ramp[2 * row + 1]).item() / 2
        y = 0.2126 * red + 0.7152 * 0.5 + 0.0722 * blue
        assert luma[2 * row : 2 * row + 2, 2 * column].mean() == pytest.approx(16 + 219 * y, abs=1)
        assert cb[row, column] == pytest.approx(128 + 224 * (blue - y) / 1.8556, abs=1)
        assert cr[row, column] == pytest.approx(128 + 224 * (red - y) / 1.5748, abs=1)


@pytest.mark.parametrize("sample_rate", [24000, 48000])
def test_left_stays_left_and_sound_begins_when_it_should(tmp_path, sample_rate):
    sound = tones(2.0, sample_rate, 440, 1000)
    sound[:, :sample_rate] = 0
    path = write_video(tmp_path / "clip.mp4", [noise(48)], FPS, sound, sample_rate)
    left, right = decoded_sound(path)[:, : 2 * sample_rate]
    assert pitch(left[sample_rate:], sample_rate) == pytest.approx(440, abs=1)
    assert pitch(right[sample_rate:], sample_rate) == pytest.approx(1000, abs=1)
    assert (np.abs(left) > 0.1).argmax() / sample_rate == pytest.approx(1.0, abs=0.002)


def test_sound_of_one_channel_is_heard_on_both_sides(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [noise(24)], FPS, tones(1.0, 48000, 440), 48000)
    left, right = decoded_sound(path)
    assert np.abs(left).max() > 0.4
    assert np.allclose(left, right, atol=0.01)


@pytest.mark.slow
def test_sound_lies_between_the_pictures_of_its_time(tmp_path):
    seconds = 20  # more than the muxer waits by itself
    path = write_video(
        tmp_path / "clip.mp4", (noise(24) for _ in range(seconds)), FPS, tones(seconds, 24000, 440), 24000
    )
    clock = {"video": 0.0, "audio": 0.0}
    with av.open(str(path)) as file:
        for packet in sorted((packet for packet in file.demux() if packet.size), key=lambda packet: packet.pos):
            clock[packet.stream.type] = float(packet.dts * packet.time_base)
            assert abs(clock["video"] - clock["audio"]) < 0.5


def test_metadata_survives(tmp_path):
    tags = {
        "prompt": '{"3": {"class_type": "LTX2AVSample"}}',
        "workflow": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 100_000,
    }
    path = write_video(tmp_path / "clip.mp4", [noise(1)], FPS, metadata=tags)
    with av.open(str(path)) as file:
        assert tags.items() <= file.metadata.items()


def test_a_video_plays_before_all_of_it_has_come(tmp_path):
    content = write_video(tmp_path / "clip.mp4", [noise(2)], FPS).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_files_hold_every_sample_rounded_to_the_nearest(tmp_path, suffix, channels):
    values = torch.randint(-32767, 32768, (channels, 10_001), generator=torch.Generator().manual_seed(0))
    path = write_audio(tmp_path / f"sound{suffix}", (values + 0.3) / 32767, 24000)
    with av.open(str(path)) as file:
        assert (file.streams.audio[0].rate, file.streams.audio[0].channels) == (24000, channels)
    assert np.array_equal(decoded_sound(path).reshape(-1, channels).T, values.numpy())


def test_pictures_are_rounded_to_the_nearest_value_and_numbered_from_one(tmp_path):
    frames = noise(3)
    folder = write_frames(tmp_path / "shots" / "ball", [frames[:1], frames[1:]], tones(0.1, 24000, 440), 24000)
    names = [f"frame_{number:05}.png" for number in (1, 2, 3)]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "sound.wav"]
    for name, frame in zip(names, frames):
        assert np.abs(np.asarray(Image.open(folder / name)) - 255 * frame.numpy()).max() <= 0.5001


def test_numbers_far_beyond_white_are_white(tmp_path):
    """Their sum is more than a number can be, but each of them is one."""
    write_frames(tmp_path / "pictures", [torch.full((1, 32, 32, 3), 3e38)])
    assert np.asarray(Image.open(tmp_path / "pictures" / "frame_00001.png")).min() == 255


def test_the_same_frames_make_the_same_file_each_time(tmp_path):
    cells = torch.rand(9, 3, 8, 14, generator=torch.Generator().manual_seed(0))
    frames = torch.nn.functional.interpolate(cells, scale_factor=16, mode="bilinear").movedim(1, -1)
    assert len({write_video(tmp_path / "a.mp4", [frames], Fraction(24)).read_bytes() for _ in range(6)}) == 1


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "frame_00001.png").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_frames(tmp_path, [noise(1)])


def test_the_name_chooses_the_kind_of_file(tmp_path):
    sound = tones(0.5, 24000, 440)
    for name in ("clip.mp4", "CLIP2.MP4", "sound.wav", "sound.flac", "pictures"):
        write_clip(tmp_path / name, [noise(2)], FPS, sound, 24000)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "CLIP2.MP4",
        "clip.mp4",
        "pictures",
        "sound.flac",
        "sound.wav",
    ]
    with pytest.raises(ValueError, match=re.escape("Use .mp4, .wav or .flac")):
        check_target(tmp_path / "clip.avi")
    check_target(tmp_path / "shot 1.2_00001_")  # as ComfyUI numbers a name with a dot
    for name in (".mp4", ".WAV"):
        with pytest.raises(ValueError, match=f"only the end of a name.*clip{name}"):
            check_target(tmp_path / name)


@pytest.mark.parametrize("name", ["file/clip.mp4", "file/new/clip.mp4", "file", "folder.mp4", ".", ".."])
def test_a_place_where_nothing_can_be_written_is_refused_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(LTX2Error, match=r"Choose another name|give a name in it"):
        check_target(name)
    check_target("new/deep/clip.mp4")
    assert sorted(os.listdir()) == ["file", "folder.mp4"]

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)  # as Windows does, of whose rights os.access knows nothing
    with pytest.raises(UnreadableFileError, match=r"clip\.mp4 cannot be written.*folder that you may write to"):
        check_target("new/deep/clip.mp4")


def not_a_number(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan)


def interrupted():
    yield noise(60)
    raise KeyboardInterrupt("by the user")


@pytest.mark.parametrize("name", ["clip.mp4", "pictures"])
@pytest.mark.parametrize(
    "chunks, error, message",
    [
        (lambda: [], ValueError, "no frames"),
        (lambda: [noise(60), not_a_number(2, 32, 32, 3)], ValueError, "NaN or infinite values in frames 61 to 62"),
        (lambda: [noise(2).movedim(-1, 1)], ValueError, "(frames, height, width, 3)"),
        (interrupted, KeyboardInterrupt, "by the user"),
    ],
    ids=["none", "nan", "shape", "interrupt"],
)
def test_a_failure_leaves_nothing_behind(tmp_path, name, chunks, error, message):
    with pytest.raises(error, match=re.escape(message)):
        write_clip(tmp_path / name, chunks(), FPS)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sound, sample_rate, message",
    [
        (not_a_number(2, 100), 24000, "NaN or infinite values in the sound"),
        (torch.zeros(100), 24000, "1 or 2 channels"),
        (torch.zeros(2, 0), 24000, "1 or 2 channels"),
        (torch.zeros(2, 100), None, "sample rate"),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "sound.wav", "pictures"])
def test_bad_sound_is_refused(tmp_path, name, sound, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        write_clip(tmp_path / name, [noise(2)], FPS, sound, sample_rate)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [24, 24.0, np.int64(24), np.float32(24), Fraction(24 * 10**12 + 1, 10**12)])
def test_a_rate_may_be_any_kind_of_number(tmp_path, fps):
    assert probe(write_clip(tmp_path / "clip.mp4", [noise(2)], fps)).fps == 24


@pytest.mark.parametrize(
    "given",
    [
        {"fps": "24"},
        {"fps": 0},
        {"fps": 1e-6},
        {"fps": None},
        {"chunks": noise(2)},
        {"chunks": [noise(2).numpy()]},
        {"chunks": [(noise(2) * 255).byte()]},
        {"chunks": [noise(2)[:, :, :0]]},
        {"waveform": torch.zeros(2, 100).short()},
        {"waveform": torch.zeros(2, 100).numpy()},
        {"sample_rate": "24000"},
        {"sample_rate": 24000.5},
        {"metadata": ["a"]},
        {"path": None},
        {"path": b"clip.mp4"},
    ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, given):
    usual = {"path": tmp_path / "clip.mp4", "chunks": [noise(2)], "fps": 24}
    usual |= {"waveform": torch.zeros(2, 100), "sample_rate": 24000}
    with pytest.raises(LTX2Error):
        write_clip(**usual | given)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("sample_rate", "written"), [(1000, 7350), (47952, 48000), (192_000, 96_000)])
def test_sound_of_a_rate_that_aac_lacks_is_written_at_the_next_one(tmp_path, sample_rate, written):
    sound = torch.sin(torch.arange(sample_rate) / sample_rate * 2 * torch.pi * 100).expand(2, -1) / 2
    path = write_clip(tmp_path / "clip.mp4", [noise(24)], 24, sound, sample_rate)
    heard = torch.cat([*read_audio(path)], dim=1)[0, :written]
    expected = torch.sin(torch.arange(written) / written * 2 * torch.pi * 100) / 2
    assert probe(path).sample_rate == written and (heard - expected)[500:-500].abs().max() < 0.05


def test_a_clip_of_an_odd_size_is_cut_by_a_line_and_that_is_said_once(tmp_path, caplog):
    write_clip(tmp_path / "clip.mp4", [noise(1, 33, 65), noise(2, 33, 65)], FPS)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 32)
    assert [record.message.count("65 x 33") for record in caplog.records] == [1]
    write_clip(tmp_path / "pictures", [noise(1, 33, 65)], FPS)
    assert Image.open(tmp_path / "pictures" / "frame_00001.png").size == (65, 33)


def test_odd_sizes_and_missing_sound_are_refused(tmp_path):
    with pytest.raises(ValueError, match="even width and height, not 33 x 32"):
        write_video(tmp_path / "clip.mp4", [noise(1, 32, 33)], FPS)
    with pytest.raises(ValueError, match="this clip has no sound"):
        write_clip(tmp_path / "sound.wav", [noise(1)], FPS)
    assert not any(tmp_path.iterdir())


def test_a_failure_keeps_the_file_that_was_there(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [noise(2)], FPS)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), FPS)
    assert path.read_bytes() == before
    write_video(path, [noise(3)], FPS)
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


# Encoding beside decoding


def test_frames_are_worked_on_in_their_order_while_the_next_ones_are_made():
    made, done, go = [], [], threading.Event()

    def frames():
        for number in range(20):
            made.append(number)
            if number == 5:
                go.set()  # which never happens where each frame waits for the one before
            yield torch.full((2, 2, 3), number)

    def work(number, frame):
        assert go.wait(60) and threading.current_thread() is not threading.main_thread()
        assert len(made) - len(done) <= MOST_WAITING + 2
        done.append((number, int(frame[0, 0, 0])))

    do_behind(work, frames(), first=1)
    assert done == [(number + 1, number) for number in range(20)]


@pytest.mark.parametrize("fails", ["frames", "work"])
def test_what_fails_is_raised_and_nothing_is_done_afterwards(fails):
    done = []

    def frames():
        for number in range(20):
            if fails == "frames" and number == 3:
                raise MediaError("no more")
            yield torch.zeros(2, 2, 3)

    def work(number, frame):
        if fails == "work" and number >= 3:
            raise MediaError("no more")
        done.append(number)

    with pytest.raises(MediaError, match="no more"):
        do_behind(work, frames())
    assert done == list(range(len(done))) and len(done) <= 3


@pytest.mark.parametrize("name", ["sound.wav", "sound.flac", "clip %03d #1.mp4", "pictures"])
def test_a_disk_that_ends_is_told_in_the_words_of_the_system_and_leaves_nothing(tmp_path, name):
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(UnreadableFileError, match=f"{name}.*File too large"):
            write_clip(tmp_path / name, [noise(2)], FPS, torch.rand(2, 4000), 48000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")
def test_an_interruption_while_sound_is_written_is_heard_and_leaves_nothing(tmp_path):
    path, told = tmp_path / "sound.wav", list[int]()
    sound = torch.rand(2, 480_000)

    def interrupt(*_: object) -> None:
        told.append(1)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(40):
            told.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.001 * (1 + number))
            try:
                write_audio(path, sound, 48000)
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert not told and path.stat().st_size > sound.numel() * 2
            except KeyboardInterrupt:
                assert not any(tmp_path.glob(".*"))
            path.unlink(missing_ok=True)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "frames"])
def test_of_two_programs_that_write_one_name_neither_loses_its_clip(tmp_path, monkeypatch, name):
    """The other one begins later and is ready before."""
    path, sound, own = tmp_path / name, torch.zeros(1, 4800), atomic.uuid4

    def begin():
        monkeypatch.setattr(atomic, "uuid4", own)
        assert write_clip(path, [torch.zeros(1, 64, 64, 3)], FPS, sound, 48_000, overwrite=False) == path
        return own()

    monkeypatch.setattr(write, "check_place", lambda path: None)  # which takes a name, too
    monkeypatch.setattr(atomic, "uuid4", begin)
    made = write_clip(path, [torch.ones(2, 64, 64, 3)], FPS, sound / 2, 48_000, overwrite=False)
    assert made == tmp_path / {"a.mp4": "a_2.mp4", "a.wav": "a_2.wav", "frames": "frames_2"}[name]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([made.name, name])
    if name == "a.mp4":
        assert probe(made).seconds > 1.5 * probe(path).seconds


def test_a_name_that_was_claimed_is_free_again_where_the_system_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(UnreadableFileError):
        write_clip(tmp_path / "a.mp4", [torch.ones(1, 64, 64, 3)], FPS, overwrite=False)
    assert not [*tmp_path.iterdir()]
