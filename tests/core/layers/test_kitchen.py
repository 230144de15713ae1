"""Products of comfy-kitchen against the expanded weight, and what is done where they are missing, wrong or slow."""

import re
import sys
import types
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, cycle, repeat

import pytest
import torch
import torch.nn.functional as F
from devices import full_cards
from torch import nn
from written import WRITERS, as_bytes

from ltx2_core import open_models
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.errors import is_out_of_memory
from ltx2_core.geometry import ClipShape
from ltx2_core.layers import FeedForward, shared_input
from ltx2_core.memory.machine import machine_named
from ltx2_core.memory.placement import Room
from ltx2_core.memory.trace import cost
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.quantization import FORMATS, install_quantized_layers, kitchen, products_of, use_scaled_products

INT8 = FORMATS["int8"]
# Mean error of a channel, as a share of its size: of weights alone, and of weights and inputs together.
TYPICAL = {
    "int8 of the tensor": (0.013, 0.02), "int8 rotated": (0.0085, 0.0125), "mxfp8": (0.028, 0.04),
    "nvfp4": (0.11, 0.16),
}  # fmt: skip
KITCHEN = [name for name, format in FORMATS.items() if isinstance(format, kitchen.KitchenFormat)]


@pytest.fixture(autouse=True)
def _tried_anew(monkeypatch):
    monkeypatch.setattr(kitchen, "_LEAST_SIDE", 0)
    with torch.no_grad():
        forget()
        yield
        forget()


def forget():
    kitchen.find_library.cache_clear()
    kitchen._is_worth_it.cache_clear()
    kitchen._makes_gelu.cache_clear()
    kitchen._REFUSED.clear()


def layer_of(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    out, into = weight.shape
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(into, out, bias=bias is not None)})
    state = {f"q{end}": each for end, each in WRITERS[name][0](weight).items()}
    state |= {} if bias is None else {"q.bias": bias}
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    return network["q"]


def multiplied(x, rounded, theirs):
    """What a card does with both matrices, whose numbers the library expands."""
    return (rounded.float() @ theirs.float().T).to(x)


@pytest.fixture
def library(monkeypatch):
    """comfy-kitchen; what it has for cards alone is put together from what it expands."""
    real = pytest.importorskip("comfy_kitchen")

    def mxfp8(a, b, scales_of_a, scales_of_b, bias, out_dtype):
        sides = (real.dequantize_mxfp8(*each, torch.float32) for each in ((a, scales_of_a), (b, scales_of_b)))
        return multiplied(out_dtype, *sides).add(0 if bias is None else bias)

    def nvfp4(a, b, of_a, of_b, scales_of_a, scales_of_b, bias, out_dtype):
        both = ((a, of_a, scales_of_a), (b, of_b, scales_of_b))
        sides = (real.dequantize_nvfp4(*each, torch.float32) for each in both)
        return multiplied(out_dtype, *sides).add(0 if bias is None else bias)

    monkeypatch.setattr(real, "scaled_mm_mxfp8", mxfp8)
    monkeypatch.setattr(real, "scaled_mm_nvfp4", nvfp4)
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: 2.0)
    return real


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TYPICAL)
def test_products_err_by_their_formats_and_no_more(library, name, dtype):
    weight, bias, x = torch.randn(64, 256), torch.randn(64), torch.randn(2, 75, 256)
    layer = layer_of(name, weight, bias.to(dtype))
    exact = (x.double() @ weight.double().T + bias).flatten(0, 1)

    def error(found):
        assert found.dtype == dtype and found.shape == (2, 75, 64)
        return float(((found.flatten(0, 1).double() - exact).norm(dim=0) / exact.norm(dim=0)).mean())

    of_weights, of_both = TYPICAL[name]
    assert 0.5 * of_weights < error(layer(x.to(dtype))) < of_weights
    use_scaled_products(layer, ["cpu"])
    assert layer.find_product(dtype) is not None
    assert 0.8 * of_weights < error(layer(x.to(dtype))) < of_both


