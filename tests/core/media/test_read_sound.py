"""What is heard is what was meant: at the very sample, at another rate, of many channels, as loud as it was."""

import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from timed_media import heard, mux, numbers, ramp
from torch import Tensor

from ltx2_core.conditioning import AudioSource
from ltx2_core.errors import MediaError, SettingError
from ltx2_core.media import mix_down, read_audio, read_video, write_audio, write_video
from ltx2_core.media.mix import resampled


def same(sound: Tensor, expected: Tensor) -> bool:
    """Whether ``sound`` is ``expected``, rounded to 16 bits."""
    return torch.equal(sound, (expected * 32767).round() / 32768)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sound_begins_and_ends_at_the_very_sample(tmp_path, suffix):
    sound = ramp(3 * 24000)
    path = write_audio(tmp_path / f"sound.{suffix}", sound, 24000)
    assert same(heard(path), sound)
    assert same(heard(path, start=Fraction(1, 3), seconds=Fraction(5, 3)), sound[:, 8000:48000])
    assert same(heard(path, start=2.5, seconds=2), sound[:, 60000:])


@pytest.mark.parametrize("start", [0, 1, 2.25])
def test_sound_of_a_video_begins_at_the_very_sample(tmp_path, start):
    sound = ramp(4 * 48000)
    path = mux(tmp_path / "clip.mkv", [40 * number for number in range(100)], sound=sound)
    assert same(heard(path, start=start, seconds=1), sound[:, int(start * 48000) :][:, :48000])


def test_pictures_and_sound_have_one_clock(tmp_path):
    sound, later = ramp(48000), list(range(200, 1200, 40))
    path = mux(tmp_path / "late pictures.mkv", later, sound=sound)
    assert numbers(read_video(path))[0] == 0 and same(heard(path), sound[:, 9600:])
    path = mux(tmp_path / "late sound.mkv", list(range(0, 1000, 40)), sound=sound, sound_times=(200,))
    assert not heard(path)[:, :9600].any() and same(heard(path)[:, 9600:], sound)


def test_a_pause_is_silence(tmp_path):
    sound = 0.5 * torch.ones(2, 48000)
    path = mux(tmp_path / "sound.mkv", [], sound=sound, sound_times=(0, 1500))
    silent = heard(path)[0] == 0
    assert silent.numel() == 96000 and silent[24000:72000].all() and not silent[:24000].any()


def test_many_small_pauses_are_silence_together(tmp_path):
    """Else sound runs ahead of the pictures, as where packets of a recording were lost."""
    begins, parts = range(0, 1920, 240), torch.linspace(-0.8, 0.8, 8)
    sound = parts.repeat_interleave(9600).expand(2, -1)
    heard_at = heard(mux(tmp_path / "sound.mkv", [], sound=sound, sound_times=tuple(begins)))[0]
    for begin, level in zip(begins, parts):
        place = (heard_at - level).abs().argmin().item()
        assert -0.1 < (place - 48 * begin) / 48000 <= 0


@pytest.mark.parametrize("options", [{"movflags": "frag_keyframe+empty_moov"}, {"use_editlist": "0"}])
def test_mp4_without_an_edit_list_says_in_its_first_packet_when_the_sound_begins(tmp_path, options):
    """Such files are recordings and streams. Their pictures begin late, by as much as they were put in order."""
    sound, times = ramp(48000), [40 * number for number in range(25)]
    plain, other = (
        mux(tmp_path / f"{number}.mp4", times, sound=sound, sound_codec="aac", **more)
        for number, more in enumerate(({}, options))
    )
    assert torch.equal(heard(other)[:, :40000], heard(plain)[:, :40000])


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_sound_at_another_rate_keeps_pitch_and_length(tmp_path, rate):
    time = torch.arange(2 * 24000) / 24000
    path = write_audio(tmp_path / "sound.wav", 0.5 * torch.sin(2 * torch.pi * 1000 * time).expand(2, -1), 24000)
    sound = heard(path, sample_rate=rate, start=0.5, seconds=1)
    expected = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(rate) / rate)
    assert sound.shape == (2, rate) and (sound - expected).abs().max() < 0.005


