"""CPU seconds of imports, the first clips of the miniature and the first plans at full size: python -m benchmarks.start

Every round is a process of its own, on one thread, without anything kept from before; the fastest round counts, since
other programs only add to it. The files of the release are made here, of zeros that take no room on disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from .markdown import markdown

PROMPTS = ("a red ball bounces twice on the left", "a blue ball bounces once in the middle")
CARD = "RTX 5090"  # that the plan is made for

Seconds = dict[str, float]


def clips() -> Seconds:
    """Make two clips of the miniature with other prompts, after importing torch."""
    import torch

    torch.set_num_threads(1)
    start = time.process_time()
    from ltx2_core.cli import main as command_line

    found = {"import, torch excepted": time.process_time() - start}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        for name, prompt in zip(("first clip, imports included", "second clip, another prompt"), PROMPTS):
            output = str(Path(folder) / f"{name}.mp4")
            assert command_line(["generate", "--prompt", prompt, "--no-cache", "--seed", "7", "--output", output]) == 0
            found[name], start = time.process_time() - start, time.process_time()
    return found


def plan(version: str) -> Seconds:
    """Open files of full size and plan a clip, twice."""
    import torch

    import ltx2_core as ltx2
    from ltx2_core.memory.machine import CARDS, GIB
    from ltx2_core.memory.placement import Room

    from .full_size import plan_clip
    from .no_card import write_model

    torch.set_num_threads(1)
    card, found = CARDS[CARD], Seconds()
    room = Room(card, card.budget, 64 * GIB)
    with tempfile.TemporaryDirectory() as folder:
        files = write_model(Path(folder), version)
        start = time.process_time()
        models = ltx2.open_models(*files)
        found[f"open {version}"] = time.process_time() - start
        for name in ("first", "second"):
            start = time.process_time()
            plan_clip(models, room)
            found[f"{name} plan of {version}"] = time.process_time() - start
    return found


def apart(*words: str) -> Seconds:
    """Measure one round in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.start", *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found: Seconds = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(version: str, rounds: int) -> Seconds:
    """Return the fewest CPU seconds of each row in so many rounds."""
    measured = [apart("--inside", "clips") | apart("--inside", "plan", "--version", version) for _ in range(rounds)]
    return {name: min(each[name] for each in measured) for name in measured[0]}


def main(arguments: list[str] | None = None) -> str:
    """Print the table, and return it; a process inside prints what it measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="2.3", choices=("2.0", "2.3"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", choices=("clips", "plan"), help="one round, here and now")
    options = parser.parse_args(arguments)
    if options.inside:
        print(text := json.dumps(clips() if options.inside == "clips" else plan(options.version)))
        return text
    rows = [[name, f"{seconds:.2f}"] for name, seconds in measure(options.version, options.rounds).items()]
    print(table := markdown(["", "CPU seconds"], rows))
    return table


if __name__ == "__main__":
    main()
