"""Will it fit, and how long will it take?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph.latents import GraphLatent
from ..ltx2_core.pipeline.graph.stages import plan_clip
from ..ltx2_core.pipeline.sample import Sampling
from ..ltx2_core.pipeline.stage import TRANSFORMER
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
        sampling = Sampling(steps, guidance or recipe.guidance)
        clip = GraphLatent(latent).planned_clip
        made = plan_clip(engine, clip, sampling, most, host.machine(engine.device(TRANSFORMER)))
        cls.show(made.summary())
        return io.NodeOutput(made.as_limits(most.vram, most.ram), made.explain())
