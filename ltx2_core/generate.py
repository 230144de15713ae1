"""The whole story: a prompt becomes frames and sound.

Every function is one stage, and takes a network that is ready to run; ``generate`` calls them in order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from . import latents
from .audio_vae import AudioDecoder, BandwidthExtendingVocoder, Vocoder, vocode_chunked
from .checkpoint import Models
from .checkpoint.text_cache import TEXT_COMPONENTS, TextCache, text_cache
from .conditioning import AVState, Inpaint, Item, State, prepare
from .conditioning.given import STREAMS, Given, film_in, items_of, recording_in
from .encoding import RunEncoders, only, outline
from .geometry import ClipShape, exact_fps
from .health import PictureHealth, Seams, check_finite, latent_findings, sound_findings
from .latents import AVLatent
from .long import WindowCache, Windowing, extent, fingerprint, sample_clip
from .lora import Stack
from .lora.stack import files_of, text_changes
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
from .text import Contexts, compute_hidden_states, connect, extract_features
from .video_vae import Tiling, VideoDecoder, decode_tiled

OnStep = Callable[[int, int, Step], None]


@dataclass(frozen=True)
class Clip:
    """A finished clip. ``chunks`` decodes its frames as they are asked for, once; ``frames`` keeps them all."""

    chunks: Iterator[Tensor]  # (F, H, W, 3), 0..1
    fps: Fraction
    waveform: Tensor | None  # (1 or 2, N), -1..1, as long as the frames
    sample_rate: int | None
    latent: AVLatent

    @cached_property
    def frames(self) -> Tensor:
        """All frames, (F, H, W, 3)."""
        return torch.cat(list(self.chunks))


@torch.inference_mode()
def generate(
    models: Models,
    prompt: str,
    negative: str | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    frames: int | None = None,
    fps: float | str | Fraction = 24,
    given: Sequence[Given] = (),
    sound_only: bool = False,
    windowing: Windowing | None = None,
    segments: Sequence[Segment] = (),
    resume: str | Path | None = None,
    second: SecondStage | None = None,
    hq: bool = False,
    sigmas: list[float] | None = None,
    steps: int | None = None,
    schedule: str | None = None,
    video: AnyGuidance | None = None,
    audio: AnyGuidance | None = None,
    sampler: str | None = None,
    seed: int = 0,
    tiling: Tiling | None = None,
    dtype: torch.dtype | None = None,
    format: str | None = None,
    device: torch.device | str | None = None,
    vram: int | None = None,
    ram: int | None = None,
    cache: str | Path | bool | None = True,
    on_progress: OnProgress | None = None,
    on_finding: OnFinding | None = None,
    check: Check | None = None,
    loras: Stack = (),
) -> Clip:
    """Make a clip with sound from a prompt.

    What is None follows the recipe of the model: size, length, steps and guidance of the official pipelines. What is
    ``given`` are pictures, films and sounds, in the order in which they apply; the clip carries a given sound or film
    itself. With ``windowing`` the clip is made window by window, each with the prompt of its segment, of which
    ``prompt`` is the first; finished windows are kept in the folder ``resume``. With a ``second`` stage, width and
    height are those that come out of it, and the first stage is smaller; ``hq`` is the recipe of few, precise steps.
    Progress is reported as (stage, done, total), and what looks or sounds wrong as findings; ``check`` is called
    between blocks and tiles, and may raise to interrupt. ``cache`` is the folder in which encoded prompts are kept, by
    default the user's own; a prompt that is found there needs no text encoder. False keeps nothing. ``format`` is that
    of the transformer's weights in memory: "fp8", or by default as they are stored. ``vram`` and ``ram`` are the most
    that may be taken of the card and pinned in memory, in bytes; by default what is free. ``loras`` are opened LoRAs,
    each with its strengths.
    Raises ValueError for sizes or settings that cannot be, and for clips that do not fit the card, before any weights
    are read.
    """
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
    text = text_cache(cache, models, run.encoder, run.dtype, changes=text_changes(loras, TEXT_COMPONENTS))
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
    settings = models.files, sigmas, video, audio, sampler, seed, run.dtype, format, files_of(loras), prompts[-1]
    with run.use("transformer", stage="sampling") as (transformer,):
        latent = sample_clip(
            partial(make, transformer, fps=shape.fps, sigmas=sigmas, video=video, audio=audio, sampler=sampler),
            *(begin, items, shape.fps, script, contexts, seed, watch),
            *(windowing, windows, WindowCache(resume, fingerprint(*settings))),
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


def kept_contexts(run: Run, prompts: list[str], cache: TextCache) -> dict[str, Contexts | None]:
    """What is kept of these prompts from earlier runs; None for those that have to be read."""
    found = {prompt: cache.find(prompt) for prompt in prompts}
    return {
        prompt: None if each is None else Contexts(each["video"].to(run.device), each["audio"].to(run.device))
        for prompt, each in found.items()
    }


def encode(run: Run, prompts: dict[str, Contexts | None], cache: TextCache) -> dict[str, Contexts]:
    """The contexts of all ``prompts``; those that are None are encoded in one load of Gemma, and kept."""
    if new := [prompt for prompt, contexts in prompts.items() if contexts is None]:
        with run.use("text_encoder", stage="prompt") as (encoder,):
            reading = compute_hidden_states(encoder, run.encoder.tokenizer(), new)
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
) -> tuple[Tensor | None, int | None]:
    """The waveform (1 or 2, N) on the CPU, as long as the frames, and its sample rate: a given one as it is."""
    if recording := recording_in(given):
        run.tell(recording.findings(shape))
        return recording.lasting(shape), recording.sample_rate
    if latent is None:
        return None, None
    with run.use("audio_decoder", stage="mel") as (decoder,):
        mel = decode_audio(decoder, latent)
        del decoder
    with run.use("vocoder", stage="sound") as (vocoder,):
        rate = vocoder.sample_rate
        waveform = vocode(vocoder, mel, shape.samples(rate), run.check)[0].cpu()
    run.report("sound", 1, 1)
    run.tell(sound_findings(waveform, rate))
    return waveform, rate


def pictures(
    run: Run,
    latent: Tensor | None,
    tiling: Tiling | None,
    shape: ClipShape,
    given: Sequence[Given] = (),
    tiles: Tiles | None = None,
) -> Iterator[Tensor]:
    """Chunks of frames (F, H, W, 3) on the CPU, decoded as they are asked for; those of a given film as they are.

    ``tiles`` are those that the latent was made of.
    """
    if film := film_in(given):
        yield from film.chunks(shape.fps, shape.frames)
        return
    if latent is None:
        return

    def on_tile(done: int, total: int) -> None:
        run.report("frames", done, total)
        run.check()

    with torch.inference_mode(), run.use("video_decoder", stage="frames") as (decoder,):
        health, seams = PictureHealth(), Seams(*(tiles.seams(shape.video_latent) if tiles else ((), (), ())))

        def finished(chunk: Tensor) -> Tensor:
            health.see(chunk)
            seams.see(chunk)
            return chunk[0].cpu()

        yield from map(finished, decode_video(decoder, latent, tiling, on_tile))
        run.tell([*health.findings(), *seams.findings()])


def recipe_of(models: Models, hq: bool = False) -> Recipe:
    """What ``models`` are meant to be sampled with."""
    return recipe_for(models.version, models.layers, models.distilled, models.is_miniature, hq)


def needs_negative(sampler: str, *guidance: AnyGuidance) -> bool:
    """Whether a negative prompt is needed at all."""
    return SAMPLERS[sampler].needs_negative or any(each.needs_negative_context for each in guidance)


def sample(
    network: Network,
    latent: AVLatent,
    *,
    fps: Fraction,
    sigmas: list[float],
    contexts: Contexts,
    negative: Contexts | None = None,
    video: AnyGuidance = NEUTRAL,
    audio: AnyGuidance = NEUTRAL,
    sampler: str = "euler",
    seed: int = 0,
    noise_order: str = "official",
    add_noise: bool = True,
    first_step: int = 0,
    last: Step | None = None,
    mask: AVLatent | None = None,
    items: Sequence[Item] = (),
    batched: bool = False,
    tiles: Tiles | None = None,
    together: bool = True,
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
    check: Check | None = None,
    at: Callable[[float, int], None] | None = None,
) -> AVLatent:
    """Denoise ``latent`` from seeded noise at sigmas[0] to sigmas[-1]; keeps it where ``mask`` is 0.

    ``items`` are what else is given, in the order in which they are applied, after the mask. Without ``add_noise``,
    ``latent`` is taken as already being at sigmas[0]. To go on where an earlier call ended, say in ``first_step`` how
    many steps were taken, and give its last step as ``last``. ``at`` is told sigma and step of every estimate before it
    is made. With ``tiles`` the picture is made of them, step by step
    ``together`` or each by itself to its end. Raises FloatingPointError as soon as a step gives something that is not
    a number.
    """
    sigmas, row = schedules.check(sigmas), SAMPLERS[sampler]
    masks = [] if mask is None else [Inpaint(stream, each) for stream, each in mask.streams().items()]
    whole = prepare(latent, fps, [*masks, *items])
    noise = latents.noise_like(whole.map(lambda state: state.latent).to(dtype), seed, noise_order).to(torch.float32)
    apart = None if together else tiles
    if apart and not add_noise:
        raise ValueError("Tiles that are sampled one by one begin with noise: add it, or sample them together.")
    if tiles and together:
        network = TiledNetwork(network, whole, tiles)
    taken, total = 0, (len(sigmas) - 1) * (runs(whole, apart) if apart else 1)

    def solved(given: AVState, noise: AVLatent) -> AVLatent:
        """The tokens of ``given`` at sigmas[-1]."""
        nonlocal taken
        start = given.map(lambda state, x: state.noised(x, sigmas[0]), noise)

        def packed(latent: AVLatent) -> AVLatent:
            return given.map(State.packed, latent, start)

        denoise = Denoiser(
            *(network, given, contexts, negative, video, audio, noise, dtype),
            always_negative=row.needs_negative,
            batched=batched,
            between_blocks=check,
            at=at,
            step=first_step,
        )
        noisy = start if add_noise else packed(latent)
        fresh = latents.Noise(seed + 10_000 + first_step, noise_order)  # as in the official loop
        steps = row(denoise, noisy, sigmas, fresh, None if last is None else last.map(packed))
        for done, step in enumerate(steps, 1):
            denoise.step, taken = first_step + done, taken + 1
            check_finite(step.latent, f"step {done} of sampling")
            if on_step is not None:
                on_step(taken, total, step.map(lambda tokens: given.map(State.unpacked, tokens)))
            noisy = step.latent
        return noisy

    tokens = one_by_one(solved, whole, noise, apart) if apart else solved(whole, noise)
    return whole.map(State.unpacked, tokens).map(Tensor.contiguous)


def decode_video(
    decoder: VideoDecoder,
    latent: Tensor,
    tiling: Tiling | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """Frames (B, f, H, W, 3) in 0..1, float32, in consecutive chunks."""
    dtype = next(decoder.parameters()).dtype

    def finished(pixels: Tensor) -> Tensor:
        check_finite(pixels, "decoding the video")
        return rearrange(pixels.add_(1).div_(2).clamp_(0, 1), "b c f h w -> b f h w c")

    # A loop would hold on to each chunk while the next one is made.
    return map(finished, decode_tiled(decoder, latent.to(dtype), tiling or Tiling(), on_tile))


def decode_audio(decoder: AudioDecoder, latent: Tensor) -> Tensor:
    """The mel spectrogram (B, 2, T, 64) of an audio latent (B, C, L, M), float32."""
    mel = decoder(latent.to(next(decoder.parameters()).dtype)).float()
    check_finite(mel, "decoding the sound")
    return mel


def vocode(
    vocoder: Vocoder | BandwidthExtendingVocoder, mel: Tensor, samples: int | None = None, check: Check | None = None
) -> Tensor:
    """The waveform (B, 2, N) of a mel spectrogram, float32 in -1..1; cut or filled with silence to ``samples``.

    The decoded sound ends up to two frames before the picture does (spec: audio.md, section 3).
    """
    waveform = vocode_chunked(vocoder, mel, check=check).clamp_(-1, 1)
    check_finite(waveform, "the vocoder")
    if samples is None:
        return waveform
    return F.pad(waveform, (0, max(0, samples - waveform.shape[-1])))[..., :samples]
