"""Kernels in Triton beside the plain way, on a CPU: run by test_kernels.py, with TRITON_INTERPRET=1."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from agreement import relative_error
from official import inputs, official, tiny_section

from ltx2_core.layers import Rope
from ltx2_core.layers.kernels import (
    GATE_ROUND,
    GELU_ROUND,
    LINEAR_GELU,
    NORM_MODULATE,
    NORM_ROTATE,
    NORM_ROUND,
    NORM_SILU,
    SUM_NORM,
    Operation,
    fused,
    light,
)
from ltx2_core.layers.kernels.light import KITCHEN, TRITON
from ltx2_core.layers.kernels.linear import CUBLAS
from ltx2_core.layers.sharing import Rounding
from ltx2_core.quantization import fp8_products, use_scaled_products
from ltx2_core.quantization.fp8 import Fp8Linear
from ltx2_core.transformer import modulation

ROUND = NORM_ROUND, GELU_ROUND, GATE_ROUND
CHOSEN = {NORM_MODULATE: KITCHEN, NORM_ROTATE: TRITON, SUM_NORM: TRITON, LINEAR_GELU: CUBLAS}


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


@pytest.mark.usefixtures("_as_cards_round")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [512, 4096])
def test_norm_and_silu_in_triton(monkeypatch, dtype, at_once):
    """Of several clips in any layout, into the middle of larger ones, whose border is left alone."""
    monkeypatch.setattr(fused, "PIXELS", at_once)
    x = torch.randn(2, 32, 3, 5, 7).to(dtype)
    for given in (x, x.contiguous(memory_format=torch.channels_last_3d), x[..., ::2, 1:]):
        size = [side + 2 for side in given.shape[2:]]
        found, expected = (torch.full((2, *size, 32), 7.0, dtype=dtype).movedim(-1, 1) for _ in range(2))
        inside = (slice(None), slice(None), *[slice(1, -1)] * 3)
        assert fused.norm_silu(given, found[inside], 1e-3).shape == given.shape
        light.norm_silu(given, expected[inside], 1e-3)
        assert relative_error(found.float(), expected.float()) < (1e-6 if dtype == torch.float32 else 1e-3)
    given = NORM_SILU.sample(torch.device("cpu"), dtype)
    kernel = replace(NORM_SILU.kernels[0], devices=("cpu",))
    assert Operation("", NORM_SILU.plain, [kernel], NORM_SILU.sample).find(given[0]) is not None
    with pytest.raises(ValueError, match="power of two"):
        fused.norm_silu(x[:, :24], found[inside], 1e-3)


@pytest.fixture
def _as_cards_round(monkeypatch):
    """The interpreter's own rounding loses what is carried into the exponent: 125 becomes 64 instead of 128."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    theirs = interpreter._convert_float

    def convert(numbers, kind, other, mode):
        if str(kind) != "fp32" or str(other) not in ("fp8e4nv", "bf16"):
            return theirs(numbers, kind, other, mode)
        kinds = (torch.float8_e4m3fn, torch.uint8) if str(other) == "fp8e4nv" else (torch.bfloat16, torch.uint16)
        return torch.tensor(numbers).to(kinds[0]).view(kinds[1]).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


@pytest.mark.usefixtures("_as_cards_round")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", ROUND, ids=lambda each: each.name)
def test_rounding_inside_a_kernel_is_that_of_what_it_makes(operation, dtype):
    """To the bit; a stand-in has nothing else. Its trial lets it pass, and no other kernel."""
    row, _ = operation.kernels
    kernel = row.load()

    def half(*arguments):
        made = kernel(*arguments)
        made.rounded["fp8"][1].mul_(0.5)
        return made

    def is_taken(function) -> bool:
        own = [replace(row, devices=("cpu",), load=lambda: function)]
        tried = Operation("", operation.plain, own, operation.sample, operation.tolerance, operation.read)
        return tried.find(torch.ones(1, dtype=dtype)) is not None

    assert is_taken(kernel) and not is_taken(half)
    given = operation.sample(torch.device("cpu"), dtype)
    cases = [given[:-1], (given[0], None, *given[2:-1])] if operation is GATE_ROUND else [given[:-1]]
    cases += [(given[0].flatten(1, 2), None, None, 1e-6)] if operation is NORM_ROUND else []
    one, other = torch.tensor(0.0037), torch.tensor(0.02)  # the largest are clamped
    ways = {"fp8": None}, {"one": one}, {"fp8": None, "one": one, "other": other}
    for arguments, scales in product(cases, ways):
        made, alone = (kernel(*arguments, Rounding(scales, keeps)) for keeps in (True, False))
        copied = arguments[0].clone(), *arguments[1:], None
        assert made.shape == alone.shape and made.dtype == alone.dtype == dtype and alone.isnan().all()
        assert relative_error(made.float(), operation.plain(*copied).float()) < (1e-6 if dtype.itemsize == 4 else 1e-2)
        tokens = made.flatten(0, -2)
        for found, (name, scale) in product((made, alone), scales.items()):
            numbers, own = found.rounded[name]
            scale = fp8_products.row_scales(tokens) if scale is None else scale
            assert torch.equal(own, scale)
            assert torch.equal(numbers.float(), fp8_products._rounded(tokens, scale).float())


