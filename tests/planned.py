"""What tests of plans have in common: a plain clip's plan, and a transformer that is small enough to run."""

import torch

from ltx2_core import tiny
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.geometry import ClipShape
from ltx2_core.memory import Placement, Room, StageNeed, Store
from ltx2_core.memory.machine import Machine
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.needs.passes import need_of_passes
from ltx2_core.pipeline.plan import Plan, plan_stages
from ltx2_core.pipeline.sample import Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.pipeline.stages import PLANNED_PASSES, stages_of_clip
from ltx2_core.transformer import Transformer

STEPS = 8
SAMPLING = Sampling(tuple(1 - step / STEPS for step in range(STEPS + 1)))
REFINING = Sampling((0.9, 0.7, 0.4, 0.0))
RATES = ("products", "products8", "convolutions", "attention", "bandwidth", "link", "disk")
SLOW = Machine("slow", memory=0, **dict.fromkeys(RATES, 1e9) | {"link": 100, "disk": 10})


def sampling(blueprint: Blueprint, size: LatentSize, passes: int = 1, stg_block: int = 0) -> StageNeed:
    """What so many of PLANNED_PASSES need."""
    return need_of_passes(blueprint, size, PLANNED_PASSES[:passes], STEPS, stg_block)


def plan(blueprint: Blueprint, shape: ClipShape, machine: Machine, *, budget: int | None = None, ram: int = 0) -> Plan:
    """Plan a plain clip."""
    room = Room(machine, machine.budget if budget is None else budget, ram)
    return plan_stages(stages_of_clip(blueprint, shape, SAMPLING), blueprint, room, shape)


def follow(store: Store, placement: Placement) -> None:
    """Let a store keep and stream what was planned, from its next use on, as an engine does."""
    store.stream_by(placement.unit, placement.slots or 2)
    store.set_budget(placement.weight_budget)


def small(version: str, layers: int = 3) -> Blueprint:
    """A release with a transformer small enough to be run, but wide enough that tokens count."""
    numbers = {
        "num_layers": layers, "num_attention_heads": 4, "attention_head_dim": 32, "cross_attention_dim": 128,
        "audio_num_attention_heads": 4, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 64,
        "caption_channels": 96,
    }  # fmt: skip
    config = tiny.config(version)
    config["transformer"] |= numbers
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(config, {})
    return Blueprint("small", config, {"transformer": network.state_dict()}, None)


def seeded(found: Blueprint) -> Transformer:
    """The transformer of ``small``, of random numbers that are the same each time."""
    network, generator = running(found), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter.shape[-1]) ** 0.5)
    return network


def running(found: Blueprint) -> Transformer:
    """The transformer of ``small``, of zeros."""
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(found.config, {})
    network = network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    return network
