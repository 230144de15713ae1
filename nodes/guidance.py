"""How strongly does each stream follow its text, the other stream, and itself?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.errors import SettingError
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.sampling import Guidance, Recipe, StreamGuidance
from ..ltx2_core.settings import GuidanceRange, ScheduleSettings, parse_stg_blocks
from . import host
from .engine import LoadedModel
from .inputs import guidance_input, latent_input, model_input, schema, settings_from, widgets
from .values import GuidanceType, HostLatent, Latent


class GuidanceNode(io.ComfyNode):
    """Everything about guidance, for both streams or one, at all noise levels or some."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVGuidance",
            "Guidance",
            "sampling",
            description="All that guidance can do, for picture and sound together or apart. Connect it to the sampler, "
            "where it takes the place of the sliders; connect several in a row to treat streams or noise levels "
            "differently.",
            aliases=["cfg", "multimodal guider", "guider parameters", "nag", "apg", "stg", "skip layer guidance"],
            inputs=[
                model_input("The LTX-2 model; it knows which blocks are meant by auto."),
                *widgets(GuidanceRange, "stream", optional=False),
                *widgets(Guidance, "text_scale", "cross_modal_scale"),
                guidance_input("Settings that these are added to, from another guidance node."),
                *widgets(GuidanceRange, "up_to_sigma"),
                *widgets(Guidance, "stg_scale", "stg_blocks", "rescale", "cfg_star", "apg_parallel", "apg_limit"),
                *widgets(Guidance, "nag_scale", "nag_limit", "nag_blend", "skip_steps"),
            ],
            outputs=[
                GuidanceType.Output(
                    display_name="guidance", tooltip="For the sampler, or for another guidance node to add to."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, guidance: StreamGuidance | None = None, stg_blocks: str = "auto", **settings: Any
    ) -> io.NodeOutput:
        """Add these settings to what comes in."""
        where = settings_from(GuidanceRange, settings)
        blocks = parse_stg_blocks(stg_blocks, recipe_of(model.models), model.models.layers)
        return io.NodeOutput(where.apply(guidance or StreamGuidance(), Guidance(**settings, stg_blocks=blocks)))


class RecipeNode(io.ComfyNode):
    """The official settings of the loaded model."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVRecipe",
            "Recipe",
            "sampling",
            description="Schedule and guidance as the official pipelines set them for the loaded model (2.0, 2.3, dev "
            "or distilled), and says on the node what they are. Connect both to the sampler.",
            aliases=["defaults", "preset", "recommended settings", "scheduler", "official settings"],
            inputs=[
                model_input("The LTX-2 model; distilled ones are told by the name of their file."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=200,
                    optional=True,
                    tooltip="0 takes the recommended number. Distilled models have exactly 8.",
                ),
                io.Boolean.Input(
                    "hq",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="The recipe of few, precise steps, for the dev model of LTX-2.3 with its distilled LoRA: "
                    "connect latent, and choose the sampler that the node names.",
                ),
                latent_input("The clip that hq is for: its size shifts the steps.", optional=True),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, for the sampler."),
                GuidanceType.Output(display_name="guidance", tooltip="The scales of both streams, for the sampler."),
            ],
            shows=True,
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, steps: int = 0, hq: bool = False, latent: Latent | None = None
    ) -> io.NodeOutput:
        """Look the recipe up."""
        recipe, tokens = recipe_of(model.models, hq), _tokens(latent)
        if recipe.by_tokens and tokens is None:
            raise SettingError("hq needs the size of the clip: connect LTX-2 Empty AV Latent to latent.")
        sigmas = recipe.sigmas(steps or None, tokens=tokens)
        host.show_text(cls.hidden.unique_id, _describe_recipe(recipe, model, len(sigmas) - 1, hq))
        return io.NodeOutput(Tensor(sigmas), StreamGuidance(recipe.video, recipe.audio))


def _tokens(latent: Latent | None) -> int | None:
    """Return the tokens of the picture; None without one."""
    video = None if latent is None else HostLatent(latent).content.video
    return None if video is None else video[0, 0].numel()


def _describe_recipe(recipe: Recipe, model: LoadedModel, steps: int, hq: bool) -> str:
    kind = "miniature" if model.models.is_miniature else "distilled" if model.models.distilled else "dev"
    lines = [
        f"LTX-{model.models.version} {kind}{' hq' if hq else ''}: {recipe.schedule}, {steps} steps",
        f"picture: {recipe.video.describe()}",
        f"sound: {recipe.audio.describe()}",
        f"sampler: {recipe.sampler}",
    ]
    if recipe.lora:
        lines.append(f"distilled LoRA: strength {recipe.lora:g}")
    return "\n".join(lines)


class ScheduleNode(io.ComfyNode):
    """The noise levels of a run."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVSchedule",
            "Schedule",
            "sampling",
            description="The noise levels from 1 to 0 that the sampler goes through. Connect it to the sampler, or to "
            "any other node that takes SIGMAS.",
            aliases=["ltxv scheduler", "sigmas", "scheduler", "steps", "basic scheduler", "noise schedule"],
            inputs=[
                *widgets(ScheduleSettings, "steps", "schedule", optional=False),
                *widgets(ScheduleSettings, "max_shift", "base_shift", "terminal"),
                latent_input(
                    "Fits the shift to the size of this latent. Not connected, it is that of 4096 tokens, as in the "
                    "official pipelines.",
                    optional=True,
                ),
                *widgets(ScheduleSettings, "denoise", "custom_sigmas"),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels; the last one is 0.")],
            shows=True,
        )

    @classmethod
    def execute(cls, latent: Latent | None = None, **settings: Any) -> io.NodeOutput:
        """Compute the noise levels."""
        schedule = ScheduleSettings(**settings)
        if schedule.note:
            host.show_text(cls.hidden.unique_id, schedule.note)
        return io.NodeOutput(Tensor(schedule.sigmas(_tokens(latent))))
