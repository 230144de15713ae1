"""LoRAs for Gemma: which files have a part for it, what that does, and what is said where it does nothing."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import CheckpointError, open_models
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.cli.arguments import read_loras, read_text_loras
from ltx2_core.errors import SettingError
from ltx2_core.lora import Strengths, check_text_lora, compare, open_lora, open_text_lora
from ltx2_core.lora.names import find_parameter, find_text_parameter
from ltx2_core.pipeline import encode_text
from ltx2_core.pipeline.encode_text import contexts_cache, read_features, read_joined
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.text import TextFeaturesConfig
from ltx2_core.text.prompts import MADE_BY, UNPROCESSED

LAYER = "model.layers.1.self_attn.q_proj"
NAMINGS = {
    "ComfyUI": "text_encoders.gemma3_12b.transformer.model.layers.1.self_attn.q_proj",
    "ComfyUI, short": "text_encoders.model.layers.1.self_attn.q_proj",
    "kohya": "lora_te_model_layers_1_self_attn_q_proj",
    "kohya, numbered": "lora_te1_layers_1_self_attn_q_proj",
    "kohya, text_model": "lora_te_text_model_layers_1_self_attn_q_proj",
    "PEFT": "base_model.model.model.layers.1.self_attn.q_proj",
    "PEFT, Gemma 3": "base_model.model.language_model.model.layers.1.self_attn.q_proj",
    "PEFT, new": "base_model.model.model.language_model.layers.1.self_attn.q_proj",
    "diffusers": "text_encoder.language_model.model.layers.1.self_attn.q_proj",
    "ComfyUI, Gemma 4": "text_encoders.gemma4.transformer.model.layers.1.self_attn.q_proj",
    "bare": "model.layers.1.self_attn.q_proj",
}
BOTH = {"diffusion_model.transformer_blocks.1.attn1.to_q": (32, 32)}


@pytest.fixture(scope="module")
def files(tiny_files) -> list[Path]:
    return tiny_files("2.3")


def write(path: Path, layers: dict[str, tuple[int, int]], ends=("lora_down.weight", "lora_up.weight")) -> Path:
    tensors = {}
    for name, (out, inside) in layers.items():
        tensors[f"{name}.{ends[0]}"] = torch.randn(4, inside)
        tensors[f"{name}.{ends[1]}"] = torch.randn(out, 4)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_layer_of_gemma_is_found_in_every_naming(naming):
    assert find_text_parameter(f"{NAMINGS[naming]}.weight") == ("text_encoder", f"{LAYER}.weight")
    assert find_parameter(f"{NAMINGS[naming]}.weight") is None


def test_layers_of_ltx_are_not_those_of_gemma():
    for name in ("diffusion_model.transformer_blocks.0.attn1.to_q", "lora_te_text_model_encoder_layers_0_mlp_fc1"):
        assert find_text_parameter(f"{name}.weight") is None


@pytest.mark.slow
def test_a_lora_for_gemma_changes_the_features_as_its_product_says(files, tmp_path):
    path = write(tmp_path / "abliterated.safetensors", {NAMINGS["ComfyUI"]: (32, 32)})
    lora, models = open_text_lora(path), open_models(files[0], files[1])
    changed = LocalEngine(models, loras=((lora, Strengths(0.5)),))
    features = read_features(changed, ["a red ball"])[0].video
    plain = read_features(LocalEngine(models), ["a red ball"])[0].video
    product = load_file(path)
    up, down = (next(v for k, v in product.items() if part in k) for part in ("lora_up", "lora_down"))
    gemma = load_file(files[1] / "model.safetensors")
    key = next(key for key in gemma if key.endswith(f"{LAYER.removeprefix('model.')}.weight"))
    fused = tmp_path / "gemma"
    fused.mkdir()
    for each in files[1].iterdir():
        (fused / each.name).write_bytes(each.read_bytes())
    save_file({**gemma, key: gemma[key].float() + 0.5 * up @ down}, fused / "model.safetensors")
    expected = read_features(LocalEngine(open_models(files[0], fused)), ["a red ball"])[0].video
    assert not torch.allclose(features, plain, atol=1e-3)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_kept_prompts_depend_on_it(files, tmp_path):
    lora = open_text_lora(write(tmp_path / "a.safetensors", {NAMINGS["PEFT"]: (32, 32)}))
    models = open_models(files[0], files[1])
    stacks = [(), ((lora, Strengths(1.0)),), ((lora, Strengths(0.5)),)]
    caches = [contexts_cache(LocalEngine(models, loras=stack), tmp_path / "kept") for stack in stacks]
    for number, cache in enumerate(caches):
        cache.keep("a ball", video=torch.full((1,), float(number)))
    assert [cache.find("a ball")["video"].item() for cache in caches] == [0, 1, 2]


@pytest.mark.slow
def test_the_ordinary_loader_says_where_a_lora_for_gemma_belongs(files, tmp_path):
    lora = open_lora(write(tmp_path / "gemma.safetensors", {NAMINGS["ComfyUI"]: (32, 32)}))
    with pytest.raises(CheckpointError, match=r"gemma\.safetensors is made for Gemma.*--text-encoder-lora"):
        compare(lora, open_models(files[0]))


def test_a_lora_with_both_halves_says_what_is_dropped_and_what_acts(files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "both.safetensors", BOTH | {NAMINGS["kohya"]: (32, 32)})
    models = open_models(files[0], files[1])
    (lora, _), *_ = read_loras([str(path)], models)
    assert "1 layer for Gemma, dropped here" in caplog.text and "Gemma" in str(compare(lora, models))
    ((text, strengths),) = read_text_loras([f"{path}:0.5"], models)
    assert strengths.strength == 0.5 and text.is_for_text_encoder
    assert "both.safetensors: 1 of 1 layers fit Gemma 3" in caplog.text


def test_what_does_not_fit_gemma_is_refused(files, tmp_path):
    encoder = open_text_encoder(files[1])
    with pytest.raises(CheckpointError, match="changes nothing in Gemma"):
        open_text_lora(write(tmp_path / "a.safetensors", BOTH))
    large = open_text_lora(write(tmp_path / "b.safetensors", {NAMINGS["ComfyUI"]: (4096, 3840)}))
    with pytest.raises(CheckpointError, match="other shapes"):
        check_text_lora(large, encoder)
    with pytest.raises(SettingError, match="one strength"):
        read_text_loras([f"{tmp_path / 'b.safetensors'}:1:video=0"], open_models(files[0], files[1]))


@pytest.mark.slow
def test_stages_of_a_graph_connect_a_prompt_once_until_something_else_counts(files, tmp_path, monkeypatch):
    models, calls, real = open_models(*files[:2]), list[int](), encode_text.connect
    monkeypatch.setattr(encode_text, "connect", lambda *given: (calls.append(1), real(*given))[1])
    layer = {"diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q": (32, 32)}
    lora = open_lora(write(tmp_path / "connector.safetensors", layer))
    config = TextFeaturesConfig.from_json(models.config["transformer"])
    joined = torch.randn(2, 1, 5, config.video_width + config.audio_width).unbind()

    def read(prompt, strength=0.0):
        """By a node of its own, whose engine is new."""
        stack = ((lora, Strengths(strength)),) if strength else ()
        return read_joined(LocalEngine(models, loras=stack), prompt, {UNPROCESSED: True, MADE_BY: models.generation})

    first = read(joined[0])
    assert torch.equal(read(joined[0].clone()).video, first.video) and len(calls) == 1
    assert torch.equal(read(joined[0]).audio, first.audio) and len(calls) == 1
    assert not torch.equal(read(joined[1]).video, first.video) and len(calls) == 2
    changed = read(joined[0], 0.5)
    assert not torch.equal(changed.video, first.video) and len(calls) == 3
    assert torch.equal(read(joined[0], 0.5).video, changed.video) and len(calls) == 3
    assert not torch.equal(read(joined[0], 1.0).video, changed.video) and len(calls) == 4
    assert torch.equal(read(joined[0]).video, first.video) and len(calls) == 4
    monkeypatch.setattr(encode_text, "_KEPT", 1)
    read(torch.zeros_like(joined[0]))
    assert len(encode_text._CONNECTED[models]) == 1
    for extras in ({UNPROCESSED: True, MADE_BY: "2.5"}, {MADE_BY: "2.5"}):
        with pytest.raises(SettingError, match=r"encoded for LTX-2\.5, and the model is LTX-2\.\d: encode it"):
            read_joined(LocalEngine(models), joined[0], extras)
