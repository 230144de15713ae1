"""Frames that are generated beside a clip: where they are, what they see, and what becomes of them."""

from dataclasses import replace
from fractions import Fraction
from functools import reduce

import pytest
import torch
from direct import sample
from drawn import draw
from official import matrix
from official_parts import FRAMES, SHAPE, SLOTS, compare_samples, recorded
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.conditioning import KeyframeSlots, Picture, ReferenceVideoTokens, State, seed_slots
from ltx2_core.conditioning.conditions import ReferenceVideo
from ltx2_core.conditioning.pictures import GeneratedKeyframes
from ltx2_core.conditioning.rate import at_rate
from ltx2_core.conditioning.sizes import SizeOnlyEncoders
from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape, Keyframes, whole_segments
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.encode_conditions import measure_conditions
from ltx2_core.pipeline.long import sampled_size
from ltx2_core.pipeline.upscale import upscale
from ltx2_core.sampling import Tiles
from ltx2_core.settings import SecondStage
from ltx2_core.text import Contexts

FPS = Fraction(24)


def video_state() -> State:
    return State.of(draw(*SHAPE, seed=9), FPS)


# Where they are


@pytest.mark.parametrize(
    ("keyframes", "length", "places"),
    [
        (GeneratedKeyframes(), 121, (24, 48, 72, 96, 120)),
        (GeneratedKeyframes(), 33, (32,)),
        (GeneratedKeyframes(), 9, (8,)),
        (GeneratedKeyframes(2), 9, (3, 5)),
        (GeneratedKeyframes(3), 121, (30, 60, 90)),
        (GeneratedKeyframes(5, "48, -1; 24"), 121, (24, 48, 120)),
    ],
)
def test_keyframes_are_where_the_official_pipelines_have_them(keyframes, length, places):
    assert keyframes.places(length) == places


def test_a_clip_is_filled_up_to_whole_segments():
    """The numbers of the spec: each length, and that of its canvas."""
    lengths = {9: 25, 17: 25, 25: 25, 33: 33, 49: 49, 97: 97, 121: 121, 129: 129, 161: 161, 193: 193, 241: 241}
    assert {length: whole_segments(length) for length in lengths} == lengths
    steps = [GeneratedKeyframes().places(whole_segments(length))[0] for length in (9, 33, 97, 121, 193, 241)]
    assert steps == [24, 32, 32, 24, 32, 24]


def test_they_move_with_the_rate_of_a_second_stage():
    final = ClipShape(64, 64, 33, FPS * 2)
    (moved,) = at_rate([GeneratedKeyframes(2)], final, 2)
    assert moved.places(33) == tuple(2 * frame for frame in GeneratedKeyframes(2).places(17))


# What they are to the model


@pytest.mark.parametrize("case", SLOTS)
def test_slots_agree(case):
    """Beside a reference that is seen in part, too: keyframes and references do not see each other then."""
    (weight, seeded), theirs = SLOTS[case], recorded("slots")[case]
    state = video_state()
    if weight is not None:
        state = ReferenceVideoTokens(draw(8, 3, 2, 4, seed=4), attention=weight)(state)
    state = KeyframeSlots(FRAMES, draw(8, 2, 2, 4, seed=3) if seeded else None)(state)
    generated = state.generated(state.latent)
    assert generated.frames == FRAMES
    found = {"begin": state.latent[:, state.slots >= 0], "clip": state.latent[:, : state.count]}
    found |= {"positions": state.positions, "mask": state.mask, "marks": state.keyframes, "taken out": generated.latent}
    if "attention" in theirs:
        found["attention"] = matrix(state.visibility)
    assert found.keys() == theirs.keys()
    for name, tensor in found.items():
        compare_samples(f"slots: {name}", tensor, theirs[name])


