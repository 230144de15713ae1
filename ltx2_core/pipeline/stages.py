"""The stages of one clip, made from a request before anything runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..conditioning import Frozen, LatentCondition
from ..disk_cache import DiskCache
from ..errors import SettingError
from ..geometry import ClipShape
from ..sampling import Guidance, Recipe, StreamGuidance
from ..settings import CompleteRequest
from .blueprint import Blueprint
from .decode_audio import DecodeAudio, audio_stages
from .decode_video import DecodeVideo
from .encode_conditions import ConditionSizes, check_keyframes, measure_conditions
from .encode_text import EncodeText, text_stages
from .long import sampled_size
from .refine import Refine
from .sample import Sample, Sampling
from .stage import Engine, LatentSize, Stage, upscaler_key
from .upscale import Upscale


@dataclass(frozen=True)
class Stages:
    """What happens to a clip, in this order.

    Attributes:
        text: the prompts, as far as they are not kept on disk.
        conditions: what is given in the first stage.
        sample: the first stage.
        upscale: what enlarges the latent, one after the other.
        refine: the second stage; None without one.
        final_conditions: what is given in the second stage, at its size.
        held: what the second stage keeps beside them: the sound, if that was asked for.
        decode_audio: mel spectrogram and sound; None where the clip has none.
        decode_video: the frames; None where the clip has none.
    """

    text: EncodeText
    conditions: ConditionSizes
    sample: Sample
    upscale: tuple[Upscale, ...]
    refine: Refine | None
    final_conditions: ConditionSizes
    held: tuple[LatentCondition, ...]
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
        """
        second, batch = request.second, request.request.clip.batch_size
        ahead = measure_conditions(request.request.conditions, request.shape, request.streams, batch=batch)
        check_keyframes(ahead.state, engine.blueprint)
        held = (Frozen("audio"),) if request.holds_sound and "audio" in request.streams else ()
        final = ahead
        if second.refine:
            final = measure_conditions(request.refine_conditions, request.final, request.streams, held, batch)
        if "video" not in request.streams and (second.refine or second.upscalers):
            raise SettingError("Sound alone has no second stage: leave out the upscalers, and do not refine.")
        negative = [request.negative] if request.needs_negative(ahead.state.free) else []
        prompts = [*(segment.prompt for segment in request.script), *negative]
        return cls(
            text=EncodeText.of(prompts, cache, engine),
            conditions=ahead,
            sample=_first_stage(request, ahead),
            upscale=tuple(_upscalers(request, engine, len(ahead.generated_frames) if request.keeps_keyframes else 0)),
            refine=_second_stage(request, ahead, final) if second.refine else None,
            final_conditions=final,
            held=held,
            decode_audio=_audio_decoder(request, engine.blueprint),
            decode_video=_video_decoder(request, engine.blueprint, ahead, final),
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
        yield from self.decode_audio or ()
        if self.decode_video is not None:
            yield self.decode_video


def _first_stage(request: CompleteRequest, ahead: ConditionSizes) -> Sample:
    long = request.request.long
    sampling = Sampling(
        tuple(request.sigmas),
        request.guidance_of(ahead.state.free),
        replace(request.request.sampling, sampler=request.sampler),
    )
    return Sample(
        sampling,
        sampled_size(ahead.state, request.windows),
        request.windows,
        None if long is None else long.windowing,
        request.loras,
    )


def _second_stage(request: CompleteRequest, ahead: ConditionSizes, final: ConditionSizes) -> Refine:
    first, tiles = request.request.sampling, request.second.tiles
    return Refine.of(request.refine, first, tiles, final.state, request.refine_loras, ahead.state.draws)


def _upscalers(request: CompleteRequest, engine: Engine, keyframes: int) -> Iterator[Upscale]:
    shape = request.shape
    for file in request.second.upscalers:
        key = upscaler_key(file)
        batch = request.request.clip.batch_size
        yield Upscale(key, file.config, shape.video_latent, engine.dtype(key), batch, keyframes)
        shape = file.config.upscaled_shape(shape)


def _audio_decoder(request: CompleteRequest, blueprint: Blueprint) -> DecodeAudio | None:
    return audio_stages(blueprint, request.final.audio_latents) if "audio" in request.streams else None


def _video_decoder(
    request: CompleteRequest, blueprint: Blueprint, ahead: ConditionSizes, final: ConditionSizes
) -> DecodeVideo | None:
    if "video" not in request.streams or not blueprint.has("video_decoder"):
        return None
    times = round(request.final.fps / request.shape.fps)
    keyframes = final.generated_frames if request.second.refine else tuple(f * times for f in ahead.generated_frames)
    denoising = request.request.decoding
    return DecodeVideo(request.final.video_latent, request.request.tiling, denoising=denoising, keyframes=keyframes)


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


def stages_of_clip(
    blueprint: Blueprint,
    shape: ClipShape,
    sampling: Sampling,
    prompts: int | None = None,
) -> list[Stage]:
    """Return the stages of a plain clip of ``shape``, for a plan without a request.

    Args:
        blueprint: of the model.
        shape: of the clip.
        sampling: how it is denoised.
        prompts: how many are read; None for all that the passes need.
    """
    size = LatentSize.of_clip(shape)
    count = 1 + ("negative" in sampling.passes(True)) if prompts is None else prompts
    stages: list[Stage] = [*text_stages(blueprint, count), Sample(sampling, size)]
    stages += audio_stages(blueprint, shape.audio_latents) or ()
    if blueprint.has("video_decoder"):
        stages.append(DecodeVideo(shape.video_latent))
    return stages
