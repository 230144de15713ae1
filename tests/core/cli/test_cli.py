"""The command line: every setting has a flag, and commands do what theirs say."""

import logging
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from surfaces import OF_THE_HOST, OTHER_INPUTS, all_settings, flags_by_setting, inputs_by_node, table, widgets

from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.cli import commands, conditions, main
from ltx2_core.cli.parser import build_parser, parse
from ltx2_core.cli.progress import Bars, shown_log

FPS = Fraction(24)
FRAMES = torch.rand(33, 64, 96, 3, generator=torch.Generator().manual_seed(0))
LORA = MINIATURE / "loras" / "light-room.safetensors"


# Every setting has a flag


def test_every_setting_can_be_reached_from_the_command_line_and_on_the_graph():
    rows = table()
    assert len(rows) > 100
    assert [setting for setting, flag, inputs in rows if not flag or not inputs] == []
    known = {f"{node}.{name}" for node, names in inputs_by_node().items() for name in names}
    known |= {each.rpartition("_")[0] for each in known if each[-1].isdigit()}  # strength_1, strength_2, ...
    drawn = {each for _, _, inputs in rows for each in inputs.split(", ") if each.startswith("LTX2AV")}
    assert drawn <= known
    assert not {*OTHER_INPUTS, *OF_THE_HOST} & set(widgets())
    assert {*OTHER_INPUTS, *OF_THE_HOST} <= set(all_settings())


def test_flags_of_the_table_exist_and_are_on_the_help_page():
    parser, found = build_parser()
    makers = found["generate"], found["compare"], found["batch"]
    text = "".join(each.parser.format_help() for each in makers)
    for flag in flags_by_setting().values():
        assert any(flag in each.flags for each in makers)
        assert re.sub("^--(video|audio)-", "--", flag) in text
    assert "generate" in parser.format_help() and "--video-apg-limit" in found["generate"].flags


def test_the_help_page_has_groups_limits_defaults_and_examples():
    text = " ".join(build_parser()[1]["generate"].parser.format_help().split())
    titles = ["what", "size and length", "conditions", "sampling", "guidance", "LoRAs", "long clips", "second stage"]
    places = [text.index(f" {title}: ") for title in [*titles, "decoding", "machine", "examples"]]
    assert places == sorted(places)
    for note in ("1 to 2881 frames", "default: 24", "default: on", "0 to 1024 GB", "default: as the recipe"):
        assert note in text


@pytest.mark.parametrize(
    "command", ["generate", "batch", "inspect", "plan", "convert", "lora", "sign", "check", "tiny"]
)
def test_help_is_shown(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and command in capsys.readouterr().out


FLAGS_BEFORE = """
--prompt --negative --output --checkpoint --text-encoder --width --height --frames --seconds --fps --image
--compression --audio --audio-noise --video --reference-video --reference-audio --source --retake --only --mask
--feather --sound-only --segments --window --overlap --drift --resume --steps --schedule --sampler --seed
--text-scale --video-text-scale --audio-text-scale --cross-modal-scale --video-cross-modal-scale
--audio-cross-modal-scale --stg-scale --video-stg-scale --audio-stg-scale --rescale --video-rescale --audio-rescale
--nag-scale --video-nag-scale --audio-nag-scale --apg-parallel --video-apg-parallel --audio-apg-parallel --stg-blocks
--format --lora --hq --upscale --upscaler --temporal-upscaler --refine --tiles --distilled-lora --device --vram --ram
--no-cache
"""


def test_no_flag_was_lost():
    assert set(FLAGS_BEFORE.split()) <= set(build_parser()[1]["generate"].flags)


# The commands


def test_generate_hands_the_request_over_and_writes_the_clip(tmp_path, capsys, monkeypatch):
    requests = []

    def run_batch(models, request, events):
        requests.append(request)
        events.on_progress("sampling", 1, 2)
        events.on_finding("It is silent.")
        clip = SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)
        return [clip] * request.clip.batch_size

    monkeypatch.setattr(commands, "run_batch", run_batch)
    target = tmp_path / "clip.mp4"
    assert main(["generate", "--prompt", "x", "--output", str(target), "--lora", f"{LORA}:0.5", "--seconds", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(target) and target.is_file() and requests[0].prompt == "x"
    assert "light-room.safetensors: LoRA" in said.err and "1 s at 24 fps: 25 frames." in said.err
    assert "It is silent." in said.err and "sampling" in said.err
    assert main(["generate", "--prompt", "x", "--output", str(target), "--batch-size", "2"]) == 0
    several = [tmp_path / "clip_1.mp4", tmp_path / "clip_2.mp4"]
    assert capsys.readouterr().out.split() == list(map(str, several)) and all(path.is_file() for path in several)


def test_flags_that_count_only_with_another_one_are_told(tmp_path, caplog, monkeypatch):
    clip = SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)
    monkeypatch.setattr(commands, "run_batch", lambda *given, **events: [clip])
    words = ["generate", "--prompt", "x", "--output", str(tmp_path / "clip.mp4"), "--tiles", "1x2x2", "--feather", "2"]
    for more, told in [([], {"tiles": "refine", "feather": "mask"}), (["--refine"], {"feather": "mask"})]:
        caplog.clear()
        assert main([*words, *more]) == 0
        wanted = {f"--{flag} is not used: it counts only with --{other}." for flag, other in told.items()}
        assert {record.message for record in caplog.records if "is not used" in record.message} == wanted
    caplog.clear()
    assert main([*words[:5], "--overlap", "8", "--sigmas", "1,0.5,0", "--steps", "4", "--max-shift", "3"]) == 0
    told = {record.message for record in caplog.records if "is not used" in record.message}
    assert told == {
        "--overlap is not used: it counts only with --window or --segments or --timeline.",
        "--steps is not used: it does not count with --sigmas.",
        "--max-shift is not used: it counts only with --schedule ltx2.",
    }


def test_a_name_that_another_run_takes_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    saved, clip, latent = [], tmp_path / "clip.mp4", tmp_path / "clip.safetensors"

    def make(models, request, events):
        for path in (clip, latent):
            path.write_bytes(b"of another run")
        events.on_latent(None)
        return [SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)]

    monkeypatch.setattr(commands, "run_batch", make)
    monkeypatch.setattr(commands, "tagged", lambda take, notes: take)
    monkeypatch.setattr(commands, "save_take", lambda target, take, overwrite: saved.append(target.name))
    assert main(["generate", "--prompt", "x", "--output", str(clip), "--save-latent", str(latent)]) == 0
    assert clip.read_bytes() == b"of another run" and (tmp_path / "clip_2.mp4").is_file()
    assert saved == ["clip_2.safetensors"]


