"""What is wrong with a GGUF file is said with its place: headers that are cut short, and numbers that cannot be."""

import struct
from pathlib import Path

import pytest
import torch
from gguf_files import (
    BIAS,
    GOOD,
    common,
    field,
    packed,
    text,
    transformer,
    write,
)

from ltx2_core.checkpoint import CheckpointError, TensorFile, open_models
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.errors import LTX2Error


@pytest.fixture
def good(tmp_path) -> bytes:
    return write(tmp_path / "good.gguf", GOOD, BIAS).read_bytes()


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(LTX2Error) as error:
        TensorFile(path)
    said = str(error.value)
    assert "broken.gguf" in said and "\n" not in said and len(said) < 400
    return said


def test_a_file_that_is_cut_short_says_where(tmp_path, good):
    end = len(good) - 16  # the rest is padding, which need not be there
    for size in range(4, end):
        said = refused(tmp_path, good[:size])
        assert "incomplete" in said or "counts" in said, size
    assert "in the field 'a.word'" in refused(tmp_path, good[: good.index(b"some") + 2])
    assert "in the entry of the tensor 'b.weight'" in refused(tmp_path, good[: good.index(b"b.weight") + 12])
    assert "in the tensor 'b.weight'" in refused(tmp_path, good[:-40])
    assert f"has {end - 1:,} bytes and should have {end:,}" in refused(tmp_path, good[: end - 1])


def test_an_empty_file_or_another_magic(tmp_path, good):
    for content in (b"", b"GGU", b"GGML" + good[4:], b"FUGG" + good[4:]):
        assert "neither a safetensors nor a GGUF file" in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("version", "said"), [(1, "version 1"), (4, "version 4"), (0, "version 0"), (3 << 24, "big-endian")]
)
def test_another_version_or_byte_order(tmp_path, good, version, said):
    assert said in refused(tmp_path, good[:4] + struct.pack("<I", version) + good[8:])


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 10**6])
def test_counts_that_cannot_be(tmp_path, good, count):
    assert f"counts {count:,} tensors" in refused(tmp_path, good[:8] + struct.pack("<Q", count) + good[16:])
    assert f"counts {count:,} fields" in refused(tmp_path, good[:16] + struct.pack("<Q", count) + good[24:])


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**9])
def test_lengths_that_cannot_be(tmp_path, good, length):
    at = good.index(b"some text") - 8
    assert "incomplete" in refused(tmp_path, good[:at] + struct.pack("<Q", length) + good[at + 8 :])
    at = good.index(b"a.bias") - 8
    assert "incomplete" in refused(tmp_path, good[:at] + struct.pack("<Q", length) + good[at + 8 :])


def test_lists_that_cannot_be(tmp_path):
    for kind, count, said in [(8, 2**60, "incomplete"), (5, 2**62, "incomplete"), (9, 1, "of kind 9"), (77, 1, "77")]:
        path = write(tmp_path / "x.gguf", {"a.list": struct.pack("<IIQ", 9, kind, count)}, BIAS)
        assert said in refused(tmp_path, path.read_bytes())
    assert "of kind 99" in refused(tmp_path, write(tmp_path / "x.gguf", {"a": struct.pack("<I", 99)}, {}).read_bytes())


@pytest.mark.parametrize(
    ("shape", "type", "start", "said"),
    [
        ((2**63, 2**63), 0, 0, "describes 'x' as F32"),
        ((2**40, 2**20), 8, 0, "describes 'x' as Q8_0"),
        ((4, 33), 8, 0, "whole blocks of 32"),
        ((4, 128), 12, 0, "whole blocks of 256"),
        ((), 8, 0, "whole blocks"),
        ((4,), 0, 5, "at byte 5"),
        ((4,), 0, 2**63, "at byte"),
        ((4,), 4, 0, "type 4 of GGUF"),
        ((4,), 77, 0, "type 77 of GGUF"),
        ((1,) * 9, 0, 0, "9 axes"),
        ((10**6,), 0, 0, "in the tensor 'x'"),
    ],
)
def test_tensors_that_cannot_be(tmp_path, shape, type, start, said):
    table = text("x") + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", type, start)
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + table
    assert said in refused(tmp_path, content + bytes(-len(content) % 32 + 64))


@pytest.mark.parametrize("length", [0, 1025])
def test_names_of_lengths_that_cannot_be(tmp_path, length):
    name, said = "x" * length, f"has a name of {length:,} bytes in "
    assert said in refused(tmp_path, write(tmp_path / "x.gguf", {name: 1}, {}).read_bytes())
    assert said in refused(tmp_path, write(tmp_path / "x.gguf", {}, {name: ("F32", (1,), bytes(4))}).read_bytes())


def test_names_that_come_twice(tmp_path):
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("a.word") + field("x"))
    assert "the field 'a.word' twice" in refused(tmp_path, header + bytes(64))
    table = text("x") + struct.pack("<IQIQ", 1, 4, 0, 0)
    assert "the tensor 'x' twice" in refused(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * table + bytes(64))
    other = text("y") + struct.pack("<IQIQ", 1, 4, 0, 0)
    lying = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + table + other
    assert "'y' where another tensor lies" in refused(tmp_path, lying + bytes(96))


@pytest.mark.parametrize("alignment", [3, 0, 2**24, "32", -8])
def test_an_alignment_that_cannot_be(tmp_path, alignment):
    value = struct.pack("<Ii", 5, alignment) if isinstance(alignment, int) else field(alignment)
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.alignment") + value
    assert "has general.alignment" in refused(tmp_path, content + bytes(64))


def test_a_noted_shape_of_another_size(tmp_path):
    path = write(tmp_path / "x.gguf", {"comfy.gguf.orig_shape.a.bias": [5, 9]}, BIAS)
    assert "notes for 'a.bias' the shape (5, 9)" in refused(tmp_path, path.read_bytes())


@pytest.mark.parametrize("architecture", ["flux", "wan", "llama", "qwen2", "hidream"])
def test_another_architecture(tmp_path, architecture):
    names = ["blk.0.attn_q.weight", "token_embd.weight"] if architecture in ("llama", "qwen2") else ["x.weight"]
    tensors = {name: packed(torch.ones(32, 32), "Q8_0") for name in names}
    path = write(tmp_path / "broken.gguf", {"general.architecture": architecture}, tensors)
    for read in (open_models, open_text_encoder):
        with pytest.raises(CheckpointError, match=rf"broken\.gguf is a .*of the kind {architecture}"):
            read(path)


def test_the_part_that_looks_at_pictures(tmp_path):
    path = write(
        tmp_path / "broken.gguf", {"general.architecture": "clip"}, {"x.weight": packed(torch.ones(32, 32), "Q8_0")}
    )
    for read in (open_models, open_text_encoder):
        with pytest.raises(CheckpointError, match=r"broken\.gguf is an mmproj"):
            read(path)


@pytest.mark.parametrize("architecture", [None, "pig", "something"])
@pytest.mark.sample(1)
def test_a_transformer_is_known_by_its_tensors_too(tmp_path, tiny_files, architecture):
    fields = {"general.architecture": architecture, "config": None}
    path = write(tmp_path / "x.gguf", *transformer(tiny_files("2.3")[0], common("Q8_0"), **fields))
    assert open_models(path).version == "2.3"
