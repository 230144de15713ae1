"""Rounds that raise the frame rate between keyframes: their windows, what is given in them, and the sound."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from ltx2_core.conditioning import Frozen, Inpaint, Keyframe, KeyframeSlots
from ltx2_core.errors import SettingError
from ltx2_core.geometry import Keyframes
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.raise_rate import RaiseRate, items_of, part_of, told_fps
from ltx2_core.sampling.rounds import ROUND_SIGMAS, join_keyframes, join_round, round_sampler, split_round

ANCHORS = (48, 96, 144, 192, 240)  # of 121 frames, at twice their rate


def numbers(windows):
    return [(w.first, w.last, w.latents.start, w.latents.stop, w.anchors, w.slots, w.drop) for w in windows]


def test_windows_of_the_spec():
    first = split_round(ANCHORS, 241, 2)
    assert numbers(first) == [
        (0, 144, 0, 19, (48, 96, 144), (24, 72, 120), 0),
        (96, 240, 12, 31, (96, 144, 192, 240), (120, 168, 216), 7),
    ]
    known = join_keyframes(keyframes(ANCHORS), [keyframes(window.slots) for window in first]).at_rate(2)
    second = split_round(known.frames, 481, 4)
    assert [each[:4] for each in numbers(second)] == [
        (0, 144, 0, 19), (96, 288, 12, 37), (240, 384, 30, 49), (336, 480, 42, 61),
    ]  # fmt: skip
    assert [each.drop for each in second] == [0, 7, 7, 7]
    assert_close(torch.tensor(ROUND_SIGMAS), torch.tensor([0.975, 0.909375, 0.725, 0.421875, 0]))


@pytest.mark.parametrize("length", [25, 33, 49, 97, 121, 129, 161, 193, 241, 257])
def test_windows_agree(length):
    """All rounds of a clip, with the layout of 1.2.0."""
    layout = pytest.importorskip("ltx_pipelines.dfr_layout")
    frames, _, positions = layout.resolve_canvas(length)
    for number in (1, 2):
        frames, positions = 2 * (frames - 1) + 1, [2 * each for each in positions]
        theirs, ours = layout.tile_ranges(positions, frames, 2**number), split_round(positions, frames, 2**number)
        assert numbers(ours) == [tuple(each) for each in theirs]
        positions = sorted({*positions, *(slot for each in ours for slot in each.slots)})
        latent = torch.arange((frames - 1) // 8 + 1.0)[None, None, :, None, None]
        assert torch.equal(join_round([latent[:, :, each.latents] for each in ours], ours), latent)


def keyframes(frames, width=4) -> Keyframes:
    latent = torch.tensor([*map(float, frames)])[None, None, :, None, None].expand(1, 128, -1, 2, width)
    return Keyframes(latent, tuple(frames))


def clip(frames=49, anchors=(24, 48)) -> AVLatent:
    video = torch.arange((frames - 1) // 8 + 1.0)[None, None, :, None, None].expand(1, 128, -1, 2, 4)
    sound = torch.arange(51.0)[None, None, :, None].expand(1, 8, -1, 16)
    return AVLatent(video, sound, keyframes(anchors))


def test_a_window_is_given_what_lies_in_it():
    latent = clip()
    _, window = split_round((24, 48), 49, 2)
    assert (window.first, window.last, window.drop) == (0, 48, 4)
    window = replace(window, first=24, anchors=(24, 48), slots=(36,))
    pictures = [Keyframe(torch.zeros(1, 128, 1, 2, 4), frame) for frame in (0, 24, -1)]
    *kept, first, last, slots, sound = items_of(window, latent, pictures)
    assert [each.frame for each in kept] == [0, 24]  # where the picture is the window's first frame, it becomes that
    assert [(each.frame, each.strength, each.append, each.latent.mean()) for each in (first, last)] == [
        (0, 0.95, True, 24), (24, 0.95, True, 48),
    ]  # fmt: skip
    assert isinstance(slots, KeyframeSlots) and slots.frames == (12,)
    assert slots.latent.mean() == 5  # latent 3 begins the window, and round(12 / 8) is 2
    assert isinstance(sound, Frozen) and sound.stream == "audio"


def test_a_window_hears_its_part_of_the_sound():
    """Drawn out to how long the model is told that the window lasts."""
    window = split_round((24, 48), 49, 1)[0]
    same = part_of(clip(), window, Fraction(24), Fraction(24))
    assert torch.equal(same.audio, clip().audio)
    later = replace(window, first=24)
    heard = part_of(clip(), later, Fraction(24), Fraction(24)).audio
    assert heard.shape == (1, 8, 26, 16) and abs(heard[0, 0, 0, 0] - 25) <= 1 and heard[0, 0, -1, 0] == 50
    fewer = part_of(clip(), window, Fraction(24), Fraction(48)).audio
    assert fewer.shape[2] == 26 and (fewer.diff(dim=2) > 1.9).all()


def test_the_model_is_told_no_rate_that_it_has_not_seen():
    assert [told_fps(Fraction(fps)) for fps in (24, 30, 48, 96, 120)] == [24, 30, 60, 60, 60]


def test_of_keyframes_that_are_made_twice_the_first_counts():
    one, other = keyframes((24, 72)), Keyframes(torch.zeros(1, 128, 2, 2, 4), (72, 120))
    joined = join_keyframes(keyframes((48, 96)), [one, other])
    assert joined.frames == (24, 48, 72, 96, 120) and joined.latent[0, 0, :, 0, 0].tolist() == [24, 48, 72, 96, 0]


def test_every_window_has_noise_of_its_own():
    seeds = [round_sampler(7, number, window).noise_seed for number in (1, 2) for window in range(2)]
    assert seeds == [1007, 1008, 2007, 2008]


def test_the_plan_counts_every_window_and_the_keyframes_in_it(released):
    latent = clip(241, ANCHORS)
    stage = RaiseRate.of(latent, Fraction(48), 1)
    assert len(stage.windows) == 2 and stage.size.video == (19, 2, 4)
    assert stage.size.appended[0] == (4 + 3) * 8  # anchors and slots of the second window
    assert stage.need(released("2.5")).runs == 2 * 4


@pytest.mark.parametrize(
    ("latent", "conditions", "said"),
    [
        (clip(), [Inpaint("video", torch.ones(1, 1, 7, 2, 4))], "pictures alone.*Inpaint"),
        (replace(clip(), keyframes=None), [], "between keyframes, and this latent has none"),
        (replace(clip(), video=None, keyframes=None), [], "between keyframes, and this latent has none"),
        (clip(anchors=(24,)), [], r"frame 48; these are at \[24\]"),
        (clip(anchors=(20, 48)), [], "multiple of 8 apart"),
        (clip(anchors=(40, 48)), [], "16 frames or more"),
    ],
)
def test_what_a_round_cannot_follow_is_said(latent, conditions, said):
    with pytest.raises(SettingError, match=said):
        RaiseRate.of(latent, Fraction(48), 1, conditions)
