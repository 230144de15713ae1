"""What ComfyUI's nodes write beside a prompt about guide frames and a voice: read, or refused with what to do."""

from fractions import Fraction

import pytest
import torch
from drawn import draw

from ltx2_core import geometry
from ltx2_core.conditioning import GuidePlaces, Keyframe, apply_conditions
from ltx2_core.conditioning.guides import check_same_guides, read_sound
from ltx2_core.errors import SettingError
from ltx2_core.latents import AVLatent

FPS, SIZE = Fraction(24), (3, 2, 4)


def prompt(frame: int = 4, **extras) -> dict:
    """Beside a prompt, a guide of one picture."""
    places = geometry.video_positions((1, *SIZE[1:]), Fraction(1))
    places[:, 0] += frame
    return {"keyframe_idxs": places.long(), **extras}


def entry(**other) -> dict:
    return {"pre_filter_count": 8, "strength": 0.5, "latent_shape": [1, 2, 4], "pixel_mask": None} | other


LATENT = AVLatent(torch.cat((torch.zeros(1, 8, *SIZE), draw(8, 1, 2, 4)), dim=2), draw(8, 25, 16))


def state_of(extras: dict, mask: torch.Tensor | None = None):
    places = GuidePlaces.read([extras])
    content, guides = places.split(LATENT, mask)
    assert content.video.shape[2:] == SIZE
    return apply_conditions(content, FPS, [guides]).video


def test_a_guide_is_a_keyframe_beside_the_clip():
    ours = apply_conditions(AVLatent(torch.zeros(1, 8, *SIZE), None), FPS, [Keyframe(LATENT.video[:, :, 3:], 4)]).video
    guided = state_of(prompt())
    for name in ("latent", "clean", "mask", "positions"):
        assert torch.equal(getattr(guided, name), getattr(ours, name)), name
    assert guided.visibility is None


def test_strength_is_kept_by_the_mask_and_weighs_attention():
    mask = torch.ones(1, 1, 4, 1, 1)
    mask[:, :, 3] = 0.5
    pixels = torch.ones(1, 1, 1, 64, 128)
    pixels[..., 64:] = 0
    guided = state_of(prompt(guide_attention_entries=[entry(pixel_mask=pixels)]), mask)
    assert guided.mask[0, guided.count :].unique() == 0.5 and guided.own(guided.mask).unique() == 1
    assert guided.visibility.weight[guided.count :].tolist() == [0.5, 0.5, 0, 0] * 2
    assert guided.visibility.group.tolist() == [0] * guided.count + [1] * 8


def test_gaps_of_a_smaller_grid_are_no_tokens():
    mask = torch.ones(1, 1, 4, 2, 4)
    mask[:, :, 3] = -1
    mask[:, :, 3, ::2, ::2] = 0
    guided = state_of(prompt(guide_attention_entries=[entry(latent_shape=[1, 1, 2])]), mask)
    assert guided.positions.shape[2] - guided.count == 2 == guided.visibility.weight[guided.count :].eq(0.5).sum()


@pytest.mark.parametrize(
    "extras, words",
    [
        (prompt(keyframe_idxs=torch.zeros(1)), "a form that our nodes do not know"),
        (prompt(keyframe_idxs="here"), "a form that our nodes do not know"),
        (prompt(guide_attention_entries=[{"strength": 1}]), "in a form.*how strongly"),
        (prompt(guide_attention_entries=[entry(pre_filter_count=9)]), "for 9 tokens.*has 8"),
        (prompt(keyframe_idxs=prompt()["keyframe_idxs"] * 2), "LTXVCropGuides"),
        (prompt(keyframe_idxs=prompt()["keyframe_idxs"].repeat(1, 1, 4, 1)), "LTXVCropGuides"),
        (prompt(keyframe_idxs=prompt()["keyframe_idxs"][:, :, 1:]), "LTXVCropGuides"),
    ],
)
def test_guides_that_cannot_be_obeyed_are_refused_with_what_to_do(extras, words):
    with pytest.raises(SettingError, match=words):
        state_of(extras)


def test_guides_without_a_picture_are_refused():
    with pytest.raises(SettingError, match="has no picture"):
        GuidePlaces.read([prompt()]).split(AVLatent(None, LATENT.audio), None)


@pytest.mark.parametrize("sound", [{"tokens": torch.zeros(1, 4, 7)}, {"tokens": 5}, "sound"])
def test_a_voice_in_another_form_is_refused(sound):
    with pytest.raises(SettingError, match="LTX-2 Reference Audio"):
        read_sound([{"ref_audio": sound}])


def test_prompts_of_one_clip_have_one_set_of_guides():
    check_same_guides([prompt()], [prompt()])
    check_same_guides([prompt()], [{}])
    check_same_guides([prompt(), {"frame_rate": 24}], [])
    with pytest.raises(SettingError, match="comes from LTXVAddGuide"):
        check_same_guides([{}], [prompt()])
    with pytest.raises(SettingError, match="different guide frames"):
        check_same_guides([prompt()], [prompt(5)])
    with pytest.raises(SettingError, match="different guide frames"):
        check_same_guides([{"ref_audio": {"tokens": draw(4, 128)}}], [{"ref_audio": {"tokens": draw(4, 128, seed=1)}}])
