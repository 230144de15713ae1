"""Products of two float8 matrices against the plain weight, on the CPU for real and on a card where there is one."""

import base64
from contextlib import nullcontext

import pytest
import torch
from devices import full_cards
from official import inputs, tiny_section
from torch import nn

from ltx2_core.errors import is_out_of_memory
from ltx2_core.layers import Attention, FeedForward, attention
from ltx2_core.layers.kernels import GATE_ROUND
from ltx2_core.memory import Plain, Store
from ltx2_core.quantization import fp8_products as products
from ltx2_core.quantization import use_scaled_products
from ltx2_core.quantization.fp8 import Fp8Linear
from ltx2_core.quantization.fp8_products import scaled_linear
from ltx2_core.transformer import Transformer, TransformerConfig

ON_A_CARD = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]
WEIGHT_SCALES = {"of the tensor": (), "of rows": (64, 1)}
INPUT_SCALES = {"of the file": 1.3, "of each token": None}

# Mean error of a channel, as a share of its size: of weights alone, and of weights and inputs together.
TYPICAL = {torch.float8_e4m3fn: (0.0275, 0.0385), torch.float8_e5m2: (0.0535, 0.0605)}


@pytest.fixture(autouse=True)
def _without_gradients_and_tried_anew():
    with torch.no_grad():
        products._has.cache_clear()
        yield
        products._has.cache_clear()


def stored(weight, bias, kind, scale_shape, input_scale=None) -> Fp8Linear:
    largest = weight.abs().amax(1, keepdim=True) if scale_shape else weight.abs().max()
    scale = largest.float() / torch.finfo(kind).max
    given = None if input_scale is None else torch.tensor(input_scale / 100)
    return Fp8Linear((weight / scale).to(kind), scale, bias, given)


def error_of_channels(ours, exact) -> float:
    return float(((ours.double().cpu() - exact).norm(dim=0) / exact.norm(dim=0)).mean())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_CARD)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", TYPICAL)
@pytest.mark.parametrize("scale_shape", WEIGHT_SCALES.values(), ids=WEIGHT_SCALES)
@pytest.mark.parametrize("input_scale", INPUT_SCALES.values(), ids=INPUT_SCALES)
def test_every_kind_of_product_errs_by_its_formats_and_no_more(device, dtype, kind, scale_shape, input_scale):
    weight, bias, x = torch.randn(64, 256), torch.randn(64), torch.randn(2, 150, 256)
    linear = stored(weight, bias.to(dtype), kind, scale_shape, input_scale).to(device)
    given, exact = x.to(device, dtype), (x.double() @ weight.double().T + bias).flatten(0, 1)
    of_weights, of_both = TYPICAL[kind]
    assert 0.8 * of_weights < error_of_channels(linear(given).flatten(0, 1), exact) < of_weights
    use_scaled_products(linear, [device])
    scaled = linear(given)
    if device == "cpu" or dtype == torch.bfloat16:  # cards have no float32 results with a bias
        assert of_weights < error_of_channels(scaled.flatten(0, 1), exact) < of_both
    assert scaled.dtype == dtype and scaled.shape == (2, 150, 64)


def test_the_official_product():
    """Weight, scales, inputs (of which some must be clamped) and result of the official fp8-scaled-mm."""

    def read(content: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(content)), dtype=dtype).reshape(shape)

    weight = "2+1g81Nx1Ozjc/Lp6flo9XLZ8fpnberx4fljZfhx8Xj6c/f07+b+aXQ96Pd89XhgetL6/fpq93F4fHFxTfv8cQ=="
    x = (
        "lECUQGo/vb7JP6bAhj9FQKE+078QwYxAdUASv5fAcUA0P17ARcBpwApAtz+fv4M/iEDiwAm/gMCxP01BCMFxP2xA/kB5v5u/00AAQa3A2b9ZwCG/"
        "BsHBQDdApz7wvY5A"
    )
    found = scaled_linear(
        read(x, torch.bfloat16, 3, 16),
        read(weight, torch.float8_e4m3fn, 4, 16),
        read("emrMOA==", torch.float32),
        None,
        read("93VgPA==", torch.float32),
    )
    y = "8+N0vkEQkj0CX9W9E4R3PhfLar7+GPo+4b4WPThvyj2eB6i6QIysPsHlyD2KR7c9"
    assert torch.equal(found, read(y, torch.float32, 3, 4).bfloat16())