def test_one_channel_is_heard_on_both_sides_as_loud_as_it_was(tmp_path):
    sound = ramp(24000)[:1]
    assert same(heard(write_audio(tmp_path / "sound.wav", sound, 24000)), sound.expand(2, -1))


def test_six_channels_become_two_that_do_not_clip(tmp_path):
    sound = torch.full((6, 48000), 0.9)
    path = mux(tmp_path / "sound.mkv", [], sound=sound, layout="5.1")
    assert torch.allclose(heard(path), torch.tensor(0.9), atol=1e-3)


HALF = 0.5**0.5  # -3 dB


@pytest.mark.parametrize(
    ("layout", "left", "right"),
    [
        ("3.0", [1, 0, HALF], [0, 1, HALF]),
        ("quad", [1, 0, HALF, 0], [0, 1, 0, HALF]),
        ("5.0", [1, 0, HALF, HALF, 0], [0, 1, HALF, 0, HALF]),
        ("5.1", [1, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF]),
        ("7.1", [1, 0, HALF, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF, 0, HALF]),
    ],
)
def test_surround_becomes_stereo_by_the_standard_in_files_and_in_samples(tmp_path, layout, left, right):
    """ITU-R BS.775, so much quieter that nothing can clip: each channel alone, then all at once."""
    count = len(left)
    channels = torch.cat([torch.eye(count).repeat_interleave(4800, 1), torch.ones(count, 4800)], dim=1) * 0.9
    stereo = torch.tensor([left, right]) / sum(left) @ channels
    path = mux(tmp_path / "sound.mkv", [], sound=channels, layout=layout)
    assert torch.allclose(heard(path), stereo, atol=1e-3)
    exact = (channels * 32767).round() / 32768
    assert torch.allclose(AudioSource(exact, 48000).waveform, heard(path), atol=1e-6)
    assert torch.equal(heard(path), AudioSource.of(path).waveform)
    unnamed = tmp_path / "sound.wav"
    with wave.open(str(unnamed), "wb") as file:  # which says how many channels, and not where
        file.setparams((count, 2, 48000, 0, "NONE", ""))
        file.writeframes((channels * 32767).round().short().T.contiguous().numpy().tobytes())
    assert torch.equal(heard(unnamed), heard(path))


def test_sound_that_changes_its_rate_and_channels_goes_on(tmp_path):
    """As where a broadcast goes from the news to a film: 440 Hz in 44.1 kHz and one channel, then in 48 kHz and six."""
    content = b""
    for rate, layout in ((44100, "mono"), (48000, "5.1")):
        tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate).expand(6 if layout == "5.1" else 1, -1)
        with av.open(str(path := tmp_path / "part.aac"), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate, layout=layout)
            for piece in tone.split(1024, dim=1):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=layout)
                frame.sample_rate = rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        content += path.read_bytes()
    (tmp_path / "both.aac").write_bytes(content)
    found = heard(tmp_path / "both.aac", sample_rate=24000)
    assert abs(found.shape[1] / 24000 - 2) < 0.1
    for part in (side[start : start + 12000] for side in found for start in (6000, 30000)):
        assert torch.fft.rfft(part).abs().argmax() == 220 and abs(part.square().mean().sqrt() - 0.35) < 0.02


def test_loud_surround_does_not_clip():
    assert torch.allclose(mix_down(3 * torch.ones(6, 100)), torch.tensor(3.0), atol=1e-4)
    one, two = torch.rand(1, 10), torch.rand(2, 10)
    assert mix_down(one) is one and mix_down(two) is two


