"""How do we get from noise to a clip?"""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.conditioning import AVState, LatentCondition, apply_conditions
from ..ltx2_core.conditioning.conditions import edits
from ..ltx2_core.errors import SettingError
from ..ltx2_core.fields import settings_from
from ..ltx2_core.latents import AVLatent
from ..ltx2_core.pipeline.decode_video import DecodeVideo
from ..ltx2_core.pipeline.encode_conditions import check_keyframes, check_something_is_left
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.grade import prepare_encoding
from ..ltx2_core.pipeline.long import sampled_size, texts_at_once
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.sample import Sample, Sampling
from ..ltx2_core.sampling import Guidance, Recipe, ScheduleSettings, StreamGuidance, schedules
from ..ltx2_core.sampling.windows import Segment, Windowing
from ..ltx2_core.settings import LongClip, RecipeSettings, SamplingSettings, StreamScales, parse_stg_blocks
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import (
    CONDITIONS,
    FPS,
    GUIDANCE,
    LATENT,
    MODEL,
    NEGATIVE,
    PLAN,
    POSITIVE,
    SIGMAS,
    WINDOWS,
    socket,
    widgets,
)
from .node import Node
from .preview import Preview
from .values import Chain, Conditioning, HostConditioning, HostLatent, Latent, LongClipPlan, WindowsType, script_of


class SampleNode(Node):
    """Denoises picture and sound together."""

    id = "LTX2AVSample"
    title = "sampling/Dual-Stream Sampler"
    inputs = [
        MODEL,
        POSITIVE,
        LATENT,
        SIGMAS,
        widgets(SamplingSettings, "seed"),
        widgets(Guidance, "text_scale", "cross_modal_scale"),
        NEGATIVE,
        widgets(SamplingSettings, "sampler"),
        widgets(Guidance, "stg_scale", "stg_blocks", "rescale"),
        widgets(StreamScales, "video_text_scale", "audio_text_scale"),
        widgets(StreamScales, "video_cross_modal_scale", "audio_cross_modal_scale"),
        FPS,
        GUIDANCE,
        widgets(SamplingSettings, "start_step", "end_step", "add_noise", "noise_order", "batched_passes"),
        PLAN,
        CONDITIONS,
        WINDOWS,
        widgets(SamplingSettings, "step_noise"),
        widgets(RecipeSettings, "settings", optional=True),
        widgets(ScheduleSettings, "steps", optional=True),
        widgets(RecipeSettings, "hq"),
        widgets(SamplingSettings, "eta", "step_cache"),
    ]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, negative: Conditioning | None = None,
        conditions: Chain | None = None, windows: LongClipPlan | None = None, **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        begin = HostLatent(latent, settings.pop("fps", 0.0), HostConditioning(positive))
        engine = sampling_engine(cls, model, begin, settings.pop("plan", None))
        items, state = given_in(begin, conditions, engine)
        sampling = _sampling(engine, begin, conditions or (), settings).for_streams(state.free)
        check_negative(sampling, negative)
        _warn(engine, begin, sampling)
        stage = _stage(sampling, state, begin, windows)
        script = script_of(engine, positive, negative if sampling.needs_negative else None, windows)
        folder = host.cache_subfolder("windows") if windows is not None and windows.resume else None
        cache = stage.window_cache(engine, folder, script.negative)
        result = stage.run(engine, begin.content, begin.fps, script, items, cache=cache, last=begin.last_step)
        return io.NodeOutput(_ended(begin, result, engine, stage, state))


def sampling_engine(node: type[io.ComfyNode], model: LoadedModel, latent: HostLatent, plan: Plan | None) -> HostEngine:
    """Return the engine of a node that samples, with its preview."""
    preview = Preview(node, model.models, latent.fps, latent.content.audio is not None)
    return HostEngine(model, plan, node, preview=preview)


def given_in(
    latent: HostLatent, conditions: Chain | None, engine: HostEngine, *more: LatentCondition
) -> tuple[list[LatentCondition], AVState]:
    """Return everything that is given in ``latent``, and what it leaves to be made.

    Raises:
        SettingError: if it leaves nothing, or the model cannot make it.
    """
    streams = tuple(latent.content.streams())
    careful = prepare_encoding(engine, conditions or ())
    encoded = engine.model.conditions.encode(conditions or (), latent.shape, streams, careful, latent.times)
    items = [*latent.given(), *encoded, *more]
    state = apply_conditions(latent.content, latent.fps, items)
    check_something_is_left(state)
    check_keyframes(state, engine.blueprint)
    return items, state


