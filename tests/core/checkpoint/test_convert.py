"""Files written anew in another format: what is in them, what is said of them, and what stays behind if they fail."""

import errno
import shutil
from pathlib import Path

import pytest
import torch
from gguf_files import vocabulary
from lora_files import off
from peak import Peak
from safetensors.torch import load_file, save_file

from ltx2_core import generate, open_models
from ltx2_core.checkpoint import convert as room
from ltx2_core.checkpoint import write
from ltx2_core.checkpoint.build import build
from ltx2_core.checkpoint.convert import BF16, convert
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.gguf_tokenizer import tokenizer_fields
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.cli import main
from ltx2_core.errors import CheckpointError, SettingError, TargetExistsError, UnreadableFileError
from ltx2_core.quantization import (
    KEPT_WORDS,
    WRITTEN,
    QuantizedLinear,
    StoredWeight,
    castable,
    expand_blocks,
    expand_stored,
    expand_weight,
    format_of,
)

pytestmark = pytest.mark.usefixtures("without_gradients")

MINIATURE = open_models("miniature")
MINI, GEMMA = MINIATURE.files[0].path, MINIATURE.text_encoder

# The error of Gaussian numbers, at most.
ROUNDING = {"fp8": 0.028, "int8": 0.009, "nvfp4": 0.1, "q8_0": 0.006, "q4_k": 0.075}


