"""What each released model is meant to be sampled with (spec: sampling.md, section 6)."""

from dataclasses import dataclass, replace

from .guidance import NEUTRAL, Guidance
from .schedules import SCHEDULES


@dataclass(frozen=True)
class Recipe:
    """Defaults where the user says nothing."""

    schedule: str
    steps: int
    video: Guidance = NEUTRAL
    audio: Guidance = NEUTRAL
    negative: str = ""
    width: int = 768
    height: int = 512
    frames: int = 121

    def sigmas(self, steps: int | None = None, schedule: str | None = None) -> list[float]:
        """The noise levels; ``steps`` or ``schedule`` may differ from the recipe."""
        make = SCHEDULES[schedule or self.schedule]
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
    return Recipe("ltx2", steps, video, replace(video, text_scale=7), NEGATIVE)


RECIPES = {
    "miniature": Recipe("ltx2", 20, Guidance(3, 3), Guidance(3, 3), width=96, height=96, frames=33),
    "2.0 dev": _dev(steps=40, stg_block=29),
    "2.3 dev": _dev(steps=30, stg_block=28),
    "2.0 distilled": Recipe("distilled", 8),
    "2.3 distilled": Recipe("distilled", 8),
}


def recipe_for(version: str, layers: int, distilled: bool = False, miniature: bool = False) -> Recipe:
    """The recipe of a model with ``layers`` blocks; perturbed blocks that it does not have are left out."""
    recipe = RECIPES["miniature" if miniature else f"{version} {'distilled' if distilled else 'dev'}"]
    return replace(recipe, video=_within(recipe.video, layers), audio=_within(recipe.audio, layers))


def _within(guidance: Guidance, layers: int) -> Guidance:
    return replace(guidance, stg_blocks=tuple(block for block in guidance.stg_blocks if block < layers))
