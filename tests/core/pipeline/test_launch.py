"""Processes that are started and watched: they are told what is open, and none of them is left, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agreement import relative_error

from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.cli import main
from ltx2_core.cli.arguments import read_loras
from ltx2_core.cli.parser import parse
from ltx2_core.cli.progress import Bars
from ltx2_core.errors import LostPeerError, LTX2Error, SettingError, UnreadableFileError
from ltx2_core.fields import Choice, Switch, settings_of
from ltx2_core.lora import Strengths, open_lora
from ltx2_core.lora.strengths import StrengthSchedule
from ltx2_core.pipeline.engines import launch
from ltx2_core.pipeline.engines.launch import PROCESSES, Talk, count_of, make_together, words_of_clip, words_of_files
from ltx2_core.pipeline.stage import Events
from ltx2_core.pipeline.takes import load_take
from ltx2_core.settings import Resources

GEMMA = MINIATURE / "gemma-mini"
LORA = MINIATURE / "loras" / "light-room.safetensors"
SMALL = {"width": 64, "height": 64, "frames": 9, "seed": 3, "steps": 2}


def others_than_usual(owner):
    """Settings of which each has another value than usual."""
    found = {}
    for name, setting in settings_of(owner).items():
        look, usual = setting.look, setting.default
        if isinstance(look, Choice):
            found[name] = next(word for word in look.words if word != usual)
        else:
            found[name] = not usual if isinstance(look, Switch) else getattr(look, "most", "other")
    return owner(**found)


def test_generate_is_told_the_files_and_the_settings():
    models = open_models("miniature")
    schedule = StrengthSchedule.through([(0.0, -0.5), (1.0, 1.0)])
    stack = ((open_lora(LORA), Strengths(0.5, audio=0.0, text=1e-05, blocks=(0, 1), schedule=schedule)),)
    how = replace(others_than_usual(Resources), device="cpu", devices=None)
    files = words_of_files(models, GEMMA, stack, how)
    options = parse(["generate", *files, *words_of_clip("--a\nball", "", SMALL, told=False), "--output", "x.mp4"])
    assert options.prompt == "--a\nball" and options.negative is None and options.distilled is False
    assert [Path(each) for each in options.checkpoint] == [MINIATURE / "ltx2-mini.safetensors"]
    assert options.text_encoder == str(GEMMA) and options.values["metadata"] is False
    assert [strengths for _, strengths in read_loras(options.lora, models)] == [stack[0][1]]
    told = {name: vars(options)[f"Resources.{name}"] for name in settings_of(Resources)}
    assert told == {name: getattr(how, name) for name in told}
    assert vars(options)["ClipSettings.width"] == 64 and vars(options)["SamplingSettings.seed"] == 3


def test_what_cannot_be_told_is_refused(tmp_path):
    models = open_models("miniature")
    with pytest.raises(SettingError, match="leave devices"):
        words_of_files(models, GEMMA, (), Resources(devices="cuda:0,cuda:1"))
    other = tmp_path / "other.safetensors"
    other.symlink_to(MINIATURE / "ltx2-mini.safetensors")
    mixed = open_models(MINIATURE / "ltx2-mini.safetensors", GEMMA, video_vae=other)
    with pytest.raises(SettingError, match="hold the same parts"):
        words_of_files(mixed, GEMMA, (), Resources())
    stack = ((open_lora(LORA), Strengths(schedule=abs)),)
    with pytest.raises(SettingError, match="no list of points"):
        words_of_files(models, GEMMA, stack, Resources())
    with pytest.raises(SettingError, match="no card"):
        count_of(next(iter(PROCESSES)), "cpu")
    assert count_of("4", "cpu") == 4


def test_what_the_command_line_shows_becomes_progress_remarks_and_an_error(capfd):
    with Bars() as bars:
        for done in range(3):
            bars.report("sampling", done, 2)
        bars.say("The sound is silent \u2026")
    steps, remarks = [], []
    talk = Talk(Events(lambda *step: steps.append(step), on_remark=remarks.append), hidden="/nowhere/")
    shown = capfd.readouterr().err + "/nowhere/clip.mp4\nprocess 1: error: It is 3.\nerror: later\n"
    for byte in shown.encode():
        talk.hear(bytes([byte]))
    assert steps[0] == ("sampling", 0, 2) and steps[-1] == ("sampling", 2, 2) and len(steps) == len(set(steps))
    assert remarks == ["The sound is silent \u2026"] and talk.error == "It is 3."


@pytest.fixture
def program(monkeypatch):
    """Set what each process runs in place of the command line; one that sleeps is not waited for."""

    def run(text):
        monkeypatch.setattr(launch, "_PROGRAM", ("-c", f"import os, sys, time, signal\n{text}"))
        if "sleep" in text:
            monkeypatch.setattr(launch, "GRACE", 0.5)

    return run


FIRST = "first = os.environ['RANK'] == '0'\n"
BAR, ERROR = " 50%|  | 1/2 [", "print('process 1: error: no such file.'); sys.exit(2)"
WRITES = "target = sys.argv[-1].partition('=')[2]\nopen(target, 'w').write('half')\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (f"if first: print(end={BAR!r}, flush=True); time.sleep(30)\n{ERROR}", LTX2Error, "no such file."),
        ("if first: time.sleep(30)\nos.kill(os.getpid(), 9)", LostPeerError, "Process 1 of 2 was ended by SIGKILL"),
        (
            f"if first: print('error: {launch.GONE}.'); sys.exit(2)\nos.kill(os.getpid(), 9)",
            LostPeerError,
            "Process 1 of 2 was ended by SIGKILL",
        ),
        ("raise KeyError('a fault of ours')", LTX2Error, "last words were: KeyError: 'a fault of ours'"),
        ("sys.exit(0 if first else 3)", LTX2Error, "it said nothing"),
        ("if first: os.close(1); os.close(2); time.sleep(30)", LostPeerError, "did not end after the others"),
    ],
    ids=["refused", "killed", "missed", "fault", "silent", "asleep"],
)
def test_whoever_fails_is_told_in_a_sentence_and_nothing_is_left(program, tmp_path, text, kind, sentence):
    program(FIRST + WRITES + text)
    with pytest.raises(kind, match=sentence):
        make_together([], tmp_path / "clip.mp4", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cancelling_ends_all_of_them_with_what_they_started(program, tmp_path):
    """Also those that do not listen; what they have written is not left."""
    program(
        WRITES + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nchild = os.fork()\n"
        "if child: print('I am', os.getpid(), child, flush=True)\ntime.sleep(60)"
    )
    found = []

    def check():
        if len(found) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_together([], tmp_path / "clip.mp4", 2, Events(on_remark=found.append, check=check))
    assert list(tmp_path.iterdir()) == []
    until = time.monotonic() + 5
    numbers = [number for remark in found for number in remark.split()[2:]]
    assert len(numbers) == 4
    while any(map(_runs, numbers)) and time.monotonic() < until:  # orphans are reaped by init, in its own time
        time.sleep(0.02)
    assert not any(map(_runs, numbers))


def _runs(number: str) -> bool:
    try:
        return Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_much_is_heard_and_the_clip_is_moved_when_it_is_whole(program, tmp_path):
    program(FIRST + "print('x' * 300_000)\nif first: open(sys.argv[-1].partition('=')[2], 'w').write('whole')")
    heard = []
    make_together(["generate"], tmp_path / "clip.mp4", 2, Events(on_remark=heard.append))
    assert sum(map(len, heard)) == 600_000
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("clip.mp4", "whole")]


@pytest.mark.slow
def test_what_no_process_can_be_told_is_a_sentence(tmp_path):
    for prompt in ("a\0b", "a" * 200_000):
        with pytest.raises(UnreadableFileError, match="could not be started"):
            make_together([f"--prompt={prompt}"], tmp_path / "clip.mp4", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it():
    lines = (
        "import sys, time",
        "from ltx2_core import cli",
        "cli.COMMANDS['check'] = lambda _: (print('on', flush=True), time.sleep(60))",
        "sys.exit(cli.main(['check', 'clip.mp4']))",
    )
    words = [sys.executable, "-c", "\n".join(lines)]
    environment = os.environ | {launch._FOLLOWS: "yes"}
    with subprocess.Popen(words, cwd=launch._ROOT, env=environment, stdin=-1, stdout=-1) as worker:
        assert worker.stdout.readline() == b"on\n"
        worker.stdin.close()
        assert worker.wait(10) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_two_processes_make_the_clip_of_one(tmp_path):
    words = [*words_of_clip("a red ball bounces once", "", SMALL), "--device=cpu", "--precision=fp32"]
    steps = []
    kept = [tmp_path / f"{name}.safetensors" for name in ("alone", "together")]
    assert main(["generate", *words, f"--save-latent={kept[0]}", f"--output={tmp_path / 'alone.mp4'}"]) == 0
    events = Events(lambda *step: steps.append(step))
    make_together([*words, f"--save-latent={kept[1]}"], tmp_path / "together.mp4", 2, events)
    alone, together = (load_take(each).content for each in kept)
    assert relative_error(together.video, alone.video) <= 3e-6 and relative_error(together.audio, alone.audio) <= 3e-6
    assert ("sampling", 2, 2) in steps
    names = "alone.mp4", "alone.safetensors", "together.mp4", "together.safetensors"
    assert sorted(each.name for each in tmp_path.iterdir()) == [*names]
