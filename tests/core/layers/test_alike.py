"""What is alike runs once while work is counted, and counts as if all of it had run."""

from contextlib import nullcontext
from dataclasses import astuple

import pytest
import torch

from ltx2_core.geometry import Keyframes
from ltx2_core.layers.alike import Times, alike, counting
from ltx2_core.memory import trace
from ltx2_core.video_vae.decoding import DecoderInput
from ltx2_core.video_vae.diffusion_config import RELEASED, DiffusionDecoderConfig
from ltx2_core.video_vae.diffusion_decoder import DiffusionDecoder
from ltx2_core.video_vae.tiling import Tiling


def test_everything_runs_where_nothing_is_counted():
    assert list(alike("abba", chained=True)) == [*"abba"]


def test_one_of_each_kind_counts_for_all_also_inside_another_one():
    with counting() as times:
        found = [(a, b, times.now) for a in alike("xxy", str) for b in alike(range(3))]
    assert found == [("x", 0, 6), ("y", 0, 3)]


def test_in_a_chain_the_first_counts_for_itself_and_the_second_for_the_others():
    with counting() as times:
        assert [(each, times.now) for each in alike(range(5), chained=True)] == [(0, 1), (1, 4)]
        assert [(each, times.now) for each in alike(range(1), chained=True)] == [(0, 1)]


def test_a_count_that_fails_leaves_nothing_to_the_next_one():
    with counting() as times:
        for _ in alike(range(3)):
            break
        assert times.now == 1
    with pytest.raises(ValueError, match="stop"), counting():
        for _ in alike(range(3)):
            raise ValueError("stop")
    with counting() as times:
        assert times.now == 1
    assert list(alike(range(3))) == [0, 1, 2]


@pytest.mark.parametrize("frames", [(), (0, 8)])
def test_a_decoder_costs_what_a_walk_through_all_of_it_costs(frames, monkeypatch):
    with torch.device("meta"):
        config = DiffusionDecoderConfig.from_json(RELEASED)
        decoder = DiffusionDecoder(config).bfloat16().requires_grad_(False)
        latent, beside = (torch.empty(1, 128, count, 6, 7, dtype=torch.bfloat16) for count in (3, len(frames)))
    keyframes = Keyframes(beside, frames) if frames else None
    parts = decoder.work(DecoderInput(latent, Tiling(256, 64, 24, 8), keyframes=keyframes)).parts
    found = [trace.cost(part.run) for part in parts]
    monkeypatch.setattr(trace, "counting", lambda: nullcontext(Times()))
    for part, ours in zip(parts, found):
        whole = trace.cost(part.run)
        assert ours.peak == pytest.approx(whole.peak, rel=0.01)
        assert astuple(ours)[1:-1] == pytest.approx(astuple(whole)[1:-1], rel=1e-3)
        assert ours.launches == pytest.approx(whole.launches, rel=0.03)
