"""Will it fit, and how long will it take?"""

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.generate import recipe_of
from ..ltx2_core.memory.machine import GIB
from ..ltx2_core.memory.plan import plan
from ..ltx2_core.sampling import StreamGuidance, passes_needed
from . import host
from .latents import Latent, clip_of
from .types import Gemma, GuidanceType, LoadedGemma, LoadedModel, Model, PlanType


class MemoryPlan(io.ComfyNode):
    """Says where weights will be and how long each stage takes; loads nothing."""

    @classmethod
    def define_schema(cls):
        def ceiling(name: str, tooltip: str) -> io.Float.Input:
            limits = {"default": 0.0, "min": 0.0, "max": 1024.0, "step": 0.5}
            return io.Float.Input(name, **limits, tooltip=f"{tooltip} 0 takes what is free.")

        return io.Schema(
            node_id="LTX2AVPlan",
            display_name="LTX-2 Memory Plan",
            category="LTX-2/loaders",
            description="Says before a run whether a clip fits the card, what is streamed, and how long it takes; "
            "loads nothing. Connect the plan to other LTX-2 nodes to hold them to its limits; without one they plan "
            "for themselves and take what is free.",
            search_aliases=["vram", "memory", "low vram", "offload", "block swap", "out of memory", "estimate"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model, from LTX-2 Load Model."),
                io.Latent.Input("latent", tooltip="The clip to plan for: only its size and frame rate matter."),
                ceiling("max_vram", "The most gigabytes of the card that may be taken, for weights and work together."),
                ceiling("max_ram", "The most gigabytes of RAM that may be pinned for streaming weights."),
                Gemma.Input("gemma", optional=True, tooltip="To plan for the text encoder, too."),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="The schedule, for the number of steps. Else the model's recipe."
                ),
                GuidanceType.Input(
                    "guidance", optional=True, tooltip="For the number of passes. Else that of the model's recipe."
                ),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="For the plan inputs of the other nodes."),
                io.String.Output(display_name="report", tooltip="The plan in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        latent: Latent,
        max_vram: float,
        max_ram: float,
        gemma: LoadedGemma | None = None,
        sigmas: Tensor | None = None,
        guidance: StreamGuidance | None = None,
    ) -> io.NodeOutput:
        clip, recipe = clip_of(latent), recipe_of(model.models)
        if clip is None:
            raise ValueError("This LATENT has no picture: connect LTX-2 Empty AV Latent to plan for its size.")
        both = (recipe.video, recipe.audio) if guidance is None else (guidance.video, guidance.audio)
        device = model.network("transformer").device
        machine, pinned = host.machine(device), host.may_pin()
        found = plan(
            model.blueprint(gemma),
            clip,
            machine=machine,
            passes=passes_needed(both),
            steps=len(recipe.sigmas() if sigmas is None else sigmas) - 1,
            budget=min(host.room(device), int(max_vram * GIB) or machine.memory),
            ram=min(pinned, int(max_ram * GIB) or pinned),
        )
        host.say(cls.hidden.unique_id, found.summary())
        # What was measured just now may be less than what is free later on; only the user's own limits shall hold then.
        limits = replace(found, budget=int(max_vram * GIB) or machine.memory, ram=int(max_ram * GIB) or pinned)
        return io.NodeOutput(limits, found.explain())
