"""Several processes compute each pass together: the numbers of one process, and one sentence when one fails."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sequences
import torch
from sequences import HEADS, SIZES, Threads, farthest, questions, transformer

from ltx2_core import tiny
from ltx2_core.cli.together import check_command
from ltx2_core.errors import SettingError
from ltx2_core.pipeline.engines.processes import Launch
from ltx2_core.transformer import ImaginedPeers, SequenceParallel, check_heads

ROOT = Path(__file__).parents[3]


def test_shares_of_the_tokens_give_the_whole():
    network = transformer("2.3")
    _, passes = next(questions(network))

    def ask(peers):
        shared = SequenceParallel(network, network.config, peers)
        return max(farthest(network.sweep(passes), shared.sweep(passes)) for _ in range(2))

    assert max(Threads(2).run(ask)) <= 1e-6


def test_a_plan_counts_what_goes_to_the_others():
    peers, x = ImaginedPeers(4), torch.empty(4, 16)
    assert peers.exchange(x).shape == x.shape and peers.sent == 3 * 16 * 4  # all but the own row
    assert peers.gather(x[0]).shape == x.shape and peers.sent == 2 * 3 * 16 * 4


def test_heads_that_cannot_be_shared_are_refused():
    config = transformer("2.3").config
    with pytest.raises(SettingError, match=f"3 processes .* {HEADS} heads .*: start 2, 4"):
        check_heads(config, 3)


def started(count: int, *words: list[str]) -> list[subprocess.Popen]:
    """Processes as torchrun starts them, without its own; each has its words, or all those of the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, *words[min(rank, len(words) - 1)]], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
        )
        for rank in range(count)
    ]  # fmt: skip


def said(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """The exit status of each, and what it said; the others have ten seconds when one fails."""
    while any(each.poll() is None for each in processes) and not any(each.poll() for each in processes):
        time.sleep(0.05)
    limit = 10 if any(each.poll() for each in processes) else 60
    try:
        heard = [each.communicate(timeout=limit) for each in processes]
    finally:
        for each in processes:
            each.kill()
    return [(each.returncode, *lines) for each, lines in zip(processes, heard)]


@pytest.mark.slow
def test_gloo_processes_compute_what_one_does(tmp_path):
    """Velocities with everything a pass may bring; and latents, in which guidance enlarges the rounding of two steps.

    That it is rounding is seen in float64, where it is as much smaller as numbers are finer.
    """
    for version in ("2.0", "2.3"):
        tiny.write(tmp_path, version, transformer=SIZES)
    clips = ["2.0 reference", "2.3 retake"]
    processes = started(4, [sequences.__file__, str(tmp_path), *clips])
    (status, lines, errors), *_ = said(processes)
    assert status == 0, errors
    found = json.loads(lines)
    assert max(found["velocities"].values()) <= 1e-6, found
    assert max(found["latents"].values(), default=0.0) <= 3e-6, found
    assert max(found["doubles"].values(), default=0.0) <= 1e-12, found
    assert len(found["latents"]) == len(found["doubles"]) == 2 * len(clips)


GENERATE = ["-m", "ltx2_core", "generate", "--prompt", "a red ball bounces once", "--frames", "9", "--width", "64",
            "--height", "64", "--steps", "1", "--device", "cpu"]  # fmt: skip


@pytest.mark.slow
def test_torchrun_makes_one_clip_and_one_process_speaks_and_says_what_is_gained(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launch, *GENERATE, "--vram", "1", "--output", str(tmp_path / "clip.mp4")]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(tmp_path / "clip.mp4")]
    (gain,) = (line for line in found.stderr.splitlines() if "s a step" in line)
    assert "sampling with torchrun on 2 cards" in gain and "; one card alone takes" in gain
    assert [each.name for each in tmp_path.iterdir()] == ["clip.mp4"]


JOIN_AND_LEAVE = """
import os
from ltx2_core.pipeline.engines.processes import Launch, joining
with joining(Launch.of_environment()):
    os._exit(9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("other", ["refused", "killed"])
def test_one_sentence_says_why_all_end(other, tmp_path):
    """Of a process that cannot go on, or of the others if it could say nothing; nothing is written."""
    target = tmp_path / "clip.mp4"
    words = [*GENERATE, "--output", str(target)]
    second = [*words, "--image", "nowhere.png"] if other == "refused" else ["-c", JOIN_AND_LEAVE]
    (first_status, _, first), (status, _, last) = said(started(2, words, second))
    assert first_status == 2 and status in (2, 9)
    reasons = [line for line in (first + last).splitlines() if "error:" in line]
    assert len(reasons) == 1 and ("nowhere.png" if other == "refused" else "Another process") in reasons[0]
    assert list(tmp_path.iterdir()) == []


def test_other_commands_are_refused():
    with pytest.raises(SettingError, match="batch"):
        check_command("batch", Launch(0, 2))
    check_command("batch", Launch())
