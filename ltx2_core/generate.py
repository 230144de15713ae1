"""The front door: a request becomes a clip.

Read this file first; every line is one stage, and ``pipeline`` holds what a stage does and needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Models
<<<<<<< HEAD
from .conditioning.conditions import kept_audio, kept_video
from .health import Seams
from .latents import AVLatent
from .pipeline.encode_conditions import encode_all
from .pipeline.encode_text import contexts_cache
from .pipeline.local_engine import LocalEngine
from .pipeline.long import Script, window_cache
from .pipeline.plan import plan_stages
from .pipeline.stage import Engine, Events
from .pipeline.stages import Stages
from .sampling import recipe_for
from .sampling.recipes import Recipe
from .settings import CompleteRequest, Request
=======
from .checkpoint.text_cache import TEXT_COMPONENTS, text_cache
from .conditioning import AVState, Inpaint, Item, State, prepare
from .conditioning.given import STREAMS, Given, film_in, items_of, recording_in
from .disk_cache import DiskCache, fingerprint
from .encoding import RunEncoders, only, outline
from .geometry import ClipShape, exact_fps
from .health import PictureHealth, Seams, check_finite, latent_findings, sound_findings
from .latents import AVLatent
from .long import Windowing, extent, sample_clip
from .lora import Stack
from .lora.stack import stack_identity, text_identity
from .refine import SecondStage, enlarged, foresee
from .run import Check, OnFinding, OnProgress, Run
from .sampling import (
    NEUTRAL,
    SAMPLERS,
    AnyGuidance,
    Denoiser,
    Network,
    Recipe,
    Step,
    TiledNetwork,
    Tiles,
    one_by_one,
    passes_needed,
    recipe_for,
    runs,
    schedules,
)
from .sampling.windows import Segment
from .text import Contexts, connect, extract_features, read_prompts
from .video_vae import Tiling, VideoDecoder, decode_tiled

OnStep = Callable[[int, int, Step], None]
>>>>>>> weights


@dataclass(frozen=True)
class Clip:
    """A finished clip.

    Attributes:
        chunks: consecutive frames (F, H, W, 3) in 0..1, decoded as they are asked for, once.
        fps: frames per second.
        waveform: (1 or 2, N) in -1..1, as long as the frames; None if the clip is silent.
        sample_rate: of the waveform, in Hz.
        latent: of both streams, on the CPU.
    """

    chunks: Iterator[Tensor]
    fps: Fraction
    waveform: Tensor | None
    sample_rate: int | None
    latent: AVLatent

    @cached_property
    def frames(self) -> Tensor:
        """All frames, (F, H, W, 3)."""
        return torch.cat(list(self.chunks))


def generate(models: Models, prompt: str = "", negative: str | None = None, **settings: Any) -> Clip:
    """Make a clip with sound from a prompt.

    Args:
        models: the opened files.
        prompt: what is to be seen and heard.
        negative: what to avoid; None follows the recipe of the model.
        settings: any field of the settings in ``settings.py`` by its name, such as ``width``, ``frames``, ``seed``,
            ``steps``, ``conditions``, ``second`` or ``loras``; and ``on_progress``, ``on_finding`` and ``check`` of
            ``Events``. What is not set follows the recipe of the model.

    Returns:
        The clip; its frames are decoded as they are asked for.

    Raises:
        LTX2Error: for settings that cannot be, and for clips that do not fit the card, before any weights are read.
    """
<<<<<<< HEAD
    names = [name for name in ("on_progress", "on_finding", "on_step", "check") if settings.get(name) is not None]
    events = Events(**{name: settings[name] for name in names})
    rest = {name: value for name, value in settings.items() if name not in vars(Events)}
    return run(models, Request.of(prompt, negative, **rest), events=events)


@torch.inference_mode()
def run(models: Models, request: Request, engine: Engine | None = None, events: Events = Events()) -> Clip:
    """Make the clip that ``request`` asks for.

    Args:
        models: the opened files.
        request: what is asked; what is None in it follows the recipe of the model.
        engine: owner of the card; None takes all that is free and the request allows.
        events: whom an engine made here tells.
    """
    complete = request.completed(recipe_of(models, request.hq))
    engine = engine or LocalEngine(models, request.resources, events, complete.loras)
    cache = contexts_cache(engine, request.resources.cache)
    stages = Stages.of(complete, engine, cache)
    engine.follow(plan_stages(stages, engine.blueprint, engine.room(), complete.final, engine.extra_bytes))

    contexts = stages.text.run(engine, cache)
    script = Script.of_prompts(complete.script, contexts, complete.negative)
    conditions = encode_all(request.conditions, complete.shape, complete.streams, engine)
    begin, fps = stages.conditions.begin(complete.shape), complete.shape.fps
    windows = window_cache(stages.sample, engine, request.resume, script.negative)
    latent = stages.sample.run(engine, begin, fps, script, conditions, cache=windows)
    for upscale in stages.upscale:
        latent, fps = upscale.run(engine, latent, fps)
    if stages.refine is not None:
        conditions = encode_all(request.conditions, complete.final, complete.streams, engine)
        refined = stages.refine.run(engine, latent, fps, script, conditions)
        latent = AVLatent(refined.video, latent.audio if complete.refine.keeps_sound else refined.audio)
    waveform, rate = _sound(stages, engine, complete, latent.audio)
    return Clip(_pictures(stages, engine, complete, latent.video), complete.final.fps, waveform, rate, latent.to("cpu"))


def _sound(
    stages: Stages, engine: Engine, request: CompleteRequest, latent: Tensor | None
=======
    recipe, second = recipe_of(models, hq), second or SecondStage(refine=False)
    if second.refine and segments:
        raise ValueError("A second stage has one prompt for the whole clip: leave out the segments, or do not refine.")
    default = second.last(ClipShape(recipe.width, recipe.height, recipe.frames, exact_fps(fps)))
    shape = second.first(width or default.width, height or default.height, frames or recipe.frames, exact_fps(fps))
    final, finer = second.last(shape), recipe.refine
    sampler = sampler or recipe.sampler
    sigmas = sigmas or recipe.sigmas(steps, schedule, tokens=prod(shape.video_latent))
    streams = STREAMS[1:] if sound_only else STREAMS
    ahead = outline(given, shape, streams)
    video, audio = (
        each if name in ahead.state.free else NEUTRAL
        for name, each in (("video", video or recipe.video), ("audio", audio or recipe.audio))
    )
    once = second.with_lora(loras, recipe.lora)
    run = Run(models, dtype, format, device, vram, ram, on_progress, on_finding, check, once)
    script = [Segment(0, prompt), *segments]
    windows = windowing.cut(shape.frames, shape.fps) if windowing else []
    steps_in_all = (len(sigmas) - 1) * max(1, len(windows))
    guided = needs_negative(sampler, video, audio)
    guided = guided or (second.refine and needs_negative(finer.sampler, finer.video, finer.audio))
    prompts = [segment.prompt for segment in script]
    if guided:
        prompts.append(recipe.negative if negative is None else negative)
    text = text_cache(cache, models, run.encoder, run.dtype, loras=text_identity(loras, TEXT_COMPONENTS))
    kept = kept_contexts(run, list(dict.fromkeys(prompts)), text)
    at_last = outline(given, final, streams) if second.refine else ahead
    tiles, later = foresee(run, second, shape, extent(at_last.state, []), finer)
    tiling = run.foresee(
        final,
        passes=passes_needed((video, audio), not sound_only, SAMPLERS[sampler].needs_negative),
        steps=steps_in_all,
        stg_block=min((block for each in (video, audio) for row in each.rows for block in row.stg_blocks), default=0),
        prompts=list(kept.values()).count(None),
        tiling=tiling,
        sampled=extent(ahead.state, windows),
        encoded=at_last.encoded,
        later=later,
    )
    contexts = encode(run, kept, text)
    begin = only(latents.empty(shape), ahead.state.streams).to(run.device)
    with RunEncoders(run) as encoders:
        items = items_of(given, shape, ahead.state.streams, encoders)

    def watch(window: int) -> OnStep:
        before = window * (len(sigmas) - 1)
        return lambda done, total, step: run.report("sampling", before + done, steps_in_all)

    make = partial(sample, negative=contexts[prompts[-1]] if guided else None, dtype=run.dtype, check=check, at=run.at)
    settings = models.files, sigmas, video, audio, sampler, seed, run.dtype, format, stack_identity(loras), prompts[-1]
    with run.use("transformer", stage="sampling") as (transformer,):
        latent = sample_clip(
            partial(make, transformer, fps=shape.fps, sigmas=sigmas, video=video, audio=audio, sampler=sampler),
            *(begin, items, shape.fps, script, contexts, seed, watch),
            *(windowing, windows, DiskCache(resume, fingerprint(*settings), "window")),
        )
        del transformer
    run.tell(latent_findings(latent, "sampling") if sigmas[-1] == 0 else [])
    latent = enlarged(run, latent.to(run.device), shape.fps, second.upscalers)
    if second.refine:
        with RunEncoders(run) as encoders:
            items = items_of(given, final, at_last.state.streams, encoders)
        with run.use("transformer", stage="refining", loras=second.with_lora(loras, finer.lora)) as (transformer,):
            refined = make(
                transformer,
                latent,
                fps=final.fps,
                sigmas=list(finer.sigmas),
                contexts=contexts[prompt],
                video=finer.video,
                audio=finer.audio,
                sampler=finer.sampler,
                seed=seed + 1,
                items=items,
                tiles=tiles,
                on_step=lambda done, total, step: run.report("refining", done, total),
            )
            del transformer
        run.tell(latent_findings(refined, "refining"))
        latent = AVLatent(refined.video, latent.audio if finer.keeps_sound else refined.audio)
    waveform, sample_rate = sound(run, latent.audio, final, given)
    chunks = pictures(run, latent.video, tiling, final, given, tiles)
    return Clip(chunks, final.fps, waveform, sample_rate, latent.to("cpu"))


def kept_contexts(run: Run, prompts: list[str], cache: DiskCache) -> dict[str, Contexts | None]:
    """What is kept of these prompts from earlier runs; None for those that have to be read."""
    found = {prompt: cache.find(prompt) for prompt in prompts}
    return {
        prompt: None if each is None else Contexts(each["video"].to(run.device), each["audio"].to(run.device))
        for prompt, each in found.items()
    }


def encode(run: Run, prompts: dict[str, Contexts | None], cache: DiskCache) -> dict[str, Contexts]:
    """The contexts of all ``prompts``; those that are None are encoded in one load of Gemma, and kept."""
    if new := [prompt for prompt, contexts in prompts.items() if contexts is None]:
        with run.use("text_encoder", stage="prompt") as (encoder,):
            reading = read_prompts(encoder, run.encoder.tokenizer(), new)
            del encoder
        with run.use("text_features", stage="features") as (extractor,):
            features = extract_features(extractor, reading)
            del extractor, reading
        run.report("prompt", 1, 2)
        with run.use("video_connector", "audio_connector", stage="connectors") as connectors:
            for prompt, feature in zip(new, features):
                prompts[prompt] = made = connect(feature, *connectors)
                for context in (made.video, made.audio):
                    check_finite(context, "encoding the prompt")
                cache.keep(prompt, video=made.video, audio=made.audio)
    run.report("prompt", 2, 2)
    return {prompt: contexts for prompt, contexts in prompts.items() if contexts is not None}


def sound(
    run: Run, latent: Tensor | None, shape: ClipShape, given: Sequence[Given] = ()
>>>>>>> weights
) -> tuple[Tensor | None, int | None]:
    """Return the waveform (1 or 2, N) and its sample rate: a given sound as it is, else the decoded one."""
    if sound := kept_audio(request.request.conditions):
        engine.events.report_findings(sound.findings(request.final))
        return sound.lasting(request.final), sound.sample_rate
    if latent is None or stages.decode_audio is None:
        return None, None
    waveform, rate = stages.decode_audio.run(engine, latent, request.final)
    return waveform[0], rate


def _pictures(
    stages: Stages, engine: Engine, request: CompleteRequest, latent: Tensor | None
) -> Iterator[Tensor]:
    """Yield chunks of frames (F, H, W, 3): those of a given video as they are, else the decoded ones."""
    if video := kept_video(request.request.conditions):
        yield from video.chunks(request.final.fps, request.final.frames)
    elif latent is not None and stages.decode_video is not None:
        seams = None
        if stages.refine is not None:
            seams = Seams(*engine.fit(stages.refine).tiles.seams(request.final.video_latent))
        for chunk in stages.decode_video.run(engine, latent, seams):
            yield chunk[0]


def recipe_of(models: Models, hq: bool = False) -> Recipe:
    """Return what ``models`` are meant to be sampled with; ``hq`` asks for few, precise steps."""
    return recipe_for(models.version, models.layers, models.distilled, models.is_miniature, hq)
