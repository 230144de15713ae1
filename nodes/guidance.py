"""How strongly does each stream follow its text, the other stream, and itself?"""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint import Models
from ..ltx2_core.generate import recipe_of
from ..ltx2_core.sampling import NEUTRAL, AnyGuidance, Guidance, GuidanceBySigma, StreamGuidance
from . import host
from .latents import Latent, streams
from .types import GuidanceType, LoadedModel, Model


def scale_input(name: str, display: str, tooltip: str) -> io.Float.Input:
    """A slider for a scale of which 1 is neutral."""
    return io.Float.Input(
        name,
        display_name=display,
        default=3.0,
        min=1.0,
        max=10.0,
        step=0.1,
        round=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


TEXT_SCALE = (
    "How closely picture and sound follow the prompt. Higher follows it more closely, at the cost of motion and "
    "natural colours. 1 follows it plainly, ignores the negative prompt and saves a pass; distilled models need "
    "1. (The paper's s_t is this minus 1.)"
)
CROSS_MODAL_SCALE = (
    "How closely picture and sound follow each other. Higher makes lips and impacts meet their sounds. 1 leaves "
    "it to the model and saves a pass; distilled models need 1. (The paper's s_m is this minus 1.)"
)
STG_SCALE = (
    "Spatio-temporal guidance: steers away from what the model makes with parts of its attention off. Higher "
    "holds bodies and objects together better, too high stiffens them. 0 saves a pass; distilled models need 0."
)
STG_BLOCKS = (
    "Whose attention is off for this guidance: block numbers with commas between them. auto takes the official "
    "one (29 for 2.0, 28 for 2.3), or none where the model has no such block."
)
RESCALE = (
    "How much of the contrast that guidance adds is taken back. Higher prevents burnt colours and clipped sound, "
    "at 1 things may look flat."
)


def fraction(name: str, default: float, most: float, tooltip: str, step: float = 0.05) -> io.Float.Input:
    """An optional number from 0, for those who look for it."""
    return io.Float.Input(
        name, default=default, min=0.0, max=most, step=step, round=0.01, optional=True, advanced=True, tooltip=tooltip
    )


def stg_inputs() -> list[io.Input]:
    """What both the sampler and the guidance node ask about spatio-temporal guidance and rescaling."""
    return [
        fraction("stg_scale", 1.0, 5.0, STG_SCALE, step=0.1),
        io.String.Input("stg_blocks", default="auto", optional=True, advanced=True, tooltip=STG_BLOCKS),
        fraction("rescale", 0.7, 1.0, RESCALE),
    ]


class GuidanceNode(io.ComfyNode):
    """Everything about guidance, for both streams or one, at all noise levels or some."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVGuidance",
            display_name="LTX-2 Guidance",
            category="LTX-2/sampling",
            description="All that guidance can do, for picture and sound together or apart. Connect it to the sampler, "
            "where it takes the place of the sliders; connect several in a row to treat streams or noise levels "
            "differently.",
            search_aliases=[
                "cfg",
                "multimodal guider",
                "guider parameters",
                "nag",
                "apg",
                "stg",
                "skip layer guidance",
            ],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model; it knows which blocks are meant by auto."),
                io.Combo.Input(
                    "stream",
                    options=["both", "video", "audio"],
                    tooltip="What these settings are for. The other stream keeps what comes in through guidance, or "
                    "stays unguided.",
                ),
                scale_input("text_scale", "text CFG", TEXT_SCALE),
                scale_input("cross_modal_scale", "cross-modal CFG", CROSS_MODAL_SCALE),
                GuidanceType.Input(
                    "guidance", optional=True, tooltip="Settings that these are added to, from another guidance node."
                ),
                fraction(
                    "up_to_sigma",
                    1.0,
                    1.0,
                    "The highest noise level at which these settings apply. Below 1, early steps keep what comes in "
                    "through guidance; for example strong guidance first, and mild guidance up to 0.8.",
                    step=0.01,
                ),
                *stg_inputs(),
                io.Boolean.Input(
                    "cfg_star",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Fits the strength of the negative prediction to the positive one before it is subtracted "
                    "(CFG*). Calmer colours in the first steps.",
                ),
                fraction(
                    "apg_parallel",
                    1.0,
                    2.0,
                    "How much of the text guidance that only makes things stronger is kept (APG). Towards 0, high text "
                    "scales burn colours less; 1 is plain guidance.",
                ),
                fraction(
                    "apg_limit",
                    0.0,
                    1000.0,
                    "The text guidance is cut to this size (APG's norm threshold). 0 does not cut it.",
                    step=0.5,
                ),
                io.Float.Input(
                    "nag_scale",
                    default=1.0,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Negative prompt inside the attention (NAG): works where the text scale is 1, so for "
                    "distilled models, and costs little. 5 is a beginning; 1 is off. Needs a negative prompt.",
                ),
                fraction("nag_limit", 2.5, 10.0, "How much larger NAG may make what the prompt says.", step=0.1),
                fraction("nag_blend", 0.25, 1.0, "How much of NAG's result is taken; higher is stronger."),
                io.Int.Input(
                    "skip_steps",
                    default=0,
                    min=0,
                    max=10,
                    optional=True,
                    advanced=True,
                    tooltip="After each computed step, so many steps reuse its result for this stream. Faster, and "
                    "rougher; where both streams skip, a step costs nothing.",
                ),
            ],
            outputs=[
                GuidanceType.Output(
                    display_name="guidance", tooltip="For the sampler, or for another guidance node to add to."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        stream: str,
        text_scale: float,
        cross_modal_scale: float,
        guidance: StreamGuidance | None = None,
        up_to_sigma: float = 1.0,
        stg_blocks: str = "auto",
        **settings: Any,
    ) -> io.NodeOutput:
        blocks = blocks_of(stg_blocks, model.models)
        new = Guidance(text_scale, cross_modal_scale, stg_blocks=blocks, **settings)
        both = guidance or StreamGuidance(NEUTRAL, NEUTRAL)
        changed = {
            name: _added(getattr(both, name), up_to_sigma, new)
            for name in ("video", "audio")
            if stream in (name, "both")
        }
        return io.NodeOutput(replace(both, **changed))


class Recipe(io.ComfyNode):
    """The official settings of the loaded model."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVRecipe",
            display_name="LTX-2 Recipe",
            category="LTX-2/sampling",
            description="Schedule and guidance as the official pipelines set them for the loaded model (2.0, 2.3, dev "
            "or distilled), and says on the node what they are. Connect both to the sampler.",
            search_aliases=["defaults", "preset", "recommended settings", "scheduler", "official settings"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model; distilled ones are told by the name of their file."),
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
                io.Latent.Input("latent", optional=True, tooltip="The clip that hq is for: its size shifts the steps."),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, for the sampler."),
                GuidanceType.Output(display_name="guidance", tooltip="The scales of both streams, for the sampler."),
            ],
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, steps: int = 0, hq: bool = False, latent: Latent | None = None
    ) -> io.NodeOutput:
        recipe = recipe_of(model.models, hq)
        video = None if latent is None else streams(latent).video
        if recipe.by_tokens and video is None:
            raise ValueError("hq needs the size of the clip: connect LTX-2 Empty AV Latent to latent.")
        sigmas = recipe.sigmas(steps or None, tokens=None if video is None else video[0, 0].numel())
        kind = "miniature" if model.models.is_miniature else "distilled" if model.models.distilled else "dev"
        host.say(
            cls.hidden.unique_id,
            f"LTX-{model.models.version} {kind}{' hq' if hq else ''}: {recipe.schedule}, {len(sigmas) - 1} steps\n"
            f"picture: {described(recipe.video)}\nsound: {described(recipe.audio)}\nsampler: {recipe.sampler}"
            + (f"\ndistilled LoRA: strength {recipe.lora:g}" if recipe.lora else ""),
        )
        return io.NodeOutput(Tensor(sigmas), StreamGuidance(recipe.video, recipe.audio))


