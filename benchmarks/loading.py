"""CPU time from files to networks, beside others and at full size: python -m benchmarks.loading

Beside others: a transformer in bfloat16 under official names, whose pages the system has in memory, from its file to
the end of a pass over a few tokens. At full size: a checkpoint and Gemma of zeros that take no room on disk, alone in a
process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ltx2_core as ltx2
from ltx2_core.checkpoint import build, open_models

from . import peers
from .block import LONG, inputs
from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, ROUNDS, Case, Run, measure, table
from .markdown import markdown
from .no_card import write_model
from .weights import component, released

SIZE = replace(LONG, layers=8, clip=(2, 4, 8))


def case_of(path: Path) -> Case:
    """Write a file of random numbers, and return its case."""
    config = released("2.3")
    config["transformer"] = section = SIZE.section("2.3")
    save_file(component("transformer", config, dtype=SIZE.dtype)[1], path, {"config": json.dumps(config)})
    streams = inputs(section, SIZE, image=False)
    contenders: dict[str, Run] = {
        OURS: lambda: build(open_models(path), "transformer", torch.bfloat16)(*streams)[0],
    }
    if find_spec("ltx_core"):
        contenders[LTX_CORE] = lambda: peers.of_ltx_core(load_ltx_core(path), *streams)()[0]
    if find_spec("diffusers"):
        contenders[DIFFUSERS] = lambda: peers.of_diffusers(
            peers.diffusers(section, peers.bare(load_file(path))), *streams
        )()[0]
    if peers.find_comfy():
        from comfy.utils import load_torch_file

        contenders[COMFY] = lambda: peers.of_comfy(
            peers.comfy(section, peers.bare(load_torch_file(str(path)))), *streams, SIZE.clip
        )()[0]
    far = dict.fromkeys(contenders, 0.1)  # of numbers in bfloat16
    return Case(f"file of {path.stat().st_size / 1e9:.1f} GB to the end of a pass", contenders, far=far)


def load_ltx_core(path: Path) -> nn.Module:
    """Load the transformer with ltx-core's builder."""
    from ltx_core.loader.single_gpu_model_builder import SingleGPUModelBuilder
    from ltx_core.model.transformer.model_configurator import LTXV_MODEL_COMFY_RENAMING_MAP, LTXModelConfigurator

    builder = SingleGPUModelBuilder(LTXModelConfigurator, str(path), LTXV_MODEL_COMFY_RENAMING_MAP)
    network: nn.Module = builder.build(torch.device("cpu"), torch.bfloat16)
    return network


def at_full_size(version: str) -> dict[str, float]:
    """Open, inspect and build the files of a release; return CPU seconds of each, and the most memory in GB."""
    from ltx2_core.cli.inspect import inspect

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, gemma = write_model(Path(folder), version)
        before, last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        for name, act in (
            ("open", lambda: ltx2.open_models(checkpoint, gemma)),
            ("inspect", lambda: inspect(checkpoint)),
            ("build the transformer", lambda: build(ltx2.open_models(checkpoint), "transformer", torch.bfloat16)),
        ):
            kept = act()
            found[name], last = time.process_time() - last, time.process_time()
            del kept
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"most memory, GB": most / 1e6, "of it before": before / 1e6}


def apart(version: str) -> dict[str, float]:
    """Measure the files of a release in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--inside", version]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(rounds: int = ROUNDS) -> str:
    """Measure, and return both tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        beside = table([measure(case_of(Path(folder) / "transformer.safetensors"), rounds)])
    rows = {version: apart(version) for version in ("2.0", "2.3")}
    columns = list(next(iter(rows.values())))
    full = [[version, *(f"{each[name]:.2f}" for name in columns)] for version, each in rows.items()]
    return f"{beside}\n\nAt full size, CPU seconds:\n\n{markdown(['', *columns], full)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", choices=("2.0", "2.3"), help="full size alone, here and now, as JSON")
    inside = parser.parse_args().inside
    print(json.dumps(at_full_size(inside)) if inside else main())