@pytest.mark.usefixtures("_as_cards_round")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_and_norm_in_triton(dtype):
    """The norm is taken from the sum as it is rounded; what is rounded, too, is that norm."""
    x, gate, change, scale, shift, eps, _ = SUM_NORM.sample(torch.device("cpu"), dtype)
    most = 1e-6 if dtype == torch.float32 else 1e-2
    for rows in (gate, scale, shift), (gate[:, :1], scale, shift), (gate, None, None), (None, scale, shift):
        plain, ours, narrow = (change.clone() for _ in range(3))
        expected = SUM_NORM.plain(x, rows[0], plain, *rows[1:], eps, None)
        found = fused.sum_norm(x, rows[0], ours, *rows[1:], eps, None)
        assert relative_error(ours.float(), plain.float()) < most / 10
        assert relative_error(found.float(), expected.float()) < most
        made = fused.sum_norm(x, rows[0], narrow, *rows[1:], eps, Rounding(keeps=True))
        assert torch.equal(narrow, ours) and torch.equal(made, found)
        numbers, scales = made.rounded["fp8"]
        assert torch.equal(scales, fp8_products.row_scales(found.flatten(0, -2)))
        assert torch.equal(numbers.float(), fp8_products._rounded(found.flatten(0, -2), scales).float())
    found, expected = (norm(x, scale, shift, eps) for norm in (fused.norm_modulate, light.norm_modulate))
    assert relative_error(found.float(), expected.float()) < most
    with pytest.raises(ValueError, match="token by token"):
        fused.sum_norm(x, None, change.mT.contiguous().mT, None, None, eps, None)


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


def to_float8(network: torch.nn.Module, but: tuple[str, ...]) -> None:
    """Put layers whose sides products take into float8, except those with such names."""
    for module in list(network.blocks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name not in but and not any(n % 16 for n in child.weight.shape):
                scale = fp8_products.row_scales(child.weight)
                setattr(module, name, Fp8Linear((child.weight / scale).to(torch.float8_e4m3fn), scale, child.bias))
    use_scaled_products(network, ["cpu"])


@pytest.mark.usefixtures("_as_cards_round")
@pytest.mark.parametrize(("version", "but"), [("2.0", ("v", "down")), ("2.3", ("gate",))])
@torch.no_grad()
def test_a_forward_in_float8_whose_inputs_kernels_round(monkeypatch, version, but):
    """Layers that read the tensor itself get it; a layer with something beside it, too."""
    section = tiny_section(version)
    _, ours = official(section)
    to_float8(ours.requires_grad_(False), but)
    (block, *_) = ours.blocks
    for layer in (block.video.self_attn.q, block.video.feed_forward.up):
        if isinstance(layer, Fp8Linear):
            plain = layer.forward
            vars(layer)["forward"] = lambda x, plain=plain: plain(x) + x.mean(-1, keepdim=True)
    streams, counted = inputs(section, first_frame=0.0), []
    apart = ours(*streams)
    rounded = fp8_products.row_scales
    monkeypatch.setattr(fp8_products, "row_scales", lambda x: counted.append(x) or rounded(x))
    ours(*streams)
    before = len(counted)
    for operation in (*ROUND, SUM_NORM):
        chosen = {(torch.device("cpu"), torch.float32, False): (TRITON, operation.kernels[0].load())}
        monkeypatch.setattr(operation, "_chosen", chosen)
    monkeypatch.setattr(modulation, "_LEAST_GROUP", 2)
    counted.clear()
    for found, expected in zip(ours(*streams), apart):
        assert relative_error(found, expected) < 1e-2
    assert before and not counted  # nothing is left to the layers
