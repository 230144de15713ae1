"""One seed, and all that come from it."""

from ltx2_core.latents import Noise
from ltx2_core.seeds import MIDDLE_NOISE, Seeds


def test_all_seeds_of_a_clip_are_offsets_from_its_own():
    seeds = Seeds(7)
    assert (seeds.first, seeds.refine, seeds.window(0), seeds.window(3)) == (7, 8, 7, 10)
    assert (seeds.step_noise(), seeds.step_noise(4), seeds.middle_noise(4)) == (10_007, 10_011, 20_011)


def test_the_middle_of_a_step_is_reached_by_a_fork():
    assert Noise(Seeds(7).step_noise(4)).fork(MIDDLE_NOISE).seed == Seeds(7).middle_noise(4)
