"""Two clips in one picture: what each layout shows, of clips that differ in length, size and rate."""

from fractions import Fraction

import pytest
import torch

from ltx2_core.__main__ import main
from ltx2_core.conditioning.compare import ABOVE, DIFFERENCE, SIDE, WIPED, Comparison, rate_of
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import SettingError, TargetExistsError, stoppable
from ltx2_core.media import probe, read_video, write_clip, write_video

FPS = Fraction(24)


def clip(value: float, frames: int = 9, height: int = 32, width: int = 48, fps: Fraction | None = FPS) -> VideoSource:
    return VideoSource(torch.full((frames, height, width, 3), value), fps=fps)


def shown(first: VideoSource, second: VideoSource, **settings) -> torch.Tensor:
    return torch.cat(list(Comparison(**settings).frames(first, second, FPS)))


def test_both_stand_beside_or_above_each_other():
    side, above = (shown(clip(0.25), clip(0.75), layout=layout) for layout in (SIDE, ABOVE))
    assert side.shape == (9, 32, 96, 3) and above.shape == (9, 64, 48, 3)
    for first, second in (side.chunk(2, dim=2), above.chunk(2, dim=1)):
        assert (first == 0.25).all() and (second == 0.75).all()


@pytest.mark.parametrize(("wipe", "left", "line"), [(0.0, 0, 0), (0.5, 23, 2), (1.0, 48, 0)])
def test_a_line_stands_between_them(wipe, left, line):
    row = shown(clip(0.25), clip(0.75), layout=WIPED, wipe=wipe)[0, 0, :, 0]
    assert row.tolist() == [0.25] * left + [1.0] * line + [0.75] * (48 - left - line)


def test_a_difference_is_black_where_they_are_the_same():
    assert not shown(clip(0.3), clip(0.3), layout=DIFFERENCE).any()
    grey = shown(clip(0.3), clip(0.4), layout=DIFFERENCE, gain=5.0)
    torch.testing.assert_close(grey, torch.full((9, 32, 48, 3), 0.5))
    assert shown(clip(0.0), clip(1.0), layout=DIFFERENCE).max() == 1


def test_the_shorter_one_stands_still_at_its_end():
    moving = VideoSource(torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 32, 48, 3), fps=FPS)
    for pair in ((moving, clip(0.5, frames=9)), (clip(0.5, frames=9), moving)):
        both = shown(*pair)
        half = both[:, 0, 0 if pair[0] is moving else -1, 0]
        assert half.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_size_and_rate_are_those_of_the_first():
    slow = VideoSource(torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 64, 64, 3), fps=FPS / 2)
    both = shown(clip(0.5, height=33, width=49), slow)
    assert both.shape == (10, 32, 96, 3)
    assert both[::2, 0, -1, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert rate_of(slow) == 12 and rate_of(clip(0.5, fps=None)) is None


def test_one_sound_is_heard():
    first, second = (AudioSource(torch.full((1, 10), value), 8000) for value in (0.1, 0.2))
    heard = [Comparison(sound=sound).heard(first, second) for sound in ("of the first", "of the second", "none")]
    assert heard == [first, second, None]
    assert Comparison().heard(None, second) is None


def test_the_command_writes_both_and_replaces_nothing(tmp_path, capsys):
    for name, value, rate in (("a.mp4", 0.2, 16000), ("b.mp4", 0.8, None)):
        sound = None if rate is None else torch.zeros(1, 6000)
        write_clip(tmp_path / name, [torch.full((9, 32, 48, 3), value)], FPS, sound, rate)
    words = ["compare", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), str(tmp_path / "both.mp4")]
    assert main(words) == 0 and capsys.readouterr().out.strip() == words[-1]
    info = probe(words[-1])
    assert info.size == (96, 32) and info.fps == 24 and info.has_audio
    frames = torch.cat(list(read_video(words[-1])))
    assert len(frames) == 9 and frames[:, :, 4:44].mean() == pytest.approx(0.2, abs=0.02)
    assert frames[:, :, 52:92].mean() == pytest.approx(0.8, abs=0.02)
    assert main(words) == 2 and "is there already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--layout", "wiped", "--sound", "none"]) == 0
    assert probe(words[-1]).size == (48, 32) and not probe(words[-1]).has_audio


def test_what_cannot_be_is_refused():
    assert issubclass(TargetExistsError, FileExistsError)
    with pytest.raises(SettingError, match="layout"):
        Comparison(layout="beside")


class Stopped(Exception):
    """Stands for what a host raises."""


@pytest.mark.parametrize("work", ["write", "compare", "prepare"])
def test_work_on_frames_stops_between_two_pieces_of_them(tmp_path, work):
    """Also where all frames are given at once; what was begun is gone."""
    video, asked = VideoSource(torch.rand(40, 32, 32, 3), fps=Fraction(24)), []

    def check() -> None:
        asked.append(work)
        if len(asked) == 3:
            raise Stopped

    works = {
        "write": lambda: write_video(tmp_path / "clip.mp4", video.source.split(8), Fraction(24)),
        "compare": lambda: [*Comparison().frames(video, video, Fraction(24))],
        "prepare": lambda: [*video.fitted(Fraction(24), 40, 64, 64)],
    }
    with pytest.raises(Stopped), stoppable(check):
        works[work]()
    works[work]()  # and nobody asks any more
    assert len(asked) == 3 and len([*tmp_path.iterdir()]) == (work == "write")
