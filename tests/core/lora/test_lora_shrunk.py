"""LoRAs that are shrunk when they are opened: once, kept on disk, and told with what is lost."""

import json
import logging
import os
import shutil

import pytest
import torch
from lora_files import BLOCK, changes, factors, off, written
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint.kept_files import open_kept
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.cli.arguments import read_loras, read_text_loras
from ltx2_core.errors import CheckpointError, SettingError, UnreadableFileError
from ltx2_core.lora import Shrink, compare, open_lora, open_shrunk, open_text_lora
from ltx2_core.lora.shrunk import Shrunk

NAME = "blocks.0.video.self_attn.q.weight"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "loras"


@pytest.fixture
def lora(tmp_path):
    """One layer of LTX-2 with directions of 4, 3 and 1, and one of Gemma."""
    layers = {
        f"{BLOCK}.0.attn1.to_q": factors([4, 3, 1]),
        "text_encoders.model.layers.1.self_attn.q_proj": factors([2.0] * 4, 1),
    }
    return written(tmp_path / "style.safetensors", layers, metadata={"model_version": "2.3"})


def test_a_lora_is_shrunk_once_and_keeps_its_name(lora, cache, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    small = open_shrunk(lora, Shrink(0.9), on_layer=lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and "style.safetensors is shrunk" in caplog.text
    assert small.path.name == lora.name and small.path.is_relative_to(cache)
    assert small.deltas["transformer"][NAME].rank == 2
    assert off(changes(small.path)[NAME], changes(lora)[NAME]) == pytest.approx(26**-0.5, abs=1e-4)
    again = open_shrunk(lora, Shrink(0.9), on_layer=lambda *done: pytest.fail("shrunk again"))
    assert again.path == small.path
    assert open_shrunk(lora, Shrink(0.9), open_text_lora).path == small.path  # the half for Gemma is in it, too
    assert open_shrunk(lora, Shrink(0.99)).path != small.path
    assert open_shrunk(lora, Shrink()).path == lora and len(list(cache.iterdir())) == 2


def test_another_file_of_that_name_and_other_settings_beside_it_are_shrunk_anew(lora, cache):
    small = open_shrunk(lora, Shrink(0.9))
    save_file({key: value * 2 for key, value in load_file(lora).items()}, lora, {"model_version": "2.3"})
    os.utime(lora, ns=(0, 0))
    other = open_shrunk(lora, Shrink(0.9))
    assert other.path != small.path and off(changes(other.path)[NAME], 4 * changes(small.path)[NAME]) < 1e-4
    (lora.parent / "adapter_config.json").write_text(json.dumps({"r": 24, "lora_alpha": 12}))
    halved = open_shrunk(lora, Shrink(0.9))
    assert off(changes(halved.path)[NAME], 2 * changes(small.path)[NAME]) < 1e-4


def test_the_report_says_size_before_and_after_and_the_error(cache, miniature, caplog, tmp_path):
    path = shutil.copy(MINIATURE / "loras" / "golden-ball.safetensors", tmp_path)
    caplog.set_level(logging.INFO)
    ((small, strengths),) = read_loras([f"{path}:0.5:energy=0.8"], miniature)
    shrunk = Shrunk.of(small)
    assert strengths.strength == 0.5 and open_lora(path).file.nbytes == shrunk.before > shrunk.after
    assert shrunk.after == small.file.nbytes and 0 < shrunk.error < (1 - 0.8**2) ** 0.5
    said = f"{shrunk.before / 1e9:.3g} GB before, {shrunk.after / 1e9:.3g} GB now, {shrunk.error:.1%} of its change"
    assert said in caplog.text and said in str(compare(small, miniature))
    assert "shrunk" not in str(compare(open_lora(path), miniature))


def test_what_a_foreign_header_says_of_shrinking_is_only_text(tmp_path):
    for said in ("x", "{}", '{"before": -1, "error": 0.1}', '{"before": 5, "error": "much"}', "[1]"):
        path = written(
            tmp_path / "x.safetensors", {f"{BLOCK}.0.attn1.to_q": factors([1])}, metadata={"ltx2av_shrunk": said}
        )
        assert Shrunk.of(open_lora(path)) is None


def test_what_is_kept_and_damaged_is_made_anew(lora, cache, caplog):
    small = open_shrunk(lora, Shrink(0.9)).path
    whole = small.read_bytes()
    small.write_bytes(whole[:-10])
    assert open_shrunk(lora, Shrink(0.9)).path == small and small.read_bytes() == whole
    assert "is made anew" in caplog.text


def test_what_was_not_used_for_longest_makes_room(cache):
    def kept(name, size):
        return open_kept("loras", name, 0, lambda path: written_bytes(path, size), lambda path: path, limit_bytes=100)

    def written_bytes(path, size):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))

    (cache / "mine").mkdir(parents=True)
    first, second = kept("a", 40), kept("b", 40)
    os.utime(second.parent, (0, 0))
    third = kept("c", 40)
    assert first.is_file() and third.is_file() and not second.parent.exists() and (cache / "mine").is_dir()
    assert kept("d", 200).is_file() and not first.exists() and not third.exists()


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_energies_that_cannot_be(lora, cache, energy):
    with pytest.raises(SettingError, match=rf"energy is {energy:g}"):
        open_shrunk(lora, Shrink(energy))
    assert not cache.exists()


def test_what_cannot_be_shrunk_or_kept_is_one_sentence(lora, cache, tmp_path, monkeypatch):
    whole = tmp_path / "whole.safetensors"
    save_file({f"{BLOCK}.0.attn1.to_q.diff": torch.ones(4, 4)}, whole)
    with pytest.raises(CheckpointError, match=r"nothing can be shrunk\. Take it as it is"):
        open_shrunk(whole, Shrink(0.9))
    broken = load_file(lora)
    broken[f"{BLOCK}.0.attn1.to_q.lora_A.weight"][0, 0] = torch.nan
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=r"to_q\.lora_A\.weight in broken.* NaN"):
        open_shrunk(tmp_path / "broken.safetensors", Shrink(0.9))
    assert not cache.exists()
    monkeypatch.setenv("LTX2_CACHE", "")
    with pytest.raises(SettingError, match=r"style\.safetensors is made once and kept on disk, .*LTX2_CACHE"):
        open_shrunk(lora, Shrink(0.9))
    (tmp_path / "file").touch()
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnreadableFileError, match=r"style\.safetensors cannot be written: .*LTX2_CACHE"):
        open_shrunk(lora, Shrink(0.9))


def test_a_lora_of_gemma_is_shrunk_too(cache, miniature, tmp_path):
    path, encoder = tmp_path / "gemma.safetensors", open_text_encoder(miniature.text_encoder)
    out, into = encoder.shapes["model.layers.0.self_attn.q_proj.weight"]
    draw = torch.randn(out, 8) * torch.tensor([9.0] + [0.1] * 7), torch.randn(8, into)
    layer = "text_encoders.model.layers.0.self_attn.q_proj"
    written(path, {layer: {"up": draw[0], "down": draw[1]}})
    ((small, _),) = read_text_loras([f"{path}:energy=0.9"], miniature)
    assert small.is_for_text_encoder and small.layers[0][2].rank == 1
