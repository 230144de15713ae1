"""Weights as other libraries store them are read, or called what they are, wherever they are opened."""

import json
import re
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile, build, open_models
from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import CheckpointError
from ltx2_core.lora import open_lora

pytestmark = pytest.mark.slow


def test_inspect_says_what_cannot_be_read(whole, tmp_path):
    tensors, metadata = load_file(whole.checkpoint), TensorFile(whole.checkpoint).metadata
    key = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"
    path = tmp_path / "x.safetensors"
    save_file(tensors | {key: tensors[key].to(torch.int8)}, path, metadata)
    assert "cannot be read" in inspect(path) and f"{key} is stored as int8" in inspect(path)
    packed = {f"{key.removesuffix('.weight')}.weight_packed": torch.zeros(32, 8, dtype=torch.int32)}
    save_file({name: value for name, value in tensors.items() if name != key} | packed, path, metadata)
    assert "compressed-tensors" in inspect(path)
    with pytest.raises(CheckpointError, match=f"{key}_packed is stored as compressed-tensors"):
        build(open_models(path), "transformer")


def as_quanto(tensors: dict, dtype: torch.dtype) -> dict:
    """Matrices of blocks as optimum-quanto 0.2.7 saves them; WanGP's files are like this."""
    stored = dict[str, torch.Tensor]()
    for key, value in tensors.items():
        module, _, leaf = key.rpartition(".")
        if value.ndim != 2 or leaf != "weight" or not re.search("layers|blocks|adaln|caption|patchify", key):
            stored[key] = value
            continue
        packed = {f"{key}._data._data": value.to(dtype), f"{key}._shift": torch.ones(len(value), 1)}
        stored |= packed if dtype == torch.uint8 else {f"{key}._data": value.to(dtype)}
        stored |= {f"{key}._scale": torch.ones(len(value), 1)}
        stored |= {f"{module}.{name}": torch.ones(()) for name in ("input_scale", "output_scale")}
    return stored


