"""Headers, configs and paths that are not what they should be are told in a sentence, before anything is read."""

import json
import re
import shutil
import struct

import damage
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile, build, open_models
from ltx2_core.checkpoint.models import BUILT_IN, BUILT_IN_GEMMA
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.checkpoint.versions import stated_version
from ltx2_core.cli import main
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import CheckpointError, MissingFileError, SettingError, UnreadableFileError
from ltx2_core.lora import open_lora

pytestmark = pytest.mark.slow


def test_bytes_behind_the_last_tensor_are_not_read(whole, tmp_path):
    path = tmp_path / whole.decoder.name
    path.write_bytes(whole.decoder.read_bytes() + bytes(8))
    ours, theirs = (build(open_models(each), "audio_decoder").state_dict() for each in (path, whole.decoder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(whole.loras[0].read_bytes() + b"12345678")
    assert "1 layers" in inspect(lora) and damage.compute(open_lora(lora).layers[0][2]).isfinite().all()


def test_a_header_of_odd_length_is_read_with_its_numbers_where_they_are(tmp_path):
    tensors = {"a": torch.arange(5.0), "b": torch.arange(3, dtype=torch.float64), "none": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "a.safetensors")
    header, body = damage.header_of(tmp_path / "a.safetensors")
    damage.with_header(tmp_path / "a.safetensors", header, body)  # nothing fills it up to eight bytes
    file = TensorFile(tmp_path / "a.safetensors")
    assert all(torch.equal(file.get(key), value) for key, value in tensors.items())


def test_a_header_without_an_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path, entry = tmp_path / "many.safetensors", b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(50_001)) + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(CheckpointError, match="50,001 tensors; files of LTX-2 have at most 50,000"):
        open_lora(path)
    path.write_bytes(struct.pack("<Q", 2**24 + 1) + b"{" + b" " * 2**24)
    with pytest.raises(CheckpointError, match=r"header of many\.safetensors has 16,777,217 bytes, at most 16,777,216"):
        open_lora(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 50_001, 0) + bytes(50_001 * 25))
    with pytest.raises(CheckpointError, match="50,001 tensors; files of LTX-2 have at most 50,000"):
        open_lora(path)


@pytest.mark.parametrize("config", ["[1]", "3", '"x"', '{"vae": 3}', '{"transformer": [1]}'])
def test_a_config_of_another_kind_is_said_by_whatever_opens_the_file(whole, tmp_path, config, capsys):
    path = tmp_path / "x.safetensors"
    save_file(load_file(whole.checkpoint), path, {"config": config})
    assert main(["inspect", str(path)]) in (0, 2)
    said = capsys.readouterr()
    assert "an object was expected" in said.out + said.err
    with pytest.raises(CheckpointError, match=r"x\.safetensors.*an object was expected"):
        build(open_models(path), "transformer")


def test_a_config_of_null_is_none(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"config": "null"})
    assert TensorFile(tmp_path / "x.safetensors").config == {}