@pytest.mark.parametrize("name", ["int8 rotated", "int8 of the tensor", "mxfp8", "nvfp4"])
def test_an_input_is_rounded_once_for_all_layers_that_share_it(library, monkeypatch, name):
    layers, x, counted = [layer_of(name, torch.randn(64, 256), None) for _ in "qkv"], torch.randn(2, 75, 256), []
    for layer in layers:
        use_scaled_products(layer, ["cpu"])
    apart = [layer(x) for layer in layers]
    rounding = f"quantize_{name}" if "int8" not in name else "quantize_int8_rowwise"
    plain = getattr(library, rounding)
    monkeypatch.setattr(library, rounding, lambda *given: counted.append(given) or plain(*given))
    for times in (1, 2):
        with shared_input(x):
            assert all(torch.equal(layer(x), expected) for layer, expected in zip(layers, apart))
        assert len(counted) == times


@pytest.mark.parametrize("name", ["int8 rotated", "int8 of the tensor"])
def test_rounding_apart_is_what_the_kernel_of_the_library_does(library, name):
    layer, x = layer_of(name, torch.randn(64, 256), torch.randn(64)), torch.randn(75, 256)
    apart = INT8.multiply(library, INT8.round_input(library, x, layer.stored), layer.stored, layer.bias, x)
    torch.testing.assert_close(INT8.multiply(library, (x,), layer.stored, layer.bias, x), apart, atol=1e-4, rtol=1e-4)


def feed_forward(rotated: bool = True) -> FeedForward:
    """Of int8, the columns in front of the second layer in groups of 256."""
    of_the_tensor, _ = WRITERS["int8 of the tensor"]
    with torch.device("meta"):
        mixer = FeedForward(64)
    state = {}
    for layer, shape in (("up", (256, 64)), ("down", (64, 256))):
        weight = torch.randn(shape) / shape[1] ** 0.5
        made = {f".{end}": each for end, each in INT8.quantize(weight).items()} if rotated else of_the_tensor(weight)
        state |= {f"{layer}{end}": each for end, each in made.items()}
        state[f"{layer}.bias"] = torch.randn(shape[0])
    install_quantized_layers(mixer, state)
    mixer.load_state_dict(state, assign=True)
    use_scaled_products(mixer, ["cpu"])
    return mixer


def gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


@pytest.fixture
def told(library, monkeypatch):
    """A CPU makes the GELU in the product, as cards do; the words that the library is told beside the tensors."""
    monkeypatch.setattr(type(INT8), "gelu_on", ("cpu",))
    plain, told = library.int8_linear, []
    monkeypatch.setattr(library, "int8_linear", lambda *given, **how: told.append(how) or plain(*given, **how))
    return told


@pytest.mark.parametrize(("tokens", "pieces"), [(50, 1), (150, 2)])
def test_a_feed_forward_makes_the_gelu_in_the_product(told, tokens, pieces):
    mixer, x = feed_forward(), torch.randn(1, tokens, 64)
    mixer.chunk, expected = 100, mixer.down(gelu(mixer.up(x)))
    torch.testing.assert_close(mixer.transform(x), expected, atol=2e-2, rtol=0)
    assert [how["input_act"] for how in told] == ["gelu_tanh"] * (pieces + 1)  # the first is the trial


def test_columns_that_are_not_rotated_get_their_gelu_in_place(told):
    mixer, x = feed_forward(rotated=False), torch.randn(1, 50, 64)
    assert torch.equal(mixer.transform(x), mixer.down(gelu(mixer.up(x)))) and not told


def test_what_reads_the_gelu_beside_a_layer_finds_it(told):
    mixer, x, seen = feed_forward(), torch.randn(1, 50, 64), []
    with mixer.down.register_forward_pre_hook(lambda _, given: seen.append(*given)):
        result = mixer.transform(x)
    torch.testing.assert_close(seen[0], gelu(mixer.up(x)))
    assert torch.equal(result, mixer.down(seen[0])) and not told


