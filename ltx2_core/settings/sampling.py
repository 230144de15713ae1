"""How a clip is sampled: recipe, steps, guidance."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated

from ..errors import SettingError, counted
from ..errors.foreign import shown
from ..fields import Checked, Choice, Instead, Number, Seed, Switch, Whole, zero
from ..latents import NOISE_ORDERS, STREAMS
from ..sampling import SAMPLERS, AnyGuidance, Guidance, GuidanceBySigma, Recipe, StreamGuidance
from ..sampling.guidance import read_stg_blocks

RECIPE = "recipe of the model"
FOLLOWED = ("auto", RECIPE, "these widgets")
STEP_NOISES = ("official", "by seed")
LEAST_CACHED_STEPS = 20


@dataclass(frozen=True)
class RecipeSettings(Checked):
    """Which recipe of the model is followed."""

    steps: Annotated[
        int,
        Whole(0, 200, instead=zero("as recommended", usual=30)),
        "How many steps; 0 takes the recommended number. Distilled models have exactly 8.",
    ] = 0
    hq: Annotated[
        bool,
        Switch(advanced=True),
        "The recipe of few, precise steps, for the dev models of LTX-2.3 and 2.5 with the distilled LoRA. It depends "
        "on the size of the clip, and names its own sampler.",
    ] = False
    settings: Annotated[
        str,
        Choice(FOLLOWED, flag="hq"),
        "Where steps, sampler and all scales come from: the recipe of the model, or the widgets of this node. auto "
        "follows the recipe while nothing is connected to sigmas, and else the widgets.",
    ] = FOLLOWED[0]

    def follows(self, sigmas: object) -> bool:
        """Return whether the recipe counts, if these ``sigmas`` are given; None for none."""
        return self.settings == RECIPE or (self.settings == FOLLOWED[0] and sigmas is None)


@dataclass(frozen=True)
class SamplingSettings(Checked):
    """How the noise levels of a schedule are walked."""

    seed: Annotated[
        int, Seed(), "Another number gives another clip; the same number and settings give the same one."
    ] = 0
    sampler: Annotated[
        str | None,
        Choice(tuple(SAMPLERS), shown="euler", advanced=True),
        "How a step is taken. euler is what the models are shown with.",
    ] = None
    start_step: Annotated[
        int,
        Whole(0, 1000, advanced=True),
        "The first step to take, counted from 0: the later, the more is kept of what the clip begins with. To go on "
        "where another run stopped, give its end step here and its latent, and switch add_noise off.",
    ] = 0
    end_step: Annotated[
        int,
        Whole(0, 1000, advanced=True, instead=zero("to the end", usual=8)),
        "Stop before this step, with a latent that is still noisy. 0 goes to the end.",
    ] = 0
    add_noise: Annotated[
        bool,
        Switch(advanced=True),
        "Off where the latent comes from a run that stopped before its end: it has its noise.",
    ] = True
    noise_order: Annotated[
        str,
        Choice(NOISE_ORDERS, advanced=True),
        "In which order random numbers become noise: as the official code draws them, or as ComfyUI's own samplers "
        "do, so that a seed from a core workflow begins with the same noise.",
    ] = "official"
    batched_passes: Annotated[
        bool,
        Switch(advanced=True),
        "Computes the prompt and the negative prompt as one batch. Faster for small clips on large cards, but needs "
        "more memory.",
    ] = False
    step_noise: Annotated[
        str,
        Choice(STEP_NOISES, advanced=True),
        "Which fresh noise a stochastic sampler adds. official is that of the official pipelines: res_2s adds the same "
        "for every seed, the others follow it. by seed lets res_2s follow the seed, too.",
    ] = "official"
    eta: Annotated[
        float,
        Number(-1, 1, 0.05, advanced=True, instead=Instead(((-1, "as the sampler has it"),), usual=0.5)),
        "How much of its noise a stochastic sampler exchanges for new noise in each step: 0 none, so that it is "
        "deterministic, 1 most; res_2s still exchanges half in the middle of its steps. -1 is as the sampler has it, "
        "officially 0.5 for res_2s and 1 for the ancestral ones. Samplers that add no noise ignore it.",
    ] = -1.0
    step_cache: Annotated[
        float,
        Number(0, 1, 0.01, advanced=True, instead=zero("off", usual=0.1)),
        "Leaves out most of the work on the picture in steps in which the first block changes by less than this share "
        "of what it changed before: faster, with motion and detail that differ a little; the sound is computed in "
        "every step. For dev models, whose recipes have 20 steps and more. 0 is off.",
    ] = 0.0
    motion_speed: Annotated[
        float,
        Number(0.05, 20, 0.05, 0.001, advanced=True),
        "How fast things move, 1 as in life: 0.2 is slow motion at a fifth of the speed, as its LoRA wants it. Length, "
        "frame rate and sound stay as they are.",
    ] = 1.0

    def __post_init__(self) -> None:
        """Raise SettingError for steps of which there is none."""
        super().__post_init__()
        if 0 < self.end_step <= self.start_step:
            raise SettingError(
                f"start_step is {self.start_step} and end_step {self.end_step}, between which there is no step: end "
                "later, or with 0 at the end of the schedule."
            )

    def told_fps(self, fps: Fraction) -> Fraction:
        """Return the rate by which the positions of a picture of ``fps`` count: higher where things move slower."""
        return fps / Fraction(self.motion_speed).limit_denominator(1000)

    def check_motion_speed(self, is_long: bool) -> None:
        """Raise SettingError for another speed in a clip of windows, or one whose frame rate is raised."""
        if is_long and self.motion_speed != 1:
            raise SettingError(
                f"motion_speed is {shown(self.motion_speed)}, which windows, segments and rounds do not know: make the "
                "clip at once, or set it to 1."
            )

    def check_step_cache(self, steps: int) -> None:
        """Raise SettingError if steps may be left out of a schedule of so few ``steps``."""
        if self.step_cache and steps < LEAST_CACHED_STEPS:
            raise SettingError(
                f"step_cache is {self.step_cache:g}, but the schedule has {counted(steps, 'step')}: with so few, "
                f"each changes too much to be left out. Set it to 0, or take {LEAST_CACHED_STEPS} steps or more of a "
                "dev model."
            )


@dataclass(frozen=True)
class StreamScales(Checked):
    """Scales of one stream alone, beside the sliders for both."""

    video_text_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="video-text-scale", instead=zero("as the slider", usual=3)),
        "Text scale of the picture alone. 0 means: as the slider.",
    ] = 0.0
    audio_text_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="audio-text-scale", instead=zero("as the slider", usual=7)),
        "Text scale of the sound alone; the official pipelines use 7. 0 means: as the slider.",
    ] = 0.0
    video_cross_modal_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="video-cross-modal-scale", instead=zero("as the slider", usual=3)),
        "How closely the picture follows the sound. 0 means: as the slider.",
    ] = 0.0
    audio_cross_modal_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, flag="audio-cross-modal-scale", instead=zero("as the slider", usual=3)),
        "How closely the sound follows the picture. 0 means: as the slider.",
    ] = 0.0

    def guidance(self, both: Guidance) -> StreamGuidance:
        """Return the guidance of each stream: ``both``, but for the scales that are set here."""
        video, audio = (
            replace(
                both,
                text_scale=getattr(self, f"{stream}_text_scale") or both.text_scale,
                cross_modal_scale=getattr(self, f"{stream}_cross_modal_scale") or both.cross_modal_scale,
            )
            for stream in STREAMS
        )
        return StreamGuidance(video, audio)


@dataclass(frozen=True)
class GuidanceRange(Checked):
    """Where settings of guidance apply."""

    stream: Annotated[
        str,
        Choice(("both", "video", "audio"), flag="guidance-up-to"),
        "What these settings are for. The other stream keeps what comes in through guidance, or stays unguided.",
    ] = "both"
    up_to_sigma: Annotated[
        float,
        Number(0, 1, 0.01, advanced=True, flag="guidance-up-to"),
        "The highest noise level at which these settings apply. Below 1, early steps keep what comes in through "
        "guidance; for example strong guidance first, and mild guidance up to 0.8.",
    ] = 1.0

    def apply(self, before: StreamGuidance, new: Guidance) -> StreamGuidance:
        """Return ``before`` with ``new`` in this range."""
        changed = {name: self._added(getattr(before, name), new) for name in STREAMS if self.stream in (name, "both")}
        return replace(before, **changed)

    def _added(self, before: AnyGuidance, new: Guidance) -> AnyGuidance:
        if self.up_to_sigma >= 1:
            return new
        rows = before.table if isinstance(before, GuidanceBySigma) else ((1.0, before),)
        above = [row for row in rows if row[0] > self.up_to_sigma]
        return GuidanceBySigma((*above, (self.up_to_sigma, new)))


def parse_stg_blocks(text: str, recipe: Recipe, layers: int) -> tuple[int, ...]:
    """Return block numbers as people write them, or those of the recipe for "auto".

    Raises:
        SettingError: for anything that is not the number of one of the model's ``layers`` blocks.
    """
    if (blocks := read_stg_blocks(text)) is None:
        return recipe.video.stg_blocks
    check_stg_blocks(blocks, layers)
    return blocks


def check_stg_blocks(blocks: Collection[int], layers: int) -> None:
    """Raise SettingError if a number in ``blocks`` is not that of one of the model's ``layers`` blocks."""
    if wrong := [block for block in blocks if not 0 <= block < layers]:
        raise SettingError(f"stg_blocks names {wrong[0]}; this model has {layers} blocks, counted from 0.")
