"""How strongly does each stream follow its text, the other stream, and itself?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.errors import SettingError
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.sampling import Guidance, StreamGuidance
from ..ltx2_core.settings import GuidanceRange, RecipeSettings, ScheduleSettings, parse_stg_blocks
from . import host, inputs
from .engine import LoadedModel
from .values import GuidanceType, HostLatent, Latent


class GuidanceNode(io.ComfyNode):
    """Everything about guidance, for both streams or one, at all noise levels or some."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVGuidance",
            "sampling/Guidance",
            inputs=[
                inputs.model("The LTX-2 model; it knows which blocks are meant by auto."),
                *inputs.widgets(GuidanceRange, "stream", optional=False),
                *inputs.widgets(Guidance, "text_scale", "cross_modal_scale"),
                inputs.guidance("Settings that these are added to, from another guidance node."),
                *inputs.widgets(GuidanceRange, "up_to_sigma"),
                *inputs.widgets(
                    Guidance, "stg_scale", "stg_blocks", "rescale", "cfg_star", "apg_parallel", "apg_limit"
                ),
                *inputs.widgets(Guidance, "nag_scale", "nag_limit", "nag_blend", "skip_steps", "identity_scale"),
            ],
            outputs={"guidance": GuidanceType},
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, guidance: StreamGuidance | None = None, stg_blocks: str = "auto", **settings: Any
    ) -> io.NodeOutput:
        where = inputs.settings_from(GuidanceRange, settings)
        blocks = parse_stg_blocks(stg_blocks, recipe_of(model.models), model.models.layers)
        return io.NodeOutput(where.apply(guidance or StreamGuidance(), Guidance(**settings, stg_blocks=blocks)))


class RecipeNode(io.ComfyNode):
    """The official settings of the loaded model."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVRecipe",
            "sampling/Recipe",
            inputs=[
                inputs.model("The LTX-2 model; distilled ones are told by the name of their file."),
                *inputs.widgets(RecipeSettings, "steps", optional=True),
                *inputs.widgets(RecipeSettings, "hq"),
                inputs.latent("The clip that hq is for: its size shifts the steps.", optional=True),
            ],
            outputs={"sigmas": io.Sigmas, "guidance": GuidanceType},
            shows=True,
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, steps: int = 0, hq: bool = False, latent: Latent | None = None
    ) -> io.NodeOutput:
        recipe, tokens = recipe_of(model.models, hq), _tokens(latent)
        if recipe.by_tokens and tokens is None:
            raise SettingError("hq needs the size of the clip: connect LTX-2 Empty AV Latent to latent.")
        sigmas = recipe.sigmas(steps or None, tokens=tokens)
        host.show_text(
            cls.hidden.unique_id,
            recipe.describe(model.models.kind_of(hq), len(sigmas) - 1),
        )
        return io.NodeOutput(Tensor(sigmas), StreamGuidance(recipe.video, recipe.audio))


def _tokens(latent: Latent | None) -> int | None:
    """Return the tokens of the picture; None without a latent or a picture."""
    return None if latent is None else HostLatent(latent).video_tokens


class ScheduleNode(io.ComfyNode):
    """The noise levels of a run."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVSchedule",
            "sampling/Schedule",
            inputs=[
                *inputs.widgets(ScheduleSettings, "steps", "schedule", optional=False),
                *inputs.widgets(ScheduleSettings, "max_shift", "base_shift", "terminal"),
                inputs.latent(
                    "Fits the shift to the size of this latent. Not connected, it is that of 4096 tokens, as in the "
                    "official pipelines.",
                    optional=True,
                ),
                *inputs.widgets(ScheduleSettings, "denoise", "custom_sigmas"),
            ],
            outputs={"sigmas": io.Sigmas},
            shows=True,
        )

    @classmethod
    def execute(cls, latent: Latent | None = None, **settings: Any) -> io.NodeOutput:
        schedule = ScheduleSettings(**settings)
        if schedule.note:
            host.show_text(cls.hidden.unique_id, schedule.note)
        return io.NodeOutput(Tensor(schedule.sigmas(_tokens(latent))))