def test_a_slot_lasts_one_frame_and_is_marked_and_noisy():
    state = KeyframeSlots((3, 16))(ReferenceVideoTokens(draw(8, 3, 2, 4), attention=0.4)(video_state()))
    new = state.slots >= 0
    assert new.sum() == 2 * 8 and state.generated_frames == (3, 16)
    assert_close((state.positions[0, 0, new] * 24)[::8], torch.tensor([[3.0, 4.0], [16.0, 17.0]]))
    assert_close(state.positions[0, 1:, new][:, :8], state.positions[0, 1:, :8])
    assert state.mask[0, new].eq(1).all() and state.keyframes[0, new].eq(1).all()
    assert state.keyframes[0, ~new].sum() == 8  # the first latent alone
    seen = matrix(state.visibility)[0]
    assert seen[new][:, ~new][:, 24:].eq(0).all() and seen[new][:, :24].eq(1).all() and seen[new][:, new].eq(1).all()


def test_the_first_frame_can_be_generated_too():
    state = KeyframeSlots((0, 16), latent := draw(8, 2, 2, 4, seed=3))(video_state())
    generated = state.generated(state.latent)
    assert generated.frames == (0, 16) and torch.equal(generated.latent, latent)


def network(video, audio, *_):
    """Some function of every token and of what all tokens hold."""
    return video.tokens * 0.3 + video.tokens.mean(1, keepdim=True) + video.positions[:, 0, :, :1] * 0.1


class Network:
    def sweep(self, passes, between_blocks=None):
        return [(network(each.video, each.audio), None) for each in passes]


