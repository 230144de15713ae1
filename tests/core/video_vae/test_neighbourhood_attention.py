"""Attention in a window around each token: in bricks, by the library, and by the definition."""

import sys
import types

import pytest
import torch
from drawn import randn
from torch.testing import assert_close

from ltx2_core.layers.kernels import Kernel, Operation
from ltx2_core.video_vae import neighbourhood_attention
from ltx2_core.video_vae.neighbourhood_attention import attend, attend_in_bricks, window_start


def dense(q, k, v, kernel):
    """The definition: a mask over all pairs."""
    size, places = q.shape[1:4], torch.cartesian_prod(*(torch.arange(n) for n in q.shape[1:4]))
    seen = torch.ones(len(places), len(places), dtype=torch.bool)
    for axis, (length, reach) in enumerate(zip(size, kernel)):
        start = torch.tensor([window_start(int(i), length, reach) for i in places[:, axis]])[:, None]
        seen &= (places[:, axis] >= start) & (places[:, axis] < start + reach)
    q, k, v = (x.flatten(1, 3).transpose(1, 2) for x in (q, k, v))
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    return found.transpose(1, 2).unflatten(1, size)


SHAPES = [
    ((2, 5, 9, 17, 2, 16), (3, 5, 7)),
    ((1, 13, 10, 11, 1, 8), (11, 5, 3)),
    ((1, 4, 8, 8, 1, 8), (3, 7, 7)),  # one brick
    ((1, 11, 3, 20, 1, 8), (11, 3, 11)),  # an axis that is one window
    ((1, 9, 6, 5, 1, 8), (4, 2, 4)),  # even windows
    ((1, 2, 3, 1, 1, 8), (3, 7, 7)),  # axes that are shorter than the window
]


@pytest.mark.parametrize(("shape", "kernel"), SHAPES)
def test_bricks_are_the_definition(shape, kernel):
    q, k, v = (randn(*shape, seed=seed) for seed in range(3))
    window = tuple(min(pair) for pair in zip(kernel, shape[1:4]))
    assert_close(attend(q, k, v, kernel), dense(q, k, v, window), atol=2e-6, rtol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize(("shape", "kernel"), SHAPES[:4])
def test_the_library_has_the_same_windows(shape, kernel):
    pytest.importorskip("comfy_kitchen")
    q, k, v = randn(*shape[:4], 3, *shape[4:]).unbind(-3)  # as they lie in a block
    theirs = neighbourhood_attention.kitchen_kernel()
    assert_close(theirs(q, k, v, kernel), attend_in_bricks(q, k, v, kernel), atol=5e-6, rtol=1e-5)


@pytest.mark.slow
def test_no_copy_is_as_large_as_all_windows():
    """Keys of a share of the bricks are copied, never the 1331 keys of every query, nor a mask over the clip."""
    from peak import Peak

    q, k, v = (randn(1, 24, 32, 32, 4, 16, seed=seed) for seed in range(3))
    with Peak() as measured:
        attend_in_bricks(q, k, v, (11, 11, 11))
    assert measured.bytes < 8 * q.nbytes


class FakeLibrary(types.ModuleType):
    """comfy-kitchen with a kernel that is right, wrong, no number, missing, for small windows, or for another card."""

    def __init__(self, kind: str):
        super().__init__("comfy_kitchen")
        if kind != "old":
            self.na3d = getattr(self, kind)

    @staticmethod
    def right(q, k, v, kernel, scale):
        return attend_in_bricks(q, k, v, tuple(kernel))

    @staticmethod
    def wrong(q, k, v, kernel, scale):
        return attend_in_bricks(q, k, v, (1, *kernel[1:]))

    @staticmethod
    def empty(q, k, v, kernel, scale):
        return attend_in_bricks(q, k, v, tuple(kernel)) * torch.nan

    @staticmethod
    def small(q, k, v, kernel, scale):
        if kernel[0] > 3:
            raise RuntimeError("windows are too large")
        return attend_in_bricks(q, k, v, tuple(kernel))

    @staticmethod
    def foreign(q, k, v, kernel, scale):
        raise RuntimeError("no kernel image is available for execution on the device\nand more")


@pytest.mark.parametrize(("kind", "said"), [
    ("right", "is done by comfy-kitchen"), ("wrong", "is off by"), ("empty", "is off by"), ("small", "too large"),
    ("foreign", "no kernel image"), ("old", "na3d"), (None, "comfy_kitchen"),
])  # fmt: skip
def test_a_kernel_is_used_where_it_is_right(kind, said, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None if kind is None else FakeLibrary(kind))
    kernel = Kernel("comfy-kitchen", neighbourhood_attention.kitchen_kernel, devices=("cpu",))
    known = neighbourhood_attention.ATTENTION
    operation = Operation(known.name, known.plain, [kernel], known.sample)
    monkeypatch.setattr(neighbourhood_attention, "ATTENTION", operation)
    caplog.set_level("INFO")
    q, k, v = (randn(1, 5, 9, 9, 2, 16, seed=seed) for seed in range(3))
    for _ in range(2):
        assert torch.equal(attend(q, k, v, (5, 3, 3)), attend_in_bricks(q, k, v, (5, 3, 3)))
    assert (operation.find(q) is not None) == (kind == "right")
    assert len([line for line in caplog.messages if said in line]) == 1


def test_a_cpu_takes_the_plain_way():
    assert neighbourhood_attention.ATTENTION.find(torch.ones(1)) is None
