"""One seed, and all that come from it."""

import pytest
import torch

from ltx2_core.latents import AVLatent, Noise
from ltx2_core.seeds import MIDDLE_NOISE, Seeds


def test_all_seeds_of_a_clip_are_offsets_from_its_own():
    seeds = Seeds(7)
    assert (seeds.first, seeds.window(0), seeds.window(3)) == (7, seeds, Seeds(10))
    assert (seeds.step_noise(), seeds.step_noise(4)) == (10_007, 10_011)


def test_noise_that_does_not_follow_the_seed_is_that_of_the_official_hq_pipeline():
    seeds = Seeds(7, fixed=-1)
    assert (seeds.step_noise(), seeds.window(2).step_noise()) == (-1, 1)


@pytest.mark.parametrize("order", ["official", "comfyui"])
def test_a_second_stage_goes_on_where_the_first_one_stopped(order):
    small, large = (AVLatent(torch.zeros(1, n, 128), torch.zeros(1, 5, 128)) for n in (6, 24))
    one = Noise(7, order)
    one(small)
    anew = Noise(7, order, drawn=(6 * 128, 5 * 128))(large)
    for ours, theirs in zip(anew.streams().values(), one(large).streams().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_comfyui_draws_nothing_for_appended_sounds():
    own, more = (AVLatent(torch.zeros(1, 6, 128), torch.zeros(1, n, 128)) for n in (5, 8))
    plain, appended = Noise(7, "comfyui"), Noise(7, "comfyui", appended=3)
    for _ in range(2):  # the second draw, too, as stochastic samplers take it
        a, b = plain(own), appended(more)
        assert torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio[:, :5])
        assert b.audio[:, 5:].std() > 0.5


def test_the_middle_of_a_step_is_reached_by_a_fork():
    assert Noise(Seeds(7).step_noise(4)).fork(MIDDLE_NOISE).seed == 20_011