def test_a_config_without_a_section_that_is_known_is_named_as_the_cause(whole, tmp_path):
    stated = json.loads(TensorFile(whole.checkpoint).metadata["config"])
    path = tmp_path / "x.safetensors"
    save_file(load_file(whole.checkpoint), path, {"config": json.dumps({"my_config": stated})})
    with pytest.raises(CheckpointError, match=r"in x\.safetensors, whose config has none of .* only my_config, has"):
        open_models(path).network("transformer")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("audio_vae", ("model", "params", "sampling_rate"), 32_000),
        ("audio_vae", ("model", "params", "ddconfig", "ch"), 256),
        ("audio_vae", ("preprocessing", "stft", "hop_length"), 161),
        ("vocoder", ("vocoder", "upsample_rates", 0), 6),
        ("vocoder", ("vocoder", "upsample_kernel_sizes", 0), 12),
        ("vocoder", ("bwe", "hop_length"), 81),
        ("transformer", ("num_layers",), 10**6),
        ("transformer", ("use_prompt_adaln_single",), False),
        ("vae", ("decoder_base_channels",), 16),
    ],
)
def test_a_config_that_contradicts_itself_or_the_tensors_is_refused_before_a_plan(
    whole, tmp_path, section, field, value
):
    file = TensorFile(whole.checkpoint)
    config = json.dumps(damage.replaced(file.config, (section, *field), value))
    save_file(load_file(whole.checkpoint), tmp_path / "x.safetensors", file.metadata | {"config": config})
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        damage.read_checkpoint(tmp_path / "x.safetensors", damage.SECTIONS[section])
    assert "cannot be read" in inspect(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "called"),
    [
        ("model.ckpt", b"PK\3\4" + struct.pack("<I", 0) + bytes(100), "a zip archive"),
        ("model.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle"),
        ("x.safetensors", b"", "empty"),
        ("x.safetensors", bytes(1000), "begins with zeros, as a download does that is not complete"),
        ("x.safetensors", b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
        ("x.safetensors", b"\xef\xbb\xbf<html>", "a web page"),
        ("x.gguf", b"Entry not found", "a text"),
        ("x.gguf", b"Invalid", "a text"),
        ("x.safetensors", b"# xet version 0\nfilesize = 1\n", "a pointer"),
        ("._x.safetensors", b"\0\5\x16\7\0\2\0\0Mac OS X", "what macOS notes"),
        ("config.json", b'{"model_type": "gemma3"}', "a text"),
        ("x.safetensors.gz", b"\x1f\x8b\x08" + bytes(100), "a packed archive"),
    ],
)
def test_what_is_no_file_of_weights_is_called_what_it_is(tmp_path, name, content, called):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(name)} is neither a safetensors nor a GGUF file, but {called}"
    ):
        inspect(tmp_path / name)


def test_a_folder_in_place_of_a_file_is_told_with_the_file_in_it(tmp_path):
    """As PEFT and diffusers write LoRAs."""
    (tmp_path / "._adapter_model.safetensors").touch()
    for inside, said in (
        ("", "expected.$"),
        ("adapter_model.safetensors", "expected, such as adapter_model.safetensors"),
    ):
        (tmp_path / (inside or "adapter_config.json")).touch()
        with pytest.raises(UnreadableFileError, match=f"is a folder, a pipe or a device; a regular file was {said}"):
            open_lora(tmp_path)


def test_a_path_that_cannot_be_is_one_sentence():
    for opened in (open_models, open_text_encoder, open_lora, inspect):
        with pytest.raises(UnreadableFileError, match="name too long"):
            opened("x" * 300)


@pytest.mark.parametrize("given", [None, 5, [], "", b"x", ["a.safetensors", None]])
def test_what_is_no_path_is_one_sentence(given):
    for opened in (open_models, open_text_encoder, open_lora, inspect):
        if given != ["a.safetensors", None] or opened is open_models:
            with pytest.raises(SettingError, match="; the path of a file or of a folder was expected"):
                opened(given)
    with pytest.raises(SettingError, match="distilled is 'no'; it must be True or False"):
        open_models("miniature", distilled="no")
    with pytest.raises(SettingError, match="The checkpoint is b'x'"):
        open_models(b"x")


def test_a_text_encoder_that_is_not_there_is_told_as_soon_as_others_are(tmp_path):
    for own in ({"text_encoder": tmp_path / "gone"}, {"video_vae": tmp_path / "gone"}):
        with pytest.raises(MissingFileError, match=r"There is no file .*gone; check the name"):
            open_models("miniature", **own)


@pytest.mark.parametrize("stated", ["ltx-2-19b", "22b-2.3", "LTX-2.3-merge 7", "my merge 99"])
def test_names_of_merges_are_no_versions(stated):
    assert stated_version({"model_version": stated}) is None


def test_models_stay_what_they_are_in_another_folder(tmp_path, monkeypatch):
    shutil.copy(BUILT_IN, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    models = open_models("model.safetensors", BUILT_IN_GEMMA)
    monkeypatch.chdir(tmp_path.parent)
    assert build(models, "vocoder") is not None
