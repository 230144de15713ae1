"""Many clips: each line is checked, made once and whole, and what goes wrong with one stops no other."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ltx2_core.cli import main, maker
from ltx2_core.cli.files import digest_of
from ltx2_core.errors import OutOfMemoryError
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.read_ahead import ReadInTurn
from ltx2_core.pipeline.stage import TRANSFORMER, VIDEO_DECODER

ROOT = Path(__file__).parents[3]
LORA = ROOT / "ltx2_core" / "mini" / "loras" / "light-room.safetensors"
SMALL = ["--frames", "9", "--width", "64", "--height", "64", "--steps", "1", "--device", "cpu"]
EIGHT = [{"prompt": f"a red ball bounces {n} times", "seed": n, "output": f"clip{n}"} for n in range(8)]


def lines_of(folder: Path, *lines) -> str:
    path = folder / "clips.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines))
    return str(path)


@pytest.fixture
def made(monkeypatch):
    """The requests of all clips, of which noise is made; those whose prompt begins with "fail" raise."""
    requests, words = [], []

    def run_complete(models, complete, engine, sampled):
        requests.append(request := complete.request)
        if request.prompt.startswith("fail twice") or (request.prompt.startswith("fail") and len(requests) == 1):
            raise OutOfMemoryError("Memory ran out: it was full.")
        frames = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(request.sampling.seed))
        clip = SimpleNamespace(chunks=(frames,), fps=request.clip.fps, waveform=None, sample_rate=None, grading=None)
        clip.tags = {}
        return [clip] * request.clip.batch_size

    def read_ahead(models, request, prompts, folder, events):
        words.append(list(prompts))
        return len(words)

    monkeypatch.setattr(maker, "run_complete", run_complete)
    monkeypatch.setattr(maker, "read_ahead", read_ahead)
    return SimpleNamespace(requests=requests, words=words)


def report_in(folder: Path) -> dict[int, tuple[str, str]]:
    found = json.loads((folder / "report.json").read_text())["clips"]
    return {each["line"]: (each["state"], each["reason"]) for each in found}


def test_what_is_there_is_not_made_again(made, tmp_path, capsys):
    out = tmp_path / "out"
    clips = lines_of(tmp_path, {"prompt": "a", "seed": 1}, "", {"prompt": "b", "output": "sub/b.mp4"})
    assert main(["batch", clips, "--output", str(out), "--width", "64"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "line_0001.mp4"), str(out / "sub" / "b.mp4")]
    found = [(each.prompt, each.sampling.seed, each.clip.width) for each in made.requests]
    assert found == [("a", 1, 64), ("b", 0, 64)]
    assert main(["batch", clips, "--output", str(out), "--width", "64"]) == 0
    assert len(made.requests) == 2 and capsys.readouterr().out == ""
    assert {line: state for line, (state, _) in report_in(out).items()} == {1: "there already", 3: "there already"}
    (out / "sub" / "b.mp4").unlink()
    assert main(["batch", clips, "--output", str(out), "--width", "64"]) == 0
    assert len(made.requests) == 3 and (out / "sub" / "b.mp4").is_file()


def test_what_is_there_with_other_settings_is_replaced_only_if_that_is_asked_for(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["batch", lines_of(tmp_path, {"prompt": "a", "seed": 1}), "--output", str(out)]) == 0
    before, other = (out / "line_0001.mp4").read_bytes(), lines_of(tmp_path, {"prompt": "a", "seed": 2})
    assert main(["batch", other, "--output", str(out)]) == 2
    assert "line 1: line_0001.mp4 is there with other settings" in capsys.readouterr().err
    assert (out / "line_0001.mp4").read_bytes() == before
    own = lines_of(tmp_path, {"prompt": "a", "seed": 3, "overwrite": True})
    assert main(["batch", own, "--output", str(out)]) == 0 and len(made.requests) == 2
    other = lines_of(tmp_path, {"prompt": "a", "seed": 2})
    assert main(["batch", other, "--output", str(out), "--overwrite"]) == 0
    assert (out / "line_0001.mp4").read_bytes() != before


def test_what_is_logged_of_a_clip_begins_with_its_name(made, tmp_path, capsys, monkeypatch):
    """Of a plain one nothing is: the folder of finished windows is none that anybody has asked for."""
    log, check = logging.getLogger("ltx2_core.pipeline"), maker.check_clip
    monkeypatch.setattr(maker, "check_clip", lambda *given: log.warning("it is looked at.") or check(*given))
    clips = lines_of(tmp_path, {"prompt": "a"}, {"prompt": "b", "feather": 2}, {"prompt": "c", "window": 97})
    assert main(["batch", clips, "--output", str(tmp_path / "out"), *SMALL]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "looked at" in line] == [f"line_000{n}.mp4: it is looked at." for n in (1, 2, 3)]
    unused = [line for line in said if "is not used" in line]
    assert unused and {*unused} == {"line_0002.mp4: --feather is not used: it counts only with --mask."}
    assert [each.resume for each in made.requests] == [None, None, tmp_path / "out" / ".windows"]


def test_another_picture_of_the_same_name_is_another_setting(made, tmp_path, capsys):
    out, picture = tmp_path / "out", tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    clips = lines_of(tmp_path, {"prompt": "a", "image": f"0:{picture}:0.9", "frames": 9})
    assert main(["batch", clips, "--output", str(out)]) == main(["batch", clips, "--output", str(out)]) == 0
    assert len(made.requests) == 1
    Image.new("RGB", (64, 64), "blue").save(picture)
    assert main(["batch", clips, "--output", str(out)]) == 2
    assert "with other settings" in capsys.readouterr().err
    assert main(["batch", clips, "--output", str(out), "--overwrite"]) == 0
    assert len(made.requests) == 2


class InOrder(list):
    """In place of a set, which has another order in each process."""

    def __and__(self, others):
        return [each for each in self if each in others]


def test_files_count_in_one_order_in_every_process(tmp_path):
    values = {flag: str(tmp_path / flag) for flag in ("image", "lora", "source")}
    for flag in values:
        (tmp_path / flag).write_text(flag)
    digests = {digest_of(values, SimpleNamespace(files=InOrder(order))) for order in permutations(values)}
    assert len(digests) == 1


def test_lines_that_cannot_be_are_told_before_the_first_clip_is_made(made, tmp_path, capsys):
    clips = lines_of(
        tmp_path, {"prompt": "a"}, {"prompt": "a", "frame": 9}, "{", "[1]", {"prompt": "a", "image": "no.png"},
        {"prompt": "a", "output": "../a.mp4"}, {"prompt": "a", "output": "Line_0001.mp4"}, {"prompt": "a", "steps": -1},
        {"seed": 1}, {"prompt": "a", "output": "a.doc"},
        {"prompt": "a", "checkpoint": "no.file", "decode_tile_size": 64, "decode_tile_overlap": 64},
        {"prompt": "a", "width": 32, "height": 32}, {"prompt": "a", "output": f"new/{'x' * 300}.mp4"},
        {"prompt": "a\0b"},
    )  # fmt: skip
    assert main(["batch", clips, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    facts = {2: "Did you mean frames?", 3: "no JSON", 4: "a list", 5: "no.png", 6: "'../a.mp4'", 7: "line 1 makes",
             8: "steps is -1", 9: "no prompt", 10: ".doc", 11: "64 pixels cannot overlap by 64",
             12: "1x1 is too small", 13: "too long", 14: "write a text"}  # fmt: skip
    for number, fact in facts.items():
        (line,) = [each for each in said if each.startswith(f"clips.jsonl, line {number}: ")]
        assert fact in line
    told = max(said.index(each) for each in said if ", line " in each)
    assert told < said.index("14 clips: 1 to make, 0 there already.")
    assert said[-1].startswith("error: 13 of 14 clips are missing") and len(made.requests) == 1
    assert report_in(tmp_path / "out")[2] == ("refused", "There is no setting 'frame'. Did you mean frames?")


def test_a_clip_that_fails_is_tried_once_more_and_stops_no_other(made, tmp_path, capsys):
    clips = lines_of(tmp_path, {"prompt": "fail once"}, {"prompt": "fail twice"}, {"prompt": "b"})
    assert main(["batch", clips, "--output", str(tmp_path / "out")]) == 2
    assert [each.prompt for each in made.requests] == ["fail once"] * 2 + ["fail twice"] * 2 + ["b"]
    found = report_in(tmp_path / "out")
    assert {line: state for line, (state, _) in found.items()} == {1: "made", 2: "failed", 3: "made"}
    assert found[2][1] == "Memory ran out: it was full." and "line 2: Memory ran out" in capsys.readouterr().err
    assert not (tmp_path / "out" / "line_0002.mp4").exists()


@pytest.mark.parametrize(
    "first, second", [("sub", "sub/a.mp4"), ("sub/a.mp4", "Sub"), ("\u00e9.mp4", "e\u0301.mp4"), ("a.mp4/b", "a.mp4")]
)
def test_files_that_would_be_in_each_others_place_are_told_before_the_first_is_made(
    made, tmp_path, capsys, first, second
):
    """Some systems take both ways to write an accent for the same."""
    clips = lines_of(tmp_path, {"prompt": "a", "output": first}, {"prompt": "b", "output": second})
    assert main(["batch", clips, "--output", str(tmp_path / "out")]) == 2
    assert len(made.requests) == 1
    assert "line 2: " in (said := capsys.readouterr().err) and "line 1 makes" in said


def test_half_of_a_letter_is_no_name(made, tmp_path, capsys):
    """As JavaScript cuts an emoji, and JSON writes it."""
    clips = lines_of(tmp_path, '{"prompt": "a", "output": "\\ud83d.mp4"}', {"prompt": "b"})
    assert main(["batch", clips, "--output", str(tmp_path / "out")]) == 2
    assert len(made.requests) == 1 and "has letters that no file can have" in capsys.readouterr().err


def test_a_table_has_the_same_settings(made, tmp_path):
    (tmp_path / "red.csv").write_text('prompt,seed,stg_blocks,stg_blocks,steps\n"a, b",3,1,2,\n')
    assert main(["batch", str(tmp_path / "red.csv"), "--output", str(tmp_path / "out")]) == 0
    (request,) = made.requests
    assert request.prompt == "a, b" and request.sampling.seed == 3 and request.guidance.video.stg_blocks == (1, 2)
    (tmp_path / "red.csv").write_text("promt\nx\n")
    assert main(["batch", str(tmp_path / "red.csv"), "--output", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "\ufeffprompt;seed\r\na red ball;3\r\n".encode()),
        ("a.csv", "prompt\tseed\na red ball\t3\n".encode("utf-16")),
        ("a.csv", b'# "which"\n\nsep=;\nPrompt;seed;;\n# a comment;\na red ball;3.0;;\n;;;\n'),
        ("a.tsv", b"prompt\tseed\ra red ball\t3\r"),
        ("a.jsonl", b'# which ball\r\n\r\n{"prompt": "a red ball", "seed": 3}\r\n'),
        ("a.txt", "a red ball".encode("utf-16")),
    ],
)
def test_lines_are_read_as_spreadsheets_editors_and_shells_write_them(made, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert main(["batch", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 0
    assert [each.prompt for each in made.requests] == ["a red ball"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.doc", "{}"),
        ("a.txt", "# no prompt\n"),
        ("a.jsonl", "\n \n"),
        ("a.csv", ""),
        ("a.csv", 'prompt\n"a\nb\n'),
        ("a.csv", "a red ball\n"),
        ("a.jsonl", b"no\0text"),
    ],
)
def test_files_that_are_no_batch(name, text, tmp_path, capsys):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["batch", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
    assert name in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_seed_0_is_that_of_a_line_without_a_seed(made, tmp_path):
    for line in ({"prompt": "a"}, {"prompt": "a", "seed": 0}):
        assert main(["batch", lines_of(tmp_path, line), "--output", str(tmp_path / "out")]) == 0
    assert len(made.requests) == 1


def test_each_prompt_of_a_list_is_made_with_each_seed_and_named_by_both(made, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("# two of them\nA red ball, once!\n\na red ball once\n")
    out = tmp_path / "out"
    words = ["batch", str(tmp_path / "list.txt"), "--seeds", "7,9-10", "--output", str(out)]
    assert main(words) == 0
    names = [f"a_red_ball_once{number}_seed{seed}.mp4" for number in ("", "_2") for seed in (7, 9, 10)]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert [(each.prompt, each.sampling.seed) for each in made.requests] == [
        (prompt, seed) for prompt in ("A red ball, once!", "a red ball once") for seed in (7, 9, 10)
    ]
    (out / names[4]).unlink()
    assert main(words) == 0 and len(made.requests) == 7 and len(made.words) == 2


def test_one_prompt_is_made_with_many_seeds_and_lines_may_have_names(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["batch", "--prompt", "a cat", "--seeds", "1 2", "--output", str(out)]) == 0
    clips = lines_of(tmp_path, {"prompt": "a", "output": "sub/b.mp4"}, {"prompt": "a"}, {"prompt": "a", "seed": 3})
    assert main(["batch", clips, "--seeds", "4", "--output", str(out)]) == 2
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.mp4")}
    assert names == {"a_cat_seed1.mp4", "a_cat_seed2.mp4", "sub/b_seed4.mp4", "line_0002_seed4.mp4"}
    assert "line 3: it has a seed of its own" in capsys.readouterr().err
    assert main(["batch", "--seeds", "1", "--output", str(out)]) == 2
    assert "There is no clip" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "fact"), [("x", "'x'"), ("3-1", "1-3"), ("0-2000", "1,000"), (str(2**64), "is 1844")])
def test_what_is_no_seed_is_one_sentence(text, fact, capsys):
    assert main(["batch", "--prompt", "a", "--seeds", text, "--output", "out"]) == 2
    assert fact in capsys.readouterr().err


def test_models_are_opened_and_prompts_read_once(made, tmp_path, monkeypatch):
    opened, models_of = [], maker.models_of
    monkeypatch.setattr(maker, "models_of", lambda options: opened.append(1) or models_of(options))
    clips = lines_of(tmp_path, *({"prompt": f"ball {n % 3}", "seed": n} for n in range(6)))
    assert main(["batch", clips, "--output", str(tmp_path / "out"), "--negative", "dull"]) == 0
    assert len(opened) == 1 and len(made.words) == 1 and set(made.words[0]) == {"ball 0", "ball 1", "ball 2", "dull"}


def test_remains_of_a_run_that_was_killed_go_away(made, tmp_path):
    out = tmp_path / "out"
    (out / ".line_0001.0123abcd").mkdir(parents=True)
    (out / ".line_0001.0123abcd.mp4").write_text("half")
    (out / ".other.0123abcd.mp4").write_text("not ours")
    assert main(["batch", lines_of(tmp_path, {"prompt": "a"}), "--output", str(out)]) == 0
    assert {path.name for path in out.glob(".*.*")} == {".line_0001.0123abcd", ".other.0123abcd.mp4"}


def test_workers_need_ray(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--output", str(tmp_path / "out"), "--workers", "2"]
    assert main(["batch", lines_of(tmp_path, {"prompt": "a"}), *words]) == 2
    assert "pip install" in capsys.readouterr().err


# Whole clips of the miniature, whose pictures and sounds are equal byte for byte


def clips_in(folder: Path) -> dict[str, bytes]:
    """The content of all files but the report."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The file of eight clips, and what one process makes of it, which reads Gemma and builds the transformer once."""
    folder, reads, built = tmp_path_factory.mktemp("eight"), [], []
    clips, run, build = lines_of(folder, *EIGHT), ReadInTurn.run, LocalEngine._build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadInTurn, "run", lambda *args: reads.append(1) or run(*args))
        patch.setattr(LocalEngine, "_build", lambda *args: built.append(args[1]) or build(*args))
        assert main(["batch", clips, "--output", str(folder / "out"), *SMALL]) == 0
    assert len(reads) == 1 and built.count(TRANSFORMER) == 1 and built.count(VIDEO_DECODER) == 8
    return clips, clips_in(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_clips_are_the_same_whichever_were_made_before(folded, tmp_path):
    """With and without a LoRA, larger, and in fewer bits: what is kept of a clip does not reach the next one."""
    lines = [
        {"prompt": "a red ball", "output": "plain"},
        {"prompt": "a red ball", "output": "lora", "lora": f"{LORA}:0.7"},
        {"prompt": "a blue ball", "output": "larger", "width": 96, "lora": f"{LORA}:1.3"},
        {"prompt": "a red ball", "output": "int8", "format": "int8"},
    ]
    outs = [tmp_path / "there", tmp_path / "back"]
    for out, order in zip(outs, (lines, lines[::-1])):
        more = ["--fold-loras"] * folded
        assert main(["batch", lines_of(tmp_path, *order), "--output", str(out), *SMALL, *more]) == 0
    found, again = map(clips_in, outs)
    assert found == again and len(set(found.values())) == len(found)


@pytest.fixture
def start():
    """Starts a batch in a process of its own, which does not outlive the test."""
    processes = []

    def start(clips: str, out: Path, *more: str, **environment: str) -> subprocess.Popen:
        words = ["-m", "ltx2_core", "batch", clips, "--output", str(out), *SMALL, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        processes.append(subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment))
        return processes[-1]

    yield start
    for each in processes:
        each.kill()


def wait_for_clips(out: Path, count: int) -> None:
    until = time.monotonic() + 200
    while len(list(out.glob("clip*"))) < count:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_batch_that_was_stopped_goes_on_from_there(eight, tmp_path, start):
    """After it was asked to end, and after it was killed."""
    (clips, whole), there = eight, {}

    def finished() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("clip*")}

    for sign, count in (("SIGTERM", 2), ("SIGKILL", 4)):
        batch = start(clips, tmp_path)
        wait_for_clips(tmp_path, count)
        batch.send_signal(getattr(signal, sign))
        assert batch.wait(60) != 0 and there.items() <= finished().items()
        there = finished()
        assert count <= len(there) < 8
    assert main(["batch", clips, "--output", str(tmp_path), *SMALL]) == 0 and clips_in(tmp_path) == whole
    assert there.items() <= finished().items()


@pytest.fixture
def ray_folder():
    """Where Ray keeps its sockets and logs; their names have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield {"RAY_TMPDIR": folder}


def worker_of(driver: subprocess.Popen) -> int | None:
    """A process that makes a clip for this one now."""
    psutil = pytest.importorskip("psutil")
    for child in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.Error):  # of one that has just ended
            if any("Worker.make" in word for word in child.cmdline()):
                return child.pid
    return None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_two_workers_make_all_clips_although_the_driver_and_then_a_worker_are_killed(
    eight, tmp_path, start, ray_folder
):
    clips, whole = eight
    driver = start(clips, tmp_path, "--workers", "2", **ray_folder)
    wait_for_clips(tmp_path, 2)
    driver.kill()
    driver.wait(60)
    there = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("clip*")}
    assert 2 <= len(there) < 8
    driver = start(clips, tmp_path, "--workers", "2", **ray_folder)
    while (worker := worker_of(driver)) is None:
        assert driver.poll() is None
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    assert driver.wait(200) == 0 and clips_in(tmp_path) == whole
    assert {state for state, _ in report_in(tmp_path).values()} <= {"made", "there already"}
    assert all((tmp_path / name).stat().st_mtime_ns == moment for name, moment in there.items())