def test_generate_makes_a_clip(tmp_path, capsys):
    target = tmp_path / "sound.wav"
    words = ["--prompt", "x (ball:1.4)", "--output", str(target), "--sound-only", "--frames", "9", "--steps", "1"]
    assert main(["generate", *words, "--device", "cpu", "--no-cache"]) == 0 and target.is_file()
    assert "The prompt says (ball:1.4): LTX-2 has no weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "--prompt", "a", "--seed=1", "--prompt", "b", "--seed", "1"], ["--prompt", "--seed"]),
        (
            ["generate", "--metadata", "--no-metadata", "--image", "a.png", "--image=b.png", "--refine", "--refine"],
            ["--metadata"],
        ),
        (["generate", "--checkpoint", "a", "b", "--checkpoint", "c"], ["--checkpoint"]),
        (["plan", "--card", "4090", "--card", "5090"], ["--card"]),
        (["batch", "x.txt", "--seeds", "1,2", "--prompt=--seeds"], []),
    ],
)
def test_flags_that_are_given_twice_and_count_once_are_told(words, told, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("a ball")
    options = parse([*words, *(["--output", "clip.mp4"] if words[0] != "plan" else [])])
    assert [message.split()[0] for message in caplog.messages] == told
    assert words[0] != "generate" or options.prompt in (None, "b")


def test_a_checkpoint_needs_a_text_encoder(tmp_path, capsys):
    checkpoint = str(MINIATURE / "ltx2-mini.safetensors")
    assert main(["generate", "--prompt", "x", "--output", str(tmp_path / "x.mp4"), "--checkpoint", checkpoint]) == 2
    assert "--text-encoder" in capsys.readouterr().err


def test_the_log_is_shown_only_while_a_command_works(capsys):
    log = logging.getLogger("ltx2_core.somewhere")
    with shown_log():
        log.info("A line %d.", 1)
    log.info("Another line.")
    assert capsys.readouterr().err == "A line 1.\n"


def test_bars_follow_the_stages(capsys):
    with Bars() as bars:
        bars.report("prompt", 1, 2)
        bars.report("sampling", 3, 4)
        bars.say("A line.")
    said = capsys.readouterr().err
    assert "prompt" in said and "sampling" in said and "A line." in said


def test_the_module_is_the_program():
    from ltx2_core.__main__ import main as program

    assert program(["inspect", "nowhere"]) == 2 and conditions.PICTURES


def test_a_command_has_the_flags_that_it_has_among_all():
    whole, every = build_parser()
    for name, command in every.items():
        parser, commands = build_parser(name)
        assert commands[name].flags == command.flags and commands.keys() == every.keys()
        assert all(flag.help for flag in command.parser._actions if flag.option_strings)
        assert commands[name].parser.format_help() == command.parser.format_help()
        assert parser.format_help() == whole.format_help()
