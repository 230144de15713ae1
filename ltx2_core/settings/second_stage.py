"""What is done to a finished latent, and what a recipe fills in."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Annotated

from torch import Tensor

from ..checkpoint.upscaler import UpscalerFile
from ..conditioning import Frozen, LatentCondition, ReferenceAudioTokens, ReferenceVideoTokens
from ..conditioning.conditions import Condition, ReferenceVideo, of_second_stage, remakes_sound
from ..conditioning.pictures import GeneratedKeyframes
from ..errors import SettingError
from ..fields import Checked, Choice, Number, Switch, Whole, Words, zero
from ..geometry import SPACE_SCALE, ClipShape, nearest_size
from ..lora import Lora, Stack, Strengths
from ..lora.stack import reference_scale, without_in_context
from ..sampling import Recipe, Refine, StreamGuidance, Tiles, TileSettings, schedules

DUBBED = "hold and refer"
SECOND_STAGE_SOUND = ("as the recipe", "hold", "refine", DUBBED)


@dataclass(frozen=True)
class SecondStage(Checked):
    """What is done to a finished latent: it is enlarged by each upscaler in turn, then refined.

    ``tiles`` None, or settings without counts, takes as few tiles as the memory allows. ``lora`` is the distilled
    LoRA, which the recipes of dev models ask for; ``detailing_lora`` the one of ``detailing``, None where it is among
    the other LoRAs. ``sigmas`` and ``guidance`` None are those of the recipe.
    """

    upscalers: tuple[UpscalerFile, ...] = ()
    refine: Annotated[bool, Switch(), "Puts detail into what was enlarged: noise is added and taken away again."] = True
    tiles: TileSettings | Tiles | None = None
    lora: Lora | None = None
    detailing_lora: Lora | None = None
    sound: Annotated[
        str,
        Choice(SECOND_STAGE_SOUND),
        "Which sound the clip gets. The recipe of dev models keeps that of the first stage; the one of distilled "
        "models makes it anew with the large picture, and so do those of IC-LoRAs and of keyframes that are all shown "
        "beside the clip. hold also keeps it from the noise, so that the picture follows it exactly; refine makes it "
        "anew. hold and refer holds it and shows it as the voice, too, in place of a reference sound, as Dub-It does.",
    ] = "as the recipe"
    noise_scale: Annotated[
        float,
        Number(0, 1, instead=zero("as the sigmas", usual=0.4)),
        "How much noise is added first. Higher invents more detail and keeps less of the latent: 0.4 keeps faces as "
        "they are, 0.9 redraws. 0 takes what the sigmas begin with.",
    ] = 0.0
    keep_references: Annotated[
        bool,
        Switch(advanced=True),
        "Shows reference videos and their IC-LoRA to the second stage, too, as Dub-It and HDR need it: more tokens and "
        "more memory. The official IC-LoRA pipeline leaves both out there.",
    ] = False
    keep_keyframes: Annotated[
        bool,
        Switch(advanced=True),
        "Enlarges generated keyframes with the clip and generates them again in the second stage, as DFR does: more "
        "tokens and more memory. The clip then has the sound of the first stage. The other official pipelines leave "
        "keyframes out there.",
    ] = False
    detailing: Annotated[
        bool,
        Switch(advanced=True),
        "Shows the small picture of the first stage to the second one, for the detailing IC-LoRA of LTX-2.5 (DFR), "
        "which makes detail out of it: more tokens and more memory. That LoRA belongs to the second stage alone.",
    ] = False
    detailing_lora_strength: Annotated[
        float,
        Number(-10, 10, 0.05, 0.001, advanced=True),
        "Strength of the detailing LoRA. Later official releases have 0.5, 1.2.0 has 1.",
    ] = 0.5
    rounds: Annotated[
        int,
        Whole(0, 2),
        "How often the frame rate is doubled after the second stage, and the clip refined between generated keyframes "
        "(DFR of LTX-2.5): 1 makes 48 of 24 frames per second, 2 makes 96. Needs the temporal upscaler.",
    ] = 0
    adain_factor: Annotated[
        float,
        Number(0, 10, 0.05, advanced=True, instead=zero("off", usual=1.0)),
        "Draws what was enlarged to the colours and contrast of the small picture: 1 fully. 0, off, is official.",
    ] = 0.0
    tone_map_compression: Annotated[
        float,
        Number(0, 1, 0.05, advanced=True, instead=zero("off", usual=0.6)),
        "Tames what is far from grey in what was enlarged, after that: raise it against colours that burn out. 0, off, "
        "is official.",
    ] = 0.0
    sigmas: Annotated[
        tuple[float, ...] | None,
        Words(),
        "The noise levels, such as 0.9, 0.7, 0.4, 0. Not set, they are those that the recipe of the model has for its "
        "second stage.",
    ] = None
    guidance: StreamGuidance | None = None
    distilled_lora_strength: Annotated[
        float | None,
        Number(-10, 10, 0.05, 0.001, shown=0.0, advanced=True),
        "Strength of the distilled LoRA in the first stage. Not set, it is that of the recipe: none, or 0.25 for hq.",
    ] = None
    distilled_lora_refine_strength: Annotated[
        float | None,
        Number(-10, 10, 0.05, 0.001, shown=1.0, advanced=True),
        "Strength of the distilled LoRA in the second stage. Not set, it is that of the recipe: 1 for dev models, 0.5 "
        "for hq.",
    ] = None

    def first(self, width: int, height: int, frames: int, fps: Fraction) -> ClipShape:
        """Return the clip of the first stage.

        Args:
            width: of the enlarged clip, in pixels.
            height: of the enlarged clip, in pixels.
            frames: of the first stage, 8 k + 1.
            fps: of the first stage.

        Raises:
            SettingError: nothing becomes that large when it is enlarged by these upscalers.
        """
        space, step = self.space, self.step
        for name, value in (("width", width), ("height", height)):
            if space != 1 and value % step:
                raise SettingError(
                    f"{name} is {value}; what is enlarged by {float(space):g} must be a multiple of {step}, for "
                    f"example {nearest_size(value, step)}."
                )
        return ClipShape(int(width / space), int(height / space), frames, fps)

    @property
    def tones(self) -> tuple[float, float]:
        """What is done to colours and contrast of a latent that was enlarged."""
        return self.adain_factor, self.tone_map_compression

    @property
    def space(self) -> Fraction:
        """How many times as wide and high the clip becomes."""
        return prod((file.config.space for file in self.upscalers), start=Fraction(1))

    @property
    def step(self) -> int:
        """What width and height of the enlarged clip must be multiples of, in pixels."""
        return SPACE_SCALE * self.space.numerator

    def last(self, clip: ClipShape) -> ClipShape:
        """Return what becomes of the clip of the first stage."""
        for file in self.enlarging:
            clip = file.config.upscaled_shape(clip)
        return clip

    @property
    def enlarging(self) -> tuple[UpscalerFile, ...]:
        """What enlarges the clip before it is refined: not the temporal upscaler, where rounds take it."""
        return tuple(file for file in self.upscalers if not self.rounds or file.config.time == 1)

    @property
    def raising(self) -> UpscalerFile:
        """What doubles the frame rate in each round. Raises SettingError without one."""
        for file in self.upscalers:
            if file.config.time != 1:
                return file
        raise SettingError(
            "Rounds double the frame rate with the temporal upscaler, and there is none: give it with "
            "--temporal-upscaler (ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0), or set rounds to 0."
        )

    def for_rounds(self) -> "SecondStage":
        """Return the second stage that rounds go on from. Raises SettingError for one that they cannot."""
        if not self.refine:
            raise SettingError("Rounds go on from a second stage: let it refine (--refine), or set rounds to 0.")
        _ = self.raising  # refuses rounds without the temporal upscaler
        return replace(self, keep_keyframes=True)

    def with_lora(self, loras: Stack, strength: float) -> Stack:
        """Add the distilled LoRA with this strength to ``loras``; it was made for the transformer alone."""
        if self.lora is None or not strength:
            return loras
        return (*loras, (self.lora, Strengths(strength, text=0)))

    def check_detailing(self) -> None:
        """Raise SettingError for detailing without the stage that it belongs to."""
        if self.detailing and not self.refine:
            raise SettingError("Detailing belongs to a second stage: let it refine (--refine), or leave it out.")

    def with_detailing(self, loras: Stack) -> Stack:
        """Add the detailing LoRA to ``loras`` of the second stage; rounds after it do without."""
        if self.detailing_lora is None or not self.detailing or not self.detailing_lora_strength:
            return loras
        return (*loras, (self.detailing_lora, Strengths(self.detailing_lora_strength, text=0)))

    def followed(self, small: Tensor, large: tuple[int, int, int], loras: Stack) -> tuple[LatentCondition, ...]:
        """Return what the second stage follows of the picture of the first one.

        Source: ``VideoConditionByReferenceLatent`` in the DFR pipeline of ltx-pipelines 1.2.0.

        Args:
            small: video latent of the first stage (B or 1, C, f, h, w).
            large: f, h and w of the enlarged latent.
            loras: of the second stage; their headers may say how many times smaller they want it.

        Raises:
            SettingError: where it is not a whole number of times smaller, or not as many as the LoRA wants.
        """
        if not self.detailing:
            return ()
        length, height, width = small.shape[2:]
        times, wanted = large[1] // height, reference_scale(self.with_detailing(loras))[0]
        if large != (length, times * height, times * width):
            raise SettingError(
                f"Detailing follows a first stage of the same frames that is a whole number of times smaller; this one "
                f"has {length} x {height} x {width} latent cells, the second {large[0]} x {large[1]} x {large[2]}: "
                "enlarge it in space alone, by 2."
            )
        if wanted not in (1, times):
            raise SettingError(
                f"The detailing LoRA wants a first stage that is {wanted} times smaller, and this one is {times} "
                f"times smaller: enlarge it by {wanted}."
            )
        return (ReferenceVideoTokens(small, times),)

    def lora_strengths(self, recipe: Recipe) -> tuple[float, float]:
        """Return the strengths of the distilled LoRA in the first stage and in the second one."""
        first, refine = self.distilled_lora_strength, self.distilled_lora_refine_strength
        return recipe.lora if first is None else first, recipe.refine.lora if refine is None else refine

    def given(self, conditions: Collection[Condition]) -> tuple[Condition, ...]:
        """Return which of the first stage's conditions the second one has."""
        return of_second_stage(conditions, self.keep_references, self.keep_keyframes, self.sound != DUBBED)

    @property
    def held(self) -> tuple[LatentCondition, ...]:
        """What keeps the sound of the first stage from the noise, in the order in which it applies."""
        voice = (ReferenceAudioTokens(),) if self.sound == DUBBED else ()
        return (*voice, Frozen("audio")) if self.sound in ("hold", DUBBED) else ()

    def kept_loras(self, loras: Stack, conditions: Collection[Condition]) -> Stack:
        """Return which of the first stage's LoRAs the second one has: an IC-LoRA leaves with its reference."""
        among = self.detailing and self.detailing_lora is None
        leaves = not (self.keep_references or among) and any(isinstance(each, ReferenceVideo) for each in conditions)
        return without_in_context(loras) if leaves else loras

    def completed(self, recipe: Refine, conditions: Collection[Condition] = ()) -> Refine:
        """Return ``recipe`` of a second stage with everything in place that is set here.

        Args:
            recipe: that of the model.
            conditions: what is given in the first stage; it tells which pipeline this is.
        """
        if self.keep_keyframes and any(isinstance(each, GeneratedKeyframes) for each in conditions):
            recipe = replace(recipe, keeps_sound=True)
        if self.rounds:
            recipe = replace(recipe, sampler="euler_ancestral")
        if self.sound == "refine" or remakes_sound(conditions):
            recipe = replace(recipe, keeps_sound=False)
        if self.sigmas is not None:
            recipe = replace(recipe, sigmas=tuple(schedules.check_sigmas(self.sigmas)))
        if self.guidance is not None:
            recipe = replace(recipe, video=self.guidance.video, audio=self.guidance.audio)
        if self.noise_scale:
            recipe = replace(recipe, sigmas=tuple(schedules.starting_at(recipe.sigmas, self.noise_scale)))
        return recipe
