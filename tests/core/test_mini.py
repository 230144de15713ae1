"""The measure of the one-ball world finds in its true clips what was put there, and no more."""

import numpy as np
import pytest

from ltx2_core.mini import measure, world

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
