"""Int8 times int8: against the definition, against exact products, and where a device does not have it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from written import VECTORS, as_bytes, file_of, int8_convrot, int8_tensor, of_bytes, read

from ltx2_core.errors import is_out_of_memory
from ltx2_core.layers import FeedForward
from ltx2_core.quantization import install_quantized_layers, use_scaled_products
from ltx2_core.quantization import int8_products as products

WRITTEN = {"tensor": int8_tensor, "rotated": int8_convrot}


@pytest.fixture(autouse=True)
def _without_gradients_and_tried_anew():
    with torch.no_grad():
        products._has.cache_clear()
        yield
        products._has.cache_clear()


def marker(**options) -> dict:
    return {".comfy_quant": as_bytes(format="int8_tensorwise", **options)}


def layer_of(tensors: dict, shape, bias=None) -> nn.Module:
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(*shape[::-1], bias=bias is not None)})
    state = {f"q{end}": tensor for end, tensor in tensors.items()} | ({} if bias is None else {"q.bias": bias})
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    return network["q"]


def test_the_product_of_the_definition():
    """Input and result of comfy-kitchen's int8_linear, with columns rotated in groups of 256."""
    entry = VECTORS["int8_convrot_g256"]
    tensors = {key.removeprefix("q"): tensor for key, tensor in file_of("int8_convrot_g256").items()}
    tensors[".weight"], tensors[".weight_scale"] = (
        pad(tensors[key], (0, 0, 0, 2)) for key in (".weight", ".weight_scale")
    )
    layer = layer_of(tensors, (8, 256))  # two rows of zeros more, since sides must be multiples of 8
    use_scaled_products(layer, ["cpu"])
    torch.testing.assert_close(layer(read(entry["x"]))[:, :6], read(entry["y_int8_linear_f32"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_and_weights_are_rounded_and_nothing_else(write, dtype):
    weight, bias, x = torch.randn(64, 256), torch.randn(64), torch.randn(2, 150, 256)
    layer = layer_of(write(weight), (64, 256), bias.to(dtype))
    exact = (x.double() @ weight.double().T + bias).flatten(0, 1)

    def error() -> float:
        found = layer(x.to(dtype)).flatten(0, 1).double()
        assert found.shape == exact.shape
        return float((found - exact).norm() / exact.norm())

    expanded = error()
    use_scaled_products(layer, ["cpu"])
    assert 0.004 < expanded < error() < 0.02
    assert layer(x.to(dtype)).dtype == dtype


def test_tokens_do_not_depend_on_each_other(monkeypatch):
    layer, x = layer_of(of_bytes(torch.randn(64, 64)) | marker(), (64, 64)), torch.randn(100, 64)
    use_scaled_products(layer, ["cpu"])
    whole = layer(x)
    assert torch.equal(layer(x[:1]), whole[:1]) and layer(x[:0]).shape == (0, 64)
    monkeypatch.setattr(products, "_TOKENS", 7)
    assert torch.equal(layer(x), whole)


def test_a_file_may_forbid_to_round_inputs():
    layer, x = (
        layer_of(of_bytes(torch.randn(64, 64)) | marker(full_precision_matrix_mult=True), (64, 64)),
        torch.ones(3, 64),
    )
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("no")], ids=repr)
def test_a_device_without_these_products(monkeypatch, error):
    def refuse(*_):
        raise error

    layer, x = layer_of(of_bytes(torch.randn(64, 64)) | marker(), (64, 64)), torch.randn(3, 64)
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    monkeypatch.setattr(torch, "_int_mm", refuse)
    if not is_out_of_memory(error):
        assert torch.equal(layer(x), expected)
        return
    with pytest.raises(type(error)):
        layer(x)


def test_a_device_that_multiplies_wrongly_is_not_asked_again(monkeypatch):
    layer, x = layer_of(of_bytes(torch.randn(64, 64)) | marker(), (64, 64)), torch.randn(3, 64)
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.zeros(len(a), b.shape[1], dtype=torch.int32))
    assert torch.equal(layer(x), expected)


def test_cards_get_whole_tiles(monkeypatch):
    multiply, rows = torch._int_mm, []
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: rows.append(len(a)) or multiply(a, b))
    layer = layer_of(of_bytes(torch.randn(64, 64)) | marker(), (64, 64))
    use_scaled_products(layer, ["cpu"])
    for tokens in (1, 17, 32, 33):
        layer(torch.randn(tokens, 64))
    assert rows[1:] == [32, 32, 32, 64]  # the first was the trial


def test_a_feed_forward_in_chunks_is_that_of_all_tokens():
    mixer, x = FeedForward(64).bfloat16(), torch.randn(2, 50, 64).bfloat16()
    for name in ("up", "down"):
        plain = getattr(mixer, name)
        setattr(mixer, name, layer_of(int8_convrot(plain.weight.float()), tuple(plain.weight.shape), plain.bias))
    use_scaled_products(mixer, ["cpu"])
    whole = mixer.transform(x)
    for mixer.chunk in (33, 7):
        assert torch.equal(mixer.transform(x), whole)
