"""Damaged files of every kind are answered by a sentence, or read rightly, and nothing is left behind."""

import mmap
import shutil
import struct
import sys
import time
import warnings
from pathlib import Path

import damage
import pytest
import torch
from peak import growth
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import CheckpointError, LTX2Error, MediaError
from ltx2_core.media import read_audio, read_picture
from ltx2_core.memory.machine import this_machine
from ltx2_core.text import Tokenizer
from ltx2_core.text.encode import compute_hidden_states

pytestmark = pytest.mark.slow

SECONDS, BYTES = 60, 2**29  # that any damaged input may take, at most
LONGEST = 700  # characters of a sentence, with the paths in it


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
        shutil.rmtree(folder, ignore_errors=True)  # together they are half a gigabyte
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


def test_a_tokenizer_of_another_gemma_is_called_that(whole, tiny_files, tmp_path):
    tensors = load_file(whole.gemma / "model.safetensors")
    key = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    few = tensors | {key: tensors[key][:300].clone()}
    save_file(few, tmp_path / "model.safetensors")
    for name in ("tokenizer.json", "config.json"):
        content = (whole.gemma / name).read_text("utf-8")
        (tmp_path / name).write_text(content.replace('"vocab_size": 512', '"vocab_size": 300'), "utf-8")
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


def test_pictures_that_are_too_large_and_sounds_of_no_codec_are_refused(whole, tmp_path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaError, match=r"bomb\.png has too many pixels"):
        read_picture(tmp_path / "bomb.png")
    content = bytearray(whole.sound.read_bytes())
    struct.pack_into("<H", content, 20, 99)
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(MediaError, match=r"x\.wav has sound of a kind that cannot be read here"):
        list(read_audio(tmp_path / "x.wav"))
