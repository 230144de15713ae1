"""Gemma 4 from GGUF files, as the gguf package writes them and as we convert them: sizes, words and hidden states."""

import json
from dataclasses import replace

import pytest
import torch
from agreement import relative_error
from gguf_files import packed, write
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint.belonging import check_training
from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.gguf_gemma4 import gemma4_fields
from ltx2_core.checkpoint.keys.gemma import LLAMA_CPP
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.errors import CheckpointError

PROMPT = "a red ball bounces twice, <pad> then it rolls: na\u00efve \u2603"
OTHER = {"window": 7, "theta": 5e5, "local_theta": 2e4, "eps": 1e-5}  # than what is usual


@pytest.fixture(scope="module")
def gemma(tiny_files):
    """The tiny Gemma 4 of 2.5, in one safetensors file with its tokenizer."""
    return open_text_encoder(tiny_files("2.5")[2])


def states(files, encoder=None):
    encoder = encoder or build_text_encoder(files, torch.float32)
    ids, mask = files.tokenizer()([PROMPT])
    with torch.inference_mode():
        return torch.stack([each.float() for each in encoder(ids[:, -32:], mask[:, -32:])])


def vocabulary(files) -> dict:
    """The fields that llama.cpp's converter makes of tokenizer.json."""
    about = json.loads(files.tokenizer_content(["tokenizer_json"])[1])
    words = sorted(about["model"]["vocab"], key=about["model"]["vocab"].get)
    special = {each["content"] for each in about["added_tokens"] if each["special"]}
    return {
        "model": "gemma4",
        "tokens": words,
        "token_type": [3 if word in special else 1 for word in words],
        "merges": [" ".join(pair) for pair in about["model"]["merges"]],
    }


def written_by_the_package(path, files, type, config):
    """Names by the package's own table, sizes by its own functions."""
    gguf = pytest.importorskip("gguf")
    writer, quantization = gguf.GGUFWriter(path, "gemma4"), gguf.GGMLQuantizationType[type]
    near = [not config.is_full(number) for number in range(config.layers)]
    writer.add_block_count(config.layers)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv([config.kv_heads if each else config.full_kv_heads for each in near])
    writer.add_key_length(config.full_head_dim)
    writer.add_array("gemma4.attention.key_length_swa", [config.head_dim] * config.layers)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_sliding_window(config.window)
    writer.add_array("gemma4.attention.sliding_window_pattern", near)
    writer.add_rope_freq_base(config.theta)
    writer.add_float32("gemma4.rope.freq_base_swa", config.local_theta)
    words = vocabulary(files)
    writer.add_tokenizer_model(words["model"])
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["token_type"])
    writer.add_token_merges(words["merges"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, config.layers)
    for ours, key in files.names.items():
        name, tensor = names.get_name(ours, try_suffixes=(".weight",)), files.file.get(key).float()
        name = name if name.endswith(".weight") else f"{name}.weight"
        if tensor.ndim == 2:
            stored = gguf.quants.quantize(tensor.numpy(), quantization)
            writer.add_tensor(name, stored, raw_dtype=quantization)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.add_tensor("rope_freqs.weight", torch.ones(config.full_head_dim // 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_text_encoder(path)


@pytest.mark.oracle
@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0"])
def test_a_file_of_the_package_gives_the_states_of_the_safetensors_file(tmp_path, gemma, type):
    found = written_by_the_package(tmp_path / "g.gguf", gemma, type, gemma.config)
    assert found.kind.title == "Gemma 4" and found.config == gemma.config
    assert found.tokenizer().tokens(PROMPT) == gemma.tokenizer().tokens(PROMPT)
    gguf = pytest.importorskip("gguf")
    expected, quantization = build_text_encoder(gemma, torch.float32), gguf.GGMLQuantizationType[type]
    for value in expected.state_dict().values():
        if value.ndim == 2:
            stored = gguf.quants.quantize(value.numpy(), quantization)
            value.copy_(torch.from_numpy(gguf.quants.dequantize(stored, quantization)))
    assert relative_error(states(found), states(gemma, expected)) < 1e-5
    assert relative_error(states(found), states(gemma)) < (0.2 if type == "Q8_0" else 0.01)


@pytest.mark.oracle
def test_sizes_are_those_of_the_fields(tmp_path, gemma):
    config = replace(gemma.config, **OTHER)
    found = written_by_the_package(tmp_path / "g.gguf", gemma, "F32", config).config
    assert found == config


@pytest.mark.parametrize("format", ["q8_0", "q4_k"])
@pytest.mark.slow
def test_what_is_converted_is_read_with_its_training_and_words(tmp_path, gemma, format):
    convert(gemma.path, tmp_path / "g.gguf", format, keep=())
    found = open_text_encoder(tmp_path / "g.gguf")
    assert found.config == gemma.config and found.gemma_version == gemma.gemma_version is not None
    assert found.tokenizer().tokens(PROMPT) == gemma.tokenizer().tokens(PROMPT)
    assert "Q8_0" in found.formats
    assert 1e-4 < relative_error(states(found), states(gemma)) < 0.2


@pytest.mark.slow
def test_a_clip_of_2_5_with_a_converted_encoder_and_its_projection(tmp_path, tiny_files):
    checkpoint, _, single = tiny_files("2.5")
    state = load_file(checkpoint)
    projection = {key: state.pop(key).clone() for key in list(state) if key.startswith("text_embedding_projection.")}
    with_it = tmp_path / "gemma-with-proj.safetensors"
    save_file(
        load_file(single) | projection,
        with_it,
        {"gemma_config": open_text_encoder(single).file.metadata["gemma_config"]},
    )
    convert(with_it, tmp_path / "gemma.gguf", "q8_0", keep=())
    found = open_text_encoder(tmp_path / "gemma.gguf")
    check_training(found, ltx2.open_models(checkpoint))
    small = {"width": 64, "height": 64, "frames": 9, "steps": 1, "seed": 1}
    clips = [ltx2.generate(ltx2.open_models(checkpoint, each), "x", **small).latent for each in (single, found.path)]
    assert relative_error(clips[1].video, clips[0].video) < 5e-2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gemma4.attention.sliding_window_pattern": [1, 0, 1]}, "sliding_window_pattern in g.gguf has 3 items for"),
        ({"gemma4.feed_forward_length": [64, 128]}, "feed_forward_length in g.gguf differs from layer to layer"),
        ({"gemma4.attention.head_count_kv": [7, 7]}, "key_value_heads"),
        ({"gemma4.attention.key_length": 7}, "global_head_dim"),
    ],
)
def test_sizes_that_cannot_be(tmp_path, gemma, change, said):
    fields = gemma4_fields(gemma.config.to_json()) | change
    tensors = {LLAMA_CPP.official(ours): packed(gemma.file.get(key), "F32") for ours, key in gemma.names.items()}
    with pytest.raises(CheckpointError, match=said):
        _ = open_text_encoder(write(tmp_path / "g.gguf", fields, tensors)).config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_type": [1, 1]}, "2 kinds"),
        ({"merges": ["a b c"]}, "join two words"),
        ({"merges": None}, "lacks its merges"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, gemma, change, said):
    words = {name: value for name, value in (vocabulary(gemma) | change).items() if value is not None}
    fields = gemma4_fields(gemma.config.to_json()) | {f"tokenizer.ggml.{name}": value for name, value in words.items()}
    tensors = {LLAMA_CPP.official(ours): packed(gemma.file.get(key), "F32") for ours, key in gemma.names.items()}
    with pytest.raises(CheckpointError, match=said):
        open_text_encoder(write(tmp_path / "g.gguf", fields, tensors)).tokenizer()
