"""Rounds that raise the frame rate between keyframes: their windows, what is given in them, and the sound."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import tiny_parts
import torch
from official_parts import LENGTHS, recorded
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.conditioning import Frozen, Inpaint, Keyframe, KeyframeSlots
from ltx2_core.conditioning.pictures import GeneratedKeyframes
from ltx2_core.errors import SettingError
from ltx2_core.geometry import Keyframes, whole_segments
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.encode_text import contexts_cache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.pipeline.raise_rate import RaiseRate, items_of, part_of, told_fps
from ltx2_core.pipeline.stages import Stages
from ltx2_core.sampling import recipe_for
from ltx2_core.sampling.rounds import ROUND_SIGMAS, join_keyframes, join_round, round_sampler, split_round
from ltx2_core.settings import Request, SecondStage

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


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_agree(length):
    """Both rounds of a clip, with the layout of 1.2.0."""
    frames = whole_segments(length)
    positions = GeneratedKeyframes().places(frames)
    for number, theirs in enumerate(recorded("windows")[str(length)], 1):
        frames, positions = 2 * (frames - 1) + 1, [2 * each for each in positions]
        ours = split_round(positions, frames, 2**number)
        assert [list(map(_listed, each)) for each in numbers(ours)] == theirs
        positions = sorted({*positions, *(slot for each in ours for slot in each.slots)})
        latent = torch.arange((frames - 1) // 8 + 1.0)[None, None, :, None, None]
        assert torch.equal(join_round([latent[:, :, each.latents] for each in ours], ours), latent)


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("length", LENGTHS)
def test_windows_of_diffusers_agree(length):
    """From the filled-up clip and its keyframes on, in both rounds."""
    layout = pytest.importorskip("diffusers.pipelines.ltx2.dfr_layout")
    frames, _, positions = layout.resolve_canvas(length)
    assert frames == whole_segments(length) and GeneratedKeyframes().places(frames) == tuple(positions)
    for number in (1, 2):
        frames, positions = 2 * (frames - 1) + 1, [2 * each for each in positions]
        theirs, ours = (
            layout.temporal_tile_plan(positions, frames, 2**number),
            split_round(positions, frames, 2**number),
        )
        expected = []
        for (start, stop, drop, _), first, last, anchors, slots in theirs:
            expected.append((first, last, start, stop, anchors, slots, drop))
        assert numbers(ours) == expected
        positions = sorted({*positions, *(slot for each in ours for slot in each.slots)})


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
    """From its first frame on, between two latents if it begins there, as long as the model is told that it lasts."""
    window = split_round((24, 48), 49, 1)[0]
    whole = part_of(clip(), window, Fraction(24), Fraction(24)).audio
    assert_close(whole[0, 0, :, 0], (torch.arange(51) * (49 / 24 * 25 / 51)).clamp(max=50), atol=1e-4, rtol=0)
    later = replace(window, first=24)
    heard = part_of(clip(), later, Fraction(24), Fraction(24)).audio
    assert heard.shape == (1, 8, 26, 16) and heard[0, 0, 0, 0] == 25 and heard[0, 0, -1, 0] == 50
    between = part_of(clip(), later, Fraction(48), Fraction(60)).audio
    assert_close(between[0, 0, :, 0], 12.5 + torch.arange(10) * (25 / 48 * 25 / 10))
    fewer = part_of(clip(), window, Fraction(24), Fraction(48)).audio
    assert fewer.shape[2] == 26 and (fewer.diff(dim=2) > 1.9).all()


def test_the_model_is_told_no_rate_that_it_has_not_seen():
    assert [told_fps(Fraction(fps)) for fps in (24, 30, 48, 96, 120)] == [24, 30, 60, 60, 60]


def test_keyframes_may_be_two_latents_apart_but_no_nearer():
    windows = split_round((16, 32, 48), 49, 3)
    assert [(window.first, window.last, window.slots) for window in windows] == [
        (0, 16, (8,)), (0, 32, (8, 24)), (16, 48, (24, 40))
    ]  # fmt: skip
    with pytest.raises(SettingError, match="16 frames or more"):
        split_round((8, 48), 49, 2)


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


# As one recipe


@pytest.fixture(scope="module")
def upscalers(tmp_path_factory):
    """Random ones, in space and in time."""
    kinds = {}, {"spatial_upsample": False, "temporal_upsample": True}
    return tuple(open_upscaler(tiny_parts.write_upscaler(tmp_path_factory.mktemp("upscaler"), kind)) for kind in kinds)


def test_the_recipe_fills_up_the_clip_and_finds_its_keyframes(upscalers):
    recipe = recipe_for("2.5", 48, distilled=True)
    request = Request.of("x", frames=105, width=64, height=64, second=SecondStage(upscalers, rounds=2))
    whole = request.completed(recipe)
    assert (whole.shape.frames, whole.shape.width, whole.final.fps) == (121, 32, 24)
    assert (whole.made.frames, whole.made.fps, whole.made.width) == (417, 96, 64)
    assert whole.sampler == whole.refine.sampler == "euler_ancestral" and whole.refine.keeps_sound
    assert whole.second.keep_keyframes and whole.request.conditions == (GeneratedKeyframes(),)
    own = replace(request, conditions=(GeneratedKeyframes(frames="48, 120"),)).completed(recipe)
    assert own.request.conditions == (GeneratedKeyframes(frames="48, 120"),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"upscalers": ()}, "temporal upscaler, and there is none"), ({"refine": False}, "go on from a second stage")],
)
def test_rounds_that_lack_something_are_refused(upscalers, changes, said):
    second = replace(SecondStage(upscalers, rounds=1), **changes)
    with pytest.raises(SettingError, match=said):
        Request.of("x", second=second).completed(recipe_for("2.5", 48, distilled=True))


@pytest.mark.slow
def test_a_clip_of_dfr_is_as_long_as_asked_and_keeps_its_sound(tiny_files, upscalers):
    models = ltx2.open_models(*tiny_files("2.5")[:2], distilled=True)
    settings = {"frames": 25, "width": 64, "height": 64, "seed": 3, "cache": False, "device": "cpu"}
    told = []
    second = SecondStage(upscalers, rounds=1)
    clip = ltx2.generate(models, "a ball", second=second, on_progress=lambda *each: told.append(each), **settings)
    assert clip.fps == 48 and clip.frames.shape == (49, 64, 64, 3) and clip.latent.keyframes.frames == (24, 48)
    assert abs(clip.waveform.shape[-1] / clip.sample_rate - 49 / 48) < 0.01
    assert [each[1:] for each in told if each[0].startswith("raising")] == [(step, 4) for step in range(1, 5)]
    told_so = ltx2.generate(models, "a ball", second=second, conditions=[GeneratedKeyframes()], **settings)
    assert torch.equal(told_so.latent.video, clip.latent.video), "keyframes of the recipe begin in the first stage"
    short = ltx2.generate(models, "a ball", second=second, **settings | {"frames": 17})
    assert short.frames.shape == (33, 64, 64, 3) and short.latent.audio.shape[2] == 17
    assert torch.equal(short.latent.video, clip.latent.video[:, :, :5])  # of a clip that is filled up to 25 frames


# Detailing


def lora(downscale: int):
    return SimpleNamespace(downscale=downscale, temporal_downscale=1)


def test_detailing_follows_the_first_stage_in_the_second_alone(upscalers):
    second = SecondStage(upscalers, rounds=1, detailing=True, detailing_lora=lora(2))
    whole = Request.of("x", frames=49, width=128, height=64, second=second).completed(
        recipe_for("2.5", 48, distilled=True)
    )
    small = torch.randn(1, 128, *whole.shape.video_latent)
    (reference,) = whole.followed(small)
    assert reference.latent is small and (reference.downscale, reference.strength) == (2, 1.0)
    ((_, strengths),) = whole.second.with_detailing(whole.refine_loras)
    assert strengths.strength == 0.5 and whole.refine_loras == whole.loras == ()
    plain = replace(second, detailing=False)
    assert plain.followed(small, (7, 2, 4), ()) == plain.with_detailing(()) == ()


@pytest.mark.parametrize(
    ("large", "wanted", "said"),
    [
        ((2, 4, 6), 4, "wants a first stage that is 4 times smaller, and this one is 2 times smaller"),
        ((2, 3, 4), 1, "a whole number of times smaller; this one has 2 x 2 x 3 latent cells, the second 2 x 3 x 4"),
        ((3, 4, 6), 1, "enlarge it in space alone"),
    ],
)
def test_a_first_stage_that_detailing_cannot_follow_is_refused(large, wanted, said):
    second = SecondStage(detailing=True)
    assert second.followed(torch.zeros(1, 128, 2, 2, 3), (2, 4, 6), ((lora(1), None),))
    with pytest.raises(SettingError, match=said):
        second.followed(torch.zeros(1, 128, 2, 2, 3), large, ((lora(wanted), None),))


def test_detailing_without_a_second_stage_is_refused(upscalers):
    second = SecondStage(upscalers, refine=False, detailing=True)
    with pytest.raises(SettingError, match="belongs to a second stage"):
        Request.of("x", second=second).completed(recipe_for("2.5", 48, distilled=True))


@pytest.mark.slow
def test_detailing_is_planned_for_and_changes_the_clip(tiny_files, upscalers):
    """That its numbers are the official ones is tested with all pipelines (test_official_pipelines.py)."""
    models = ltx2.open_models(*tiny_files("2.5")[:2], distilled=True)
    settings = {"frames": 9, "width": 64, "height": 64, "seed": 3, "cache": False, "device": "cpu"}
    second = SecondStage(upscalers[:1], detailing=True)
    clip = ltx2.generate(models, "a ball", second=second, **settings)
    other = ltx2.generate(models, "a ball", second=replace(second, detailing=False), **settings)
    assert clip.latent.video.shape == other.latent.video.shape and not clip.latent.video.equal(other.latent.video)
    request = Request.of("a ball", second=second, **settings)
    engine = LocalEngine(models, request.resources)
    stages = Stages.of(request.completed(recipe_of(models)), engine, contexts_cache(engine, False))
    assert stages.refine.size.appended == (2, 0)  # two latent frames of one cell each