def check_negative(sampling: Sampling, negative: Conditioning | None) -> None:
    """Raise SettingError if a negative prompt is needed and there is none."""
    if sampling.needs_negative and negative is None:
        raise SettingError(
            f"{sampling.reason_for_negative}, but there is no negative prompt: connect one, or set the scales to 1."
        )


def _sampling(engine: HostEngine, begin: HostLatent, conditions: Chain, settings: dict[str, Any]) -> Sampling:
    """Return how to sample: as the recipe or as the widgets say; what is connected takes the place of either."""
    how = settings_from(SamplingSettings, settings)
    sigmas, guidance, steps = (settings.pop(name, None) for name in ("sigmas", "guidance", "steps"))
    choice = settings_from(RecipeSettings, settings)
    models, recipe = engine.models, recipe_of(engine.models, choice.hq).editing(edits(conditions))
    follows = choice.follows(sigmas)
    own = None if follows or recipe.has_fixed_steps else steps
    levels = recipe.sigmas(own, tokens=begin.video_tokens) if sigmas is None else sigmas.tolist()
    if follows:
        how = replace(how, sampler=recipe.sampler)
        host.show_text(engine.node_id, recipe.describe(models.kind_of(choice.hq), len(levels) - 1))
    if guidance is None:
        guidance = recipe.guidance if follows else _sliders(settings, recipe, models.layers)
    how.check_step_cache(len(levels) - 1)
    levels = schedules.slice_steps(levels, how.start_step, how.end_step or None)
    return Sampling(tuple(levels), guidance, how, drawn=begin.drawn)


def _sliders(settings: dict[str, Any], recipe: Recipe, layers: int) -> StreamGuidance:
    """Return the guidance that the widgets say."""
    blocks = parse_stg_blocks(settings.pop("stg_blocks", "auto"), recipe, layers)
    alone = settings_from(StreamScales, settings)
    return alone.guidance(Guidance(**(SLIDERS | settings), stg_blocks=blocks))


SLIDERS = {"stg_scale": 1.0, "rescale": 0.7}  # what graphs that are older than these widgets mean


def _stage(sampling: Sampling, state: AVState, begin: HostLatent, long: LongClipPlan | None) -> Sample:
    if long is None:
        return Sample(sampling, sampled_size(state, ()))
    if sampling.settings.start_step or sampling.settings.end_step or not sampling.settings.add_noise:
        raise SettingError("Windows are made from beginning to end: set start_step and end_step to 0, add_noise on.")
    windows = tuple(long.windowing.windows(begin.shape.frames, begin.fps))
    texts = texts_at_once([0.0, *(start for start, _ in long.segments)], windows, long.windowing.transition)
    return Sample(sampling, replace(sampled_size(state, windows), texts=texts), windows, long.windowing)


def _warn(engine: HostEngine, begin: HostLatent, sampling: Sampling) -> None:
    """Show what is likely not meant."""
    small = DecodeVideo(begin.shape.video_latent).warning(engine.blueprint) if begin.has_picture else ""
    for sentence in filter(None, (begin.unequal_lengths, small)):
        host.show_text(engine.node_id, sentence)
    if engine.models.distilled and len(sampling.passes(True)) > 1:
        host.show_text(engine.node_id, "This is a distilled model: it needs both CFG sliders at 1 and STG at 0.")


def _ended(begin: HostLatent, result: AVLatent, engine: HostEngine, stage: Sample, state: AVState) -> Latent:
    """Return the LATENT; one that is still noisy has the last step, and its stage has not drawn all its numbers."""
    if stage.sampling.sigmas[-1] == 0 or stage.windows:
        return begin.finished(result, None, state.draws)
    return begin.finished(result, None if engine.preview is None else engine.preview.last_step, ())


class LongVideo(Node):
    """Cuts a long clip into windows."""

    id = "LTX2AVLongVideo"
    title = "sampling/Long Video"
    inputs = [
        widgets(Windowing, "window", "overlap", "drift_control", "overlap_strength"),
        widgets(LongClip, "resume"),
        widgets(Windowing, "transition", optional=True),
    ]
    outputs = {"windows": WindowsType}

    @classmethod
    def execute(cls, resume: bool = True, **windowing: Any) -> io.NodeOutput:
        return io.NodeOutput(LongClipPlan(Windowing(**windowing), resume))


class SegmentNode(Node):
    """Another prompt from a moment on."""

    id = "LTX2AVSegment"
    title = "sampling/Segment"
    inputs = [socket(WindowsType, "windows"), POSITIVE, widgets(Segment, "start")]
    outputs = {"windows": WindowsType}

    @classmethod
    def execute(cls, windows: LongClipPlan, positive: Conditioning, start: float) -> io.NodeOutput:
        return io.NodeOutput(replace(windows, segments=(*windows.segments, (start, positive))))
