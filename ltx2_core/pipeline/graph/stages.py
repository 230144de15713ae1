"""Stages as nodes of a graph run them: each begins with the LATENT that the one before has handed on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ...conditioning import AVState, LatentCondition, apply_conditions
from ...conditioning.conditions import Change, Condition, edits
from ...conditioning.kept import kept_audio, not_shown
from ...conditioning.rate import of_round
from ...errors import Finding, SettingError
from ...fields import settings_from
from ...geometry import ClipShape
from ...latents import AVLatent
from ...memory.machine import Machine
from ...sampling import Guidance, Recipe, Step, StreamGuidance, schedules
from ...sampling import Refine as RefineRecipe
from ...settings import RecipeSettings, Resources, SamplingSettings, SecondStage, StreamScales, parse_stg_blocks
from ...upscaler import UpscalerConfig
from ..decode_video import DecodeVideo
from ..encode_conditions import (
    ConditionCache,
    check_keyframes,
    check_marker,
    check_something_is_left,
    foreseen_items,
)
from ..engine import Engine
from ..generate import recipe_of
from ..grade import prepare_encoding
from ..long import Script, sampled_size, texts_at_once
from ..plan import Plan, plan_stages
from ..raise_rate import RaiseRate
from ..refine import Refine
from ..sample import Sample, Sampling, check_possible
from ..stage import upscaler_key
from ..stages import stages_of_clip
from ..upscale import Upscale, outlined
from .latents import NO_PICTURE, Conditioning, GraphLatent, Latent, LongClipPlan, script_of

EngineT = TypeVar("EngineT", bound="GraphEngine")
ResultT = TypeVar("ResultT", covariant=True)
Prompts = tuple[Conditioning, Conditioning | None]  # the prompt, and the negative one

NO_LORA = (
    "The second stage of this dev model was made for the distilled LoRA (ltx-2-19b-distilled-lora-384, "
    "ltx-2.3-22b-distilled-lora-384 or ltx-2.5-22b-distilled-lora-450): connect the model through LTX-2 Load LoRA to "
    "refine_model."
)

SLIDERS = {"stg_scale": 1.0, "rescale": 0.7}  # what graphs that are older than these widgets mean


class GraphEngine(Engine, Protocol):
    """The engine of one node.

    Attributes:
        conditions: latents that outlive the node.
        findings: what has been found in this run.
    """

    conditions: ConditionCache
    findings: list[Finding]

    @property
    def last_step(self) -> Step | None:
        """The last step of the sampler that ran last, as far as it is known."""


class AnyUpscaler(Protocol):
    """An upscaler of whatever owner."""

    config: UpscalerConfig
    dtype: torch.dtype

    def __hash__(self) -> int: ...


def given_in(
    engine: GraphEngine, latent: GraphLatent, conditions: Sequence[Condition], *more: LatentCondition
) -> AVState:
    """Return what everything that is given in ``latent`` leaves to be made; nothing is encoded yet.

    Raises:
        SettingError: if it leaves nothing, or the model cannot make it, or a part of an empty LATENT is to be changed.
    """
    streams = latent.content.streams()
    if any(isinstance(each, Change) for each in conditions) and not any(stream.any() for stream in streams.values()):
        raise SettingError(
            "Retake and Inpaint change a part of a clip, and this LATENT is empty: connect that of LTX-2 Encode Clip, "
            "or of a sampler."
        )
    sizes = foreseen_items(conditions, latent.own_shape, tuple(streams), latent.times)
    state = apply_conditions(latent.content, latent.fps, [*latent.given(), *sizes, *more])
    check_something_is_left(state)
    check_keyframes(state, engine.blueprint)
    return state


def encode_given(engine: GraphEngine, latent: GraphLatent, conditions: Sequence[Condition]) -> list[LatentCondition]:
    """Encode what is given in ``latent``; it comes after what the LATENT itself gives."""
    careful, streams = prepare_encoding(engine, conditions), tuple(latent.content.streams())
    encoded = engine.conditions.encode(conditions, latent.own_shape, streams, careful, latent.times)
    return [*latent.given(), *encoded]


def sample_latent(
    engine: GraphEngine, latent: GraphLatent, prompts: Prompts, conditions: Sequence[Condition],
    windows: LongClipPlan | None, settings: dict[str, Any], folder: Path | None = None
) -> Latent:  # fmt: skip
    """Denoise a latent.

    Args:
        engine: of the transformer.
        latent: what to fill.
        prompts: the prompt, and the negative one if there is one.
        conditions: what is given.
        windows: of a long clip; None makes it at once.
        settings: values of the widgets, and ``sigmas`` and ``guidance`` if they are connected.
        folder: where finished windows are kept.

    Returns:
        The LATENT; one that is still noisy has the last step.

    Raises:
        SettingError: for settings that do not go together, and where a negative prompt is missing.
    """
    state = given_in(engine, latent.read_by(engine.models), conditions)
    sampling = _sampling(engine, latent, conditions, settings).for_streams(state.free)
    _check_negative(sampling, prompts)
    stage = _sample(sampling, state, latent, windows)
    unseen = not_shown(conditions, latent.shape.frames) if latent.has_picture else []
    if (sound := kept_audio(conditions)) is not None:
        unseen += map(str, sound.findings(latent.own_shape))
    script = script_of(engine, prompts[0], prompts[1] if sampling.needs_negative else None, windows)
    script.check_batch(latent.content)
    if windows is None:
        check_possible(sampling, state, script.all_contexts)
    else:
        unseen += script.unread(stage.windows, windows.windowing.transition)
    items = encode_given(engine, latent, conditions)
    _warn(engine, latent, sampling, [*unseen, "" if items else _lost(latent, sampling)])
    kept = folder if windows is not None and windows.resume else None
    cache = stage.window_cache(engine, kept, script.negative)
    result = stage.run(engine, latent.content, latent.fps, script, items, cache=cache, last=latent.last_step)
    if sampling.sigmas[-1] == 0 or windows is not None:
        return latent.finished(result, None, state.draws)
    return latent.finished(result, engine.last_step, ())  # its stage has not drawn all its numbers


def upscale_latent(
    engine: Engine, latent: GraphLatent, upscaler: AnyUpscaler, wanted: str | None, second: SecondStage
) -> Latent:  # fmt: skip
    """Return the larger LATENT, in the tones that ``second`` asks for; ``wanted`` is "space" or "time" where only one
    of them is to be enlarged.

    Raises:
        SettingError: for a latent without a picture, or with guide frames, and for an upscaler of the other kind.
    """
    _check_enlarging(engine, latent, upscaler, wanted)
    key, size, dtype = upscaler_key(upscaler), latent.shape.video_latent, upscaler.dtype
    keyframes = len(latent.content.generated_frames)
    stage = Upscale(key, upscaler.config, size, dtype, latent.batch, keyframes, tones=second.tones)
    content, fps = stage.run(engine, latent.content, latent.fps)
    return latent.upscaled(content, fps)


def _check_enlarging(engine: Engine, latent: GraphLatent, upscaler: AnyUpscaler, wanted: str | None) -> None:
    if not latent.has_picture:
        raise SettingError(NO_PICTURE)
    latent.check_no_guides()
    if wanted is not None and getattr(upscaler.config, wanted) == 1:
        other = "LTX-2 Upscale in Time" if wanted == "space" else "LTX-2 Latent Upscaler"
        raise SettingError(f"This upscaler enlarges {upscaler.config.enlarges}, not {wanted}: connect it to {other}.")
    latent.read_by(engine.models)


@dataclass(frozen=True)
class Refining:
    """A second stage of which all is known but the latent, so that what cannot be is refused before there is one.

    Attributes:
        engine: of the transformer.
        stage: not fitted yet.
        script: contexts of the prompts.
        conditions: what is given.
        held: what of the first stage is given, beside them.
        draws: sizes of its own draws of random numbers.
        recipe: what the settings and the model's own recipe come to.
        said: what there is to say about it.
    """

    engine: GraphEngine
    stage: Refine
    script: Script
    conditions: Sequence[Condition]
    held: Sequence[LatentCondition]
    draws: tuple[int, ...]
    recipe: RefineRecipe
    said: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, prompts: Prompts, second: SecondStage, recipe: RefineRecipe, seed: int, conditions: Sequence[Condition],
        small: AVLatent | None, engine: GraphEngine, latent: GraphLatent
    ) -> "Refining":  # fmt: skip
        """Lay out the second stage of ``latent``, of which only the size counts.

        Args:
            prompts: the prompt, and the negative one if there is one.
            second: the settings of the second stage.
            recipe: what these and the model's own recipe come to.
            seed: of the noise.
            conditions: what is given.
            small: the latent of the first stage, which a detailing IC-LoRA follows.
            engine: of the transformer.
            latent: what to refine.

        Raises:
            SettingError: for a latent without a picture, and where a negative prompt is missing.
            DoesNotFitError: where no tiles fit.
        """
        if not latent.read_by(engine.models).has_picture:
            raise SettingError(NO_PICTURE)
        held = second.held if latent.content.audio is not None else ()
        if small is not None and small.video is not None:
            held = (*second.followed(small.video, latent.shape.video_latent, engine.loras), *held)
        given, loras = second.given(conditions), second.kept_loras(engine.loras, conditions)
        state = given_in(engine, latent, given, *held)
        stage = Refine.of(recipe, SamplingSettings(seed=seed), second.tiles, state, loras, latent.drawn_by_first)
        _check_negative(stage.sampling, prompts)
        engine.fit(stage)
        script = script_of(engine, prompts[0], prompts[1] if stage.sampling.needs_negative else None)
        script.check_batch(latent.content)
        check_possible(stage.sampling, state, script.all_contexts)
        said = (NO_LORA,) if small is not None and recipe.lora and not engine.loras else ()
        return cls(engine, stage, script, given, held, state.draws, recipe, said)

    def run(self, latent: GraphLatent) -> tuple[Latent, str]:
        """Return the refined LATENT, and what there is to say about it."""
        engine, stage = self.engine, self.engine.fit(self.stage)
        items = [*encode_given(engine, latent, self.conditions), *self.held]
        result = stage.run(engine, latent.content, latent.fps, self.script, items)
        said = [*stage.describe(result), *self.said]
        engine.events.on_remark("\n".join(said))
        report = "\n".join([*said, *map(str, engine.findings)])
        kept = replace(result, audio=latent.content.audio) if self.recipe.keeps_sound else result
        return latent.refined(kept, stage.tiles, self.draws), report


def refine_latent(
    engine: GraphEngine, latent: GraphLatent, prompts: Prompts, second: SecondStage, recipe: RefineRecipe,
    seed: int, conditions: Sequence[Condition]
) -> tuple[Latent, str]:  # fmt: skip
    """Refine a latent in tiles.

    Args:
        engine: of the transformer.
        latent: what to refine.
        prompts: the prompt, and the negative one if there is one.
        second: the settings of the second stage.
        recipe: what these and the model's own recipe come to.
        seed: of the noise.
        conditions: what is given.

    Returns:
        The refined LATENT, and what there is to say about it.

    Raises:
        SettingError: for a latent without a picture, and where a negative prompt is missing.
    """
    return Refining.of(prompts, second, recipe, seed, conditions, None, engine, latent).run(latent)


@dataclass(frozen=True)
class Raising:
    """A round that doubles the frame rate, of which all is known but the enlarged latent.

    Attributes:
        engine: of the transformer.
        stage: the round.
        script: contexts of the prompt.
        conditions: what is given.
    """

    engine: GraphEngine
    stage: RaiseRate
    script: Script
    conditions: Sequence[Condition]

    @classmethod
    def of(
        cls, prompt: Conditioning, conditions: Sequence[Condition], number: int, seed: int, engine: GraphEngine,
        latent: GraphLatent
    ) -> "Raising":  # fmt: skip
        """Lay out round ``number``, the first of which is 1, of ``latent``, of which only the size counts.

        Raises SettingError for keyframes and conditions that windows cannot follow.
        """
        given = of_round(conditions)
        check_marker(engine.blueprint)
        sizes = foreseen_items(given, latent.shape, ("video",), latent.times)
        stage = RaiseRate.of(latent.content, latent.fps, number, sizes, seed, latent.drawn_by_first)
        script = script_of(engine, prompt)
        script.check_batch(latent.content)
        return cls(engine, stage, script, given)

    def run(self, latent: GraphLatent) -> Latent:
        """Return the refined LATENT."""
        engine, careful = self.engine, prepare_encoding(self.engine, self.conditions)
        items = engine.conditions.encode(self.conditions, latent.shape, ("video",), careful, latent.times)
        result = self.stage.run(engine, latent.content, latent.fps, self.script, items)
        return latent.raised(result, self.stage.draws)


class LaidOut(Protocol[ResultT]):
    """A stage that refines what has been enlarged."""

    def run(self, latent: GraphLatent) -> ResultT:
        """Return what becomes of the enlarged latent."""


def enlarge_and_refine(
    engine: Engine, latent: GraphLatent, upscaler: AnyUpscaler, engine_of: Callable[[GraphLatent], EngineT],
    lay_out: Callable[[EngineT, GraphLatent], LaidOut[ResultT]], wanted: str | None = None,
    second: SecondStage = SecondStage()
) -> ResultT:  # fmt: skip
    """Return the enlarged latent as it is refined; what ``lay_out`` refuses is refused before it is enlarged.

    Args:
        engine: of the upscaler.
        latent: of the stage before.
        upscaler: what enlarges it.
        engine_of: returns that of the transformer for the latent that it will refine.
        lay_out: prepares what refines a latent of the size of the one that it is given.
        wanted: as for ``upscale_latent``.
        second: the settings of the second stage.
    """
    _check_enlarging(engine, latent, upscaler, wanted)
    outline, fps = outlined(upscaler.config, latent.content, latent.fps)
    ahead = GraphLatent(latent.upscaled(outline, fps), prompt=latent.prompt)
    laid_out = lay_out(engine_of(ahead), ahead)
    larger = upscale_latent(engine, latent, upscaler, wanted, second)
    return laid_out.run(GraphLatent(larger, prompt=latent.prompt))


def plan_clip(engine: Engine, clip: ClipShape, sampling: Sampling, most: Resources, machine: Machine) -> Plan:
    """Plan a clip with what is free now on ``machine``, at most what the user allows."""
    room = engine.room()
    granted = room.budget if room.budget is not None else machine.memory
    room = replace(room, machine=machine, budget=granted).within(most.vram, most.ram)
    stages = stages_of_clip(engine.blueprint, clip, sampling, whole=True)
    return plan_stages(stages, engine.blueprint, room, clip, engine.load)


def _check_negative(sampling: Sampling, prompts: Prompts) -> None:
    """Raise SettingError if a negative prompt is needed and there is none."""
    if sampling.needs_negative and prompts[1] is None:
        raise SettingError(
            f"{sampling.reason_for_negative}, but there is no negative prompt: connect one, or set the scales to 1."
        )


def _sampling(
    engine: Engine, latent: GraphLatent, conditions: Sequence[Condition], settings: dict[str, Any]
) -> Sampling:
    """How to sample: as the recipe or as the widgets say; what is connected takes the place of either."""
    how = settings_from(SamplingSettings, settings)
    sigmas, guidance, steps = (settings.pop(name, None) for name in ("sigmas", "guidance", "steps"))
    choice = settings_from(RecipeSettings, settings)
    models, recipe = engine.models, recipe_of(engine.models, choice.hq).editing(edits(conditions))
    follows = choice.follows(sigmas)
    own = None if follows or recipe.has_fixed_steps else steps
    levels = recipe.sigmas(own, tokens=latent.video_tokens) if sigmas is None else sigmas.tolist()
    if follows:
        how = replace(how, sampler=recipe.sampler)
        engine.events.on_remark(recipe.describe(models.kind_of(choice.hq), len(levels) - 1))
    if guidance is None:
        guidance = recipe.guidance if follows else _sliders(settings, recipe, models.layers)
    how.check_step_cache(len(levels) - 1)
    levels = schedules.slice_steps(schedules.check_sigmas(levels), how.start_step, how.end_step or None)
    return Sampling(tuple(levels), guidance, how, drawn=latent.drawn)


def _sliders(settings: dict[str, Any], recipe: Recipe, layers: int) -> StreamGuidance:
    """The guidance that the widgets say."""
    blocks = parse_stg_blocks(settings.pop("stg_blocks", "auto"), recipe, layers)
    alone = settings_from(StreamScales, settings)
    return alone.guidance(Guidance(**(SLIDERS | settings), stg_blocks=blocks))


def _sample(sampling: Sampling, state: AVState, latent: GraphLatent, long: LongClipPlan | None) -> Sample:
    if long is None:
        return Sample(sampling, sampled_size(state, ()))
    if sampling.settings.start_step or sampling.settings.end_step or not sampling.settings.add_noise:
        raise SettingError("Windows are made from beginning to end: set start_step and end_step to 0, add_noise on.")
    if said := latent.unequal_lengths:
        raise SettingError(
            f"{said} Windows need both to end together: set fps to that rate, or begin with LTX-2 Empty AV Latent."
        )
    windows = tuple(long.windowing.windows(latent.shape.frames, latent.fps))
    texts = texts_at_once([0.0, *(start for start, _ in long.segments)], windows, long.windowing.transition)
    return Sample(sampling, replace(sampled_size(state, windows), texts=texts), windows, long.windowing)


def _lost(latent: GraphLatent, sampling: Sampling) -> str:
    """Say if a clip in ``latent``, of which nothing is given, drowns in the noise of the first step."""
    drowns = sampling.sigmas[0] >= schedules.ALL_NOISE and sampling.settings.add_noise and latent.last_step is None
    if not drowns or not any(stream.any() for stream in latent.content.streams().values()):
        return ""
    return (
        "Nothing stays of the clip in this LATENT, which is made anew from noise: connect LTX-2 Retake or Inpaint to "
        "conditions, let it pass through LTX-2 Extend, or start at a later step."
    )


def _warn(engine: Engine, latent: GraphLatent, sampling: Sampling, more: Sequence[str]) -> None:
    """Say what is likely not meant."""
    decoding = DecodeVideo(latent.shape.video_latent, batch=latent.batch, whole=True) if latent.has_picture else None
    later = () if decoding is None else (decoding.warning(engine.blueprint), decoding.refuse(engine.room()))
    for sentence in filter(None, (latent.unequal_lengths, *later, *more)):
        engine.events.on_remark(sentence)
    if engine.models.distilled and len(sampling.passes(True)) > 1:
        engine.events.on_remark("This is a distilled model: it needs both CFG sliders at 1 and STG at 0.")
