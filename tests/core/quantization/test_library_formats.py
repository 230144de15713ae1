"""Files written by the libraries that define the formats: comfy-kitchen, optimum-quanto, bitsandbytes, torchao."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from written import as_bytes

from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.quantization import CASTS, StoredWeight, expand_weight, install_quantized_layers

pytestmark = pytest.mark.usefixtures("without_gradients")

# A layout of comfy-kitchen, how it is asked to quantise, and the marker that ComfyUI writes for it.
LAYOUTS = {
    "fp8": ("TensorCoreFP8Layout", {}, {"format": "float8_e4m3fn"}),
    "int8": ("TensorWiseINT8Layout", {}, {"format": "int8_tensorwise"}),
    "int8 rows": ("TensorWiseINT8Layout", {"per_channel": True}, {"format": "int8_tensorwise"}),
    "int8 rotated": (
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True},
        {"format": "int8_tensorwise", "convrot": True},
    ),
    "nvfp4": ("TensorCoreNVFP4Layout", {}, {"format": "nvfp4"}),
    "mxfp8": ("TensorCoreMXFP8Layout", {}, {"format": "mxfp8"}),
    "w4a8": ("AsymW4A8Int8Layout", {}, {"format": "asym_w4a8_int8"}),
    "w4a8 with correction": ("AsymW4A8Int8Layout", {"symmetric": False}, {"format": "asym_w4a8_int8"}),
    "w4a4": ("TensorCoreConvRotW4A4Layout", {}, {"format": "convrot_w4a4", "convrot_groupsize": 256}),
}


def read_layer(tensors: dict, path, shape, listed: dict | None = None) -> nn.Module:
    """The layer q of a file with these tensors, as a network gets it."""
    metadata = {"_quantization_metadata": json.dumps({"layers": {"q": listed}})} if listed else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    file = TensorFile(path)
    assert file.shape("q.weight", shape) == shape
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(*shape[::-1], bias="q.bias" in tensors)})
    state = {key: file.get(key) for key in file.keys()}  # noqa: SIM118 - the method of a file
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    return network["q"]


@pytest.mark.parametrize("shape", [(144, 256), (40, 512)])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("beside", [True, False])
def test_comfy_kitchen(tmp_path, name, shape, beside):
    layouts = pytest.importorskip("comfy_kitchen.tensor")
    layout, how, marker = LAYOUTS[name]
    layout, weight = getattr(layouts, layout), torch.randn(shape)
    quantized, params = layout.quantize(weight, **how)
    tensors = {f"q.weight{end}": each for end, each in layout.state_dict_tensors(quantized, params).items()}
    if beside:
        tensors["q.comfy_quant"] = as_bytes(**marker)
    layer = read_layer(tensors, tmp_path / "x.safetensors", shape, None if beside else marker)
    expected = layout.dequantize(quantized, params)[: shape[0], : shape[1]]
    torch.testing.assert_close(expand_weight(layer, torch.float32), expected, atol=1e-5, rtol=1e-5)
    x = torch.randn(3, shape[1])
    torch.testing.assert_close(layer(x), x @ expected.T, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["qint8", "qfloat8_e4m3fn", "qfloat8_e5m2"])
def test_optimum_quanto(tmp_path, kind):
    quanto = pytest.importorskip("optimum.quanto")
    network, x = nn.ModuleDict({"q": nn.Linear(64, 32)}).bfloat16(), torch.randn(5, 64).bfloat16()
    quanto.quantize(network, weights=getattr(quanto, kind))
    quanto.freeze(network)
    layer = read_layer(network.state_dict(), tmp_path / "x.safetensors", (32, 64))
    assert torch.equal(expand_weight(layer, torch.bfloat16), network["q"].weight.dequantize())
    torch.testing.assert_close(layer(x), network["q"](x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "config", ["Float8WeightOnlyConfig", "Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"]
)
def test_torchao(tmp_path, config):
    """Its own module for safetensors writes the file."""
    quantization = pytest.importorskip("torchao.quantization")
    flatten = pytest.importorskip("torchao.prototype.safetensors.safetensors_support").flatten_tensor_state_dict
    network = nn.ModuleDict({"q": nn.Linear(64, 32)}).bfloat16().requires_grad_(False)
    quantization.quantize_(network, getattr(quantization, config)())
    tensors, metadata = flatten({key: each.data for key, each in network.state_dict().items()})
    assert "q._weight_qdata" in tensors and json.loads(metadata["q.weight"])["_type"] in ("Float8Tensor", "Int8Tensor")
    layer = read_layer(tensors, tmp_path / "x.safetensors", (32, 64))
    assert torch.equal(expand_weight(layer, torch.bfloat16), network["q"].weight.dequantize())


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(48, 192), (4, 64), (512, 1088)])
def test_bitsandbytes_four_bits(tmp_path, kind, nested, shape):
    functional = pytest.importorskip("bitsandbytes.functional")
    quantized, state = functional.quantize_4bit(
        torch.randn(shape).bfloat16(), blocksize=64, quant_type=kind, compress_statistics=nested
    )
    beside = {f"q.weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    layer = read_layer({"q.weight": quantized} | beside, tmp_path / "x.safetensors", shape)
    assert torch.equal(expand_weight(layer, torch.bfloat16), functional.dequantize_4bit(quantized, state))


def test_bitsandbytes_int8(tmp_path):
    modules = pytest.importorskip("bitsandbytes.nn")
    linear, weight = modules.Linear8bitLt(64, 32, has_fp16_weights=False), torch.randn(32, 64)
    linear.load_state_dict({"weight": weight, "bias": torch.zeros(32)})
    tensors = {f"q.{name}": tensor for name, tensor in linear.to("cpu").state_dict().items()}
    layer = read_layer(tensors, tmp_path / "x.safetensors", (32, 64))
    error = (expand_weight(layer, torch.float32) - weight).abs() / weight.abs().amax(1, keepdim=True)
    assert float(error.max()) < 0.55 / 127


@pytest.mark.parametrize("columns", [512, 64])
def test_comfy_kitchen_expands_what_is_cast_to_int8_here(columns):
    layout = pytest.importorskip("comfy_kitchen.tensor").TensorWiseINT8Layout
    made = CASTS["int8"].quantize(torch.randn(48, columns))
    how = json.loads(bytes(made["comfy_quant"].tolist()))
    how = {name: how[name] for name in ("convrot", "convrot_groupsize")}
    params = layout.Params(made["weight_scale"], torch.float32, (48, columns), is_weight=True, **how)
    stored = StoredWeight("x.weight", made["weight"], {"weight_scale": made["weight_scale"]}, made["comfy_quant"])
    ours = CASTS["int8"].dequantize(stored, (48, columns), torch.float32)
    torch.testing.assert_close(ours, layout.dequantize(made["weight"], params), atol=1e-5, rtol=1e-5)
