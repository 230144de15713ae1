"""A storage format is one row of a table: whoever handles weights asks the row, and knows no format by name."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ltx2_core
from ltx2_core.checkpoint import CheckpointError
from ltx2_core.lora import LoraAdapter, Strengths, open_lora
from ltx2_core.memory.trace import cost
from ltx2_core.quantization import (
    CASTS,
    FORMATS,
    Format,
    StoredWeight,
    check_library,
    expand_weight,
    find_format,
    format_of,
    install_quantized_layers,
    is_linear,
    matrix_shapes,
    plain_dtype,
    split_companion,
    stored,
    use_scaled_products,
)


class Pairs(Format):
    """A second row, for these tests alone: two numbers from -8 to 7 in a byte, and rows in pairs."""

    name = reads = "pairs"
    markers = ("pairs",)
    scale_suffixes = ("weight_scale",)

    def stores(self, stored):
        return stored.weight.dtype == torch.uint8 and "weight_scale" in stored.companions

    def matrix_shape(self, stored):
        return len(stored.weight), 2 * stored.weight.shape[1]

    def padded(self, shape):
        return shape[0] + shape[0] % 2, shape[1]

    def expand_rows(self, stored, shape, start, stop):
        packed = stored.weight[start:stop]
        numbers = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).float() - 8
        return numbers * stored.companions["weight_scale"].float()


def packed(rows, columns):
    """A weight of pairs and its numbers, without the scale."""
    numbers = torch.randint(0, 16, (rows + rows % 2, columns), dtype=torch.uint8)
    return numbers[:, ::2] | numbers[:, 1::2] << 4, numbers[:rows].float() - 8


@pytest.fixture
def network(monkeypatch):
    """One layer of pairs behind a table of pairs, and a plain one."""
    monkeypatch.setitem(FORMATS, "pairs", Pairs())
    with torch.device("meta"):
        network = nn.ModuleDict({"table": nn.Embedding(3, 4), "q": nn.Linear(4, 8), "out": nn.Linear(8, 4)})
    state = {"table.weight": packed(3, 4)[0], "q.bias": torch.randn(8)}
    state |= {"q.weight": packed(8, 4)[0], "out.weight": torch.randn(4, 8)}
    state |= {"out.bias": torch.randn(4), "q.weight_scale": torch.tensor([0.02]), "table.weight_scale": torch.tensor(2)}
    install_quantized_layers(network, state, torch.float32)
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def test_a_further_format_is_one_row(network):
    assert [format_of(module) and format_of(module).name for module in network.values()] == ["pairs", "pairs", None]
    assert [is_linear(module) for module in network.values()] == [False, True, True]
    assert network["table"].weight.dtype == network["q"].weight.dtype == torch.uint8
    assert matrix_shapes(network)["table.weight"] == network["table"](torch.arange(3)).shape == (3, 4) and network[
        "q"
    ].weight.shape == (8, 2)
    assert matrix_shapes(network)["q.weight"] == expand_weight(network["q"], torch.float32).shape == (8, 4)
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
    weight, numbers = packed(32, 32)
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
    torch.testing.assert_close(found, x @ (numbers * 0.01 + 0.5 * up @ down).T)
    assert not torch.equal(layer(x), found)


def test_without_its_row_a_format_is_refused():
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(4, 8, bias=False)})
    state = {"q.weight": packed(8, 4)[0], "q.weight_scale": torch.ones(())}
    with pytest.raises(CheckpointError, match=r"q\.weight is stored as uint8 with a scale"):
        install_quantized_layers(network, state)


@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (8, 6)])
def test_a_packed_weight_of_another_shape_is_refused(network, rows, columns):
    with torch.device("meta"):
        other = nn.ModuleDict({"q": nn.Linear(4, 6, bias=False)})
    state = {"q.weight": packed(rows, columns)[0], "q.weight_scale": torch.ones(())}
    with pytest.raises(CheckpointError, match=rf"q\.weight is \(8, {columns}\) and should be \(6, 4\)"):
        install_quantized_layers(other, state)


def test_a_matrix_in_pieces_is_that_of_all_rows(monkeypatch):
    weight, numbers = packed(1000, 16)
    given = StoredWeight("x.weight", weight, {"weight_scale": torch.tensor(0.01)})
    whole = Pairs().dequantize(given, (999, 16), torch.bfloat16)
    assert torch.equal(whole, (numbers[:999] * torch.tensor(0.01)).bfloat16())
    monkeypatch.setattr(stored, "_NUMBERS", 300 * 16)
    assert torch.equal(Pairs().dequantize(given, (999, 16), torch.bfloat16), whole)


def test_a_marker_that_is_damaged_is_refused():
    network = nn.ModuleDict({"q": nn.Linear(4, 8, bias=False)})
    state = {"q.weight": torch.zeros(8, 4), "q.comfy_quant": torch.tensor(list(b"{"), dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=r"marker beside q\.weight is not valid JSON"):
        install_quantized_layers(network, state)


def test_companions_belong_to_their_weight():
    assert split_companion("a.b.scale_weight") == ("a.b.weight", "scale_weight")
    assert split_companion("a.b.comfy_quant") == ("a.b.weight", "comfy_quant")
    assert split_companion("a.b.bias") == ("a.b.bias", "")


@pytest.mark.parametrize("format", CASTS.values(), ids=CASTS)
def test_shapes_are_those_of_a_cast_weight(format):
    """What the planner counts is what the cast makes."""
    made, there = format.quantize(torch.randn(32, 64)), format.quantize(torch.empty(32, 64, device="meta"))
    assert {name: (x.shape, x.dtype) for name, x in made.items()} == {n: (x.shape, x.dtype) for n, x in there.items()}
    companions = {suffix: tensor for suffix, tensor in made.items() if suffix != "weight"}
    assert find_format(StoredWeight("x.weight", made["weight"], companions)) is format
    assert sum(x.nbytes for x in made.values()) < 2 * made["weight"].numel()


@pytest.mark.parametrize("format", [each for each in FORMATS.values() if each.operation], ids=lambda each: each.name)
def test_its_products_count_at_their_own_rate(format):
    product = format.scaled_product(torch.empty(64, 64, dtype=torch.bfloat16, device="meta"))
    assert getattr(cost(product), format.rate) == 2 * 64**3


def test_nobody_else_knows_a_format():
    """No type test outside of the room: neither a row of the table by its class, nor a weight by its dtype."""
    classes = "|".join({type(format).__name__ for format in FORMATS.values()} | {"KitchenFormat", "RotatedFormat"})
    told = re.compile(rf"\b({classes})\b|dtype (==|is) torch\.(float8|u?int8)|is_float8")
    root = Path(ltx2_core.__file__).parent
    files = [path for folder in (root, root.parent / "nodes") for path in folder.rglob("*.py")]
    outside = [path for path in files if path.relative_to(root.parent).parts[1] != "quantization"]
    assert len(outside) > 200 and [path.name for path in outside if told.search(path.read_text())] == []


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        (("qweight", "qzeros", "scales", "g_idx"), "GPTQ or AWQ"),
        (("qweight", "wscales", "proj_down", "proj_up"), "SVDQuant"),
        (("weight_packed", "weight_scale", "weight_shape"), "compressed-tensors"),
        (("weight._data._data", "weight._data._scale"), "quanto int4"),
        (("_weight_qdata", "_weight_act_pre_scale"), "torchao with more"),
        (("W_q", "meta"), "HQQ"),
        (("weight", "svd_up", "scale"), "SDNQ"),
    ],
)
def test_what_a_library_stores_instead_of_a_weight_is_told_by_names_alone(beside, found):
    with pytest.raises(CheckpointError, match=rf"blocks\.0\.q\.\w+ is stored as {found}"):
        check_library([f"blocks.0.q.{name}" for name in beside])
