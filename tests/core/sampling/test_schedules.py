"""Noise levels: those of the spec, of the official schedulers, of ComfyUI and of a person; and parts of them."""

import pytest
import torch
from agreement import compare

from ltx2_core.sampling.schedules import (
    FIXED,
    SCHEDULES,
    ScheduleSettings,
    beta,
    check_sigmas,
    custom,
    linear_quadratic,
    ltx2,
    simple,
    slice_steps,
    with_strength,
)

SPEC_LTX2 = {
    (8, 4096): "1 .965712 .921875 .863856 .783445 .664579 .471003 .1 0",
    (8, 1024): "1 .935474 .859263 .767879 .656289 .516957 .338071 .1 0",
    (8, 2048): "1 .949120 .886844 .808861 .708369 .573981 .385068 .1 0",
    (8, 6144): "1 .973913 .939833 .893422 .826507 .721651 .533815 .1 0",
    (15, 8160): "1 .993491 .986015 .977340 .967151 .955015 .940314 .922140 "
                ".899096 .868923 .827707 .768028 .673897 .503378 .1 0",
    (2, 4096): "1 .1 0",
}  # fmt: skip


def numbers(text: str):
    return pytest.approx([float(word) for word in text.split()], abs=1e-6)


@pytest.mark.parametrize("case", SPEC_LTX2)
def test_ltx2_of_the_spec(case):
    assert ltx2(*case) == numbers(SPEC_LTX2[case])


def test_ltx2_without_stretch():
    assert ltx2(8, terminal=None) == numbers("1 .981941 .958854 .928297 .885948 .823345 .721394 .525999 0")


def test_beta_of_the_spec():
    assert beta(8) == numbers("1 .994361 .980464 .956117 .914542 .840117 .695283 .394019 0")


def test_linear_quadratic_of_eight_steps_is_the_distilled_schedule():
    assert linear_quadratic(8) == pytest.approx(SCHEDULES["distilled"](), abs=1e-12)


def test_simple_is_comfyuis():
    """Numbers from ComfyUI 0.20's simple scheduler on the table of its LTX-2 models."""
    assert simple(4) == numbers("1 .969781 .914511 .780980 0")
    assert simple(7) == numbers("1 .984666 .963958 .934501 .889184 .810633 .640743 0")


@pytest.mark.parametrize("steps", [2, 7, 20, 30, 41, 200])
@pytest.mark.parametrize(
    "ours, theirs",
    [(ltx2, "LTX2Scheduler"), (linear_quadratic, "LinearQuadraticScheduler"), (beta, "BetaScheduler")],
)
def test_schedules_agree(ours, theirs, steps):
    schedulers = pytest.importorskip("ltx_core.components.schedulers")
    compare(f"schedule {ours.__name__}", torch.tensor(ours(steps)), getattr(schedulers, theirs)().execute(steps))


