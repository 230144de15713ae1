"""The official sampling settings of each released model (``README.md``, "Recipes")."""

from dataclasses import dataclass, replace
from functools import partial

from ..errors import SettingError, counted
from .guidance import NEUTRAL, AnyGuidance, Guidance, StreamGuidance
from .schedules import FIXED, SCHEDULES, ltx2


@dataclass(frozen=True)
class Refine:
    """The second stage: the enlarged picture and the sound get noise up to sigmas[0], which is taken away again."""

    sigmas: tuple[float, ...] = FIXED["distilled_refine"]
    sampler: str = "euler"
    lora: float = 0.0  # strength of the distilled LoRA; 0 = none
    keeps_sound: bool = False  # the sound of the first stage is the clip's; that of the second only helps the picture
    video: AnyGuidance = NEUTRAL
    audio: AnyGuidance = NEUTRAL

    @property
    def guidance(self) -> StreamGuidance:
        """The guidance of both streams."""
        return StreamGuidance(self.video, self.audio)


@dataclass(frozen=True)
class Recipe:
    """The settings of a model where the user says nothing; with two stages, the size is that of the first."""

    schedule: str
    steps: int
    video: Guidance = NEUTRAL
    audio: Guidance = NEUTRAL
    negative: str = ""
    sampler: str = "euler"
    editing_sampler: str = ""  # where a video is followed or a part of one is made anew; "" = the same
    lora: float = 0.0  # strength of the distilled LoRA; 0 = none
    by_tokens: bool = False  # the schedule shifts with the size of the latent
    refine: Refine = Refine()
    width: int = 768
    height: int = 512
    frames: int = 121

    @property
    def guidance(self) -> StreamGuidance:
        """The guidance of both streams."""
        return StreamGuidance(self.video, self.audio)

    def editing(self, edits: bool) -> "Recipe":
        """Return the recipe of the pipelines that follow a reference or make a part anew, if this clip ``edits``."""
        return replace(self, sampler=self.editing_sampler) if edits and self.editing_sampler else self

    @property
    def has_fixed_steps(self) -> bool:
        """Whether the model can take no other number of steps."""
        return self.schedule in FIXED

    def describe(self, kind: str, steps: int) -> str:
        """Say in a few lines what the recipe sets for a model of ``kind`` that takes so many ``steps``."""
        lines = [
            f"{kind}: {self.schedule}, {counted(steps, 'step')}",
            f"picture: {self.video.describe()}",
            f"sound: {self.audio.describe()}",
            f"sampler: {self.sampler}",
        ]
        if self.lora:
            lines.append(f"distilled LoRA: strength {self.lora:g}")
        return "\n".join(lines)

    def sigmas(self, steps: int | None = None, schedule: str | None = None, tokens: int | None = None) -> list[float]:
        """Compute the noise levels.

        Args:
            steps: Their number, if not that of the recipe.
            schedule: A name in ``SCHEDULES``, if not that of the recipe.
            tokens: The tokens of the video, for recipes that shift with the size.

        Raises:
            SettingError: Too many tokens for such a recipe.
        """
        make = SCHEDULES[schedule or self.schedule]
        if self.by_tokens and make is ltx2 and tokens is not None:
            make = partial(ltx2, tokens=tokens)
        if steps is None and schedule in (None, self.schedule):
            steps = self.steps
        return make() if steps is None else make(steps)


# Faults of picture and of sound, as the text encoder may read them.
NEGATIVE = (
    "low quality, blurry, noisy, overexposed, compression artefacts, flicker, deformed hands, distorted face, "
    "unnatural motion, frozen frame, watermark, subtitles, text, cartoon look, muffled sound, distorted voice, echo, "
    "clipping, silence, sound out of sync"
)


def _dev(steps: int, stg_block: int) -> Recipe:
    video = Guidance(text_scale=3, cross_modal_scale=3, stg_scale=1, stg_blocks=(stg_block,), rescale=0.7)
    refine = Refine(lora=1.0, keeps_sound=True)
    return Recipe("ltx2", steps, video, replace(video, text_scale=7), NEGATIVE, refine=refine)


_HQ = Recipe(
    "ltx2",
    15,
    Guidance(text_scale=3, cross_modal_scale=3, rescale=0.45),
    Guidance(text_scale=7, cross_modal_scale=3, rescale=1),
    NEGATIVE,
    width=960,
    height=544,
    sampler="res_2s",
    lora=0.25,
    by_tokens=True,
    refine=Refine(sampler="res_2s", lora=0.5, keeps_sound=True),
)

RECIPES = {
    "miniature": Recipe(
        "ltx2",
        20,
        Guidance(3, 3),
        Guidance(3, 3),
        refine=Refine((0.3, 0.2, 0.1, 0.0)),  # with more noise it forgets where in a large picture the ball was
        width=96,
        height=96,
        frames=33,
    ),
    "2.0 dev": _dev(steps=40, stg_block=29),
    "2.3 dev": _dev(steps=30, stg_block=28),
    "2.0 distilled": Recipe("distilled", 8),
    "2.3 distilled": Recipe("distilled", 8),
    "2.3 hq": _HQ,
    "2.5 dev": _dev(steps=30, stg_block=28),
    "2.5 distilled": Recipe("distilled", 8, sampler="euler_ancestral", editing_sampler="euler"),
    "2.5 hq": _HQ,
}


def recipe_for(version: str, layers: int, distilled: bool = False, miniature: bool = False, hq: bool = False) -> Recipe:
    """Find the recipe of a model.

    Args:
        version: A key of ``VERSIONS``, such as "2.3".
        layers: The blocks of the transformer; perturbed blocks that it does not have are left out.
        distilled: The model is distilled.
        miniature: The model is the built-in one.
        hq: Few, precise steps, for a dev model with the distilled LoRA.

    Raises:
        SettingError: If there is no such recipe.
    """
    kind = "hq" if hq else "distilled" if distilled else "dev"
    if hq and (distilled or f"{version} hq" not in RECIPES):
        raise SettingError(
            f"There is no HQ recipe for LTX-{version}{' distilled' if distilled else ''}; it is one for the dev models "
            "of LTX-2.3 and 2.5."
        )
    recipe = RECIPES["miniature" if miniature else f"{version} {kind}"]
    return replace(recipe, video=_within(recipe.video, layers), audio=_within(recipe.audio, layers))


def _within(guidance: Guidance, layers: int) -> Guidance:
    return replace(guidance, stg_blocks=tuple(block for block in guidance.stg_blocks if block < layers))
