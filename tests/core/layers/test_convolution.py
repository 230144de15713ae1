"""Convolutions of large weights over few positions, or of small clips: they give the numbers of PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from fake_card import fake_card
from torch.testing import assert_close

from ltx2_core.layers.kernels import convolution


@pytest.mark.parametrize("columns", [2**20, 300])
@pytest.mark.parametrize(
    ("shape", "taps", "padding"),
    [
        ((1, 12, 4, 5, 6), (3, 3, 3), (0, 0, 0)),
        ((2, 12, 3, 4, 5), (3, 3, 3), (0, 1, 1)),
        ((3, 12, 4, 5), (3, 3), (1, 1)),
        ((2, 12, 4, 4, 5), (3, 3, 3), (1, 1, 1)),
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
        if x.ndim == 5:
            assert_close(convolution.convolve_by_frame(x, weight, given, padding), expected, rtol=1e-4, atol=1e-4)


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


@torch.no_grad()
def test_a_small_clip_is_convolved_by_the_kernel_that_is_found(monkeypatch):
    """Channels stay last, which PyTorch's own way for small clips forgets; autograd and shapes take that."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=draw) for size in ((2, 6, 7, 5, 5), (4, 6, 3, 3, 3), (4,)))
    x, weight = (each.contiguous(memory_format=torch.channels_last_3d) for each in (x, weight))
    (kernel,) = convolution.CONVOLUTION.kernels
    for given in bias, None:
        found = kernel.load()(x, weight, given, (0, 1, 1))
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        assert_close(found, convolution.convolve_plainly(x, weight, given, (0, 1, 1)), rtol=1e-5, atol=1e-5)
    seen = []
    monkeypatch.setattr(convolution.CONVOLUTION, "find", lambda x: seen.append(x))
    convolution.convolve(x, weight, bias, (0, 1, 1))
    with torch.enable_grad():
        convolution.convolve(x, weight.requires_grad_(), bias, (0, 1, 1))
    convolution.convolve(x.to("meta"), weight.detach().to("meta"), bias.to("meta"), (0, 1, 1))
    assert len(seen) == 1


@torch.no_grad()
@pytest.mark.parametrize("enabled", [True, False])
def test_a_card_without_cudnn_lays_out_one_frame_at_a_time(monkeypatch, enabled):
    """As on AMD's cards in ComfyUI, which turns MIOpen off: else it would be 27 times the clip."""
    seen, convolve_picture = [], F.conv2d

    def watch(x, *arguments, **more):
        seen.append(tuple(x.shape))
        return convolve_picture(x, *arguments, **more)

    monkeypatch.setattr(F, "conv2d", watch)
    with fake_card(), torch.backends.cudnn.flags(enabled=enabled):
        x, weight = (torch.ones(shape, device="cuda") for shape in ((1, 2, 6, 5, 5), (4, 2, 3, 3, 3)))
        found = convolution.convolve(x, weight, None, (0, 1, 1))
    assert found.shape == (1, 4, 4, 5, 5) and seen == ([] if enabled else [(1, 6, 5, 5)] * 4)
