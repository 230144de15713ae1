"""Damaged files of every kind are answered by a sentence, or read rightly, and nothing is left behind."""

import json
import math
import mmap
import re
import shutil
import struct
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import damage
import pytest
import torch
from peak import growth
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile, build, loading, open_models
from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.versions import stated_version
from ltx2_core.cli import main
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import CheckpointError, LTX2Error, MediaError, NotANumberError, SettingError, UnreadableFileError
from ltx2_core.errors.foreign import DEEPEST, Fields, foreign_call, parse_json
from ltx2_core.health import check_finite
from ltx2_core.lora import open_lora
from ltx2_core.media import read_audio, read_picture
from ltx2_core.memory.machine import this_machine
from ltx2_core.pipeline.prepare import Prepared, ready
from ltx2_core.pipeline.stage import NetworkKey
from ltx2_core.text import Tokenizer
from ltx2_core.text.encode import compute_hidden_states

pytestmark = pytest.mark.slow

SECONDS, BYTES = 60, 2**29  # that any damaged input may take, at most
LONGEST = 700  # characters of a sentence, with the paths in it


@pytest.fixture(scope="module")
def whole(tiny_files, tmp_path_factory):
    return damage.whole_files(tmp_path_factory.mktemp("whole"), *tiny_files("2.3"))


# Everything


def answer(case: damage.Case, folder: Path) -> str:
    """What is said about a damaged input; empty if it can be read all the same."""
    case.write(folder)
    before, start = sorted(folder.rglob("*")), time.monotonic()
    try:
        with warnings.catch_warnings(), growth() as grown:
            warnings.simplefilter("ignore")
            case.read(folder)
        said = ""
    except LTX2Error as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < LONGEST, case.name
    except BaseException as error:
        pytest.fail(f"{case.name}: {type(error).__name__}: {error}")
    assert sorted(folder.rglob("*")) == before, f"{case.name} leaves something behind"
    assert time.monotonic() - start < SECONDS and grown() < BYTES, case.name
    return said


def meet(whole, kind, seed, tmp_path) -> list[str]:
    """What is said about all inputs of a kind."""
    said = []
    for number, case in enumerate(damage.cases(whole, kind, seed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        said.append(answer(case, folder))
    return said


@pytest.mark.parametrize("kind", ["upscaler", "lora", "gemma", "cache", "media"])
def test_damaged_files_are_answered_in_a_sentence(whole, kind, tmp_path):
    said = meet(whole, kind, 0, tmp_path)
    assert len(said) > 30 and (kind == "cache" or sum(map(bool, said)) > len(said) // 3)


@pytest.mark.parametrize("kind", ["config", "checkpoint"])
def test_damaged_checkpoints_are_answered_in_a_sentence(whole, kind, tmp_path):
    said = meet(whole, kind, 0, tmp_path)
    assert len(said) > 70 and sum(map(bool, said)) > len(said) // 3


def test_there_are_more_than_500_of_them(whole):
    assert sum(1 for kind in damage.KINDS for _ in damage.cases(whole, kind)) >= 500


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_a_process_takes_is_seen_although_it_gives_it_back():
    for size in (300_000_000, 60_000_000):
        with growth() as grown, mmap.mmap(-1, size) as memory:  # new from the system: malloc may hand out what it kept
            memory[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))
        assert size - 10e6 < grown() < size + 10e6


# JSON


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, f"more than {DEEPEST} deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, f"more than {DEEPEST} deep"),
        (b"[1]", "is a list, an object"),
        (b"null", "is nothing, an object"),
        (b"{", "not valid JSON"),
        (b"\xff\xff", "not valid JSON"),
        (b'{"a": 1' + b" " * 100 + b"}", "108 bytes, at most 64"),
    ],
)
def test_json_is_an_object_within_limits(content, fact):
    largest = 64 if b"    " in content else 2**20
    with pytest.raises(CheckpointError, match=f"The config .*{fact}"):
        parse_json(content, "The config", largest=largest)


def test_a_name_that_comes_twice_is_refused_where_it_must_not():
    assert parse_json(b'{"a": 1, "a": 2}', "x") == {"a": 2}
    with pytest.raises(CheckpointError, match="'a' comes twice"):
        parse_json(b'{"a": 1, "a": 2}', "x", unique=True)