def test_inputs_are_rounded_only_where_it_was_chosen():
    network = nn.Sequential(*(stored(torch.randn(32, 32), torch.randn(32), torch.float8_e4m3fn, ()) for _ in range(2)))
    network[1].exact = True  # as a file may ask
    x = torch.randn(5, 32)
    exact = [linear(x) for linear in network]
    use_scaled_products(network)
    assert all(torch.equal(linear(x), expected) for linear, expected in zip(network, exact))  # this is not a card
    use_scaled_products(network, ["cpu"])
    assert [torch.equal(linear(x), expected) for linear, expected in zip(network, exact)] == [False, True]
    use_scaled_products(network, ())
    assert torch.equal(network[0](x), exact[0])


@pytest.mark.parametrize("sides", [(24, 32), (32, 24)])
def test_a_weight_that_no_card_multiplies_is_expanded(sides):
    linear, x = stored(torch.randn(sides), None, torch.float8_e4m3fn, ()), torch.randn(5, sides[1])
    expected = linear(x)
    use_scaled_products(linear, ["cpu"])
    assert torch.equal(linear(x), expected)


REFUSALS = [RuntimeError("no"), ValueError("no"), torch.OutOfMemoryError("no"), *full_cards()]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_a_device_without_these_products(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    linear, x = stored(torch.randn(32, 32), None, torch.float8_e4m3fn, ()), torch.randn(5, 32)
    expected = linear(x)
    use_scaled_products(linear, ["cpu"])
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    if not is_out_of_memory(error):
        assert torch.equal(linear(x), expected)
        return
    with pytest.raises(type(error)):  # says nothing about the device, which is asked again
        linear(x)
    monkeypatch.undo()
    assert not torch.equal(linear(x), expected)


@pytest.mark.parametrize("scale_shape", WEIGHT_SCALES.values(), ids=WEIGHT_SCALES)
@pytest.mark.parametrize("input_scale", INPUT_SCALES.values(), ids=INPUT_SCALES)
def test_a_device_that_multiplies_by_scales_of_rows(monkeypatch, scale_shape, input_scale):
    """It is called as cards want it, and gives what is multiplied afterwards elsewhere."""
    calls = []

    def multiply(a, b, scale_a, scale_b, bias=None, *, out_dtype):
        assert a.is_contiguous() and b.t().is_contiguous()
        calls.append((tuple(scale_a.shape), tuple(scale_b.shape)))
        assert calls[-1] in [((), ()), ((len(a), 1), (1, b.shape[1]))]
        assert scale_a.is_contiguous() and scale_b.is_contiguous() and scale_a.dtype == scale_b.dtype == torch.float32
        product = (a.float() @ b.float()) * scale_a * scale_b
        return (product if bias is None else product + bias.float()).to(out_dtype)

    linear = stored(torch.randn(64, 32), torch.randn(64), torch.float8_e4m3fn, scale_shape, input_scale)
    use_scaled_products(linear, ["cpu"])
    x = torch.randn(3, 5, 32)
    expected = linear(x)
    products._has.cache_clear()
    monkeypatch.setattr(torch, "_scaled_mm", multiply)
    torch.testing.assert_close(linear(x), expected)
    by_rows = bool(scale_shape) or input_scale is None
    assert calls[-1] == (((15, 1), (1, 64)) if by_rows else ((), ()))


@pytest.mark.parametrize("scale_shape", WEIGHT_SCALES.values(), ids=WEIGHT_SCALES)
@pytest.mark.parametrize("input_scale", INPUT_SCALES.values(), ids=INPUT_SCALES)
def test_a_feed_forward_in_chunks_is_that_of_all_tokens(scale_shape, input_scale):
    mixer, x = FeedForward(32).bfloat16(), torch.randn(2, 50, 32).bfloat16()
    for name in ("up", "down"):
        plain = getattr(mixer, name)
        setattr(mixer, name, stored(plain.weight, plain.bias, torch.float8_e4m3fn, scale_shape, input_scale))
    use_scaled_products(mixer, ["cpu"])
    whole = mixer.transform(x)
    for mixer.chunk in (33, 7):
        assert torch.equal(mixer.transform(x), whole)


@pytest.mark.parametrize(
    ("input_scales", "roundings"),
    [([None] * 4, 1), ([1.3] * 4, 1), ([1.3, 1.3, 1.2, 1.3], 2), ([1.0, 1.1, 1.2, 1.3], 4)],
    ids=["of each token", "one of the file", "two of the file", "each its own"],
)
def test_an_input_is_rounded_once_for_all_layers_that_share_it(monkeypatch, input_scales, roundings):
    """And its scale, if files have scales of inputs."""
    attention, x, counted = Attention(64, 4, 16, gated=True), torch.randn(2, 5, 64), []
    for name, input_scale in zip(("q", "k", "v", "gate"), input_scales):
        plain = getattr(attention, name)
        wide = torch.randn(16, 64) if name == "gate" else plain.weight
        setattr(attention, name, stored(wide, None, torch.float8_e4m3fn, (), input_scale))
    use_scaled_products(attention, ["cpu"])
    apart = [getattr(attention, name)(x) for name in ("q", "k", "v", "gate")]  # of nobody who shares x
    for name in ("q_norm", "k_norm"):
        setattr(attention, name, nn.Identity())
    rounded = products._rounded
    monkeypatch.setattr(products, "_rounded", lambda *given: counted.append(given) or rounded(*given))
    query, key_value = attention.project_self(x)
    assert len(counted) == roundings and "rounded" not in vars(x)
    found = [each.transpose(1, 2).flatten(2) for each in (query.q, key_value.k, key_value.v)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, apart))
    assert torch.equal(query.gates, (2 * apart[3].sigmoid()).mT.unsqueeze(-1))
    attention.project_key_value(x)  # afterwards it may have changed
    assert len(counted) == roundings + len(set(input_scales[1:3]))


