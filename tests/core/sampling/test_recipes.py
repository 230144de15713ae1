"""Two-stage recipes say what the official pipelines do."""

import pytest

from ltx2_core.sampling import SAMPLERS, ScheduleSettings, passes_needed
from ltx2_core.sampling.recipes import RECIPES, recipe_for
from ltx2_core.sampling.schedules import MOST_TOKENS

SECOND = [0.909375, 0.725, 0.421875, 0.0]


@pytest.mark.parametrize(
    "kind, first, second, strengths, sound_of_the_first",
    [
        ("2.0 dev", 40 * 4, 3, (0, 1), True),
        ("2.3 dev", 30 * 4, 3, (0, 1), True),
        ("2.0 distilled", 8, 3, (0, 0), False),
        ("2.3 distilled", 8, 3, (0, 0), False),
        ("2.3 hq", (2 * 15 + 1) * 3, 2 * 3 + 1, (0.25, 0.5), True),
        ("2.5 dev", 30 * 4, 3, (0, 1), True),
        ("2.5 distilled", 8, 3, (0, 0), False),
        ("2.5 hq", (2 * 15 + 1) * 3, 2 * 3 + 1, (0.25, 0.5), True),
    ],
)
def test_both_stages_ask_the_model_as_often_as_the_official_ones(kind, first, second, strengths, sound_of_the_first):
    recipe, refine = RECIPES[kind], RECIPES[kind].refine
    calls = {
        "euler": lambda steps: steps,
        "euler_ancestral": lambda steps: steps,
        "res_2s": lambda steps: 2 * steps + 1,
    }
    assert calls[recipe.sampler](len(recipe.sigmas()) - 1) * len(passes_needed([recipe.video, recipe.audio])) == first
    assert calls[refine.sampler](len(refine.sigmas) - 1) * len(passes_needed([refine.video, refine.audio])) == second
    assert list(refine.sigmas) == SECOND
    assert (recipe.lora, refine.lora) == strengths
    assert refine.keeps_sound == sound_of_the_first
    assert {recipe.sampler, refine.sampler} <= SAMPLERS.keys()


def test_the_hq_schedule_shifts_with_the_size_of_the_first_stage():
    recipe = recipe_for("2.3", layers=48, hq=True)
    assert (recipe.width, recipe.height) == (960, 544)
    expected = [
        1, 0.993491, 0.986015, 0.977340, 0.967151, 0.955015, 0.940314, 0.922140, 0.899096, 0.868923, 0.827707, 0.768028,
        0.673897, 0.503378, 0.1, 0,
    ]  # fmt: skip
    assert recipe.sigmas(tokens=16 * 17 * 30) == pytest.approx(expected, abs=1e-6)
    assert recipe_for("2.3", layers=48).sigmas(tokens=16 * 17 * 30) == recipe_for("2.3", layers=48).sigmas()


@pytest.mark.parametrize("tokens", [37_000, 40_000, 63_240])
def test_a_size_at_which_the_steps_run_together_is_named(tokens):
    recipe = recipe_for("2.3", layers=48, hq=True)
    assert recipe.sigmas(tokens=MOST_TOKENS)[0] == 1
    for ask in (recipe.sigmas, ScheduleSettings(15, "ltx2", max_shift=2.1).sigmas):
        with pytest.raises(ValueError, match=f"{tokens} tokens .* too many .* HQ recipe.* {MOST_TOKENS} tokens"):
            ask(tokens=tokens)


@pytest.mark.parametrize("version, distilled, words", [("2.0", False, "LTX-2.0;"), ("2.3", True, "LTX-2.3 distilled;")])
def test_where_there_is_no_hq_recipe(version, distilled, words):
    with pytest.raises(ValueError, match=f"no HQ recipe for {words} it is one for the dev models of LTX-2.3 and 2.5"):
        recipe_for(version, layers=48, distilled=distilled, hq=True)
