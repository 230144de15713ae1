"""Networks without weights are made once, quickly, and just as PyTorch makes them."""

import gc
import json
import re
from pathlib import Path

import pytest
import tiny_parts
import torch
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from benchmarks import start
from ltx2_core import tiny
from ltx2_core.checkpoint import TensorFile, build, open_models
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.duration_head import DurationHeadFile
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.checkpoint.unfilled import unfilled
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.errors import CheckpointError
from ltx2_core.layers import repeat
from ltx2_core.memory.partition import tensors_of
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.settings import AS_PROMPT
from ltx2_core.transformer import Transformer


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name not in ("transformer", "text_features")])
def test_networks_are_made_as_pytorch_makes_them(name):
    config = VERSIONS["2.3"].config
    with torch.device("meta"):
        usual = COMPONENTS[name].make(config, {})
    with unfilled():
        quick = COMPONENTS[name].make(config, {})
    assert _outline(quick) == _outline(usual) and str(quick) == str(usual)
    tensors = [*usual.parameters(), *usual.buffers()]
    assert [id(tensor) for tensor in tensors_of(usual)] == list(dict.fromkeys(map(id, tensors)))


def test_layers_that_are_alike_are_copied_without_weights_and_drawn_with_them():
    def make() -> torch.nn.Module:
        layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        return layer.requires_grad_(False)

    with unfilled():
        made, first, second = make(), *repeat(make, 2)
    assert _outline(first) == _outline(second) == _outline(made) and str(first) == str(second) == str(made)
    assert not {*map(id, tensors_of(first))} & {*map(id, tensors_of(second))}
    assert not any(tensor.requires_grad for tensor in second.parameters())
    second[0].register_forward_hook(print)
    assert not first[0]._forward_hooks and second[0] is not first[0]
    one, other = repeat(make, 2)
    assert not torch.equal(one[0].weight, other[0].weight) and list(repeat(make, 0)) == []


def test_the_search_for_garbage_goes_on_afterwards():
    with unfilled():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), unfilled():
        torch.nn.Linear(2, 1 // 0)
    assert gc.isenabled()


def test_a_blueprint_makes_the_transformer_once(tmp_path, monkeypatch):
    checkpoint = tiny.write(tmp_path, "2.3")[0]
    models, made, make = open_models(checkpoint), [], Transformer.__init__
    monkeypatch.setattr(
        Transformer, "__init__", lambda self, config: (made.append(config.layers), make(self, config))[1]
    )
    blueprint = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.bfloat16))
    assert blueprint.weights("transformer").total > 0 and made == [blueprint.layers]
    assert blueprint.network("transformer").blocks[0].video.self_attn.q.weight.dtype == torch.bfloat16


def test_a_network_that_was_made_to_look_at_its_file_is_filled_and_not_made_again(tmp_path):
    models = open_models(tiny.write(tmp_path, "2.3")[0])
    blueprint = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.bfloat16))
    made = blueprint.give("vocoder")
    filled = build(models, "vocoder", torch.bfloat16, made=made)
    assert filled is made and not any(tensor.is_meta for tensor in tensors_of(filled))
    assert blueprint.give("vocoder") is None
    assert all(tensor.is_meta for tensor in tensors_of(blueprint.network("vocoder")))  # another one, for plans
    assert blueprint.network("audio_decoder") is not None and blueprint.give("audio_decoder") is None
    usual = build(models, "vocoder", torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(usual), tensors_of(filled), strict=True))


def _of_model(path: Path) -> None:
    models = open_models(path)
    for name in models.sources:
        models.network(name)


@pytest.mark.parametrize(
    "write, look, tensor",
    [
        (lambda at: tiny.write(at, "2.3")[0], _of_model, "transformer_blocks.0.attn2.to_q.bias"),
        (lambda at: tiny.write(at, "2.3")[2], lambda path: open_text_encoder(path).outline(), "layers.0.mlp.up_proj"),
        (tiny_parts.write_upscaler, open_upscaler, "post_upsample_res_blocks.0.norm1.bias"),
        (tiny_parts.write_duration_head, lambda path: DurationHeadFile(TensorFile(path)).outline(), "mlp_hidden.bias"),
    ],
)
def test_a_header_tells_what_will_not_fill_a_network(tmp_path, monkeypatch, write, look, tensor):
    """It was said when a network was built: for an upscaler after the whole first stage."""
    path = write(tmp_path)
    whole, metadata = load_file(path), TensorFile(path).metadata
    key = next(key for key in whole if tensor in key)
    monkeypatch.setattr(TensorFile, "get", lambda *_: pytest.fail("weights were read"))
    wrong = {
        "lacks": {name: value for name, value in whole.items() if name != key},
        "unknown": {**whole, key.replace(".0.", ".77.") if ".0." in key else f"{key}.more": whole[key].clone()},
        "shape": {**whole, key: whole[key][:-1].clone()},
        "int32": {**whole, key: whole[key].int()},
    }
    look(path)
    for damage, tensors in wrong.items():
        save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError, match=re.escape(key.rpartition(".")[2])):
            look(path)
            pytest.fail(damage)


def test_a_duration_head_is_looked_at_before_the_prompt_is_read(tmp_path, monkeypatch):
    models = open_models([tiny.write(tmp_path, "2.5")[0], tiny_parts.write_duration_head(tmp_path)])
    path = models.duration_head.file.path
    save_file({key: value for key, value in load_file(path).items() if "mlp_out" not in key}, path)
    models = open_models([models.files[0].path, path])
    monkeypatch.setattr("ltx2_core.pipeline.generate.with_length", lambda *_: pytest.fail("the prompt would be read"))
    with pytest.raises(CheckpointError, match="mlp_out"):
        ltx2.generate(models, "a", length=AS_PROMPT)


def test_of_several_duration_heads_the_log_says_which_counts(tmp_path, caplog):
    first, second = (tiny_parts.write_duration_head(tmp_path / name) for name in "ab")
    second = second.rename(second.with_name("another.safetensors"))
    models = open_models([tiny.write(tmp_path, "2.5")[0], first, second])
    assert models.duration_head.file.path == first
    assert f"{second.name} is not used: of several duration heads {first.name} counts" in caplog.text


@pytest.mark.slow
def test_the_start_is_measured(capsys):
    found = json.loads(start.main(["--inside", "clips"]))
    assert list(found) == ["import, torch excepted", "first clip, imports included", "second clip, another prompt"]
    assert all(seconds > 0 for seconds in found.values())


def _outline(network: torch.nn.Module) -> dict[str, tuple]:
    tensors = network.state_dict().items()
    return {name: (tuple(x.shape), x.dtype, x.device.type) for name, x in tensors}
