"""The front door: a request becomes a clip.

Read this file first; every line is one stage, and ``pipeline`` holds what a stage does and needs.
"""

import logging
from dataclasses import fields, replace
from typing import Any

from ..checkpoint import Models
from ..checkpoint.files import called
from ..conditioning.kept import is_replaced, kept_audio, kept_video, not_shown
from ..conditioning.light import check_light
from ..disk_cache import NOWHERE, DiskCache
from ..errors import CheckpointError
from ..errors.kinds import arguments_checked
from ..latents import AVLatent
from ..sampling import recipe_for
from ..sampling.recipes import Recipe
from ..sampling.schedules import ALL_NOISE
from ..settings import AUTO, CompleteRequest, Request
from ..text.prompts import describe_prompts
from .duration import head_of, with_length
from .encode_conditions import encode_all
from .encode_text import EncodeText, contexts_cache
from .engine import Engine
from .engines.local import LocalEngine
from .enhance import with_enhanced_prompt
from .finish import Clip, Finish
from .grade import grade, in_full_precision
from .long import Script, describe_unread
from .plan import plan_stages
from .precision import clean_inference
from .stage import Events
from .stages import Stages, check_size, text_of
from .takes import Take

_log = logging.getLogger(__name__)


def generate(models: Models, prompt: str = "", negative: str | None = None, **settings: Any) -> Clip:
    """Make a clip with sound from a prompt.

    Args:
        models: the opened files.
        prompt: what is to be seen and heard.
        negative: what to avoid; None follows the recipe of the model.
        settings: any field of the settings in ``settings`` by its name, such as ``width``, ``frames``, ``seed``,
            ``steps``, ``conditions``, ``second`` or ``loras``; and any of ``Events``, such as ``on_progress``. What is
            not set follows the recipe of the model.

    Returns:
        The clip; its frames are decoded as they are asked for. Of several at once (``batch_size``) it is the first;
        ``run_batch`` returns all.

    Raises:
        LTX2Error: for settings that cannot be, and for clips that do not fit the card, before any weights are read.
    """
    told = {each.name for each in fields(Events)}
    events = Events(**{name: value for name, value in settings.items() if name in told and value is not None})
    rest = {name: value for name, value in settings.items() if name not in told}
    return run(models, Request.of("" if prompt is None else prompt, negative, **rest), events=events)


def run(models: Models, request: Request, engine: Engine | None = None, events: Events = Events()) -> Clip:
    """Make the clip that ``request`` asks for; arguments as for ``run_batch``."""
    return run_batch(models, request, engine, events)[0]


@clean_inference()
@arguments_checked
def run_batch(models: Models, request: Request, engine: Engine | None = None, events: Events = Events()) -> list[Clip]:
    """Make the clips that ``request`` asks for, as many as its batch size says.

    Args:
        models: the opened files.
        request: what is asked; what is None in it follows the recipe of the model.
        engine: owner of the card; None takes all that is free and the request allows.
        events: whom an engine made here tells.
    """
    complete = settled(models, request, events)
    engine = engine or LocalEngine(models, complete.request.resources, events, complete.loras)
    return run_complete(models, complete, engine)


@clean_inference()
def settled(models: Models, request: Request, events: Events = Events()) -> CompleteRequest:
    """Return the request with nothing left open: its prompt made longer, its length said by it, if asked."""
    if request.enhance is not None or request.clip.follows_prompt:
        complete = completed(models, request)
        check_ahead(request, complete, LocalEngine(models, request.resources, loras=complete.loras), NOWHERE)
    request = with_length(models, with_enhanced_prompt(models, request, events), events)
    return completed(models, request)


def check_ahead(request: Request, complete: CompleteRequest, engine: Engine, cache: DiskCache) -> EncodeText:
    """Refuse what can be before the first network is loaded, and return the stage of the prompts.

    Args:
        request: what is asked.
        complete: the same completed, with any length where the prompt decides it.
        engine: for dtypes and blueprint; nothing is loaded.
        cache: where encoded prompts are kept.

    Raises:
        LTX2Error: the clip cannot be.
    """
    if not request.clip.follows_prompt:
        return Stages.of(complete, engine, cache).text
    check_size(complete, engine.blueprint)  # what is given has no frame yet
    head_of(engine.models).outline()
    return text_of(complete, complete.streams, engine, cache)


@clean_inference()
def run_complete(
    models: Models, complete: CompleteRequest, engine: Engine, sampled: AVLatent | None = None
) -> list[Clip]:
    """Make the clips of a request in which nothing is open; of what an earlier try has ``sampled`` only the end."""
    request = complete.request
    _say_first(complete)
    grading = grade(models, request.loras, request.hdr)
    check_light(request.conditions, grading, any(lora.light for lora, _ in request.loras))
    engine = engine if grading is None else in_full_precision(engine)
    cache = contexts_cache(engine, request.resources.cache if request.encoded is None else None)
    stages = Stages.of(complete, engine, cache)
    engine.follow(plan_stages(stages, engine.blueprint, engine.room(), complete.made, engine.load))
    parameters = complete.parameters_text(_name_of(engine.models))
    finish = replace(_finish(stages, engine, complete), grading=grading)
    if sampled is None:
        sampled = _sampled(complete, engine, stages, cache)
        take = Take(sampled, complete.made.fps, seams=finish.seams, made_by=models.generation, shown=complete.shown)
        engine.events.on_latent(replace(take, tags={"parameters": parameters}))
    return [finish.run(engine, each, parameters) for each in sampled.clips()]


