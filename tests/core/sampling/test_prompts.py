"""Several prompts over the noise levels, and what other nodes write beside a prompt."""

import pytest
import torch

from ltx2_core.conditioning import apply_conditions
from ltx2_core.errors import SettingError
from ltx2_core.latents import AVLatent
from ltx2_core.sampling import Denoiser, Guidance
from ltx2_core.sampling.blend import shares
from ltx2_core.text import Contexts, Extent, join_prompts, read_extras
from ltx2_core.text.prompts import sigma_of


def context(value: float) -> Contexts:
    return Contexts(torch.full((1, 1, 2), value), torch.full((1, 1, 2), -value))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_each_prompt_holds_in_its_part_of_the_run(order):
    ranges = [(0.0, 0.3), (0.3, 0.6), (0.6, 1.0)]
    joined = join_prompts([context(1 + n) for n in order], [Extent(*ranges[n]) for n in order])
    for part, prompt in ((0.0, 1), (0.29, 1), (0.31, 2), (0.59, 2), (0.61, 3), (1.0, 3)):
        here = joined.at(sigma_of(part))
        assert here.video.unique() == prompt and here.audio.unique() == -prompt


def test_parts_of_a_run_are_the_noise_levels_that_the_host_means():
    # flux_time_shift(2.37, 1, 1 - percent) of ComfyUI 0.33, at 0.5 and 0.9
    assert sigma_of(0.5) == pytest.approx(0.914498, abs=1e-4) and sigma_of(0.9) == pytest.approx(0.543096, abs=1e-4)
    assert sigma_of(0.0) == 1 and sigma_of(1.0) == 0


def test_one_prompt_is_itself():
    only = context(1)
    assert join_prompts([only], [Extent()]) is only and only.at(0.3) is only


@pytest.mark.parametrize(
    "ranges, words",
    [
        ([(0.9, 1.0)], "no prompt from 0% to 90%.*ConditioningSetTimestepRange"),
        ([(0.0, 0.4), (0.6, 1.0)], "no prompt from 40% to 60%"),
        ([(0.0, 0.5)], "no prompt from 50% to 100%"),
    ],
)
def test_prompts_that_leave_a_gap_are_refused(ranges, words):
    with pytest.raises(SettingError, match=words):
        join_prompts([context(1)] * len(ranges), [Extent(*each) for each in ranges])


@pytest.mark.parametrize(
    "extras, words",
    [
        ({"default": True}, "Cond Set Default Combine"),
        ({"control": object()}, "ControlNet"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"model_conds": {"c_concat": object()}}, "model_conds"),
    ],
)
def test_whatever_is_not_understood_is_refused_by_name(extras, words):
    with pytest.raises(SettingError, match=f"{words}.*take that node out"):
        read_extras(extras)


def test_what_is_neutral_or_understood_passes():
    known = {"pooled_output": None, "unprocessed_ltxav_embeds": True, "frame_rate": 24.0, "strength": 1.0, "mask": None}
    assert read_extras(known)[:2] == (0.0, 1.0)
    of_a_guider = {"cross_attn": torch.ones(1, 2, 4), "model_conds": {}, "uuid": object()}
    assert read_extras(of_a_guider)[:2] == (0.0, 1.0)
    assert read_extras({"start_percent": 0.25, "end_percent": 0.5})[:2] == (0.25, 0.5)


def test_the_denoiser_reads_the_prompt_of_its_noise_level():
    read = []

    class Network:
        def sweep(self, passes, between_blocks=None):
            read.extend(float(each.video.context[0, 0, 0]) for each in passes)
            return [(torch.zeros_like(each.video.tokens), None) for each in passes]

    state = apply_conditions(AVLatent(torch.zeros(1, 4, 1, 2, 2), None), 24, [])
    tokens = state.map(lambda each: each.latent)
    denoise = Denoiser(Network(), state, join_prompts([context(1), context(2)], [Extent(0.0, 0.5), Extent(0.5, 1.0)]))
    for sigma in (1.0, 0.95, 0.9, 0.2):
        denoise(tokens, sigma)
    assert read == [1, 1, 2, 2]


STATE = apply_conditions(AVLatent(torch.zeros(1, 4, 2, 2, 8), torch.zeros(1, 8, 5, 16)), 24, [])


def shares_of(*extras: dict) -> list[torch.Tensor]:
    """The share of each prompt in the cells of the picture, (F, H, W)."""
    found = shares([read_extras(each).weight for each in extras], STATE)
    return [each.video.view(2, 2, 8) for each in found]


def test_prompts_share_the_clip_by_their_strength():
    first, second = shares([read_extras({"strength": each}).weight for each in (3.0, 1.0)], STATE)
    assert first.video.unique() == 0.75 == first.audio.unique() and second.video.unique() == 0.25


def test_a_mask_gives_a_prompt_its_place_in_the_picture_and_not_in_the_sound():
    mask = torch.zeros(1, 64, 256)
    mask[..., :128] = 1
    weights = [read_extras(each).weight for each in ({"mask": mask, "mask_strength": 3.0}, {})]
    assert torch.equal(read_extras({"mask": mask[0]}).weight.mask, mask)  # of one picture
    masked, rest = (each.video.view(2, 2, 8) for each in shares(weights, STATE))
    assert masked[..., :4].unique() == 0.75 and masked[..., 4:].unique() == 0 and rest[..., 4:].unique() == 1
    assert shares(weights, STATE)[0].audio.unique() == 0.5