def named(folder: Path, format: str, name: str = "new") -> Path:
    return folder / f"{name}{WRITTEN[format].file_end if format in WRITTEN else '.safetensors'}"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The miniature in a format, made once: the new file and what was said about it."""
    folder, made = tmp_path_factory.mktemp("converted"), {}

    def make(format):
        if format not in made:
            path = named(folder, format, format)
            made[format] = path, convert(MINI, path, format)
        return made[format]

    return make


# -- Rounding ----------------------------------------------------------------------------------------------------------


def awkward(rows: int = 144, columns: int = 512) -> torch.Tensor:
    """Gaussian numbers, with rows that are zero, large, equal and of one sign."""
    weight = torch.randn(rows, columns)
    weight[1], weight[2], weight[3], weight[4] = 0, 300 * weight[2], 0.3, weight[4].abs()
    return weight


def stored_rows(made: dict[str, torch.Tensor]) -> StoredWeight:
    beside = {key: each for key, each in made.items() if key not in ("weight", "comfy_quant")}
    return StoredWeight("x.weight", made["weight"], beside, made["comfy_quant"])


@pytest.mark.parametrize("word", WRITTEN)
def test_rows_are_rounded_as_well_as_the_format_can(word):
    format, weight = WRITTEN[word], awkward()
    made = format.writers[word].encode(weight, weight.abs().max())
    shapes = format.writers[word].encode(weight.to("meta"), weight.max().to("meta"))
    assert {key: (each.shape, each.dtype) for key, each in made.items()} == {
        key: (each.shape, each.dtype) for key, each in shapes.items()
    }
    stored = stored_rows(made)
    assert format.stores(stored) and not format.find_problem(stored)
    found = format.dequantize(stored, tuple(weight.shape), torch.float32)
    assert not found[1].any() and found.isfinite().all()
    plain = torch.randn(64, 512)
    stored = stored_rows(format.writers[word].encode(plain, plain.abs().max()))
    assert 0.001 < off(format.dequantize(stored, (64, 512), torch.float32), plain) < ROUNDING[word]


@pytest.mark.parametrize("word", WRITTEN)
def test_a_matrix_of_zeros_is_read_again(word):
    """Scales that are all zero are taken for damaged ones; layers that begin as nothing are in some fine-tunes."""
    weight = torch.zeros(48, 512)
    stored = stored_rows(WRITTEN[word].writers[word].encode(weight, weight.abs().max()))
    assert not expand_stored(stored).any()


def test_q8_0_has_the_bytes_of_the_official_package():
    gguf = pytest.importorskip("gguf")
    weight = torch.cat((awkward(), torch.arange(-256, 256).float()[None] / 2))
    expected = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    found = WRITTEN["q8_0"].writers["q8_0"].encode(weight, weight.abs().max())["weight"]
    assert torch.equal(found, torch.from_numpy(expected))


def test_q4_k_is_read_by_the_official_package():
    gguf = pytest.importorskip("gguf")
    weight = awkward()
    blocks = WRITTEN["q4_k"].writers["q4_k"].encode(weight, weight.abs().max())["weight"]
    found = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType.Q4_K))
    assert torch.equal(found.flatten(), expand_blocks("Q4_K", blocks))
    assert off(found[5:], weight[5:]) < ROUNDING["q4_k"]


def test_nvfp4_has_the_bytes_of_comfy_kitchen():
    layout = pytest.importorskip("comfy_kitchen.tensor").TensorCoreNVFP4Layout
    weight = awkward(140, 520)
    weight[7, :16] = torch.tensor(
        [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, 0]
    )
    expected = layout.state_dict_tensors(*layout.quantize(weight))
    found = WRITTEN["nvfp4"].writers["nvfp4"].encode(weight, weight.abs().max())
    for suffix, ours in (("", "weight"), ("_scale", "weight_scale"), ("_scale_2", "weight_scale_2")):
        assert torch.equal(found[ours].reshape(-1).view(torch.uint8), expected[suffix].reshape(-1).view(torch.uint8))


# -- Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITTEN)
@pytest.mark.sample(1)
def test_a_checkpoint_is_whole_and_its_matrices_are_as_far_off_as_is_said(converted, format):
    path, done = converted(format)
    models = open_models(path)
    assert models.components == MINIATURE.components | {"text_encoder": False}
    network, plain = (build(each, "transformer", torch.float32) for each in (models, MINIATURE))
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLinear)}
    assert {f"{name}.weight" for name in layers} == set(castable(plain.state_dict()))
    names = {models.source("transformer").file.official_names[key]: ours
             for ours, key in models.source("transformer").names.items()}  # fmt: skip
    said = {names[layer.name]: layer for layer in done.layers}
    for name, module in layers.items():
        weight = plain.get_submodule(name).weight
        assert said[f"{name}.weight"].error == pytest.approx(
            off(expand_weight(module, torch.float32), weight), rel=1e-3
        )
        assert said[f"{name}.weight"].worst_row >= said[f"{name}.weight"].error
    other, mine = dict(plain.named_parameters()), dict(network.named_parameters())
    same = [
        name for name in other if name in mine and format_of(network.get_submodule(name.rpartition(".")[0])) is None
    ]
    assert len(same) > 100 and all(torch.equal(mine[name], other[name]) for name in same)
    assert done.nbytes == (MINIATURE.files[0].nbytes, path.stat().st_size)
    decoders = [build(each, "video_decoder", torch.float32).state_dict() for each in (models, MINIATURE)]
    assert all(torch.equal(value, decoders[1][key]) for key, value in decoders[0].items())


@pytest.mark.parametrize("format", WRITTEN)
def test_gemma_keeps_its_table_and_its_ends(tmp_path, format):
    path = named(tmp_path, format)
    done = convert(GEMMA, path, format)
    files, folder = open_text_encoder(path), open_text_encoder(GEMMA)
    encoder = build_text_encoder(files, torch.float32)
    numbers = {int(name.split(".")[2]) for name, each in encoder.named_modules() if isinstance(each, QuantizedLinear)}
    assert numbers == {1, 2, 3, 4} and len(done.layers) == 4 * 7
    assert files.tokenizer().tokens("a red ball, twice") == folder.tokenizer().tokens("a red ball, twice")
    ids, mask = torch.arange(24).reshape(2, 12), torch.ones(2, 12, dtype=torch.int64)
    true = build_text_encoder(folder, torch.float32)(ids, mask)
    for found, wanted in zip(encoder(ids, mask), true, strict=True):
        assert off(found, wanted) < 3 * ROUNDING[format]


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITTEN)
def test_bf16_undoes_it_but_for_what_was_lost(tmp_path, converted, format):
    path, _ = converted(format)
    done = convert(path, tmp_path / "back.safetensors", BF16)
    back, network = (build(open_models(each), "transformer") for each in (tmp_path / "back.safetensors", path))
    assert not done.layers and done.changed >= 20
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLinear):
            assert torch.equal(back.get_submodule(name).weight, expand_weight(module, torch.bfloat16))
    assert not any(key.endswith("comfy_quant") for key in TensorFile(tmp_path / "back.safetensors").entries)


def test_a_gguf_file_is_read_by_the_official_package(converted):
    gguf = pytest.importorskip("gguf")
    file = gguf.GGUFReader(converted("q4_k")[0])
    fields = {name: file.fields[name].contents() for name in ("general.architecture", "config", "general.file_type")}
    assert fields == {"general.architecture": "ltxv", "config": MINIATURE.files[0].metadata["config"],
                      "general.file_type": 14}  # fmt: skip
    kinds = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    first = "model.diffusion_model.transformer_blocks.1"
    assert kinds[f"{first}.ff.net.2.weight"] == "Q4_K" and kinds[f"{first}.ff.net.0.proj.weight"] == "Q8_0"
    assert kinds[f"{first}.audio_ff.net.2.weight"] == "BF16" and kinds[f"{first}.scale_shift_table"] == "F32"


def test_a_tokenizer_is_written_as_it_was():
    model = (GEMMA / "tokenizer.model").read_bytes()
    found, wanted = tokenizer_fields(model, "x"), vocabulary(model)
    words = [each.decode() for each in found["tokenizer.ggml.tokens"]]
    assert words == wanted["tokenizer.ggml.tokens"]
    assert found["tokenizer.ggml.token_type"] == wanted["tokenizer.ggml.token_type"]
    assert found["tokenizer.ggml.scores"] == pytest.approx(wanted["tokenizer.ggml.scores"])
    for damaged in (b"", model[:1000], b"\xff" * 50):
        with pytest.raises(CheckpointError, match="x is not a SentencePiece model"):
            tokenizer_fields(damaged, "x")


@pytest.mark.parametrize("words", [("sound", "ends"), (), KEPT_WORDS])
def test_what_stays_can_be_chosen(tmp_path, words):
    names = convert(MINI, tmp_path / "x.safetensors", "fp8", words).layers
    assert any("audio_attn1" in each.name for each in names) == ("sound" not in words)
    assert any("transformer_blocks.0." in each.name for each in names) == ("blocks" not in words)
    assert any("audio_to_video" in each.name for each in names) == ("crossing" not in words)
    assert any("adaln" in each.name for each in names) == ("ends" not in words)


@pytest.mark.slow
def test_no_more_than_some_rows_are_in_memory(tmp_path, monkeypatch):
    """Whatever the size of a matrix; in pieces a file has the bytes that it has at once."""
    whole, pieces = tmp_path / "whole.safetensors", tmp_path / "pieces.safetensors"
    source = tmp_path / "gemma.safetensors"
    state = load_file(GEMMA / "model.safetensors")
    wide = {key: value for key, value in state.items() if "embed_tokens" in key}
    rows = {key: torch.randn(20_000, value.shape[1]).bfloat16() for key, value in wide.items()}
    save_file(state | rows, source)
    convert(source, whole, "nvfp4", ())
    monkeypatch.setattr(room, "_NUMBERS", 2**15)
    with Peak() as peak:
        convert(source, pieces, "nvfp4", ())
    mapped = next(iter(rows.values())).nbytes  # counts, though its bytes stay in the file
    assert peak.bytes - mapped < 10 * 4 * 2**15 < mapped
    assert whole.read_bytes() == pieces.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITTEN)
def test_a_tiny_model_runs_in_every_format(tmp_path, tiny_files, format):
    """Version 2.3; the clip of the miniature is in test_written_formats.py."""
    checkpoint, gemma, _ = tiny_files("2.3")
    convert(checkpoint, named(tmp_path, format), format, ("gates",))
    convert(gemma, named(tmp_path, format, "gemma"), format, ())
    models = open_models(named(tmp_path, format), named(tmp_path, format, "gemma"))
    clip = generate(models, "a ball", width=64, height=64, frames=9, steps=1, seed=3, device="cpu")
    assert clip.frames.shape == (9, 64, 64, 3) and clip.frames.isfinite().all() and clip.waveform.isfinite().all()


# -- What cannot be ----------------------------------------------------------------------------------------------------


def test_nothing_is_written_over(tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match=r"x\.safetensors exists already.*--overwrite"):
        convert(MINI, target, "int8")
    source = shutil.copy(MINI, tmp_path / "source.safetensors")
    with pytest.raises(TargetExistsError, match="written over itself"):
        convert(source, source, "int8", overwrite=True)
    with pytest.raises(UnreadableFileError, match="cannot be written: File name too long"):
        convert(MINI, tmp_path / f"{'x' * 300}.safetensors", "int8")
    assert target.read_bytes() == b"mine"
    gemma = Path(shutil.copytree(GEMMA, tmp_path / "gemma"))
    for name in ("model.safetensors", "model-int8.safetensors"):
        with pytest.raises(TargetExistsError, match="would lie among the files of gemma"):
            convert(gemma, gemma / name, "int8", overwrite=True)
    parts = [tmp_path / f"cut-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part in parts:
        save_file({part.stem: torch.ones(2)}, part)
    with pytest.raises(TargetExistsError, match="written over itself"):
        convert(parts[0], parts[1], "int8", overwrite=True)
    convert(MINI, target, "int8", overwrite=True)
    assert target.stat().st_size > 1_000_000


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "_made", full)
    with pytest.raises(UnreadableFileError, match=r"x\.safetensors cannot be written: No space left on device\. Make"):
        convert(MINI, tmp_path / "x.safetensors", "int8")
    monkeypatch.undo()
    monkeypatch.setattr(write.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 10_000_000))
    with pytest.raises(UnreadableFileError, match=r"needs [\d,]+ bytes, and .* has 10,000,000 left"):
        convert(MINI, tmp_path / "x.safetensors", "int8")
    assert list(tmp_path.iterdir()) == []


def test_matrices_of_any_decimal_numbers_become_bf16(tmp_path):
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"
    state = load_file(MINI)
    save_file(state | {key: state[key].double()}, tmp_path / "x.safetensors", MINIATURE.files[0].metadata)
    assert convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", BF16).changed == 1
    found = TensorFile(tmp_path / "y.safetensors").get(key)
    assert found.dtype == torch.bfloat16 and torch.equal(found, state[key])


def test_damaged_numbers_leave_nothing(tmp_path):
    state = load_file(MINI)
    state["model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"][3, 4] = torch.nan
    save_file(state, tmp_path / "x.safetensors", MINIATURE.files[0].metadata)
    with pytest.raises(CheckpointError, match=r"1\.attn1\.to_q\.weight holds NaN or infinite numbers"):
        convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "nvfp4")
    state["model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"][3, 4] = 1e30
    save_file(state, tmp_path / "x.safetensors", MINIATURE.files[0].metadata)
    with pytest.raises(
        CheckpointError, match=r"1\.attn1\.to_q\.weight holds numbers up to 1\.0e\+30, which q8_0 cannot"
    ):
        convert(tmp_path / "x.safetensors", tmp_path / "y.gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_cannot_be_converted_is_said(tmp_path, converted):
    for source, target, format, kind, said in (
        (converted("int8")[0], "x.safetensors", "fp8", CheckpointError, "is stored in int8 already.*--format bf16"),
        (MINI, "x.safetensors", "q8_0", SettingError, r"which \.gguf files hold"),
        (MINI, "x.gguf", "int8", SettingError, r"which \.safetensors files hold"),
        (MINI, "x.safetensors", "int9", SettingError, "no format int9 to convert to; choose bf16, fp8"),
        (MINI, "x.safetensors", BF16, CheckpointError, "nothing that could be written in bf16"),
    ):
        with pytest.raises(kind, match=said):
            convert(source, tmp_path / target, format)
    assert list(tmp_path.iterdir()) == []


def test_a_distilled_model_keeps_its_name(tmp_path, caplog):
    source = shutil.copy(MINI, tmp_path / "mini-distilled.safetensors")
    convert(source, tmp_path / "mini-int8.safetensors", "int8")
    assert "put the word distilled into it" in caplog.text
    caplog.clear()
    convert(source, tmp_path / "mini-distilled-int8.safetensors", "int8")
    assert "put the word" not in caplog.text


@pytest.mark.parametrize("numbers", [3, 5])
def test_pieces_that_are_not_as_laid_out_leave_no_file(tmp_path, numbers):
    layout = write.safetensors_layout({"x": torch.zeros(4)}, {})
    with pytest.raises(AssertionError, match="as laid out"):
        write.write_tensors(tmp_path / "x.safetensors", layout, [("x", torch.ones(numbers))])
    assert not [*tmp_path.iterdir()]


def test_the_command_line_tells_every_matrix_and_the_worst(tmp_path, capsys):
    words = ["convert", str(MINI), str(tmp_path / "x.safetensors"), "--format", "nvfp4"]
    assert main([*words, "--keep", "gates,blocks,ends"]) == 0
    said = capsys.readouterr().out.splitlines()
    layers = [line for line in said if ", worst row" in line]
    assert len(layers) > 50 and all("nvfp4" in line for line in layers)
    assert "Weights are off by 9" in "".join(said) and said[-1].startswith("The worst row of any matrix is off by 1")
    assert main([*words, "--keep", "gate"]) == 2
    assert (
        "'gate' is not one of ends, blocks, sound, crossing, gates, or none. Did you mean gates?"
        in capsys.readouterr().err
    )