def test_fields_have_a_kind_a_range_and_a_default():
    fields = Fields({"whole": 3.0, "number": 1, "flag": False, "list": [1, 2], "null": None}, "The config")
    assert fields.whole("whole") == 3 and fields.number("number") == 1.0 and fields.flag("flag") is False
    assert fields.wholes("list") == (1, 2) and fields.whole("null", 5) == 5 and "null" not in fields
    assert fields.section("no").whole("x", 1) == 1 and isinstance(fields.whole("whole"), int)


@pytest.mark.parametrize("value", [True, "3", 1.5, -1, 10**400, math.nan, math.inf, [], {}, 1e30])
def test_a_wrong_field_is_named_with_what_was_found_and_expected(value):
    with pytest.raises(CheckpointError, match=r"^The config has layers = .*; a whole number from 1 to 48 was expected"):
        Fields({"layers": value}, "The config").whole("layers", 2, most=48)


def test_other_libraries_cannot_say_anything_but_a_sentence():
    class Panic(BaseException):
        """As pyo3 has it."""

    def fail(error):
        raise error

    for error in (ValueError("two\nlines"), Panic("no"), RecursionError()):
        with pytest.raises(CheckpointError, match=r"^It cannot be read \(.*\); download it again\.$"):
            foreign_call(lambda error=error: fail(error), "It cannot be read")
    with pytest.raises(MemoryError):
        foreign_call(lambda: fail(MemoryError()), "It")


# Headers


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
    with pytest.raises(SettingError, match="distilled is 'no'; True, False or None was expected"):
        open_models("miniature", distilled="no")


@pytest.mark.parametrize("stated", ["ltx-2-19b", "22b-2.3", "LTX-2.3-merge 7", "my merge 99"])
def test_names_of_merges_are_no_versions(stated):
    assert stated_version({"model_version": stated}) is None


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
    open_text_encoder(tmp_path / "gemma").check_stored()
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
    open_text_encoder(tmp_path / "gemma").check_stored()


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
    assert f"stores {module}.weight in NVFP4 without a marker" in told(lambda: open_text_encoder(path).check_stored())
    stored["comfy_quant"] = marker
    save_file(tensors | of_model | {f"{module}.{name}": value for name, value in stored.items()}, path)
    open_text_encoder(path).check_stored()


def told(ask) -> str:
    """What is said by ``ask``, or by its error."""
    try:
        return str(ask())
    except CheckpointError as error:
        return str(error)


# Kept files


def test_a_measurement_that_was_changed_is_made_anew(tmp_path):
    cpu = torch.device("cpu")
    machine = this_machine(cpu, folder=tmp_path)
    assert this_machine(cpu, folder=tmp_path) == machine
    path = tmp_path / "machine.json"
    content = path.read_text()
    for damaged in (content.replace('"memory": ', '"memory": 1'), content.replace("digest", "old"), "[1]", "{" * 9000):
        path.write_text(damaged)
        assert this_machine(cpu, folder=tmp_path).memory == machine.memory
        assert path.read_text() != damaged


# Numbers that are none


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


# Gemma


def test_a_tokenizer_of_another_gemma_is_called_that(whole, tiny_files, tmp_path):
    tensors = load_file(whole.gemma / "model.safetensors")
    key = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    few = tensors | {key: tensors[key][:300].clone()}
    save_file(few, tmp_path / "model.safetensors")
    for name in ("tokenizer.json", "config.json"):
        content = (whole.gemma / name).read_text()
        (tmp_path / name).write_text(content.replace('"vocab_size": 512', '"vocab_size": 300'))
    files = open_text_encoder(tmp_path)
    for read in (files.tokenizer, lambda: inspect(tmp_path)):
        with pytest.raises(
            CheckpointError, match=r"tokenizer of .* belongs to another Gemma 3: it knows \d+ words.*300"
        ):
            read()
    encoder = build_text_encoder(files, torch.float32)
    with pytest.raises(CheckpointError, match="it gives the token 400, and the weights have 300 rows"):
        compute_hidden_states(encoder, Tokenizer(lambda prompt: [2, 400]), ["x"])
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"")  # which its library reads as one without words
    with pytest.raises(CheckpointError, match="it knows 0 words"):
        open_text_encoder(tmp_path).tokenizer()


# Media


def test_pictures_that_are_too_large_and_sounds_of_no_codec_are_refused(whole, tmp_path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaError, match=r"bomb\.png has too many pixels"):
        read_picture(tmp_path / "bomb.png")
    content = bytearray(whole.sound.read_bytes())
    struct.pack_into("<H", content, 20, 99)
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(MediaError, match=r"x\.wav has sound of a kind that cannot be read here"):
        list(read_audio(tmp_path / "x.wav"))
