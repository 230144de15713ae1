"""Weights that are no numbers are named: in a network, in an upscaler, in Gemma, in a LoRA."""

import math

import damage
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile, build, loading, open_models
from ltx2_core.errors import CheckpointError, NotANumberError
from ltx2_core.health import check_finite
from ltx2_core.lora import open_lora
from ltx2_core.pipeline.engines.prepare import Prepared, ready
from ltx2_core.pipeline.stage import NetworkKey

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("end", ["to_q.weight", "to_q.bias", "q_norm.weight"])
def test_weights_that_are_no_decimals_are_named(whole, tmp_path, dtype, end):
    key = f"model.diffusion_model.transformer_blocks.0.attn1.{end}"
    tensors = load_file(whole.checkpoint)
    save_file(
        tensors | {key: tensors[key].to(dtype)}, tmp_path / "x.safetensors", TensorFile(whole.checkpoint).metadata
    )
    with pytest.raises(CheckpointError, match=rf"x\.safetensors.*{end.split('.')[-1]} is stored as {str(dtype)[6:]}"):
        build(open_models(tmp_path / "x.safetensors"), "transformer", torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_weight_that_is_nan_is_named(whole, tmp_path, dtype):
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_k.weight"
    tensors = load_file(whole.checkpoint)
    broken = tensors[key].float()
    broken[3, 4] = math.nan
    save_file(tensors | {key: broken.to(dtype)}, tmp_path / "x.safetensors", TensorFile(whole.checkpoint).metadata)
    with pytest.raises(CheckpointError, match=rf"x\.safetensors has {key}, which holds NaN"):
        build(open_models(tmp_path / "x.safetensors"), "transformer", torch.float32)


def test_a_nan_in_the_upscaler_and_in_gemma_is_named(whole, tmp_path):
    for source in (whole.upscaler, whole.gemma_file):
        tensors = load_file(source)
        key = next(name for name in tensors if name.endswith("weight"))
        tensors[key] = torch.full_like(tensors[key], math.nan)
        save_file(tensors, tmp_path / source.name, TensorFile(source).metadata)
        with pytest.raises(CheckpointError, match=f"{source.name}.*holds NaN"):
            (damage.read_upscaler if source is whole.upscaler else damage.read_gemma)(tmp_path / source.name)


def test_a_result_that_is_no_number_names_the_weight_that_is_to_blame(whole):
    network = build(open_models(whole.checkpoint), "audio_decoder")
    weight = next(network.parameters())
    weight.data = weight.data.clone()  # which lies in its file, where nothing may be written
    weight.data.view(-1)[0] = math.nan

    class Stored:
        """As much of a store as is asked for."""

        def patch(self, patches):
            pass

        def use(self):
            return self

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    prepared = {NetworkKey("audio_decoder", ("audio_decoder",)): Prepared((network,), Stored())}
    blamed = (
        r"after decoding: The audio decoder in ltx-2\.3-tiny\.safetensors has audio_vae\.decoder\..*, which holds NaN"
    )
    with pytest.raises(NotANumberError, match=blamed), ready(prepared, None, lambda placement: None):
        check_finite(torch.tensor(math.nan), "decoding")


@pytest.mark.parametrize("rows", [slice(0, 4), slice(-4, None), slice(300, 500)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_broken_piece_of_a_matrix_that_is_not_read_as_a_whole_is_named(monkeypatch, rows, dtype):
    """As in networks of more than a gigabyte, whose matrices are only looked at in places."""
    monkeypatch.setattr(loading, "_ALL_BYTES", 0)
    linear, weight = torch.nn.Linear(1027, 1024, bias=False), torch.randn(1024, 1027)
    loading.load_strict(linear, {"weight": weight.to(dtype)}, "A network", str)
    weight[rows] = math.nan
    with pytest.raises(CheckpointError, match="A network has weight, which holds NaN"):
        loading.load_strict(linear, {"weight": weight.to(dtype)}, "A network", str)


@pytest.mark.parametrize("shape, rows", [((1024, 1027), slice(300, 500)), ((64,), slice(3, 4))])
def test_pieces_of_a_mapped_file_are_read_without_the_mapping(monkeypatch, tmp_path, shape, rows):
    monkeypatch.setattr(loading, "_ALL_BYTES", 0)
    network, weight = torch.nn.Module(), torch.randn(shape)
    network.register_parameter("weight", torch.nn.Parameter(torch.empty(shape)))
    save_file({"before": torch.zeros(3), "weight": weight}, tmp_path / "x.safetensors")
    mapped = TensorFile(tmp_path / "x.safetensors").get("weight")
    assert torch.equal(dict(loading._samples({"weight": mapped}))["weight"], in_places(weight))
    loading.load_strict(network, {"weight": mapped}, "A network", str)
    weight[rows] = math.nan
    save_file({"weight": weight}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="A network has weight, which holds NaN"):
        loading.load_strict(network, {"weight": TensorFile(tmp_path / "y.safetensors").get("weight")}, "A network", str)


def in_places(weight: torch.Tensor) -> torch.Tensor:
    """What is looked at of a tensor that lies in no file."""
    return dict(loading._samples({"weight": weight}))["weight"]


def test_a_file_that_became_shorter_ends_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "_ALL_BYTES", 0)
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(1024, 1027)}, path)
    weight = TensorFile(path).get("weight")
    with path.open("r+b") as file:
        file.truncate(2**20)
    with pytest.raises(CheckpointError, match=r"A network cannot be read: .*became shorter"):
        loading.load_strict(torch.nn.Linear(1027, 1024, bias=False), {"weight": weight}, "A network", str)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", ["lora", "loha", "lokr"])
def test_an_alpha_that_is_no_number_is_named_when_the_lora_is_opened(tmp_path, form, value):
    path = damage.write_lora(tmp_path / "x.safetensors", form, {}, alpha=torch.tensor(value))
    with pytest.raises(CheckpointError, match=rf"{damage.LAYER}\.alpha in x\.safetensors is"):
        open_lora(path)


def test_an_alpha_that_does_not_count_may_be_infinite(tmp_path):
    """That of LoKr in whole matrices is what the trainer took for their rank, which may be more than float16 holds."""
    parts = {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.full((8, 8), 0.5), "alpha": torch.tensor(1e10).half()}
    save_file({f"{damage.LAYER}.{name}": value for name, value in parts.items()}, tmp_path / "x.safetensors")
    ((_, _, delta),) = open_lora(tmp_path / "x.safetensors").layers
    tensors = {part: delta.tensor(part) for part in delta.parts}
    assert torch.equal(delta.compute(torch.zeros(32, 32), tensors), torch.full((32, 32), 0.5)) and not delta.is_nothing


@pytest.mark.parametrize(
    "part",
    [("lora", "lora_A.weight"), ("lora", "dora_scale"), ("loha", "hada_w2_b"), ("lokr", "lokr_w1"), ("diff", "diff")],
)
@pytest.mark.parametrize("broken", ["nan", "int8"])
def test_a_tensor_of_a_lora_that_is_no_number_is_named(tmp_path, part, broken):
    form, name = part
    value = torch.ones(damage.PARTS[form][name])
    value = value.to(torch.int8) if broken == "int8" else value * math.nan
    path = damage.write_lora(tmp_path / "x.safetensors", form, {}, **{name: value})
    with pytest.raises(CheckpointError, match=rf"{name} in x\.safetensors"):  # int8 by the header alone
        damage.compute(
            next(delta for _, _, delta in open_lora(path).layers if f"{damage.LAYER}.{name}" in delta.keys.values())
        )