@pytest.mark.oracle
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_library_rounds_by_scales_of_files_what_no_kernel_made(monkeypatch, contiguous):
    """Such as texts; layers are left nothing to round."""
    pytest.importorskip("comfy_kitchen")
    attention, x = Attention(64, 4, 16), torch.randn(2, 5, 64)
    for name, input_scale in ("k", 0.02), ("v", 0.03):
        setattr(attention, name, stored(getattr(attention, name).weight, None, torch.float8_e4m3fn, (), input_scale))
    use_scaled_products(attention, ["cpu"])
    attention.k_norm = nn.Identity()
    apart = attention.k(x), attention.v(x)
    _, row = GATE_ROUND.kernels
    monkeypatch.setattr(GATE_ROUND, "_chosen", {(x.device, x.dtype, False): (row.name, row.load())})
    monkeypatch.setattr(products, "_rounded", lambda *given: pytest.fail("by a layer"))
    found = attention.project_key_value(x if contiguous else x.mT.contiguous().mT)
    for ours, theirs in zip((found.k, found.v), apart):
        assert (ours.transpose(1, 2).flatten(2) - theirs).norm() < 0.02 * theirs.norm()


def test_a_transformer(monkeypatch):
    """Rounding inputs adds less than rounding weights did, streams bit for bit, scales of inputs included, and is the
    same for each layer by itself, whatever is computed beside layers."""
    section = tiny_section("2.3", num_layers=4)
    network, given = Transformer(TransformerConfig.from_json(section)), inputs(section)
    for parameter in network.parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    plain = network(*given)
    for block, scale in zip(list(network.blocks)[1:3], (2.0, None)):
        for module in [*block.video.modules()]:
            for name, child in module.named_children():
                if isinstance(child, nn.Linear) and name != "gate":
                    setattr(module, name, stored(child.weight, child.bias, torch.float8_e4m3fn, (), scale))
    expanded = network(*given)
    use_scaled_products(network, ["cpu"])
    scaled = network(*given)
    errors = [error_of_channels(found[0][0], plain[0][0].double()) for found in (expanded, scaled)]
    assert 0 < errors[0] < errors[1] < 2 * errors[0]
    store = Store(network, "cpu", link=Plain("cpu"))
    store.set_budget(0)
    layer = network.blocks[2].video.self_attn.k
    for beside in (None, lambda x: type(layer).forward(layer, x) + x.mean(-1, keepdim=True)):
        if beside is not None:
            vars(layer)["forward"] = beside
            scaled = network(*given)
        with store.use(), monkeypatch.context() as apart:
            assert all(torch.equal(a, b) for a, b in zip(network(*given), scaled))
            apart.setattr(attention, "shared_input", lambda x: nullcontext())
            assert all(torch.equal(a, b) for a, b in zip(network(*given), scaled))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_A_CARD)])
@pytest.mark.parametrize("kind", TYPICAL)
def test_cards_since_ada_multiply_float8(device, kind):
    weight = torch.zeros(64, 64, device=device).to(kind)
    assert products.multiplies(weight, torch.bfloat16) == (torch.cuda.get_device_capability() >= (8, 9))
