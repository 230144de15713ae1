"""CPU time from files to networks, beside others and at full size: python -m benchmarks.loading

Beside others: a transformer in bfloat16 under official names, whose pages the system has in memory, from its file to
the end of a pass over a few tokens. At full size: a checkpoint and Gemma of zeros that take no room on disk, alone in a
process of its own, which plans a clip of 1280 x 704 x 121 for a card of 24 GB, too; what it holds is the most that the
system counted, imports and pages of mapped files included.
"""

import json
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ltx2_core.checkpoint import build, open_models

from . import full_size, peers
from .block import LONG, inputs
from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, Case, Run, measure, table
from .weights import component, released

SIZE = replace(LONG, layers=8, clip=(2, 4, 8))
ROUNDS = 9  # each takes a second


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


def main(rounds: int = ROUNDS) -> str:
    """Measure, and return both tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        beside = table([measure(case_of(Path(folder) / "transformer.safetensors"), rounds)])
    about = "At full size, CPU seconds and memory (`python -m benchmarks.full_size`):"
    return f"{beside}\n\n{about}\n\n{full_size.table()}"


if __name__ == "__main__":
    print(main())