def of_an_old_library(plain):
    return lambda x, weight, scale, bias, dtype, convrot, convrot_groupsize: plain(x, weight, scale, bias, dtype)


def of_another_activation(plain):
    return lambda *given, input_act, **how: plain(*given, **how)


def for_other_columns(plain):
    def multiply(x, *given, **how):
        if x.shape[1] == 256:
            raise ValueError("256 columns are not supported")
        return plain(x, *given, **how)

    return multiply


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_an_old_library, r"The GELU before int8 on cpu is made apart: .* unexpected keyword argument 'input_act'"),
        (of_another_activation, r"The GELU before int8 on cpu is made apart: that of comfy-kitchen is off by "),
        (for_other_columns, r"int8 of \(64, 256\) is expanded on cpu: 256 columns are not supported"),
    ],
)
def test_a_gelu_is_made_apart_where_the_library_does_not(told, library, monkeypatch, caplog, change, said):
    monkeypatch.setattr(library, "int8_linear", change(library.int8_linear))
    mixer, x = feed_forward(), torch.randn(1, 50, 64)
    expected = mixer.down(gelu(mixer.up(x)))
    caplog.set_level("INFO")
    for _ in range(2):
        torch.testing.assert_close(mixer.transform(x), expected, atol=5e-2, rtol=0)
    assert len(re.findall(said, caplog.text)) == 1


def test_the_plan_counts_no_gelu_where_a_product_makes_it(library, monkeypatch):
    def moved() -> float:
        mixer = feed_forward().to("meta")
        use_scaled_products(mixer, ["meta"])
        return cost(lambda: mixer.transform(torch.empty(1, 100, 64, device="meta"))).moved

    inside = moved()
    monkeypatch.setattr(type(INT8), "gelu_on", ())
    assert moved() - inside == 2 * 100 * 256 * 4  # the GELU reads and writes them once


def test_what_was_timed_is_chosen_again_by_another_run(monkeypatch, tmp_path, caplog):
    """For this device and these versions; whether products are right is asked anew."""
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path))
    library, gains, cpu = FakeLibrary("right"), iter([1.3, 0.5, 0.5]), torch.device("cpu")
    installed = {"comfy-kitchen": "1"}
    monkeypatch.setattr(kitchen, "version", installed.get)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", library)
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: next(gains))
    caplog.set_level("INFO")

    def chosen():
        forget()
        return INT8.multiplies(cpu, torch.float32)

    assert chosen() and chosen() and "as it was when that was timed" in caplog.text
    installed["comfy-kitchen"] = "2"
    assert not chosen() and not chosen()
    installed["comfy-kitchen"] = "1"
    assert chosen()
    library.kind = "wrong"
    assert not chosen()
    library.kind = "right"
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace("true", "false"))  # by somebody else: timed again
    assert not chosen() and next(gains, None) is None


def test_the_library_has_a_version(library, monkeypatch):
    assert kitchen.library_version()[0].isdigit()
    monkeypatch.setattr(kitchen, "version", lambda name: version(f"no {name}"))
    assert kitchen.library_version() == "none"


def test_a_weight_with_padding_is_expanded(library):
    layer, x = layer_of("nvfp4", torch.randn(20, 40), None), torch.randn(3, 40)
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    assert torch.equal(layer(x), expected)


class FakeLibrary(types.ModuleType):
    """comfy-kitchen with a product of int8 that is right, wrong, old, or made for another card."""

    def __init__(self, kind):
        super().__init__("comfy_kitchen")
        self.kind, self.calls = kind, 0
        if kind != "old":
            self.quantize_int8_rowwise, self.mm_int8 = self.round, self.multiply

    def round(self, x):
        return x.float(), torch.ones(len(x), 1)

    def multiply(self, x, weight):
        self.calls += 1
        assert type(x) is type(weight) is torch.Tensor
        if isinstance(self.kind, Exception):
            raise self.kind
        return x @ weight.float() * (2 if self.kind == "wrong" else 1)


