"""Commands that make no clip: plans, tiny models, looks into files."""

import re
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.checkpoint import write
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.cli import main

LORA = MINIATURE / "loras" / "light-room.safetensors"
EXAMPLE = Path(__file__).parents[3] / "workflows" / "examples" / "ltx2_example_clip.mp4"


@pytest.mark.slow
def test_plan_says_where_weights_will_be(capsys):
    size = ["--width", "768", "--height", "512", "--frames", "25", "--steps", "8", "--passes", "2"]
    card = ["--card", "RTX 4090", "--vram", "16", "--ram", "32"]
    assert main(["plan", "--version", "2.3", "--format", "fp8", *size, *card]) == 0
    said = capsys.readouterr().out
    assert "LTX-2.3 in fp8: 768 x 512, 25 frames (1.0 s)" in said and "RTX 4090: at most" in said
    assert "sampling" in said and "Frames are decoded all at once" in said
    assert main(["plan", "--version", "2.3", "--steps", "200", "--card", "RTX 4060", "--ram", "64"]) == 0
    assert re.search(r"About \d+ h \d+ min in all", capsys.readouterr().out)


def test_a_plan_takes_sizes_lengths_and_loras_as_generate_does(tmp_path, capsys):
    release = ["plan", "--version", "2.3", "--card", "RTX 4090", "--ram", "32"]
    assert main([*release, "--seconds", "1", "--size", "16:9", "--megapixels", "0.4"]) == 0
    assert ": 864 x 480, 25 frames (1.0 s)" in capsys.readouterr().out
    assert main([*release, "--width", "100", "--height", "64", "--frames", "10"]) == 0
    assert ": 96 x 64, 9 frames" in capsys.readouterr().out
    assert main([*release, "--seconds", "1", "--frames", "9"]) == 2 and "--seconds" in capsys.readouterr().err
    key = "diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(1, 8), f"{key}.lora_B.weight": torch.ones(8, 1)}, tmp_path / "x.safetensors"
    )
    assert main([*release, "--lora", str(tmp_path / "x.safetensors")]) == 2
    assert "x.safetensors changes nothing in this LTX-2.3 model" in capsys.readouterr().err


def test_plan_of_files_on_two_cards(capsys):
    size = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "2", "--ram", "16"]
    assert main(["plan", *size, "--card", "RTX 4090", "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    assert "RTX 4090" in said and "sampling on 2 devices: " in said and "torchrun on 2 cards" in said


@pytest.mark.slow
def test_plan_of_files_on_this_machine(capsys):
    assert main(["plan", "--width", "96", "--height", "96", "--frames", "9"]) == 0
    assert "sampling" in capsys.readouterr().out


def test_tiny_models_for_which_there_is_no_room_leave_a_sentence_and_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    assert main(["tiny", str(tmp_path / "tiny"), "--version", "2.0"]) == 2
    assert capsys.readouterr().err.startswith("error: ") and list(tmp_path.rglob("*")) == []


def test_tiny_and_inspect(tmp_path, capsys):
    assert main(["tiny", str(tmp_path / "tiny"), "--version", "2.0"]) == 0
    checkpoint = capsys.readouterr().out.split()[0]
    assert main(["inspect", checkpoint, str(LORA)]) == 0
    assert "LTX-2.0" in capsys.readouterr().out
    (tmp_path / "tiny" / "download.safetensors").mkdir()
    assert main(["inspect", str(tmp_path / "tiny")]) == 0
    said = capsys.readouterr().out
    assert "tiny: LTX-2.0" in said and "\n  text_encoder " in said and said.endswith("needs: nothing else\n")


def test_a_pattern_that_no_shell_has_read_stands_for_its_files(tmp_path, capsys):
    """Those of Windows leave patterns to programs."""
    for name in ("a.safetensors", "b.safetensors", "[x].safetensors", "x.safetensors"):
        copy(LORA, tmp_path / name)
    assert main(["inspect", str(tmp_path / "?.safetensors"), str(tmp_path / "[x].safetensors")]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ".safetensors:" in line] == [
        "a.safetensors", "b.safetensors", "x.safetensors", "[x].safetensors"
    ]  # fmt: skip
    assert main(["inspect", str(tmp_path / "*.mp4")]) == 2 and "*.mp4" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_a_file_that_cannot_be_read_does_not_hide_the_others(command, tmp_path, capsys):
    if command == "check":
        pytest.importorskip("c2pa")
    (tmp_path / "text.mp4").write_text("no clip")
    assert main([command, "nowhere.mp4", str(tmp_path / "text.mp4"), str(EXAMPLE)]) == 2
    out, err = capsys.readouterr()
    assert EXAMPLE.name in out
    assert err.count("error: ") == 1 and "nowhere.mp4" in err and "text.mp4" in err