def _sampled(complete: CompleteRequest, engine: Engine, stages: Stages, cache: DiskCache) -> AVLatent:
    """The latent of a request, as it is decoded."""
    contexts = stages.text.run(engine, cache)
    script = Script.of_prompts(complete.script, contexts, complete.negative)
    conditions = encode_all(complete.request.conditions, complete.shape, complete.streams, engine)
    begin, fps = stages.conditions.begin(complete.shape), complete.shape.fps
    windows = stages.sample.window_cache(engine, complete.request.resume, script.negative)
    latent = stages.sample.run(engine, begin, fps, script, conditions, cache=windows)
    small = latent = latent if complete.keeps_keyframes else replace(latent, keyframes=None)
    for upscale in stages.upscale:
        latent, fps = upscale.run(engine, latent, fps)
    if stages.refine is not None:
        conditions = encode_all(complete.refine_conditions, complete.final, complete.streams, engine)
        followed = () if small.video is None else complete.followed(small.video)
        refined = stages.refine.run(engine, latent, fps, script, [*conditions, *followed, *complete.held])
        latent = refined if not complete.refine.keeps_sound else replace(refined, audio=latent.audio)
    for each in stages.rounds:
        latent, fps = each.upscale.run(engine, latent, fps)
        conditions = encode_all(complete.round_conditions(each.shape), each.shape, ("video",), engine)
        latent = each.refine.run(engine, latent, fps, script, conditions)
    return latent.first(complete.made) if stages.rounds else latent


def _say_first(request: CompleteRequest) -> None:
    for sentence in describe_prompts([segment.prompt for segment in request.script], request.negative):
        _log.warning(sentence)
    _say_unread(request)
    if seen := request.followed_picture:
        size = request.shown or (request.final.width, request.final.height)
        _log.info("The clip has %d x %d pixels, after what is given with %d x %d.", *size, *seen)
    if "video" in request.streams:
        for sentence in not_shown(request.request.conditions, request.shape.frames):
            _log.warning(sentence)
    drowns = request.sigmas[0] >= ALL_NOISE and request.request.sampling.add_noise
    if drowns and is_replaced(request.request.conditions, request.shape):
        _log.warning(
            "Nothing stays of the clip that is given to be changed, which is made anew from noise: say which part is "
            "made anew with a retake or a mask, make the clip longer, or set denoise below 1."
        )


def _say_unread(request: CompleteRequest) -> None:
    """Say which prompts nothing looks at: those of segments, and a negative one of one's own."""
    for sentence in describe_unread(request.unread, request.windows):
        _log.warning(sentence)
    if request.request.negative and request.negative and not request.needs_negative(request.streams):
        _log.warning(
            "The negative prompt is not read: nothing looks at it where the text scale is 1, as distilled models need "
            "it. Raise the NAG scale, which makes it count there, or leave it out."
        )


def check_decoders(models: Models, request: CompleteRequest) -> None:
    """Refuse a clip whose pictures nothing could decode; that its sound cannot be is logged.

    Raises:
        CheckpointError: names what the files lack, and where the file with it is chosen.
    """
    if "video" in request.streams and kept_video(request.refine_conditions) is None:
        models.source("video_decoder")
    if "audio" in request.streams and kept_audio(request.request.conditions) is None:
        for name in ("audio_decoder", "vocoder"):
            try:
                models.source(name)
            except CheckpointError as error:
                _log.warning("The clip will have no sound: %s", error)


def completed(models: Models, request: Request) -> CompleteRequest:
    """Return the request with nothing left open; a length that the prompt decides is any."""
    if request.clip.follows_prompt:
        request = replace(request, clip=replace(request.clip, length=AUTO))
    return request.completed(recipe_of(models, request.hq))


def next_engine(models: Models, request: CompleteRequest, events: Events, before: LocalEngine | None) -> LocalEngine:
    """Return the owner of the card for one of many clips: the one ``before`` with its LoRAs, if that may make it.

    The transformer stays built between clips of one owner.

    Args:
        models: the opened files.
        request: the clip; its resources and LoRAs count.
        events: whom a new owner tells.
        before: of the clip before.

    Raises:
        LTX2Error: as ``LocalEngine`` does.
    """
    resources = request.request.resources
    if before is not None and before.models is models and before.resources == resources:
        return before.with_loras(request.loras)
    return LocalEngine(models, resources, events, request.loras, keeps=True)


def _finish(stages: Stages, engine: Engine, request: CompleteRequest) -> Finish:
    seams = None
    if stages.refine is not None and not stages.rounds and "video" in request.streams:
        size = request.final.video_latent
        seams = size, engine.fit(stages.refine).tiles.seams(size)
    return Finish(
        request.made,
        stages.decode_audio,
        stages.decode_video,
        kept_audio(request.request.conditions),
        kept_video(request.refine_conditions),
        seams,
        request.request.high_quality,
        blend=request.request.blend,
        blended=request.blended_conditions,
        shown=request.shown,
    )


def _name_of(models: Models) -> str:
    """The name of the transformer's file, without its ending, or of its folder."""
    if "transformer" not in models.sources:
        return models.kind
    path = models.sources["transformer"].file.path
    return path.name if path.is_dir() else called(path).removesuffix(path.suffix)


def recipe_of(models: Models, hq: bool = False) -> Recipe:
    """Return what ``models`` are meant to be sampled with; ``hq`` asks for few, precise steps."""
    return recipe_for(models.version, models.layers, models.distilled, models.is_miniature, hq)