@pytest.mark.parametrize(("level", "form"), [(3.0, "pcm_f32le"), (3.0, "pcm_f64le"), (0.5, "pcm_f32le")])
def test_floating_point_sound_is_as_loud_as_it_was_saved(tmp_path, level, form):
    sound = ramp(4800) * level
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream(form, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(sound.numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        resampler = av.AudioResampler(stream.codec_context.format.name, "stereo", 48000)
        for each in (*resampler.resample(frame), None):
            container.mux(stream.encode(each))
    assert torch.allclose(heard(tmp_path / "sound.wav"), sound, atol=1e-6)
    assert torch.equal(AudioSource.of(tmp_path / "sound.wav").waveform, heard(tmp_path / "sound.wav"))


def test_floating_point_sound_that_is_none_is_told(tmp_path):
    for value, words in ((float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (2e4, "values from")):
        data = np.full((4800, 2), value, "<f4").tobytes()
        head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 3, 2, 48000, 384000, 8, 32,
                           b"data", len(data))  # fmt: skip
        (tmp_path / "sound.wav").write_bytes(head + data)
        with pytest.raises(SettingError, match=words):
            AudioSource.of(tmp_path / "sound.wav")


def test_floating_point_surround_is_as_loud_as_it_was_saved_and_nan_stays_nan(tmp_path):
    for value in (3.0, float("nan")):
        data = np.full((4800, 6), value, "<f4").tobytes()
        head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 3, 6, 48000, 1152000, 24, 32,
                           b"data", len(data))  # fmt: skip
        (tmp_path / "sound.wav").write_bytes(head + data)
        assert torch.allclose(heard(tmp_path / "sound.wav"), torch.tensor(value), atol=1e-6, equal_nan=True)


def test_channels_of_nowhere_are_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((10, 2, 48000, 0, "NONE", ""))
        file.writeframes(bytes(20 * 4800))
    for read_it in (lambda: heard(path), lambda: AudioSource(torch.zeros(10, 4800), 48000)):
        with pytest.raises(MediaError, match="This sound has 10 channels"):
            read_it()


def test_a_sound_without_samples_has_none(tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48000, 0, "NONE", ""))
    with pytest.raises(MediaError, match=r"sound\.wav has no sound: there is not one sample in it\.$"):
        heard(path)


@pytest.mark.parametrize(("rate", "count"), [(1, 1), (30_000, 1), (30_000, 16)])
def test_a_sound_of_few_samples_is_written(tmp_path, rate, count):
    """At a rate that AAC does not have; FFmpeg's resampler makes nothing of fewer than its filter is long."""
    frames = torch.zeros(2, 16, 16, 3)
    clip = write_video(tmp_path / "clip.mp4", [frames], 24, torch.full((2, count), 0.5), rate)
    sound = torch.cat([*read_audio(clip)], dim=1)
    assert sound.isfinite().all() and 0.1 < sound.abs().max() < 1


def test_few_samples_are_brought_to_another_rate_as_they_are_within_silence():
    few = np.float32([[0.1, -0.2, 0.4, 0.3, -0.1]] * 2)
    found = resampled(few, "stereo", "stereo", 32_000, 48_000)
    longer = resampled(np.pad(few, ((0, 0), (0, 4000))), "stereo", "stereo", 32_000, 48_000)
    assert found.shape == (2, 8) and np.array_equal(found, longer[:, :8])
    assert resampled(np.ones((2, 100), np.float32), "stereo", "stereo", 768_000, 8_000).shape == (2, 1)


@pytest.mark.parametrize(
    ("suffix", "codec", "options", "cover"),
    [
        ("wav", "pcm_s16le", {"rf64": "always"}, 0),
        ("mp3", "libmp3lame", {}, 0),
        ("mp3", "libmp3lame", {}, 1000),
        ("au", "pcm_s16be", {}, 0),
        ("w64", "pcm_s16le", {}, 0),
        ("caf", "pcm_s16le", {}, 0),
    ],
)
def test_a_sound_whose_end_is_missing_is_read_and_that_is_told(tmp_path, caplog, suffix, codec, options, cover):
    """An MP3 says it in its first frame, behind its tags, which may hold a whole picture."""
    path = mux(tmp_path / f"song.{suffix}", [], sound=ramp(480000), sound_codec=codec, **options)
    if cover:
        tags = b"ID3\4\0\0" + bytes([0, 0, cover >> 7, cover & 127]) + bytes(cover)
        path.write_bytes(tags + path.read_bytes()[path.read_bytes().index(b"\xff\xfb") :])  # the first frame
    whole = heard(path).shape[1]
    assert abs(whole - 480000) < 3000 and not caplog.messages
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert 300000 < heard(path).shape[1] < whole
    assert caplog.messages == [f"{path.name} is cut off: only what is there can be read."]
