"""Will it fit, and how long will it take?"""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.memory.placement import Room
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph import GraphLatent
from ..ltx2_core.pipeline.plan import Plan, plan_stages
from ..ltx2_core.pipeline.sample import Sampling
from ..ltx2_core.pipeline.stage import TRANSFORMER
from ..ltx2_core.pipeline.stages import stages_of_clip
from ..ltx2_core.sampling import StreamGuidance
from ..ltx2_core.settings import Resources
from . import host
from .engine import GemmaLike, HostEngine, LoadedModel
from .inputs import optional, sockets, widgets
from .node import Node
from .values import Latent, PlanType


class MemoryPlan(Node):
    """Says where weights will be and how long each stage takes; loads nothing."""

    id = "LTX2AVPlan"
    title = "loaders/Memory Plan"
    inputs = [
        sockets("model", "latent"),
        widgets(Resources, "max_vram", "max_ram", optional=False),
        optional("gemma", "sigmas", "guidance"),
    ]
    outputs = {"plan": PlanType, "report": io.String}
    shows = ends_graph = True

    @classmethod
    def execute(
        cls, model: LoadedModel, latent: Latent, gemma: GemmaLike | None = None, sigmas: Tensor | None = None,
        guidance: StreamGuidance | None = None, **limits: Any
    ) -> io.NodeOutput:  # fmt: skip
        engine, recipe, most = HostEngine(model, gemma=gemma), recipe_of(model.models), Resources(**limits)
        steps = tuple(recipe.sigmas() if sigmas is None else sigmas.tolist())
        sampling = Sampling(steps, guidance or StreamGuidance(recipe.video, recipe.audio))
        clip = GraphLatent(latent).planned_clip
        made = _planned(engine, most, sampling, clip)
        cls.show(made.summary())
        return io.NodeOutput(replace(made, room=_limits(most, made)), made.explain())


def _planned(engine: HostEngine, most: Resources, sampling: Sampling, clip: Any) -> Plan:
    """Plan with what is free now, at most what the user allows."""
    room = engine.room()
    machine = host.machine(engine.device(TRANSFORMER))
    granted = room.budget if room.budget is not None else machine.memory
    room = replace(room, machine=machine, budget=granted).within(most.vram, most.ram)
    return plan_stages(stages_of_clip(engine.blueprint, clip, sampling), engine.blueprint, room, clip, engine.load)


def _limits(most: Resources, plan: Plan) -> Room:
    """Return the user's own limits: what was free just now may be less than what is free later on."""
    room = replace(plan.room, budget=plan.machine.memory, ram=host.pinnable_ram())
    return room.within(most.vram, most.ram)