def run(latent, sigmas, items=(KeyframeSlots((3, 16)),), **settings):
    contexts = Contexts(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    return sample(Network(), latent, fps=FPS, sigmas=sigmas, contexts=contexts, items=items, seed=1, **settings)


EMPTY = AVLatent(torch.zeros(1, *SHAPE), None)


def test_a_finished_latent_carries_its_keyframes_wherever_it_goes():
    made = run(EMPTY, [1.0, 0.5, 0.0])
    assert made.video.shape == (1, *SHAPE) and made.keyframes.latent.shape == (1, 8, 2, 2, 4)
    assert made.keyframes.frames == (3, 16) and made.keyframes.latent.abs().max() > 0.1
    (clip,), moved = made.clips(), made.to(torch.float64)
    assert torch.equal(clip.keyframes.latent, made.keyframes.latent) and moved.keyframes.latent.dtype == torch.float64
    assert made.select(["audio"]).keyframes is None and (made + made).keyframes is None


def test_a_run_in_two_parts_is_that_in_one():
    sigmas = [1.0, 0.75, 0.5, 0.25, 0.0]
    whole = run(EMPTY, sigmas)
    first = run(EMPTY, sigmas[:3])
    rest = run(first, sigmas[2:], add_noise=False)
    assert_close(rest.video, whole.video)
    assert_close(rest.keyframes.latent, whole.keyframes.latent)
    forgotten = run(replace(first, keyframes=None), sigmas[2:], add_noise=False)
    assert (forgotten.video - whole.video).abs().max() > 1e-3


def test_a_second_stage_begins_with_the_keyframes_of_the_first():
    known = Keyframes(draw(8, 2, 2, 4), (3, 16))
    (seeded,) = seed_slots([KeyframeSlots((3, 16))], known)
    state = seeded(video_state())
    assert_close(state.generated(state.latent).latent, known.latent)
    (other,) = seed_slots([KeyframeSlots((4, 16))], known)
    assert other.latent is None
    state = seeded(State.of(torch.zeros(2, *SHAPE), FPS))
    assert state.generated(state.latent).latent.shape == (2, 8, 2, 2, 4)


@pytest.mark.parametrize("together", [True, False])
def test_tiles_make_keyframes_as_the_whole_does(together):
    """With a network that sees one token at a time; where tiles meet, a token is the mean of both."""

    class Local:
        def sweep(self, passes, between_blocks=None):
            return [(each.video.tokens * 0.3 + each.video.positions[:, 0, :, :1], None) for each in passes]

    contexts = Contexts(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    settings = {"fps": FPS, "sigmas": [1.0, 0.5, 0.0], "contexts": contexts, "items": [KeyframeSlots((3, 16))]}
    whole = sample(Local(), EMPTY, **settings)
    tiled = sample(Local(), EMPTY, **settings, tiles=Tiles((2, 1, 2), (1, 1, 1)), together=together)
    assert_close(tiled.video, whole.video)
    assert_close(tiled.keyframes.latent, whole.keyframes.latent)


def test_keyframes_are_enlarged_like_a_video_and_move_in_time():
    class Statistics:
        normalize = denormalize = staticmethod(lambda x: x)

    class Twice:
        def __init__(self, space, time):
            self.config = type("Config", (), {"space": space, "time": time})

        def __call__(self, x):
            return x.repeat_interleave(self.config.space, 3).repeat_interleave(self.config.space, 4)

    latent = AVLatent(draw(8, 3, 2, 4), None, Keyframes(draw(8, 2, 2, 4, seed=1), (3, 16)))
    larger, _ = upscale(Twice(2, 1), latent, FPS, Statistics())
    assert larger.keyframes.latent.shape == (1, 8, 2, 4, 8) and larger.keyframes.frames == (3, 16)
    longer, fps = upscale(Twice(1, 2), latent, FPS, Statistics())
    assert torch.equal(longer.keyframes.latent, latent.keyframes.latent) and longer.keyframes.frames == (6, 32)
    assert fps == 48 and longer.keyframes.belongs_to(torch.empty(1, 8, 5, 2, 4))
    assert not longer.keyframes.belongs_to(latent.video)  # of which the frames are gone


# What is planned and refused


def test_the_plan_counts_their_tokens():
    shape = ClipShape(128, 64, 17, FPS)
    sizes = [sampled_size(measure_conditions(each, shape, ("video", "audio")).state, ())
             for each in ((), (GeneratedKeyframes(3),))]  # fmt: skip
    assert [each.tokens[0] for each in sizes] == [24, 24 + 3 * 8]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([KeyframeSlots((17,))], "frame 17, but the clip has 17 frames"),
        ([KeyframeSlots((3, 3))], "rising order"),
        ([KeyframeSlots((3,)), KeyframeSlots((4,))], "all of their frames at once"),
        ([KeyframeSlots((3,), draw(8, 1, 4, 4))], "must be of its size"),
    ],
)
def test_slots_that_cannot_be_are_refused(items, said):
    with pytest.raises(SettingError, match=said):
        reduce(lambda state, item: item(state), items, video_state())


def test_more_than_a_clip_has_room_for_are_refused():
    with pytest.raises(SettingError, match=r"room for 8 keyframes .* at most 7"):
        GeneratedKeyframes(8).places(9)
    with pytest.raises(SettingError, match="sound alone"):
        list(GeneratedKeyframes().encode(ClipShape(64, 64, 9, FPS), ("audio",), SizeOnlyEncoders()))


@pytest.mark.slow
def test_a_model_without_the_marker_is_refused_in_a_sentence(tiny_files):
    models = ltx2.open_models(*tiny_files("2.3")[:2])
    with pytest.raises(SettingError, match="no keyframe marker"):
        ltx2.generate(models, "x", frames=9, width=64, height=64, conditions=[GeneratedKeyframes(1)], cache=False)


def test_a_second_stage_has_them_only_where_it_is_asked_to():
    picture, reference = Picture(torch.rand(1, 8, 8, 3)), ReferenceVideo(VideoSource(torch.rand(9, 8, 8, 3)))
    given = [picture, GeneratedKeyframes(), reference]
    assert SecondStage().given(given) == (picture,)
    assert SecondStage(keep_keyframes=True).given(given) == (picture, given[1])
    assert SecondStage().kept_loras((), [picture, GeneratedKeyframes()]) == ()
