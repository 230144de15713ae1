"""Runs inside ComfyUI's own Python: one request, by the engine of the core and by that of the pack.

In the folder are tiny models. Prints hashes of what each engine made as JSON, which stages streamed their weights,
what keeps steps of the host's transformer from being CUDA graphs, and how many networks with other LoRAs are left.
"""

import json
import weakref
from dataclasses import replace

from clip_request import digest, request_of
from inside import CARD, folder, part, pretend_card

# The line above makes the host importable.
# isort: split
import torch

torch.set_num_threads(1)
encoders, upscalers = part("ltx2_core.checkpoint.text_encoder"), part("ltx2_core.checkpoint.upscaler")
engine, generate = part("nodes.engine"), part("ltx2_core.pipeline.generate")
machine, placement = part("ltx2_core.memory.machine"), part("ltx2_core.memory.placement")

opened = part("ltx2_core.checkpoint").open_models(folder / "ltx-2.3-tiny.safetensors", folder / "gemma-tiny")
upscaler = upscalers.open_upscaler(folder / "ltx-upscaler-tiny.safetensors")


def core(name: str):
    return part(f"ltx2_core.{name}")


class Tight(engine.HostEngine):
    """Follows the plan with as little of the card, or of the RAM where there is none, as each stage can do with."""

    def follow(self, plan):
        card, in_ram = machine.CARDS["RTX 4070"], plan.room.in_ram
        rooms = [placement.Room(card, placement.least_bytes(p.need), 10**9, in_ram) for p in plan.placements]
        tight = [placement.place(p.need, room) for p, room in zip(plan.placements, rooms)]
        self.streamed = [each.need.name for each in tight if each.slots]
        super().follow(replace(plan, placements=tuple(tight)))


class Networks:
    """A model, a text encoder and an upscaler as the loaders of the pack hand them out."""

    def __init__(self, *others: torch.device):
        self.model = engine.LoadedModel(opened, "fp32", other_devices=others)
        self.gemma = engine.LoadedGemma(encoders.open_text_encoder(folder / "gemma-tiny"), "fp32")
        self.upscaler = engine.LoadedUpscaler(upscaler)

    def loaded_bytes(self) -> int:
        """Return what lies on the card."""
        used = [*self.model._networks.values(), self.gemma.network, self.upscaler.network]
        return sum(network.patcher.loaded_size() for network in used)

    def clip(self, kind):
        """Make the clip with an engine of this kind; return its hashes and the engine."""
        owner = kind(self.model, gemma=self.gemma)
        return digest(generate.run(opened, request_of(core, self.upscaler), owner)), owner


made = {"local": digest(generate.run(opened, request_of(core, upscaler)))}
known = Networks()
made["host"], _ = known.clip(engine.HostEngine)
transformer = known.model.network(part("ltx2_core.pipeline.stage").TRANSFORMER).built().modules[0]
with transformer.graphed() as graphed:
    obstacle = graphed._lasting_obstacle(torch.device("cpu"))
part("nodes.host").ram = lambda: (20 * 2**30, 3 * 2**30)  # of which a tenth of the whole stays free
made["host, little RAM"], in_ram = Networks().clip(Tight)
on_a_card = None
pretend_card(10**9, lambda: on_a_card.loaded_bytes())
on_a_card = Networks()
made["host, tight"], tight = on_a_card.clip(Tight)
devices = part("ltx2_core.pipeline.engines.devices")
twins = []


class Counted(devices.Devices):
    def __init__(self, workers, layers):
        super().__init__(workers, layers)
        twins.append(len(workers) - 1)


devices.Devices = Counted
on_a_card = Networks(CARD, CARD)
made["host, three cards"], _ = on_a_card.clip(engine.HostEngine)
made["host, three cards again"], _ = on_a_card.clip(Tight)
lora, key = part("ltx2_core.lora"), part("ltx2_core.pipeline.stage").TRANSFORMER
folding = engine.LoadedModel(opened, "fp32", part("ltx2_core.settings").Resources(fold_loras=True))
ball = part("ltx2_core.checkpoint.models").MINIATURE / "loras" / "golden-ball.safetensors"


def tried(strength: float):
    """Return the network of a strength that its user then changes."""
    return weakref.ref(folding.with_loras((lora.open_lora(ball), lora.Strengths(strength))).network(key))


folded = sum(network() is not None for network in [tried(0.5), tried(0.6), tried(0.7)])
streamed = {"streamed": tight.streamed, "in RAM": in_ram.streamed}
print(json.dumps({"made": made, **streamed, "twins": twins, "graphs": obstacle, "folded": folded}))
