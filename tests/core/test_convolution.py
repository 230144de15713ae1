"""Convolutions of large weights over few positions: products give the numbers of PyTorch's convolution."""

import pytest
import torch
from torch.testing import assert_close

from ltx2_core.layers.kernels import convolution


@pytest.mark.parametrize("columns", [2**20, 300])
@pytest.mark.parametrize(
    ("shape", "taps", "padding"),
    [
        ((1, 12, 4, 5, 6), (3, 3, 3), (0, 0, 0)),
        ((2, 12, 3, 4, 5), (3, 3, 3), (0, 1, 1)),
        ((3, 12, 4, 5), (3, 3), (1, 1)),
    ],
)
@torch.no_grad()
def test_a_product_is_the_convolution(monkeypatch, shape, taps, padding, columns):
    monkeypatch.setattr(convolution, "COLUMNS", columns)
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=draw) for size in (shape, (7, 12, *taps), (7,)))
    for given in bias, None:
        found = convolution.convolve_by_product(x, weight, given, padding)
        expected = convolution.convolve_plainly(x, weight, given, padding)
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert found.is_contiguous()


@torch.no_grad()
def test_only_a_weight_that_is_large_beside_the_positions_is_multiplied(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_WEIGHT", 1)
    monkeypatch.setattr(convolution, "WEIGHT_OF_POSITION", 16)
    weight, padding = torch.zeros(8, 8, 3, 3, 3), (0, 1, 1)  # 108 positions are as many

    def is_for_product(frames, side, **kind):
        return convolution.is_for_product(torch.zeros(1, 8, frames + 2, side, side, **kind), weight, padding)

    assert is_for_product(2, 7) and not is_for_product(3, 6)
    assert not is_for_product(1, 1, device="meta")
    monkeypatch.setattr(convolution, "COLUMNS", 1000)
    assert is_for_product(2, 4) and not is_for_product(2, 4, dtype=torch.bfloat16)
    assert is_for_product(1, 1, dtype=torch.bfloat16)
    with torch.enable_grad():
        assert not convolution.is_for_product(torch.zeros(1, 8, 3, 1, 1), weight.requires_grad_(), padding)
