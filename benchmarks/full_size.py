"""CPU seconds and memory to open, inspect, plan and build files of full size: python -m benchmarks.full_size

A checkpoint and Gemma of zeros that take no room on disk, alone in a process of its own. The plan is that of a clip of
1280 x 704 x 121 on a card of 24 GB. What is held is the most that the system counted of the process (VmHWM, Linux
only): imports, and all pages of files that are mapped and read, included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import ltx2_core as ltx2
from ltx2_core.checkpoint import build
from ltx2_core.cli.inspect import inspect
from ltx2_core.memory.machine import CARDS, GIB
from ltx2_core.memory.placement import Room
from ltx2_core.pipeline.encode_text import contexts_cache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.pipeline.plan import Plan, plan_stages
from ltx2_core.pipeline.stages import Stages

from .markdown import markdown
from .no_card import write_model

VERSIONS = ("2.0", "2.3")
MOST_GB = 1.0  # of memory, whatever the files have
CLIP = {"width": 1280, "height": 704, "frames": 121}

_CARD, _RAM = CARDS["RTX 4090"], 64 * GIB


def plan_clip(models: ltx2.Models, room: Room) -> Plan:
    """Plan a clip of all stages, as ``generate`` does."""
    request = ltx2.Request.of("a red ball", cache=None, **CLIP).completed(recipe_of(models))
    engine = LocalEngine(models, request.request.resources)
    stages = Stages.of(request, engine, contexts_cache(engine, None))
    return plan_stages(stages, engine.blueprint, room, request.made, engine.load)


def measure(checkpoint: Path, gemma: Path) -> dict[str, float]:
    """Do it here and now; return the CPU seconds of each act, then the memory in GB."""
    torch.set_num_threads(1)
    before, found, kept = held("VmRSS"), dict[str, float](), list[object]()

    def timed(name: str, act: Callable[[], object]) -> None:
        begin = time.process_time()
        kept.append(act())
        found[name] = time.process_time() - begin

    timed("open", lambda: ltx2.open_models(checkpoint, gemma))
    models = kept[0]
    assert isinstance(models, ltx2.Models)
    timed("inspect", lambda: inspect(checkpoint))
    timed("plan", lambda: plan_clip(models, Room(_CARD, _CARD.budget, _RAM)))
    timed("build the transformer", lambda: build(models, "transformer", torch.bfloat16))
    return found | {"held, GB": held("VmHWM") / 1e9, "of it imports": before / 1e9}


def held(kind: str) -> int:
    """Return the bytes that this process has: "VmRSS" now, "VmHWM" at most since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def apart(version: str) -> dict[str, float]:
    """Measure the files of a release in a process of its own, and return their size beside what is found."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, gemma = write_model(Path(folder), version)
        command = [sys.executable, "-m", "benchmarks.full_size", "--files", str(checkpoint), str(gemma)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        size = sum(file.stat().st_size for file in (checkpoint, gemma / "model.safetensors"))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"files, GB": size / 1e9} | found


def table() -> str:
    """Measure both releases, and return the table, which says whether the limit of memory holds."""
    rows = {version: apart(version) for version in VERSIONS}
    columns = list(rows[VERSIONS[0]])
    cells = [[version, *(f"{each[name]:.2f}" for name in columns), verdict(each)] for version, each in rows.items()]
    return markdown(["", *columns, "held at most"], cells)


def verdict(found: dict[str, float]) -> str:
    """Say whether what is held is little enough."""
    return f"{MOST_GB:.0f} GB: {'met' if found['held, GB'] <= MOST_GB else 'missed: memory'}"


def main(arguments: list[str] | None = None) -> str:
    """Print the table, and return it; with files, what was measured of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs=2, type=Path, metavar=("MODEL", "GEMMA"), help="measure these, here and now")
    files = parser.parse_args(arguments).files
    print(text := json.dumps(measure(*files)) if files else table())
    return text


if __name__ == "__main__":
    main()
