"""How strongly does each stream follow its text, the other stream, and itself?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.errors import SettingError
from ..ltx2_core.fields import settings_from
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph.latents import tokens_of
from ..ltx2_core.sampling import Guidance, StreamGuidance
from ..ltx2_core.settings import GuidanceRange, RecipeSettings, ScheduleSettings, parse_stg_blocks
from .engine import LoadedModel
from .inputs import optional, sockets, widgets
from .node import Node
from .values import GuidanceType, Latent


class GuidanceNode(Node):
    """Everything about guidance, for both streams or one, at all noise levels or some."""

    id = "LTX2AVGuidance"
    title = "sampling/Guidance"
    inputs = [
        sockets("model"),
        widgets(GuidanceRange, "stream", optional=False),
        widgets(Guidance, "text_scale", "cross_modal_scale"),
        optional("guidance"),
        widgets(GuidanceRange, "up_to_sigma"),
        widgets(Guidance, "stg_scale", "stg_blocks", "rescale", "cfg_star", "apg_parallel", "apg_limit"),
        widgets(Guidance, "nag_scale", "nag_limit", "nag_blend", "skip_steps", "identity_scale"),
    ]
    outputs = {"guidance": GuidanceType}

    @classmethod
    def execute(
        cls, model: LoadedModel, guidance: StreamGuidance | None = None, stg_blocks: str = "auto", **settings: Any
    ) -> io.NodeOutput:
        where = settings_from(GuidanceRange, settings)
        blocks = parse_stg_blocks(stg_blocks, recipe_of(model.models), model.models.layers)
        return io.NodeOutput(where.apply(guidance or StreamGuidance(), Guidance(**settings, stg_blocks=blocks)))


class RecipeNode(Node):
    """The official settings of the loaded model."""

    id = "LTX2AVRecipe"
    title = "sampling/Recipe"
    inputs = [sockets("model"), widgets(RecipeSettings, "steps", "hq", optional=True), optional("latent")]
    outputs = {"sigmas": io.Sigmas, "guidance": GuidanceType}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, steps: int = 0, hq: bool = False, latent: Latent | None = None
    ) -> io.NodeOutput:
        recipe, tokens = recipe_of(model.models, hq), tokens_of(latent)
        if recipe.by_tokens and tokens is None:
            raise SettingError("hq needs the size of the clip: connect LTX-2 Empty AV Latent to latent.")
        sigmas = recipe.sigmas(steps or None, tokens=tokens)
        cls.show(recipe.describe(model.models.kind_of(hq), len(sigmas) - 1))
        return io.NodeOutput(Tensor(sigmas), recipe.guidance)


class ScheduleNode(Node):
    """The noise levels of a run."""

    id = "LTX2AVSchedule"
    title = "sampling/Schedule"
    inputs = [
        widgets(ScheduleSettings, "steps", "schedule", optional=False),
        widgets(ScheduleSettings, "max_shift", "base_shift", "terminal"),
        optional("latent"),
        widgets(ScheduleSettings, "denoise", "custom_sigmas"),
    ]
    outputs = {"sigmas": io.Sigmas}
    shows = True

    @classmethod
    def execute(cls, latent: Latent | None = None, **settings: Any) -> io.NodeOutput:
        schedule = ScheduleSettings(**settings)
        if schedule.note:
            cls.show(schedule.note)
        return io.NodeOutput(Tensor(schedule.sigmas(tokens_of(latent))))
