"""Whatever goes wrong on the command line is one sentence, and faults of ours are not hidden."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.cli import commands, main, sentence
from ltx2_core.cli.parser import ELSEWHERE, build_parser
from ltx2_core.errors import OutOfMemoryError, SettingError
from ltx2_core.pipeline.engines.hardware import device_named, devices_named
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.settings import Resources

LORA = MINIATURE / "loras" / "light-room.safetensors"


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], ["COMMAND is missing: --help says"]),
        (["genrate"], ["genrate", "Did you mean generate?"]),
        (["--verbose"], ["COMMAND"]),
        (["generate", "--promt", "x"], ["--promt", "Did you mean --prompt?"]),
        (["generate", "--stg", "1"], ["--stg"]),
        (["compare", "a", "b", "--output", "c.mp4"], ["no flag --output", "compare FIRST SECOND OUT."]),
        (["lora", "shrink", "a", "--output=b"], ["no flag --output", "lora shrink IN OUT."]),
        (["generate", "--prompt", "x"], ["--output is missing"]),
        (["lora", str(LORA), "x.safetensors"], ["light-room.safetensors' stands where the word shrink is expected"]),
        (["generate", "--output", "x.mp4", "--prompt", "a", "red", "ball"], ["red ball: ", "in quotes"]),
        (["generate", "--output", "x.mp4", "--schedule", "ltx"], ["'ltx'", "Did you mean ltx2?"]),
        (["generate", "--output", "x.mp4", "--size", "768x512"], ["A size in pixels is --width 768 --height 512."]),
        (["generate", "--output", "x.mp4", "--model", "a"], ["no flag --model.", "Did you mean --checkpoint?"]),
        (["generate", "--output", "x.mp4", "--resolution", "a"], ["Did you mean --width and --height?"]),
        (["generate", "--output", "x.mp4", "--steps", "x"], ["--steps", "'x'"]),
        (["generate", "--output", "x.mp4", "--steps"], ["--steps"]),
        (["generate", "--output", "x.mp4", "--upscale", "3"], ["'3'", "1.5, 2"]),
        (["generate", "--output", "x.mp4", "--format", "fp4"], ["'fp4'", "fp8"]),
        (["generate", "--output", "x.mp4", "x"], ["x"]),
        (["generate", "--output", "x.doc"], [".doc"]),
        (["generate", "--output", "x.mp4", "--sound-only"], [".wav or .flac"]),
        (["generate", "--output", "x.wav", "--sound-only", "--picture-only"], ["--picture-only"]),
        (["generate", "--output", "x.wav", "--picture-only"], [".mp4"]),
        (["convert", "a", "b.safetensors", "--format", "fp8", "--keep", ""], ["--keep: ''"]),
        (["generate", "--output", "x.mp4", "--frames", "9", "--seconds", "1"], ["--frames", "--seconds"]),
        (["generate", "--output", "x.mp4", "--retake", "0:1"], ["--source FILE"]),
        (["generate", "--output", "x.mp4", "--reference-mask", "x.png"], ["--reference-mask"]),
        (["generate", "--output", "x.mp4", "--reference-fill", "x.png"], ["--reference-fill"]),
        (["generate", "--output", "x.mp4", "--prompt", "x", "--text-scale", "21"], ["--text-scale is 21", "20"]),
        (["generate", "--output", "x.mp4", "--prompt", "x", "--segments", "no.txt"], ["There is no file no.txt"]),
        (["generate", "--output", "x.mp4", "--prompt", "x", "--checkpoint", "no.file"], ["no.file"]),
        *(
            (["generate", "--output", "x.mp4", "--prompt", "x", flag, f"{before}no.file"], ["There is no file no.file"])
            for flag, before in [
                ("--image", "0:"),
                ("--audio", ""),
                ("--video", ""),
                ("--source", ""),
                ("--reference-video", ""),
                ("--reference-audio", ""),
                ("--character", ""),
            ]
        ),
        (["generate", "--output", "x.mp4", "--prompt", "x", "--hq"], ["HQ"]),
        (
            ["generate", "--output", "x.mp4", "--prompt", "x", "--frames", "9", "--refine", "--tiles", "3x1x1"],
            ["A latent of (2, ", "(3, 1, 1) tiles"],
        ),
        *(
            (["generate", "--output", "x.mp4", "--prompt", "x", "--checkpoint", "no.file", *words], [fact])
            for *words, fact in [
                ("--decode-tile-size", "512", "--decode-tile-overlap", "512", "512 pixels cannot overlap by 512"),
                ("--retake", "2:1", "2 s to 1 s"),
                ("--window", "33", "--overlap", "32", "33 frames that share 32"),
                ("--start-step", "4", "--end-step", "4", "start_step is 4"),
                ("--schedule", "custom", "--sigmas", "1, 2, 0", "One sigma is 2"),
            ]
        ),
        (["plan", "--passes", "5"], ["'5'", "4"]),
        (["plan", "--version", "2.3", "--checkpoint", "x.safetensors"], ["--version", "--checkpoint"]),
        (["lora", "shrink", str(LORA), "x.safetensors", "--energy", "0"], ["energy is 0"]),
        (["plan", "--version", "2.2"], ["'2.2'", "2.3"]),
        (["plan", "--version", "2.3", "--card", "Voodoo"], ["Voodoo"]),
        (["tiny", "folder", "--version", "3"], ["'3'"]),
        (["inspect", "nowhere"], ["nowhere"]),
    ],
)
def test_every_error_is_one_sentence(words, facts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and "\n" not in said.err.strip()
    assert all(fact in said.err for fact in facts)
    assert list(tmp_path.iterdir()) == []


def test_what_other_programs_call_a_flag_is_none_of_ours_and_means_one():
    flags = build_parser()[1]["generate"].flags
    assert not {*flags} & ELSEWHERE.keys()
    assert {each for meant in ELSEWHERE.values() for each in meant} <= {*flags}


FLAGS = build_parser()[1]["generate"].parser._actions
FILES = [flag.option_strings[0] for flag in FLAGS if str(flag.metavar).startswith(("FILE", "FOLDER"))]


@pytest.mark.parametrize("flag", FILES)
@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_no_file_and_no_folder(flag, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--output", "x.mp4", "--prompt", "x", f"{flag}={name}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {flag}: '") and "is no name of a file" in said and said.count("\n") == 1
    assert main(["tiny", name]) == 2 and main(["inspect", name]) == 2 and list(tmp_path.iterdir()) == []


def test_a_name_with_a_line_in_it_is_only_a_name(capsys):
    assert main(["generate", "--output", "x.mp4", "--prompt", "x", "--lora", "a\nb.safetensors:0.5"]) == 2
    assert f"There is no file {Path.cwd()}/a b.safetensors" in capsys.readouterr().err


ABSENT = ("", "cuda:99", "mps:7", "xpu:9", "meta", "gpu", "vulkan", "hpu", "privateuseone", "fpga", "cpu:5", "cuda:-1",
          "cuda:x", "cpu,cuda", "\ud83d", "c" * 5000)  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_there_is_one_sentence(name, capsys, tmp_path):
    words = ["generate", "--output", str(tmp_path / "x.mp4"), "--prompt", "x", "--device", name]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "device is" in said and "cpu" in said and len(said) < 400 and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_setting_that_names_several_devices_is_named_as_it_is(models):
    with pytest.raises(SettingError, match=r"^devices has 'cuda:99', which this machine"):
        devices_named(["cpu", "cuda:99"])
    with pytest.raises(SettingError, match=r"^devices has 'cuda:99', which this machine"):
        LocalEngine(models, Resources(devices="cuda:99"))


def test_devices_are_found_by_their_names():
    assert device_named(" CPU ") == torch.device("cpu") and device_named("cpu:0").type == "cpu"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Stopped"),
        (OutOfMemoryError("The block does not fit: make the clip smaller."), 2, "The block does not fit"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), 2, "Memory ran out: CUDA out of memory."),
        (PermissionError(13, "Permission denied", "clip.mp4"), 2, "error: clip.mp4: Permission denied."),
        (OSError(28, "No space left on device"), 2, "error: No space left on device."),
        (OSError("odd"), 2, "error: odd"),
        (OSError(), 2, "error: OSError"),
    ],
)
def test_whatever_stops_a_command_is_told(error, status, said, capsys, monkeypatch):
    def stopped(options):
        raise error

    monkeypatch.setitem(commands.COMMANDS, "inspect", stopped)
    assert main(["inspect", "x"]) == status
    err = capsys.readouterr().err.strip()
    assert said in err and "\n" not in err and "Traceback" not in err


@pytest.fixture(params=[kind for kind in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, kind)])
def kind(request):
    """A signal that is answered; shells have Ctrl+C ignored by what they start in the background."""
    kind = getattr(signal, request.param)
    before = signal.signal(kind, signal.default_int_handler)
    yield kind
    signal.signal(kind, before)


def test_a_signal_stops_once_and_whatever_a_library_makes_of_it(kind, capsys, monkeypatch):
    tidied = []

    def tidying(options):
        try:
            signal.raise_signal(kind)
        finally:
            signal.raise_signal(kind)  # by a starter that hands it on
            tidied.append(options)

    def mistaken(options):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(kind)
        raise RuntimeError("trying to pop from an empty stack")

    for command in (tidying, mistaken):
        monkeypatch.setitem(commands.COMMANDS, "inspect", command)
        before = signal.getsignal(kind)
        assert main(["inspect", "x"]) == 128 + kind and signal.getsignal(kind) is before
        assert capsys.readouterr().err == "Stopped; nothing half-written is left.\n"
    assert len(tidied) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these to one process")
def test_a_signal_while_pytorch_is_imported_is_one_sentence(tmp_path, kind):
    (tmp_path / "torch.py").write_text(f"import os\nos.kill(os.getpid(), {kind:d})\n")
    root = str(Path(__file__).parents[3])
    ended = subprocess.run(
        [sys.executable, "-m", "ltx2_core", "inspect", "x"], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (
        128 + kind,
        "Stopped; nothing half-written is left.\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "x", "--lora", "LORA:0.5", "--save-latent", "LORA", "--output", "new.mp4"],
        ["generate", "--prompt", "x", "--image", "0:LORA:0.9", "--output", "new.mp4", "--save-latent", "LORA"],
        ["compare", "clip.mp4", "other.mp4", "clip.mp4"],
    ],
)
def test_nothing_is_written_over_what_is_read_for_it(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lora.safetensors", "clip.mp4", "other.mp4"):
        (tmp_path / name).write_bytes(LORA.read_bytes())
    assert main([*(word.replace("LORA", "lora.safetensors") for word in words), "--overwrite"]) == 2
    assert "would be written over" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_a_service_starts_without_a_console_works(name, monkeypatch):
    monkeypatch.setattr(sys, name, None)
    assert main(["inspect", str(LORA)]) == 0 and main(["inspect", "no.file"]) == 2


def test_faults_of_ours_are_not_hidden(monkeypatch):
    def broken(options):
        raise AttributeError("a mistake")

    monkeypatch.setitem(commands.COMMANDS, "inspect", broken)
    with pytest.raises(AttributeError):
        main(["inspect", "x"])


@pytest.mark.slow
def test_a_reader_that_has_gone_is_not_complained_about():
    """As of ``ltx2 inspect file | head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "import sys; from ltx2_core.__main__ import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(LORA)],
        stdout=writing, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], timeout=120,
    )  # fmt: skip
    os.close(writing)
    assert process.returncode == 1 and process.stderr == ""


def test_a_sentence_of_an_error_is_one_line():
    assert sentence(ValueError("two\n  lines")) == "two lines"


def test_a_text_that_begins_with_a_dash_is_told_how_to_be_written(capsys):
    assert main(["generate", "--prompt", "-x", "--output", "a.mp4"]) == 2
    assert "--prompt=-" in capsys.readouterr().err
