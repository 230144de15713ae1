"""What a clip that was changed or continued keeps: its own frames, and its own sound."""

from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from ltx2_core.conditioning.blend import Blending
from ltx2_core.conditioning.conditions import InitClip, InpaintMask, RetakeRange
from ltx2_core.conditioning.kept import remade
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape

FPS, RATE = Fraction(8), 48_000
SHAPE = ClipShape(96, 64, 33, FPS)
BEFORE, MADE = torch.full((33, 64, 96, 3), 0.25), torch.full((33, 64, 96, 3), 0.75)
RISING = 1 - (1 - torch.arange(1, 9) / 9) ** 2  # in the eight frames before what is new


def before(frames=33):
    return InitClip(VideoSource(BEFORE[:frames]), AudioSource(torch.full((2, round(frames / FPS * RATE)), 0.25), RATE))


def shown(given, made=MADE):
    """How much of what was made each frame shows, 0..1."""
    frames = torch.cat([*Blending(0).frames(made.split(7), given, SHAPE)])
    assert frames.shape == made.shape
    return (frames - 0.25) * 2


def heard(given):
    """How much of the sound that was made each sample holds, 0..1, and the sample rate."""
    waveform, rate = Blending.sound(torch.full((2, SHAPE.samples(RATE)), 0.75), RATE, given, SHAPE)
    return (waveform - 0.25) * 2, rate


def test_a_retake_shows_and_plays_the_rest_as_it_was():
    """Latents 2 and 3, frames 9 to 24, touch the range; what is kept passes over into them in eight frames."""
    given = [before(), RetakeRange(1.2, 2.2)]
    new = shown(given).mean((1, 2, 3))
    assert_close(new[9:25], torch.ones(16))
    assert_close(new[0], torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(new[1:9], RISING)
    assert_close(new[25:33], RISING.flip(0))
    sound, rate = heard(given)
    assert rate == RATE and sound.shape == (2, SHAPE.samples(RATE))
    assert_close(sound[:, : int(1.1 * RATE)], torch.zeros(2, int(1.1 * RATE)), atol=1e-6, rtol=0)
    assert_close(sound[:, int(1.25 * RATE) : int(2.15 * RATE)].mean(), torch.tensor(1.0))
    assert sound[:, int(2.3 * RATE) :].abs().max() < 1e-6


@pytest.mark.parametrize("streams", ["picture", "sound"])
def test_of_a_stream_that_is_kept_nothing_is_new(streams):
    given = [before(), RetakeRange(1.2, 2.2, streams)]
    if streams == "sound":
        assert shown(given).abs().max() < 1e-6 and heard(given)[0].max() > 0.99
    else:
        assert shown(given).max() > 0.99 and heard(given)[0].abs().max() < 1e-6


def test_a_region_is_new_and_what_lies_around_it_is_not():
    mask = torch.zeros(1, 64, 96)
    mask[:, :, :32] = 1
    draw = torch.Generator().manual_seed(0)
    made, kept = (0.4 + 0.2 * torch.rand(9, 64, 96, 3, generator=draw) for _ in range(2))
    given, shape = [InitClip(VideoSource(kept)), InpaintMask(mask, feather=0)], ClipShape(96, 64, 9, FPS)
    frames = torch.cat([*Blending(0).frames([made], given, shape)])
    assert (frames - made)[:, :, :24].abs().mean() < 0.01 and (frames - kept)[:, :, 40:].abs().mean() < 0.01
    assert heard([before(), InpaintMask(mask)])[0].abs().max() < 1e-6, "its sound is kept"


def test_a_clip_that_goes_on_begins_as_it_was():
    """17 of 20 frames fill latents; from there on, the clip is as it was made, which shows and sounds in time."""
    new = shown([before(20)]).mean((1, 2, 3))
    assert new[:9].abs().max() < 1e-6
    assert_close(new[9:17], RISING)
    assert torch.equal(new[17:], torch.ones(16))
    sound, _ = heard([before(20)])
    assert sound[:, : int(1.9 * RATE)].abs().max() < 1e-6
    assert_close(sound[:, int(2.2 * RATE) :].mean(), torch.tensor(1.0))


def test_at_another_size_and_with_a_picture_in_the_place_of_the_first_frame():
    assert shown([before(20)], MADE.repeat(1, 2, 2, 1))[0].abs().max() < 1e-6
    placed = [before(20), Picture(MADE[:1])]
    assert shown(placed)[0].min() > 0.99 and remade(placed, SHAPE).video[0, 0, :, 0, 0].tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize("channels, rate", [(1, 24_000), (2, 24_000), (2, 96_000)])
def test_sounds_of_another_rate_or_one_channel(channels, rate):
    """The higher rate of both is that of the result, and a tone stays in its place."""
    time = torch.arange(SHAPE.samples(rate)) / rate
    tone = (0.5 * torch.sin(2 * torch.pi * 440 * time)).expand(channels, -1)
    given = [InitClip(VideoSource(BEFORE), AudioSource(tone, rate)), RetakeRange(1.2, 2.2)]
    made = torch.zeros(2, SHAPE.samples(RATE))
    waveform, found = Blending.sound(made, RATE, given, SHAPE)
    assert found == max(rate, RATE) and abs(waveform.shape[-1] - SHAPE.samples(found)) <= 1 and len(waveform) == 2
    time = torch.arange(waveform.shape[-1]) / found
    part = slice(int(2.5 * found), int(3.5 * found))
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * time[part])
    assert_close(waveform[:, part], expected.expand(2, -1), atol=2e-3, rtol=0)


def test_what_keeps_nothing_is_refused():
    with pytest.raises(SettingError, match="all of the clip is made anew"):
        shown([before()])
    with pytest.raises(SettingError, match="give the clip that is changed or continued"):
        shown([RetakeRange(1, 2)])
    with pytest.raises(SettingError, match="but the clip ends at"):
        shown([before(), RetakeRange(7, 8)])
    silent = [InitClip(VideoSource(BEFORE)), RetakeRange(1.2, 2.2)]
    assert heard(silent)[0].min() == 1, "there is no sound to be kept"
