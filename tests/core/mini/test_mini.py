"""The measure of the one-ball world finds in its true clips what was put there, and no more; the miniature knows it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltx2_core import generate, open_models
from ltx2_core.conditioning import KeepVideo, Picture, VideoSource
from ltx2_core.mini import evaluate, measure, world
from ltx2_core.sampling import Guidance
from ltx2_core.sampling.windows import Windowing

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(3)
    return [world.sample_scene(rng, colour, place, 1 + i % 3) for i, colour in enumerate(world.COLOURS)
            for place in world.PLACES]  # fmt: skip


def test_true_clips_are_described_truly(scenes):
    clips = [(world.render_video(s), world.render_audio(s, measure.RATE)) for s in scenes]
    found = measure.describe(clips, [(s.colour, s.place, s.count) for s in scenes])
    assert found.pop("sync_error_ms_median") < 10
    assert set(found.values()) == {1.0}


def test_what_is_not_there_is_not_found(scenes):
    scene = scenes[0]
    silence, nobody = np.zeros((2, 33000), np.float32), np.full((33, 96, 96, 3), 0.2, np.float32)
    assert measure.listen(silence).colour is None and measure.look(nobody).colour is None
    late = np.roll(world.render_audio(scene, measure.RATE), 6000, axis=1)  # a quarter of a second
    found = measure.describe([(world.render_video(scene), late)], [(scene.colour, scene.place, scene.count)])
    assert found["sync_within_2_frames"] == 0 and found["ball_colour"] == 1


def test_captions_say_what_is_asked_for():
    rng = np.random.default_rng(0)
    scene = world.sample_scene(rng, "blue", "left", 2, "dark")
    said = world.caption(scene, rng, mention_room=True)
    assert "blue" in said and "left" in said and "dark" in said and any(w in said for w in world.COUNT_WORDS[2])


def test_late_or_missing_tones_are_not_heard_in_time(scenes):
    scene = next(s for s in scenes if s.count == 3)
    wanted = [(scene.colour, scene.place, scene.count)]
    pictures, sound = world.render_video(scene), world.render_audio(scene, measure.RATE)
    cut = sound.copy()
    cut[:, int((scene.impacts[2] - 0.05) * measure.RATE) :] = 0  # the last tone is missing
    for heard, every, share in (sound, 1.0, 1.0), (cut, 0.0, 2 / 3), (np.roll(sound, 6000, axis=1), 0.0, 0.0):
        found = measure.describe([(pictures, heard)], wanted)
        assert found["every_bounce_heard"] == every
        assert found["sync_within_2_frames"] == pytest.approx(share, abs=1e-3)


def test_held_out_captions_ask_for_everything_equally_often():
    wanted, captions = evaluate.asked(90)
    assert {wanted.count(each) for each in wanted} == {2} and len(set(wanted)) == 45
    assert all(colour in caption for (colour, _, _), caption in zip(wanted, captions))


@torch.inference_mode()
def test_the_miniature_does_what_captions_ask():
    miniature = evaluate.Miniature()
    few_steps = replace(evaluate.OFFICIAL, steps=8)
    coded, figures = evaluate.figures_of(miniature, [few_steps], prompts=12, clips=4)
    (made,) = figures.values()
    assert coded["video_psnr_db"] > 29 and coded["colour_and_place"] == coded["sound_side"] == 1
    assert made["colour_and_place"] >= 0.9 and made["bounce_count"] >= 0.75 and made["sync_within_2_frames"] >= 0.75


def height_of_ball(pictures: np.ndarray, colour: str) -> np.ndarray:
    """The mean row of the pixels of a colour in each of (F, H, W, 3)."""
    seen = np.square(pictures - np.array(world.COLOURS[colour], np.float32)).sum(-1) < 0.09
    return (seen * np.arange(world.SIZE)[:, None]).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
@torch.inference_mode()
@pytest.mark.parametrize(("frame", "count"), [(8, 17), (16, 9)])
def test_pictures_in_mid_clip_are_shown_at_their_frames(frame, count):
    """A piece of a true clip is given; the shift at which given and shown ball agree best is at most one frame."""
    rng = np.random.default_rng(5)
    scenes = [world.sample_scene(rng, count=1 + number, room="dark") for number in range(3)]
    miniature, apart = open_models("miniature"), np.zeros((3, 17))
    for number, scene in enumerate(scenes):
        true = world.render_video(scene)
        given = Picture(torch.from_numpy(true[frame : frame + count]), frame)
        text = world.caption(scene, rng, mention_room=True)
        plain = {"width": world.SIZE, "height": world.SIZE, "frames": world.FRAMES, "steps": 8, "audio": Guidance()}
        clip = generate(miniature, text, conditions=[given], video=Guidance(3), device="cpu", seed=1, **plain)
        made, meant = (height_of_ball(each, scene.colour) for each in (clip.frames.numpy(), true))
        for shift in range(-8, 9):
            shown = [k for k in range(frame, frame + count) if 0 <= k + shift < world.FRAMES]
            apart[number, shift + 8] = np.mean([abs(made[k + shift] - meant[k]) for k in shown])
    assert abs(int(apart.mean(0).argmin()) - 8) <= 1, apart.mean(0)


@pytest.mark.slow
@torch.inference_mode()
def test_sound_for_a_long_picture_is_made_in_windows_at_its_moments():
    """A true picture of seven windows is given; each impact has its tone within a frame, and no tone is beside one."""
    rng = np.random.default_rng(1)
    scene = world.sample_scene(rng, place="left", count=2, room="dark")
    true, frames = world.render_video(scene, 129), 129
    impacts = np.arange(scene.impacts[0], frames / world.FPS, scene.period)
    plain = {"width": world.SIZE, "height": world.SIZE, "frames": frames, "steps": 8, "device": "cpu", "seed": 1}
    clip = generate(
        open_models("miniature"), world.caption(scene, rng, mention_room=True), windowing=Windowing(33, 16),
        conditions=[KeepVideo(VideoSource(torch.from_numpy(true)))], audio=Guidance(3, 3), cache=False, **plain,
    )  # fmt: skip
    heard = measure.listen(clip.waveform.numpy())
    assert (len(heard.onsets), heard.colour, heard.place) == (len(impacts), scene.colour, "left")
    assert np.abs(heard.onsets - impacts).max() <= 1 / world.FPS, heard.onsets - impacts


def test_the_published_figures_are_those_of_the_shipped_checkpoint():
    published = json.loads((Path(__file__).parents[3] / "benchmarks/results/evaluation.json").read_text())
    assert published["about"]["checkpoint"] == hashlib.sha256(evaluate.BUILT_IN.read_bytes()).hexdigest()
    assert published["about"]["prompts"] == 200
