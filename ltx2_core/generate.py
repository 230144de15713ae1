"""The whole story: a prompt becomes frames and sound.

Every function is one stage, and takes a network that is ready to run; ``generate`` calls them in order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from . import latents
from .audio_vae import AudioDecoder, BandwidthExtendingVocoder, Vocoder
from .checkpoint import Models, build
from .checkpoint.text_cache import text_cache
from .checkpoint.text_encoder import build_text_encoder, open_text_encoder
from .geometry import ClipShape, exact_fps
from .health import Finding, PictureHealth, check_finite, latent_findings, sound_findings
from .latents import AVLatent
from .memory import Residency, compute_dtype
from .quantization import check_format
from .sampling import NEUTRAL, SAMPLERS, AnyGuidance, Denoiser, Network, Recipe, Step, recipe_for, schedules
from .text import Contexts, connect, extract_features, read_prompts
from .video_vae import Tiling, VideoDecoder, decode_tiled

OnStep = Callable[[int, int, Step], None]
OnProgress = Callable[[str, int, int], None]
OnFinding = Callable[[Finding], None]
Check = Callable[[], None]


@dataclass(frozen=True)
class Clip:
    """A finished clip. ``chunks`` decodes its frames as they are asked for, once; ``frames`` keeps them all."""

    chunks: Iterator[Tensor]  # (F, H, W, 3), 0..1
    fps: Fraction
    waveform: Tensor  # (2, N), -1..1, as long as the frames
    sample_rate: int
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
    sigmas: list[float] | None = None,
    steps: int | None = None,
    video: AnyGuidance | None = None,
    audio: AnyGuidance | None = None,
    sampler: str = "euler",
    seed: int = 0,
    tiling: Tiling | None = None,
    dtype: torch.dtype | None = None,
    format: str | None = None,
    device: torch.device | str | None = None,
    cache: str | Path | bool | None = True,
    on_progress: OnProgress | None = None,
    on_finding: OnFinding | None = None,
    check: Check | None = None,
) -> Clip:
    """Make a clip with sound from a prompt.

    What is None follows the recipe of the model: size, length, steps and guidance of the official pipelines. Progress
    is reported as (stage, done, total), and what looks or sounds wrong as findings; ``check`` is called between blocks
    and tiles, and may raise to interrupt. ``cache`` is the folder in which encoded prompts are kept, by default the
    user's own; a prompt that is found there needs no text encoder. False keeps nothing. ``format`` is that of the
    transformer's weights in memory: "fp8", or by default as they are stored.
    Raises ValueError for sizes or settings that cannot be, before any weights are read.
    """
    check_format(format)
    recipe = recipe_of(models)
    shape = ClipShape(width or recipe.width, height or recipe.height, frames or recipe.frames, exact_fps(fps))
    sigmas = sigmas or recipe.sigmas(steps)
    video, audio = video or recipe.video, audio or recipe.audio
    residency = Residency(device)
    dtype = dtype or compute_dtype(residency.device)
    report = on_progress or (lambda stage, done, total: None)
    checked = check or (lambda: None)

    def tell(findings: list[Finding]) -> None:
        if on_finding is not None:
            for finding in findings:
                on_finding(finding)

    def network(name: str, format: str | None = None) -> Any:
        checked()
        return build(models, name, dtype, "cpu", format)

    guided = needs_negative(sampler, video, audio)
    prompts = [prompt, recipe.negative if negative is None else negative][: 2 if guided else 1]
    contexts = _contexts(models, prompts, dtype, cache, residency, network, report)

    with residency.use(network("transformer", format)) as transformer:
        latent = sample(
            transformer,
            latents.empty(shape).to(residency.device),
            fps=shape.fps,
            sigmas=sigmas,
            contexts=contexts[0],
            negative=contexts[1] if guided else None,
            video=video,
            audio=audio,
            sampler=sampler,
            seed=seed,
            dtype=dtype,
            on_step=lambda done, total, step: report("sampling", done, total),
            check=check,
        )
    del transformer  # the largest network makes room for the next ones
    assert latent.video is not None and latent.audio is not None
    tell(latent_findings(latent, "sampling") if sigmas[-1] == 0 else [])
    with residency.use(network("audio_decoder")) as decoder:
        mel = decode_audio(decoder, latent.audio)
    with residency.use(network("vocoder")) as vocoder:
        waveform = vocode(vocoder, mel, shape.samples(vocoder.sample_rate))
        report("sound", 1, 1)
    tell(sound_findings(waveform[0].cpu(), vocoder.sample_rate))

    def chunks(video_latent: Tensor) -> Iterator[Tensor]:
        def on_tile(done: int, total: int) -> None:
            report("frames", done, total)
            checked()

        with torch.inference_mode(), residency.use(network("video_decoder")) as decoder:
            health = PictureHealth()

            def finished(chunk: Tensor) -> Tensor:
                health.see(chunk)
                return chunk[0].cpu()

            yield from map(finished, decode_video(decoder, video_latent, tiling, on_tile))
            tell(health.findings())

    return Clip(chunks(latent.video), shape.fps, waveform[0].cpu(), vocoder.sample_rate, latent.to("cpu"))


def recipe_of(models: Models) -> Recipe:
    """What ``models`` are meant to be sampled with."""
    return recipe_for(models.version, models.layers, models.distilled, models.is_miniature)


def needs_negative(sampler: str, *guidance: AnyGuidance) -> bool:
    """Whether a negative prompt is needed at all."""
    return SAMPLERS[sampler].needs_negative or any(each.needs_negative_context for each in guidance)


def _contexts(
    models: Models,
    prompts: list[str],
    dtype: torch.dtype,
    cache: str | Path | bool | None,
    residency: Residency,
    network: Callable[[str], Any],
    report: OnProgress,
) -> list[Contexts]:
    """The contexts of all prompts; those that are not kept from before are encoded in one load of Gemma."""
    if models.text_encoder is None:
        raise ValueError("No text encoder was given; prompts need Gemma 3 12B, as a folder or a safetensors file.")
    files = open_text_encoder(models.text_encoder)
    kept = text_cache(cache, models, files, dtype)
    contexts = {
        prompt: Contexts(found["video"].to(residency.device), found["audio"].to(residency.device))
        for prompt in prompts
        if (found := kept.find(prompt)) is not None
    }
    if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in contexts]:
        with residency.use(build_text_encoder(files, dtype)) as encoder:
            reading = read_prompts(encoder, files.tokenizer(), new)
        del encoder
        with residency.use(network("text_features")) as extractor:
            features = extract_features(extractor, reading)
        del extractor, reading
        report("prompt", 1, 2)
        video_connector, audio_connector = network("video_connector"), network("audio_connector")
        with residency.use(video_connector), residency.use(audio_connector):
            for prompt, feature in zip(new, features):
                contexts[prompt] = made = connect(feature, video_connector, audio_connector)
                for context in (made.video, made.audio):
                    check_finite(context, "encoding the prompt")
                kept.keep(prompt, video=made.video, audio=made.audio)
    report("prompt", 2, 2)
    return [contexts[prompt] for prompt in prompts]


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
    batched: bool = False,
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
    check: Check | None = None,
) -> AVLatent:
    """Denoise ``latent`` from seeded noise at sigmas[0] to sigmas[-1]; keeps it where ``mask`` is 0.

    Without ``add_noise``, ``latent`` is taken as already being at sigmas[0]. To go on where an earlier call ended, say
    in ``first_step`` how many steps were taken, and give its last step as ``last``. Raises FloatingPointError as soon
    as a step gives something that is not a number.
    """
    sigmas, row = schedules.check(sigmas), SAMPLERS[sampler]
    noise = latents.noise_like(latent.to(dtype), seed, noise_order).to(torch.float32)
    latent = latent.to(torch.float32)
    denoise = Denoiser(
        *(network, fps, contexts, negative, video, audio, latent, mask, dtype),
        always_negative=row.needs_negative,
        batched=batched,
        between_blocks=check,
        step=first_step,
    )
    noisy = latents.add_noise(latent, noise, sigmas[0], mask) if add_noise else latent
    fresh = latents.Noise(seed + 10_000 + first_step, noise_order)  # as in the official loop
    total = len(sigmas) - 1
    for done, step in enumerate(row(denoise, noisy, sigmas, fresh, last), 1):
        denoise.step = first_step + done
        check_finite(step.latent, f"step {done} of sampling")
        if on_step is not None:
            on_step(done, total, step)
        noisy = step.latent
    return noisy


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


def vocode(vocoder: Vocoder | BandwidthExtendingVocoder, mel: Tensor, samples: int | None = None) -> Tensor:
    """The waveform (B, 2, N) of a mel spectrogram, float32 in -1..1; cut or filled with silence to ``samples``.

    The decoded sound ends up to two frames before the picture does (spec: audio.md, section 3).
    """
    waveform = vocoder(mel).clamp(-1, 1)
    check_finite(waveform, "the vocoder")
    if samples is None:
        return waveform
    return F.pad(waveform, (0, max(0, samples - waveform.shape[-1])))[..., :samples]
