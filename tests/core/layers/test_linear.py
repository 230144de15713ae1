"""Products of linear layers beside the plain way: which one is taken for how many rows, alone and with the GELU."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from agreement import relative_error
from peak import Peak

from ltx2_core.layers import Linear, apply_gelu
from ltx2_core.layers.kernels import LINEAR, LINEAR_FEW, LINEAR_GELU, Operation, linear
from ltx2_core.layers.kernels.linear import CUBLAS


def kernel_of(operation: Operation, name: str):
    (kernel,) = [each for each in operation.kernels if each.name == name]
    return kernel


def test_a_gelu_of_another_form_is_left_aside():
    """On a CPU, the product that cuBLASLt ends with a GELU has the exact form instead of that with tanh."""
    kernel = replace(kernel_of(LINEAR_GELU, CUBLAS), devices=("cpu",))
    one = Operation("", LINEAR_GELU.plain, [kernel], LINEAR_GELU.sample)
    assert one.find(torch.ones(1)) is None
    x, weight, bias = LINEAR_GELU.sample(torch.device("cpu"), torch.float32)
    for each in (bias, None):
        assert relative_error(kernel.load()(x, weight, each), LINEAR_GELU.plain(x, weight, each)) < 1e-3


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_onednn(monkeypatch, dtype, most, bias):
    """Where it is built in: within rounding of the plain way from a size on, and below that the plain way itself."""
    monkeypatch.setattr(linear, "LEAST_WEIGHT", 96 * 80)
    layer, small = (Linear(96, width, bias).to(dtype).requires_grad_(False) for width in (80, 79))
    many = linear.MANY_ROWS[dtype]
    x = torch.randn(2, 2 * many, 96).to(dtype)[:, ::2]  # which does not lie in one piece
    ways = (layer, linear.multiply_plainly), (partial(apply_gelu, layer), linear.linear_gelu)
    few = linear.FEW_ROWS.get(dtype)
    cases = [(many - 1, None)] if few is None else [(many - 1, LINEAR_FEW), (few, LINEAR_FEW), (few - 1, None)]
    for rows, chosen in [(many, LINEAR), *cases]:
        assert linear.find_product(x[:, :rows], layer.weight) is chosen
        assert linear.find_product(x[:, :rows], small.weight) is None, "too small a weight"
        for way, plain in ways:
            found, given = way(x[:, :rows]), (layer.weight, layer.bias)
            if chosen is None:
                assert torch.equal(found, plain(x[:, :rows], *given))
                continue
            expected = plain(x[:, :rows].float(), *(each if each is None else each.float() for each in given))
            assert found.is_contiguous() and relative_error(found.float(), expected) < most
            alone = torch.equal(found[1:], way(x[1:, :rows]))
            assert alone or (chosen is LINEAR_FEW and way is not layer), (
                "in a batch only PyTorch's GELU rounds otherwise"
            )
    if torch.backends.mkldnn.is_available():
        assert all(operation.find(x) is not None for operation in (LINEAR, LINEAR_FEW, LINEAR_GELU))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here")
@pytest.mark.parametrize("operation, plain", [(LINEAR, linear.multiply_plainly), (LINEAR_GELU, linear.linear_gelu)])
def test_products_of_many_rows_with_a_weight_in_the_order_of_amx(monkeypatch, operation, plain):
    """Within rounding of the plain way, for several clips and what does not lie in one piece, too."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(linear, "AMX_ROWS", 64)
    draw = torch.Generator().manual_seed(0)
    shapes = (2, 2 * 65, 96), (80, 96), (80,)
    x, weight, bias = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)
    x, ordered = x[:, ::2], []
    reorder = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: ordered.append(weight) or reorder(weight)
    )
    multiply = kernel_of(operation, linear.ONEDNN).load()
    for each in (bias, None):
        expected = plain(x.float(), weight.float(), None if each is None else each.float())
        assert relative_error(multiply(x, weight, each).float(), expected) < 5e-3
        multiply(x[:, :63], weight, each)
        multiply(x.float(), weight.float(), None if each is None else each.float())
    assert [each is weight for each in ordered] == [True, True], "for many rows, and in bfloat16"


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here")
def test_a_weight_in_another_order_counts_where_memory_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    x, weight = (torch.ones(shape, dtype=torch.bfloat16) for shape in ((linear.AMX_ROWS, 32), (64, 32)))
    with Peak() as peak:
        result = kernel_of(LINEAR, linear.ONEDNN).load()(x, weight, None)
    assert (peak.bytes, peak.live) == (result.nbytes + weight.nbytes, result.nbytes)


@pytest.mark.parametrize("has_amx", [True, False])
def test_float32_is_left_to_mkl_where_there_is_amx_but_for_the_gelu(monkeypatch, has_amx):
    asked = []
    for operation in (LINEAR, LINEAR_GELU):
        monkeypatch.setattr(operation, "find", lambda x, name=operation.name: asked.append(name))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(linear, "LEAST_WEIGHT", 0)
    layer = Linear(8, 8).requires_grad_(False)
    x = torch.randn(linear.MANY_ROWS[torch.float32], 8)
    assert torch.equal(layer(x), linear.multiply_plainly(x, layer.weight, layer.bias))
    apply_gelu(layer, x)
    assert asked == [LINEAR.name] * (not has_amx) + [LINEAR_GELU.name]


def test_products_that_autograd_records_or_that_are_more_than_a_product_are_plain(monkeypatch):
    def never(*tensors):
        raise AssertionError

    for operation in (LINEAR, LINEAR_GELU):
        monkeypatch.setattr(operation, "find", lambda x: never)
    monkeypatch.setattr(linear, "LEAST_WEIGHT", 0)
    layer, x = Linear(8, 8).bfloat16(), torch.randn(linear.MANY_ROWS[torch.bfloat16], 8).bfloat16()
    (layer(x) + apply_gelu(layer, x)).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    with pytest.raises(AssertionError):
        layer(x)
    with pytest.raises(AssertionError):
        apply_gelu(layer, x)
    layer.forward = lambda x: -x
    assert torch.equal(apply_gelu(layer, x), torch.nn.functional.gelu(-x, approximate="tanh"))
    del layer.forward
    with layer.register_forward_hook(lambda *_: -x), monkeypatch.context() as alone:
        alone.setattr(LINEAR, "find", lambda x: None)
        assert torch.equal(apply_gelu(layer, x), torch.nn.functional.gelu(-x, approximate="tanh"))
