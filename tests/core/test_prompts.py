"""Several prompts over the noise levels, and what other nodes write beside a prompt."""

import pytest
import torch

from ltx2_core.errors import SettingError
from ltx2_core.text import Contexts, over_sigma, read_extras
from ltx2_core.text.prompts import sigma_of


def context(value: float) -> Contexts:
    return Contexts(torch.full((1, 1, 2), value), torch.full((1, 1, 2), -value))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_each_prompt_holds_in_its_part_of_the_run(order):
    ranges = [(0.0, 0.3), (0.3, 0.6), (0.6, 1.0)]
    joined = over_sigma([context(1 + n) for n in order], [ranges[n] for n in order])
    for part, prompt in ((0.0, 1), (0.29, 1), (0.31, 2), (0.59, 2), (0.61, 3), (1.0, 3)):
        here = joined.at(sigma_of(part))
        assert here.video.unique() == prompt and here.audio.unique() == -prompt


def test_parts_of_a_run_are_the_noise_levels_that_the_host_means():
    # flux_time_shift(2.37, 1, 1 - percent) of ComfyUI 0.33, at 0.5 and 0.9
    assert sigma_of(0.5) == pytest.approx(0.914498, abs=1e-4) and sigma_of(0.9) == pytest.approx(0.543096, abs=1e-4)
    assert sigma_of(0.0) == 1 and sigma_of(1.0) == 0


def test_one_prompt_is_itself():
    only = context(1)
    assert over_sigma([only], [(0.0, 1.0)]) is only and only.at(0.3) is only


@pytest.mark.parametrize(
    "ranges, words",
    [
        ([(0.0, 1.0), (0.0, 1.0)], "joins 2 prompts.*ConditioningCombine"),
        ([(0.0, 0.6), (0.4, 1.0)], "two of them hold from 40%"),
        ([(0.9, 1.0)], "no prompt from 0% to 90%.*ConditioningSetTimestepRange"),
        ([(0.0, 0.4), (0.6, 1.0)], "no prompt from 40% to 60%"),
        ([(0.0, 0.5)], "no prompt from 50% to 100%"),
    ],
)
def test_prompts_that_overlap_or_leave_a_gap_are_refused(ranges, words):
    with pytest.raises(SettingError, match=words):
        over_sigma([context(1)] * len(ranges), ranges)


@pytest.mark.parametrize(
    "extras, words",
    [
        ({"mask": torch.zeros(1, 8, 8), "mask_strength": 1.0}, "ConditioningSetMask"),
        ({"strength": 0.0}, "ConditioningSetAreaStrength"),
        ({"area": ("percentage", 0.5, 0.5, 0, 0), "strength": 1.0}, "ConditioningSetArea"),
        ({"control": object()}, "ControlNet"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_whatever_is_not_understood_is_refused_by_name(extras, words):
    with pytest.raises(SettingError, match=f"{words}.*take that node out"):
        read_extras(extras)


def test_what_is_neutral_or_understood_passes():
    known = {"pooled_output": None, "unprocessed_ltxav_embeds": True, "frame_rate": 24.0, "strength": 1.0, "mask": None}
    assert read_extras(known) == (0.0, 1.0)
    assert read_extras({"start_percent": 0.25, "end_percent": 0.5}) == (0.25, 0.5)


def test_the_denoiser_reads_the_prompt_of_its_noise_level():
    from ltx2_core.conditioning import apply_conditions
    from ltx2_core.latents import AVLatent
    from ltx2_core.sampling.denoiser import Denoiser

    read = []

    class Network:
        def sweep(self, passes, between_blocks=None):
            read.extend(float(each.video.context[0, 0, 0]) for each in passes)
            return [(torch.zeros_like(each.video.tokens), None) for each in passes]

    state = apply_conditions(AVLatent(torch.zeros(1, 4, 1, 2, 2), None), 24, [])
    tokens = state.map(lambda each: each.latent)
    denoise = Denoiser(Network(), state, over_sigma([context(1), context(2)], [(0.0, 0.5), (0.5, 1.0)]))
    for sigma in (1.0, 0.95, 0.9, 0.2):
        denoise(tokens, sigma)
    assert read == [1, 1, 2, 2]
