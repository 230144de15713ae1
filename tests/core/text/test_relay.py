"""Prompts that follow each other inside one window: each counts in its own time, and one alone changes nothing."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ltx2_core.errors import SettingError
from ltx2_core.layers import Attention, KeyValue, Query, TextSchedule
from ltx2_core.mini import relay
from ltx2_core.mini.evaluate import Miniature, Setting
from ltx2_core.pipeline.long import Script, texts_at_once
from ltx2_core.sampling.windows import split_windows
from ltx2_core.text import Contexts, JoinedContexts, relay_prompts
from ltx2_core.text.prompts import Prompt
from ltx2_core.text.relay import weights_at

FPS = Fraction(24)


def contexts(number: int, rows: int = 4) -> Contexts:
    return Contexts(torch.full((1, rows, 6), float(number)), torch.full((1, rows, 3), float(number)))


def test_prompts_fade_over_around_their_starts_and_always_sum_to_one():
    times = torch.tensor([0.0, 1.5, 2.0, 2.25, 3.0, 4.0, 9.0])
    weights = weights_at(times, (0.0, 2.0, 4.0), 1.0)
    assert_close(weights.sum(1), torch.ones(7))
    assert_close(weights[:, 1], torch.tensor([0, 0, 0.5, 0.75, 1, 0.5, 0]))
    assert_close(weights[:, 2], torch.tensor([0, 0, 0, 0, 0, 0.5, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_schedule_is_the_matrix_of_its_logs(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, rows, 16, generator=generator).to(dtype) for rows in (9, 7, 7))
    schedule = TextSchedule(weights_at(torch.linspace(0, 2, 9), (0.0, 1.0), 1.0), (4, 3))
    bias = schedule.weight.log().clamp(min=-1000).repeat_interleave(torch.tensor([4, 3]), dim=1)
    attention = Attention(80, 5, 16)
    made = attention.attend(Query(q, None), KeyValue(k, v), schedule)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias)
    assert_close(made.float(), expected, atol=1e-5 if dtype is torch.float32 else 0.03, rtol=0.02)
    alone = attention.attend(Query(q[:, :, :1], None), KeyValue(k[:, :, :4], v[:, :, :4]))
    assert_close(made[:, :, :1], alone, atol=1e-5 if dtype is torch.float32 else 0.03, rtol=0.02)


def test_a_prompt_alone_in_its_window_is_handed_on_itself():
    first, then = contexts(0), contexts(1)
    early, *_, late = split_windows(193, FPS, 33, 16)
    script = Script(((0.0, first), (4.0, then)))
    assert script.of_window(early, 0.5) is first and script.of_window(late, 0.5) is then
    assert Script.of(first).of_window(early, 0.5) is first


def test_starts_are_counted_from_the_window_and_the_plan_knows_how_many_prompts_meet():
    windows = split_windows(97, FPS, 49, 16)
    script = Script(((0.0, contexts(0)), (3.0, contexts(2, 8)), (2.0, contexts(1))))
    last = script.of_window(windows[-1], 0.5)
    assert last.starts == (-2.0, 0.0, 1.0) and last.lengths == ((4, 4, 8), (4, 4, 8))
    counts = [len(getattr(script.of_window(each, 0.5), "starts", (0,))) for each in windows]
    assert texts_at_once((0.0, 3.0, 2.0), windows, 0.5) == max(counts) > 1
    assert texts_at_once((0.0, 3.0, 2.0), windows, 0.0) == 1


def test_prompts_with_parts_of_a_run_cannot_fade_over():
    one = contexts(0)
    joined = JoinedContexts(
        one.video, one.audio, (Prompt(1.0, 0.5, one, one.weights[0]), Prompt(0.5, -1.0, one, one.weights[0]))
    )
    with pytest.raises(SettingError, match="one prompt"):
        relay_prompts([one, joined], (0.0, 1.0), 0.5)


@pytest.mark.slow
@torch.inference_mode()
def test_the_ball_changes_its_colour_in_the_middle():
    caption = "a {} ball bounces twice in the middle".format
    pair = relay.Pair(("red", "blue"), (caption("red"), caption("blue")))
    right = relay.evaluate(Miniature(), [pair], replace(Setting(3.0), steps=3))
    assert right == {"first": 1.0, "then": 1.0, "both": 1.0}