@pytest.mark.parametrize("settings", [{"linear_steps": 3}, {"threshold_noise": 0.1}])
def test_other_linear_quadratic_schedules_agree(settings):
    schedulers = pytest.importorskip("ltx_core.components.schedulers")
    theirs = schedulers.LinearQuadraticScheduler().execute(12, **settings)
    ours = linear_quadratic(12, **{name.removesuffix("_noise"): value for name, value in settings.items()})
    compare("schedule linear_quadratic", torch.tensor(ours), theirs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_from_noise_to_nothing(name):
    for sigmas in [SCHEDULES[name]()] if name in FIXED else map(SCHEDULES[name], (1, 2, 3, 50)):
        assert check_sigmas(sigmas)[-1] == 0 and (sigmas[0] > 0.999999 or name == "distilled_refine")


@pytest.mark.parametrize("schedule", [ltx2, linear_quadratic, beta, simple])
def test_one_step_goes_all_the_way(schedule):
    assert schedule(1) == [1, 0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_that_cannot_be(name):
    with pytest.raises(ValueError, match="steps is 0; the schedule" if name in FIXED else "steps is 0; it must be"):
        SCHEDULES[name](0)


def test_the_steps_of_a_fixed_schedule_are_fixed():
    with pytest.raises(ValueError, match="steps is 20; the schedule distilled has exactly 8"):
        SCHEDULES["distilled"](20)
    with pytest.raises(ValueError, match="linear_steps is 8; of 8 steps it must be between 1 and 7"):
        linear_quadratic(8, linear_steps=8)


@pytest.mark.parametrize("text", ["1.0, 0.5, 0", "[1.0, 0.5, 0.0]", "1\n.5\n0", " 1; 5e-1; 0, "])
def test_a_list_as_a_person_writes_it(text):
    assert custom(text) == [1, 0.5, 0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1, many, 0", "'1, many, 0' is not a list of numbers"),
        ("", "has 0 sigmas; a step needs two"),
        ("0", "has 1 sigma;"),
        ("1, 0.5, 0.1", "end in 0.1; the last one must be 0"),
        ("14.6, 2, 0", "One sigma is 14.6; those of LTX-2 are between 1 and 0"),
        ("1.0000001, 0.5, 0", "One sigma is 1.0000001; those of LTX-2"),
        ("1, -0.5", "One sigma is -0.5"),
        ("1, nan, 0", "One sigma is nan"),
        ("1, 1e-9, 0", "One sigma is 1e-09, where rounding is all that is left"),
        ("1, 0.5, 0.7, 0", "after 0.5 comes 0.7"),
        ("1, 0.5, 0.5, 0", "after 0.5 comes 0.5"),
    ],
)
def test_a_list_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        custom(text)


def test_parts_of_a_schedule_meet():
    sigmas = ltx2(6)
    first, second = slice_steps(sigmas, end_step=2), slice_steps(sigmas, 2)
    assert first[-1] == second[0] and first[:-1] + second == sigmas and slice_steps(sigmas) == sigmas


def test_a_terminal_of_0_is_told_by_its_name():
    with pytest.raises(ValueError, match="terminal is 0"):
        ScheduleSettings(steps=2, terminal=0).sigmas()


@pytest.mark.parametrize("shifts", [{"max_shift": 0, "base_shift": 10}, {"max_shift": 10, "base_shift": 0}])
def test_shifts_whose_steps_run_together_are_told_by_name(shifts):
    with pytest.raises(ValueError, match=r"max_shift 1?0 and base_shift 1?0, .* run together"):
        ScheduleSettings(steps=200, **shifts).sigmas(tokens=1 if shifts["base_shift"] else 10_000)


@pytest.mark.parametrize("schedule", ["ltx2", "linear_quadratic", "beta", "simple"])
def test_the_end_of_very_many_steps_falls(schedule):
    sigmas = ScheduleSettings(steps=20, schedule=schedule, denoise=0.001).sigmas()
    assert check_sigmas(sigmas) and len(sigmas) == 21


@pytest.mark.parametrize("start, end", [(-1, None), (6, None), (3, 3), (4, 2), (0, 7)])
def test_a_part_that_cannot_be(start, end):
    with pytest.raises(ValueError, match=f"Steps {start} to {end or 6} were asked for, but the schedule has 6"):
        slice_steps(ltx2(6), start, end)


def test_strength_as_comfyui_means_it():
    assert with_strength(ltx2, 5, 0.5) == ltx2(10)[-6:] and with_strength(ltx2, 5, 1) == ltx2(5)
    for strength in (0, 1.5):
        with pytest.raises(ValueError, match="strength is"):
            with_strength(ltx2, 5, strength)
    with pytest.raises(ValueError, match=r"distilled has exactly 8. For a part of it, set a start step"):
        with_strength(SCHEDULES["distilled"], 8, 0.5)


def test_settings_of_a_schedule():
    assert ScheduleSettings().sigmas() == ltx2(20) == ScheduleSettings().sigmas(4096)
    shaped = ScheduleSettings(6, max_shift=2, base_shift=1, terminal=0.2, denoise=0.5)
    assert shaped.sigmas(2000) == ltx2(12, 2000, 2, 1, 0.2)[-7:]
    assert ScheduleSettings(6, "beta", denoise=0.5).sigmas() == beta(12)[-7:]
    assert ScheduleSettings(schedule="custom", custom_sigmas="1 0.5 0").sigmas() == [1, 0.5, 0]
    fixed = ScheduleSettings(20, "distilled", denoise=0.5)
    assert fixed.sigmas() == list(FIXED["distilled"]) and fixed.note == "distilled has 8 steps; 20 is ignored"
    assert ScheduleSettings(8, "distilled").note == ScheduleSettings().note == ""