@pytest.mark.parametrize("area", [("percentage", 1.0, 0.5, 0.0, 0.5), (8, 16, 0, 16)])
def test_an_area_is_a_part_of_the_picture_with_soft_edges(area):
    """64 x 128 pixels at x = 128, of 64 x 256: ComfyUI counts them in cells of 8."""
    inside, _ = shares_of({"area": area, "strength": 1.0}, {})
    assert inside[..., :4].unique() == 0 and (inside[..., 4:] == 0.5).all()
    wide, _ = shares_of({"area": ("percentage", 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)}, {})
    assert wide.unique() == 0.5
    faded, _ = shares_of({"area": ("percentage", 1.0, 1.0, 0.0, 0.125)}, {})
    assert faded[0, 0, 0] == 0 and 0 < faded[0, 0, 1] <= 0.5


def test_the_edges_of_an_area_fade_as_in_comfyui():
    """Over a quarter of its width, at most 8 cells, but not at the edge of the picture nor where a mask says it all."""
    wide = apply_conditions(AVLatent(torch.zeros(1, 4, 1, 1, 32), None), 24, [])

    def weights(**extras) -> list[float]:
        share = shares([read_extras(each).weight for each in (extras, {})], wide)[0].video.flatten()
        return (share / (1 - share)).tolist()

    rise = [0.25, 0.5, 0.75, 1.0]
    left, middle, right = (("percentage", 1.0, 0.5, 0.0, start) for start in (0.0, 0.25, 0.5))
    inside = 8 * [0] + 16 * [1] + 8 * [0]
    assert weights(area=middle) == pytest.approx(8 * [0] + rise + 8 * [1] + rise[::-1] + 8 * [0])
    assert weights(area=left) == pytest.approx(12 * [1] + rise[::-1] + 16 * [0])
    assert weights(area=right) == pytest.approx(16 * [0] + rise + 12 * [1])
    assert weights(area=middle, mask=torch.ones(1, 32, 1024)) == pytest.approx(inside)


def test_a_part_of_the_clip_without_any_prompt_is_refused():
    with pytest.raises(SettingError, match="leave a part of the clip without any"):
        shares_of({"area": ("percentage", 1.0, 0.5, 0.0, 0.0)}, {"area": ("percentage", 1.0, 0.25, 0.0, 0.5)})
    with pytest.raises(SettingError, match="leave a part"):
        shares_of({"strength": 0.0}, {"strength": 0.0})


@pytest.mark.parametrize(
    "extras",
    [
        {"mask": "here"},
        {"mask": torch.zeros(1)},
        {"mask": torch.full((1, 2, 2), torch.nan)},
        {"mask": torch.zeros(1, 2, 2, device="meta")},
        {"area": (1, 2, 3)},
        {"area": ("percentage", "a", 1, 0, 0)},
        {"area": ("percentage", 0.5, torch.nan, 0, 0)},
        {"area": 5},
        {"area": ()},
    ],
)
def test_a_mask_or_an_area_of_another_form_is_refused(extras):
    with pytest.raises(SettingError, match="ConditioningSet"):
        read_extras(extras)


@pytest.mark.parametrize("key", ["start_percent", "end_percent", "strength", "mask_strength"])
@pytest.mark.parametrize("value", ["0.5", "x", [0.5], torch.nan, torch.inf, -0.1, torch.zeros(2), object()])
def test_a_number_of_another_form_is_refused_by_name(key, value):
    with pytest.raises(SettingError, match=f"for {key}, where a number of 0 or more is meant"):
        read_extras({"mask": torch.ones(1, 2, 2), key: value})
    assert read_extras({key: 1}) and read_extras({key: None})


class Echo:
    """A network whose velocity is the first number of the prompt, beside what it was asked."""

    def __init__(self):
        self.sweeps = []

    def sweep(self, passes, between_blocks=None):
        self.sweeps.append([float(each.video.context[0, 0, 0]) for each in passes])
        return [
            tuple(stream.context[:, :1, :1] * torch.ones_like(stream.tokens) for stream in (each.video, each.audio))
            for each in passes
        ]


def test_the_estimate_is_the_mean_of_those_of_all_prompts_in_every_pass():
    joined = join_prompts([context(1), context(5)], [read_extras({"strength": each}) for each in (3.0, 1.0)])
    echo, guidance = Echo(), Guidance(text_scale=2.0)
    denoise = Denoiser(echo, STATE, joined, context(7), video=guidance, audio=guidance)
    guided, negative = denoise.both(STATE.map(lambda each: each.latent), 1.0)
    assert echo.sweeps == [[1, 7], [5]]
    assert negative.video.unique() == -7 and negative.audio.unique() == 7
    assert guided.video.unique() == -2 + (2 - 1) * (-2 + 7)  # cond: (3 * 1 + 5) / 4


def test_only_prompts_that_hold_at_a_noise_level_are_asked():
    joined = join_prompts([context(1), context(5)], [Extent(), Extent(0.5, 1.0)])
    echo = Echo()
    denoise = Denoiser(echo, STATE, joined)
    for sigma in (1.0, 0.2):
        denoise(STATE.map(lambda each: each.latent), sigma)
    assert echo.sweeps == [[1], [1], [5]]


def test_nag_reads_one_negative_prompt():
    guidance, both = Guidance(nag_scale=5.0), join_prompts([context(1), context(5)], [Extent(), Extent()])
    with pytest.raises(SettingError, match="NAG reads one"):
        Denoiser(Echo(), STATE, context(1), both, video=guidance)(STATE.map(lambda each: each.latent), 1.0)
