"""Runs inside ComfyUI's own Python: its memory management and our stores share a card that is too small for both.

The card is the CPU under another name, and holds what this file says. Prints what happened as JSON.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

from inside import CARD, part, pretend_card

# The line above makes the host importable.
# isort: split
import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import nn

engine = part("nodes.engine")
host = part("nodes.host")
partition = part("ltx2_core.memory.partition")
placement = part("ltx2_core.memory.placement")
trace = part("ltx2_core.memory.trace")
blueprints = part("ltx2_core.pipeline.needs.blueprint")
plans = part("ltx2_core.pipeline.plan")
stages = part("ltx2_core.pipeline.stage")
settings = part("ltx2_core.settings")

MB = 10**6
ROOM, WORK, BLOCKS, BLOCK = 100 * MB, 20 * MB, 10, 8 * MB

known = []


def taken() -> int:
    """What lies on the card: our stores, and what the host has loaded there."""
    return sum(patcher.loaded_size() for patcher in known)


pretend_card(ROOM, taken)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1000, BLOCK // 4 // 1000, bias=False) for _ in range(BLOCKS))

    def forward(self, x):
        return torch.stack([block(x) for block in self.blocks]).sum(0)


class Core(nn.Module):
    """A model of somebody else's, loaded by the host."""

    def __init__(self, nbytes: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1000, nbytes // 8 // 4000, bias=False) for _ in range(8))


net = Net().requires_grad_(False)
network = engine.HostNetwork("transformer", CARD, torch.float32, lambda deferred: [net], "a test")
need = placement.StageNeed("sampling", partition.Weights.of(net), trace.Cost(peak=WORK), runs=4)


class Work(stages.Stage):
    """The only stage of the model below."""

    name = "sampling"
    networks = (stages.TRANSFORMER,)

    def need(self, blueprint):
        return need


class Model:
    """What an engine asks of a loaded model that has one network and no LoRA."""

    models, conditions = SimpleNamespace(sources={}, source=lambda name: None), None
    loras, other_devices, how = (), (), settings.Resources()
    dtypes = dict.fromkeys(("transformer",), torch.float32)
    shapes = blueprints.Blueprint("a test", {}, {}, None)

    def blueprint(self, gemma=None, wide=()):
        return self.shapes

    def network(self, key, dtype=None, loras=()):
        return network

    def adapters(self, key, prepared, device):
        return ()


x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
report, results = {}, []


def run(name: str, limits=None) -> None:
    with engine.HostEngine(Model(), limits).use(Work()) as ready:
        results.append(ready[stages.TRANSFORMER](x))
        most = taken()
    report[name] = {"resident": sum(network.patcher.store.staying), "most": most, "ours": network.patcher.loaded_size()}


known.append(network.patcher)
run("alone")
core = comfy.model_patcher.ModelPatcher(Core(56 * MB), load_device=CARD, offload_device=torch.device("cpu"))
known.append(core)
mm.load_models_gpu([core], memory_required=10 * MB)
report["core"] = {"theirs": core.loaded_size(), "ours": network.patcher.loaded_size(), "most": taken()}
run("after it")
report["after it"]["theirs"] = core.loaded_size()


def limits(nbytes: int):
    return plans.Plan("", placement.Room(host.machine(CARD), nbytes, 0))


run("under a plan", limits(60 * MB))
run("tight", limits(30 * MB))
mm.unload_all_models()
report["unloaded"] = {"ours": network.patcher.loaded_size(), "theirs": core.loaded_size()}
run("again")
try:
    run("too small", limits(21 * MB))
except ValueError as error:
    report["refused"] = str(error)
ask, asked = mm.load_models_gpu, []


def listen(models, memory_required=0, **more):
    asked.append(memory_required)
    return ask(models, memory_required=memory_required, **more)


class Recording(engine.HostEngine):
    """Places its stage with CUDA graphs, which keep 5 MB."""

    def placement(self, stage):
        placed = super().placement(stage)
        return replace(placed, need=replace(placed.need, graph_bytes=5 * MB))


mm.load_models_gpu = listen
with Recording(Model()).use(Work()):
    report["asked"] = [*asked]
host.ram = lambda: (64 * 2**30, 60 * 2**30)
report["pinned"] = [host.room(CARD).ram]
mm.MAX_PINNED_MEMORY = -1  # --disable-pinned-memory
report["pinned"].append(host.room(CARD).ram)
mm.unload_all_models()
# An integrated card: the host takes the pages of files that fill the RAM for taken.
memory = part("ltx2_core.memory.machine")
memory.is_integrated, memory.usable = (lambda device: True), (lambda device: ROOM - taken())
host.shares_ram = memory.shares_ram
mm.get_free_memory = lambda dev=None, torch_free_too=False: (30 * MB, 30 * MB) if torch_free_too else 30 * MB
mm.MAX_PINNED_MEMORY = 2**40
run("integrated")
report["pinned"].append(host.room(CARD).ram)
report["equal"] = all(torch.equal(result, results[0]) for result in results)
report["weights"] = need.weights.total
print(json.dumps(report))