def described(guidance: Guidance) -> str:
    """What is not neutral, in a few words."""
    said = {
        f"text {guidance.text_scale:g}": "negative" in guidance.passes,
        f"cross-modal {guidance.cross_modal_scale:g}": "isolated" in guidance.passes,
        f"STG {guidance.stg_scale:g} in block {', '.join(map(str, guidance.stg_blocks))}": "perturbed"
        in guidance.passes,
        f"rescale {guidance.rescale:g}": guidance.rescale != 0,
    }
    return ", ".join(words for words, is_said in said.items() if is_said) or "no guidance"


def blocks_of(text: str, models: Models) -> tuple[int, ...]:
    """Block numbers as the user wrote them, or the recipe's."""
    if text.strip() == "auto":
        return recipe_of(models).video.stg_blocks
    try:
        blocks = tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise ValueError(f"stg_blocks is {text!r}; write block numbers, such as 28 or 14, 19, or auto.") from None
    if wrong := [block for block in blocks if not 0 <= block < models.layers]:
        raise ValueError(f"stg_blocks names {wrong[0]}; this model has {models.layers} blocks, counted from 0.")
    return blocks


def _added(before: AnyGuidance, up_to_sigma: float, new: Guidance) -> AnyGuidance:
    """``new`` up to a noise level, and above it what was there before."""
    if up_to_sigma >= 1:
        return new
    rows = before.table if isinstance(before, GuidanceBySigma) else ((1.0, before),)
    return GuidanceBySigma((*(row for row in rows if row[0] > up_to_sigma), (up_to_sigma, new)))
