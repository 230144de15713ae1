"""A storage format is one row of a table: whoever handles weights asks the row, and knows no format by name."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import linear as multiply

from ltx2_core.checkpoint import CheckpointError
from ltx2_core.lora import LoraAdapter, Strengths, open_lora
from ltx2_core.memory.trace import cost
from ltx2_core.quantization import (
    FORMATS,
    expand_weight,
    find_format,
    format_of,
    install_quantized_layers,
    is_linear,
    plain_dtype,
    split_companion,
    use_scaled_products,
)
from ltx2_core.quantization.fp8 import Fp8Format


class Int8Linear(nn.Module):
    """Whole numbers times one scale."""

    exact, scaled_on = False, ()

    def __init__(self, weight, scale, bias):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale, self.bias = nn.Parameter(scale), bias

    def forward(self, x):
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype):
        return lambda x: multiply(x, self.expand_weight(dtype), self.bias)

    def expand_weight(self, dtype):
        return self.weight.to(dtype) * self.weight_scale.to(dtype)


@dataclass(frozen=True)
class Int8Format(Fp8Format):
    """A second row, for these tests alone."""

    name: str = "int8"
    markers: tuple[str, ...] = ("int8_tensorwise",)
    linear: type[nn.Module] = Int8Linear

    def stores(self, dtype, companions):
        return dtype == torch.int8 and "weight_scale" in companions

    def find_problem(self, weight, companions):
        return ""

    def dequantize(self, weight, companions, dtype):
        return weight.to(dtype) * companions["weight_scale"].to(dtype)

    def make_linear(self, linear, weight, companions, options):
        return Int8Linear(linear.weight.to(torch.int8), companions["weight_scale"].reshape(()), linear.bias)


@pytest.fixture
def network(monkeypatch):
    """One layer of int8 behind a table of int8, and a plain one."""
    monkeypatch.setitem(FORMATS, "int8", Int8Format())
    with torch.device("meta"):
        network = nn.ModuleDict({"table": nn.Embedding(3, 4), "q": nn.Linear(4, 8), "out": nn.Linear(8, 4)})
    state = {"table.weight": torch.randint(-127, 127, (3, 4), dtype=torch.int8), "q.bias": torch.randn(8)}
    state |= {"q.weight": torch.randint(-127, 127, (8, 4), dtype=torch.int8), "out.weight": torch.randn(4, 8)}
    state |= {"out.bias": torch.randn(4), "q.weight_scale": torch.tensor([0.02]), "table.weight_scale": torch.tensor(2)}
    install_quantized_layers(network, state, torch.float32)
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def test_a_further_format_is_one_row(network):
    assert [format_of(module) and format_of(module).name for module in network.values()] == [None, "int8", None]
    assert [is_linear(module) for module in network.values()] == [False, True, True]
    assert network["table"].weight.dtype == torch.float32 and network["q"].weight.dtype == torch.int8
    assert torch.equal(expand_weight(network["q"], torch.float32), network["q"].weight.float() * 0.02)
    copy = expand_weight(network["out"], torch.float32)
    assert torch.equal(copy, network["out"].weight) and copy.data_ptr() != network["out"].weight.data_ptr()
    assert plain_dtype(network) == torch.float32
    use_scaled_products(network, ["cpu"])
    assert network["q"].scaled_on == ["cpu"]


def test_a_lora_beside_a_further_format(network, tmp_path):
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    with torch.device("meta"):
        block = nn.Module()
        block.blocks = nn.ModuleList([nn.Module()])
        block.blocks[0].video = nn.Module()
        block.blocks[0].video.self_attn = nn.ModuleDict({"q": nn.Linear(32, 32, bias=False)})
    name = "blocks.0.video.self_attn.q"
    weight = torch.randint(-127, 127, (32, 32), dtype=torch.int8)
    state = {f"{name}.weight": weight, f"{name}.weight_scale": torch.tensor(0.01)}
    install_quantized_layers(block, state, torch.float32)
    block.load_state_dict(state, assign=True)
    key = "diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    adapter = LoraAdapter(block, [(open_lora(tmp_path / "lora.safetensors"), Strengths(0.5))])
    assert not adapter.weight_patches
    layer, x = block.get_submodule(name), torch.randn(3, 32)
    with adapter.attached():
        found = layer(x)
    torch.testing.assert_close(found, x @ (weight * 0.01 + 0.5 * up @ down).T)
    assert not torch.equal(layer(x), found)


def test_without_its_row_a_format_is_refused():
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(4, 8, bias=False)})
    state = {"q.weight": torch.zeros(8, 4, dtype=torch.int8), "q.weight_scale": torch.ones(())}
    with pytest.raises(CheckpointError, match=r"q\.weight is stored as int8 with a scale"):
        install_quantized_layers(network, state)


def test_a_marker_that_is_damaged_is_refused():
    network = nn.ModuleDict({"q": nn.Linear(4, 8, bias=False)})
    state = {"q.weight": torch.zeros(8, 4), "q.comfy_quant": torch.tensor(list(b"{"), dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=r"marker beside q\.weight is not valid JSON"):
        install_quantized_layers(network, state)


def test_companions_belong_to_their_weight():
    assert split_companion("a.b.scale_weight") == ("a.b.weight", "scale_weight")
    assert split_companion("a.b.comfy_quant") == ("a.b.weight", "comfy_quant")
    assert split_companion("a.b.bias") == ("a.b.bias", "")


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_shapes_are_those_of_a_cast_weight(format):
    """What the planner counts is what the cast makes."""
    made, there = format.quantize(torch.randn(32, 64)), format.quantize(torch.empty(32, 64, device="meta"))
    assert {name: (x.shape, x.dtype) for name, x in made.items()} == {n: (x.shape, x.dtype) for n, x in there.items()}
    scales = {name: tuple(x.shape) for name, x in made.items() if name != "weight"}
    laid_out = format.lay_out((32, 64), made["weight"].dtype, scales)
    assert {name: (x.shape, x.dtype) for name, x in laid_out.items()} == {
        name: (x.shape, x.dtype) for name, x in made.items()
    }
    assert find_format(made["weight"].dtype, scales) is format
    assert sum(x.nbytes for x in made.values()) < 2 * made["weight"].numel()


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_its_products_count_at_their_own_rate(format):
    product = format.scaled_product(torch.empty(64, 64, dtype=torch.bfloat16, device="meta"))
    assert getattr(cost(product), format.rate) == 2 * 64**3