FOREIGN = RuntimeError("no kernel image is available for execution on the device\nand more")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("right", "int8 on cpu in float32 is multiplied by comfy-kitchen, 2.0 times as fast as expanded."),
        ("wrong", "int8 on cpu in float32 is expanded: products of comfy-kitchen are off by"),
        ("old", "int8 on cpu in float32 is expanded: module 'comfy_kitchen' has no attribute 'quantize_int8_rowwise'"),
        (FOREIGN, "int8 on cpu in float32 is expanded: no kernel image is available for execution on the device\n"),
        (None, "There is no comfy-kitchen: "),
    ],
    ids=["right", "wrong", "old", "foreign", "missing"],
)
def test_a_product_is_used_where_it_is_right(monkeypatch, caplog, kind, said):
    library = None if kind is None else FakeLibrary(kind)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", library)
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: 2.0)
    caplog.set_level("INFO")
    layer, x = layer_of("int8 rotated", torch.randn(64, 64), torch.randn(64)), torch.randn(5, 64)
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    for _ in range(2):
        torch.testing.assert_close(layer(x), expected)
    assert caplog.text.count(said.strip()) == 1 and (layer.find_product(torch.float32) is not None) == (kind == "right")


@pytest.mark.parametrize("gain", [0.7, 1.1, 1.3])
def test_a_product_that_is_no_faster_is_not_used(monkeypatch, caplog, gain):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", FakeLibrary("right"))
    times = cycle([1.0, gain])
    monkeypatch.setattr(kitchen, "_seconds", lambda run, device: next(times))
    caplog.set_level("INFO")
    layer = layer_of("int8 rotated", torch.randn(64, 64), None)
    use_scaled_products(layer, ["cpu"])
    assert (layer.find_product(torch.float32) is not None) == (gain > 1.2)
    assert f"products of comfy-kitchen are {gain:.2f} times as fast" in caplog.text or gain > 1.2


@pytest.mark.parametrize("quiet", [range(8), (1, 2), (4, 5), (7,)])
def test_a_machine_that_is_busy_in_some_rounds_chooses_the_same(monkeypatch, quiet):
    """The product takes 2 seconds, its expansion 3, and all ten times as long except in the quiet rounds."""
    paces = chain.from_iterable(repeat(1 if each in quiet else 10, 2) for each in range(8))
    monkeypatch.setattr(kitchen, "_seconds", lambda run, device: run * next(paces))
    assert kitchen._times_as_fast(2.0, 3.0, torch.device("cpu")) == 1.5


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), *full_cards()], ids=repr)
def test_what_fails_for_lack_of_memory_is_asked_again(monkeypatch, error):
    library = FakeLibrary(error)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", library)
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: 2.0)
    layer, x = layer_of("int8 rotated", torch.randn(64, 64), None), torch.randn(5, 64)
    use_scaled_products(layer, ["cpu"])
    assert is_out_of_memory(error)
    for _ in range(2):
        with pytest.raises(type(error)):
            layer(x)
    library.kind, calls = "right", library.calls
    layer(x)
    assert library.calls > calls


def test_a_matrix_that_a_kernel_does_not_take_is_expanded(monkeypatch, caplog):
    library = FakeLibrary("right")
    monkeypatch.setitem(sys.modules, "comfy_kitchen", library)
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: 2.0)
    layer, x = layer_of("int8 rotated", torch.randn(64, 128), torch.randn(64)), torch.randn(5, 128)
    expected = layer(x)
    use_scaled_products(layer, ["cpu"])
    layer(x)
    library.kind, calls = ValueError("128 columns are not supported"), library.calls
    for _ in range(2):
        torch.testing.assert_close(layer(x), expected)
    assert library.calls == calls + 1 and layer.find_product(torch.float32) is None
    assert caplog.text.count("int8 of (64, 128) is expanded on cpu: 128 columns are not supported") == 1