def as_uploaded(whole) -> list[tuple[dict, dict | None]]:
    """The tensors of a checkpoint with its metadata, of the transformer alone, and without its prefix."""
    prefix = "model.diffusion_model."
    tensors, metadata = load_file(whole.checkpoint), TensorFile(whole.checkpoint).metadata
    alone = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    bare = {key.removeprefix(prefix): value for key, value in alone.items()}
    return [(tensors, metadata), (alone, None), (bare, None)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_of_quanto_are_read_wherever_they_are(whole, tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    for content, header in as_uploaded(whole):
        save_file(as_quanto(content, dtype), path, header or TensorFile(whole.checkpoint).metadata)
        assert "cannot be read" not in inspect(path)
        transformer = build(open_models(path), "transformer")
        assert transformer.blocks[0].video.self_attn.q.weight.dtype == dtype
    save_file(as_quanto(load_file(whole.gemma / "model.safetensors"), dtype), path)
    assert build_text_encoder(open_text_encoder(path)).model.layers[0].mlp.up_proj.weight.dtype == dtype


def test_weights_of_quanto_in_four_bits_are_called_so_wherever_they_are_opened(whole, tmp_path):
    path, dtype, said = tmp_path / "x.safetensors", torch.uint8, "quanto int4 or int2"
    for content, header in as_uploaded(whole):
        save_file(as_quanto(content, dtype), path, header)
        assert said in told(lambda: inspect(path))
        assert said in told(lambda: build(open_models(path), "transformer"))
    save_file(as_quanto(load_file(whole.gemma / "model.safetensors"), dtype), path)
    assert said in told(lambda: inspect(path))
    assert said in told(lambda: build_text_encoder(open_text_encoder(path)))


@pytest.mark.parametrize("factors", [("lora_down", "lora_up"), ("proj_down", "proj_up")])
def test_low_rank_parts_of_quantised_weights_are_no_lora(whole, tmp_path, factors):
    """As in files of nunchaku, by both of its names for them."""
    path, tensors = tmp_path / "svdq-int4_r32.safetensors", {}
    for key, value in load_file(whole.checkpoint).items():
        layer, _, end = key.rpartition(".")
        if ".transformer_blocks." not in key or end != "weight" or value.ndim != 2:
            tensors[key] = value
            continue
        rows, columns = value.shape
        tensors[f"{layer}.qweight"] = torch.zeros(rows, columns // 2, dtype=torch.int8)
        tensors[f"{layer}.wscales"] = torch.ones(columns // 64, rows)
        tensors |= {f"{layer}.{name}": torch.zeros(size, 32) for name, size in zip(factors, (columns, rows))}
    save_file(tensors, path, TensorFile(whole.checkpoint).metadata)
    for opened in (inspect, open_lora, lambda each: build(open_models(each), "transformer")):
        assert re.search(rf"{re.escape(path.name)}.*stored as SVDQuant", told(partial(opened, path)), re.DOTALL)


@pytest.mark.parametrize(
    ("beside", "dtype", "said"),
    [
        (("scale", "zero_point"), torch.uint8, "SDNQ"),
        (("svd_up", "svd_down", "scale"), torch.int8, "SDNQ"),
        (("scales", "biases"), torch.uint32, "weight as U32"),  # MLX
        (("weight_scales",), torch.int8, "weight is stored as int8"),  # EETQ
        (("weight_scale",), torch.int8, "int8 without a marker"),  # compressed-tensors
    ],
)
def test_what_other_libraries_store_is_called_so_by_inspect_too(whole, tmp_path, beside, dtype, said):
    path, one = tmp_path / "x.safetensors", torch.ones(1)
    for source, key in (
        (whole.checkpoint, "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"),
        (whole.gemma_file, "model.layers.0.self_attn.q_proj.weight"),
    ):
        tensors, module = load_file(source), key.removesuffix("weight")
        changed = {key: tensors[key].to(dtype)} | {f"{module}{suffix}": one.clone() for suffix in beside}
        save_file(tensors | changed, path, TensorFile(source).metadata)
        assert said in told(lambda: inspect(path))
        assert said in told(lambda: convert(path, tmp_path / "new.safetensors", "bf16"))
        if source == whole.checkpoint:
            assert said in told(lambda: build(open_models(path), "transformer"))
        else:
            assert said in told(lambda: build_text_encoder(open_text_encoder(path)))


def test_four_bits_of_modelopt_are_refused_by_the_settings_beside_them(whole, tmp_path):
    """They have the names and shapes of ComfyUI's nvfp4, and nothing in them tells their other order."""
    shutil.copytree(whole.gemma, tmp_path / "gemma")
    open_text_encoder(tmp_path / "gemma").outline()
    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "gemma" / "hf_quant_config.json").write_text(json.dumps(settings))
    for path in (tmp_path / "gemma", tmp_path / "gemma" / "model.safetensors"):
        assert "by NVIDIA's ModelOpt" in told(lambda path=path: inspect(path))
        assert "by NVIDIA's ModelOpt" in told(lambda path=path: convert(path, tmp_path / "new.safetensors", "bf16"))
    stated = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(stated))
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    for chosen in (tmp_path, weights):
        assert "by NVIDIA's ModelOpt" in told(lambda chosen=chosen: open_models(chosen))
    settings["quantization"]["quant_algo"] = "FP8"
    (tmp_path / "gemma" / "hf_quant_config.json").write_text(json.dumps(settings))
    open_text_encoder(tmp_path / "gemma").outline()


def test_four_bits_of_modelopt_are_refused_in_a_text_encoder_without_settings_too(whole, tmp_path):
    """ComfyUI's files have markers there; of a model beside it in one file that is not asked."""
    tensors = load_file(whole.gemma / "model.safetensors")
    module = next(key for key in tensors if key.endswith("q_proj.weight")).removesuffix(".weight")
    marker = torch.tensor([*b'{"format": "nvfp4"}'], dtype=torch.uint8)
    stored = {
        "weight": torch.zeros(32, 16, dtype=torch.uint8),
        "weight_scale": torch.ones(128, 4).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.ones(()),
    }
    of_model = {f"model.diffusion_model.proj_out.{name}": value.clone() for name, value in stored.items()}
    path = tmp_path / "gemma.safetensors"
    save_file(tensors | {f"{module}.{name}": value for name, value in stored.items()}, path)
    assert f"stores {module}.weight in NVFP4 without a marker" in told(lambda: open_text_encoder(path).outline())
    stored["comfy_quant"] = marker
    save_file(tensors | of_model | {f"{module}.{name}": value for name, value in stored.items()}, path)
    open_text_encoder(path).outline()


def told(ask) -> str:
    """What is said by ``ask``, or by its error."""
    try:
        return str(ask())
    except CheckpointError as error:
        return str(error)
