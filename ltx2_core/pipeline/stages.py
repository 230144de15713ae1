"""The stages of one clip, made from a request before anything runs."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..checkpoint.upscaler import statistics_source
from ..conditioning import LatentCondition
from ..conditioning.conditions import encode_conditions
from ..conditioning.kept import kept_video
from ..conditioning.sizes import SizeOnlyEncoders
from ..disk_cache import DiskCache
from ..errors import SettingError
from ..geometry import VIDEO_CHANNELS, ClipShape
from ..sampling import Guidance, Recipe, StreamGuidance
from ..settings import CompleteRequest
from .decode_audio import DecodeAudio, audio_stages
from .decode_video import DecodeVideo
from .encode_conditions import ConditionSizes, check_keyframes, measure_conditions
from .encode_text import EncodeText, text_stages
from .engine import Engine
from .long import sampled_size, texts_at_once
from .needs.blueprint import Blueprint
from .raise_rate import RaiseRate, placeholder
from .refine import Refine
from .sample import Sample, Sampling
from .stage import LatentSize, Stage, upscaler_key
from .upscale import Upscale


@dataclass(frozen=True)
class Round:
    """What doubles the frame rate: an upscaler, what refines what it made, and the clip that comes out."""

    upscale: Upscale
    refine: RaiseRate
    shape: ClipShape


@dataclass(frozen=True)
class Stages:
    """What happens to a clip, in this order.

    Attributes:
        text: the prompts, as far as they are not kept on disk.
        conditions: what is given in the first stage.
        sample: the first stage.
        upscale: what enlarges the latent, one after the other.
        refine: the second stage; None without one.
        rounds: what doubles the frame rate after it, one after the other.
        final_conditions: what is given in the second stage, at its size.
        decode_audio: mel spectrogram and sound; None where the clip has none.
        decode_video: the frames; None where the clip has none.
    """

    text: EncodeText
    conditions: ConditionSizes
    sample: Sample
    upscale: tuple[Upscale, ...]
    refine: Refine | None
    rounds: tuple[Round, ...]
    final_conditions: ConditionSizes
    decode_audio: DecodeAudio | None
    decode_video: DecodeVideo | None
    blueprint: Blueprint

    @classmethod
    def of(cls, request: CompleteRequest, engine: Engine, cache: DiskCache) -> "Stages":
        """Lay out the stages of ``request``.

        Args:
            request: with nothing left open.
            engine: for dtypes and blueprint; nothing is loaded.
            cache: where encoded prompts are kept.

        Raises:
            SettingError: for conditions that cannot be, and for a second stage of sound alone.
            CheckpointError: where nothing could encode what is given, or enlarge a latent.
        """
        second, batch = request.second, request.request.clip.batch_size
        ahead = measure_conditions(request.request.conditions, request.shape, request.streams, batch=batch)
        check_keyframes(ahead.state, engine.blueprint)
        final = ahead
        if second.refine:
            more = *_followed(request), *request.held
            final = measure_conditions(request.refine_conditions, request.final, request.streams, more, batch)
        _check_encoders(engine, final.covering(ahead))
        if second.upscalers:
            statistics_source(engine.models)
        if "video" not in request.streams and (second.refine or second.upscalers):
            raise SettingError("Sound alone has no second stage: leave out the upscalers, and do not refine.")
        rounds = tuple(_rounds(request, engine, ahead, final))
        return cls(
            text=text_of(request, ahead.state.free, engine, cache),
            conditions=ahead,
            sample=_first_stage(request, ahead),
            upscale=tuple(_upscalers(request, engine, len(ahead.generated_frames) if request.keeps_keyframes else 0)),
            refine=_second_stage(request, ahead, final) if second.refine else None,
            rounds=rounds,
            final_conditions=final,
            decode_audio=_audio_decoder(request, engine.blueprint),
            decode_video=_video_decoder(request, engine.blueprint, ahead, final, rounds),
            blueprint=engine.blueprint,
        )

    def __iter__(self) -> Iterator[Stage]:
        """Yield every stage that has to run, in the order of the plan."""
        yield from self.text.stages(self.blueprint)
        yield from self.final_conditions.covering(self.conditions).stages
        yield self.sample
        yield from self.upscale
        if self.refine is not None:
            yield self.refine
        for each in self.rounds:
            yield from (each.upscale, each.refine)
        yield from self.decode_audio or ()
        if self.decode_video is not None:
            yield self.decode_video


def text_of(request: CompleteRequest, free: Collection[str], engine: Engine, cache: DiskCache) -> EncodeText:
    """Return the stage of the prompts, of which the negative one is read where a stream that is ``free`` needs it."""
    negative = [request.negative] if request.needs_negative(free) else []
    prompts = [*(segment.prompt for segment in request.script), *negative]
    return EncodeText.of(prompts, cache, engine, request.request.encoded)


def _check_encoders(engine: Engine, given: ConditionSizes) -> None:
    """CheckpointError where nothing could encode what is given: a prompt that was read in vain takes minutes."""
    for stage in given.stages:
        for name in stage.networks[0].components:
            engine.models.source(name)


def _first_stage(request: CompleteRequest, ahead: ConditionSizes) -> Sample:
    long = request.request.long
    sampling = Sampling(
        tuple(request.sigmas),
        request.guidance.for_streams(ahead.state.free),
        replace(request.request.sampling, sampler=request.sampler),
    )
    windowing = None if long is None else long.windowing
    starts = [float(each.start) for each in request.script]
    texts = 1 if windowing is None else texts_at_once(starts, request.windows, windowing.transition)
    return Sample(
        sampling,
        replace(sampled_size(ahead.state, request.windows), texts=texts),
        request.windows,
        windowing,
        request.loras,
    )


def _followed(request: CompleteRequest) -> tuple[LatentCondition, ...]:
    """What the second stage follows of the picture of the first one, with zeros in its place."""
    if "video" not in request.streams:
        return ()
    return request.followed(torch.zeros(1, VIDEO_CHANNELS, *request.shape.video_latent))


def _second_stage(request: CompleteRequest, ahead: ConditionSizes, final: ConditionSizes) -> Refine:
    first, tiles = request.request.sampling, request.second.tiles
    loras = request.second.with_detailing(request.refine_loras)
    return Refine.of(request.refine, first, tiles, final.state, loras, ahead.state.draws)


def _upscalers(request: CompleteRequest, engine: Engine, keyframes: int) -> Iterator[Upscale]:
    shape = request.shape
    batch, tones, files = request.request.clip.batch_size, request.second.tones, request.second.enlarging
    for index, file in enumerate(files):
        key, size = upscaler_key(file), shape.video_latent
        number = 1 + sum(each.config.enlarges == file.config.enlarges for each in files[:index])
        yield Upscale(key, file.config, size, engine.dtype(key), batch, keyframes, number, tones)
        shape = file.config.upscaled_shape(shape)


def _rounds(request: CompleteRequest, engine: Engine, ahead: ConditionSizes, final: ConditionSizes) -> Iterator[Round]:
    shape, frames, drawn = request.final, final.generated_frames, (*ahead.state.draws, *final.state.draws)
    batch = request.request.clip.batch_size
    for number in range(1, request.second.rounds + 1):
        file = request.second.raising
        key = upscaler_key(file)
        upscale = Upscale(key, file.config, shape.video_latent, engine.dtype(key), batch, len(frames), number)
        shape, frames = file.config.upscaled_shape(shape), tuple(2 * frame for frame in frames)
        given = encode_conditions(request.round_conditions(shape), shape, ("video",), SizeOnlyEncoders())
        latent = placeholder(shape, request.final.audio_latents, frames, batch).select(request.streams)
        seed, loras = request.request.sampling.seed, request.refine_loras
        refine = RaiseRate.of(latent, shape.fps, number, given, seed, drawn, loras)
        yield Round(upscale, refine, shape)
        drawn, frames = (*drawn, *(count for each in refine.draws for count in each)), refine.made_frames


def _audio_decoder(request: CompleteRequest, blueprint: Blueprint) -> DecodeAudio | None:
    return audio_stages(blueprint, request.made.audio_latents) if "audio" in request.streams else None


def _video_decoder(
    request: CompleteRequest,
    blueprint: Blueprint,
    ahead: ConditionSizes,
    final: ConditionSizes,
    rounds: Sequence[Round],
) -> DecodeVideo | None:
    if "video" not in request.streams or not blueprint.has("video_decoder"):
        return None
    check_size(request, blueprint)
    times = round(request.final.fps / request.shape.fps)
    keyframes = final.generated_frames if request.second.refine else tuple(f * times for f in ahead.generated_frames)
    if rounds:
        keyframes = tuple(frame for frame in rounds[-1].refine.made_frames if frame < request.made.frames)
    denoising = request.request.decoding
    return DecodeVideo(request.made.video_latent, request.request.tiling, denoising=denoising, keyframes=keyframes)


def check_size(request: CompleteRequest, blueprint: Blueprint) -> None:
    """Raise SettingError for pictures that are too small for the decoder, however many there are."""
    is_decoded = "video" in request.streams and kept_video(request.refine_conditions) is None
    if is_decoded and blueprint.has("video_decoder"):
        DecodeVideo(request.made.video_latent).check(blueprint)


PLANNED_PASSES = ("cond", "negative", "isolated", "perturbed")  # in the order in which people turn them on


def guidance_of_passes(count: int, recipe: Recipe | None = None) -> StreamGuidance:
    """Return a guidance that needs the first ``count`` of PLANNED_PASSES, to plan for.

    The perturbed pass leaves out the block that ``recipe`` names, else the first one.
    """
    passes = PLANNED_PASSES[:count]
    blocks = (recipe.video.stg_blocks if recipe is not None else ()) or (0,)
    each = Guidance(
        text_scale=2.0 if "negative" in passes else 1.0,
        cross_modal_scale=2.0 if "isolated" in passes else 1.0,
        stg_scale=1.0 if "perturbed" in passes else 0.0,
        stg_blocks=blocks,
    )
    return StreamGuidance(each, each)


def stages_of_clip(blueprint: Blueprint, shape: ClipShape, sampling: Sampling, whole: bool = False) -> list[Stage]:
    """Return the stages of a plain clip of ``shape``, for a plan without a request.

    Args:
        blueprint: of the model.
        shape: of the clip.
        sampling: how it is denoised.
        whole: whether all frames are held at once, as on a graph.
    """
    size = LatentSize.of_clip(shape)
    prompts = 1 + ("negative" in sampling.passes(True))
    stages: list[Stage] = [*text_stages(blueprint, prompts), Sample(sampling, size)]
    stages += audio_stages(blueprint, shape.audio_latents) or ()
    if blueprint.has("video_decoder"):
        stages.append(DecodeVideo(shape.video_latent, whole=whole))
    return stages
