"""Kernels in Triton beside the plain way, on a CPU: run by test_kernels.py, with TRITON_INTERPRET=1."""

from dataclasses import replace

import pytest
import torch
from agreement import relative_error
from official import inputs, official, tiny_section

from ltx2_core.layers import Rope
from ltx2_core.layers.kernels import LINEAR_GELU, NORM_MODULATE, NORM_ROTATE, fused, light
from ltx2_core.layers.kernels.light import CUBLAS, KITCHEN, TRITON
from ltx2_core.transformer import modulation

CHOSEN = {NORM_MODULATE: KITCHEN, NORM_ROTATE: TRITON, LINEAR_GELU: CUBLAS}


def rotation_arguments(batch: int, dtype: torch.dtype):
    x, weight = torch.randn(batch, 5, 24).to(dtype), torch.randn(24).to(dtype)
    return x, weight, 1e-3, Rope(3, 8, (20.0,))(torch.rand(batch, 1, 5), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_rotation_in_triton(dtype):
    for batch in (1, 2):
        x, *others = rotation_arguments(batch, dtype)
        expected = light.norm_rotate(x.float(), others[0].float(), *others[1:])
        found = fused.norm_rotate(x, *others)
        assert relative_error(found.float(), expected) < (1e-6 if dtype == torch.float32 else 1e-2)
    shared = replace(others[-1], cos=others[-1].cos[:1], sin=others[-1].sin[:1])
    x = torch.randn(2, 5, 24).to(dtype)
    expected = light.norm_rotate(x.clone(), *others[:2], shared)
    assert relative_error(fused.norm_rotate(x, *others[:2], shared).float(), expected.float()) < 1e-2


@pytest.fixture
def on_cpu(monkeypatch):
    """Make the kernels of cards those of the CPU, and the plain ways fail."""

    def fail(*args):
        raise AssertionError("the plain way")

    for operation, name in CHOSEN.items():
        (kernel,) = [each for each in operation.kernels if each.name == name]
        chosen = {(torch.device("cpu"), torch.float32, False): (name, kernel.load())}
        monkeypatch.setattr(operation, "_chosen", chosen)
        monkeypatch.setattr(operation, "plain", fail)
    monkeypatch.setattr(modulation, "_LEAST_GROUP", 2)


@pytest.mark.parametrize("first_frame", [None, 0.0])
@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_a_forward_with_all_kernels(request, version, first_frame):
    pytest.importorskip("comfy_kitchen")
    section = tiny_section(version)
    _, ours = official(section)
    ours.requires_grad_(False)
    streams = inputs(section, first_frame=first_frame)
    plain = ours(*streams)
    request.getfixturevalue("on_cpu")
    for found, expected in zip(ours(*streams), plain):
        assert not torch.equal(found, expected)
        assert relative_error(found, expected) < 1e-3  # the GELU is of the other form on a CPU