def test_a_file_may_forbid_to_round_inputs():
    made = WRITERS["int8 of the tensor"][0](torch.randn(64, 64))
    made[".comfy_quant"] = as_bytes(format="int8_tensorwise", full_precision_matrix_mult=True)
    network = nn.ModuleDict({"q": nn.Linear(64, 64, bias=False)})
    install_quantized_layers(network, {f"q{end}": each for end, each in made.items()})
    use_scaled_products(network, ["cpu"])
    assert network["q"].exact and network["q"].find_product(torch.float32) is None


def test_by_default_a_cpu_multiplies_large_matrices_of_int8_and_nothing_else(monkeypatch):
    monkeypatch.setattr(kitchen, "_LEAST_SIDE", 512)
    layers = {name: layer_of(name, torch.randn(64, 64), None) for name in ("int8 rotated", "nvfp4", "fp8 in blocks")}
    network = nn.ModuleList(layers.values())
    use_scaled_products(network)
    assert {name: "cpu" in layer.scaled_on for name, layer in layers.items()} == {
        "int8 rotated": True, "nvfp4": False, "fp8 in blocks": False,
    }  # fmt: skip
    assert layers["int8 rotated"].find_product(torch.float32) is None  # too small to gain by it
    monkeypatch.setattr(kitchen, "_find_gain", lambda *_: 2.0)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", FakeLibrary("right"))
    assert products_of(network, torch.device("cpu")) == [] and products_of(network, None) == ["fp8"]
    large = nn.ModuleList([layer_of("int8 rotated", torch.randn(512, 512), None)])
    assert products_of(large, torch.device("cpu")) == ["int8"]


@pytest.mark.parametrize("name", KITCHEN)
def test_products_on_the_meta_device_are_counted(name):
    """At the rate of eight bits; pairs in a byte count once. Inputs are read and rounded; nvfp4 asks for their largest
    number before."""
    format = FORMATS[name]
    stored = kitchen._moved(format.make_sample((256, 512)), torch.device("meta"))
    x, bits = torch.empty(2, 64, 512, dtype=torch.bfloat16, device="meta"), 4 if name == "nvfp4" else 8
    found = cost(lambda: kitchen._multiply(format, stored, None, x))
    assert found.products8 == 2 * 128 * 512 * 256 * bits / 8 and found.products == 0
    bytes_of_a_number = 2 + 2 + 0.5 if name == "nvfp4" else 2 + 1
    assert found.moved == pytest.approx(128 * 512 * bytes_of_a_number, rel=1e-3) and found.peak < x.nbytes * 2


@pytest.mark.parametrize("format", ["int8", "fp8", None])
@pytest.mark.sample(1)
def test_the_plan_says_which_products_are_made(format):
    models, shape = open_models("miniature"), ClipShape(512, 512, 33, 24)
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.bfloat16)
    blueprint = Blueprint.of_files(models, open_text_encoder(models.text_encoder), dtypes, format)
    stages = [Sample(Sampling((1.0, 0.5, 0.0)), LatentSize.of_clip(shape))]
    card = replace(machine_named("4070"), launch=0.0)
    plan = plan_stages(stages, blueprint, Room(card, card.budget, 2**36), shape)
    (said,) = [note for note in plan.notes if note.startswith("sampling: ") and "product" in note] or [""]
    placed = plan.placement("sampling")
    assert placed is not None and (placed.need.cost.products8 > 0) == (format == "fp8")
    assert said in plan.summary() and said in plan.explain()
    if format == "int8":
        assert re.fullmatch(
            r"sampling: int8 expanded for each product, about 1\.\d\d x slower than plain weights\.", said
        )
    else:
        assert said == ("sampling: fp8 products; inputs are rounded as weights are." if format else "")
