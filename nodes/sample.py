"""How do we get from noise to a clip?"""

from collections.abc import Callable

import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..ltx2_core.checkpoint import Models
from ..ltx2_core.generate import recipe_of, sample
from ..ltx2_core.memory import scratch
from ..ltx2_core.mini.preview import miniature_factors
from ..ltx2_core.sampling import SAMPLERS, SCHEDULES, Guidance, Step, ltx2
from ..ltx2_core.transformer import TransformerConfig
from ..ltx2_core.video_vae.preview import preview_frames, released_factors
from . import host
from .latents import Latent, fps_of, mask_of, renewed, streams, unequal_lengths
from .text import Conditioning, contexts, frame_rate
from .types import LoadedModel, Model


class Schedule(io.ComfyNode):
    """The noise levels of a run."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVSchedule",
            display_name="LTX-2 Schedule",
            category="LTX-2/sampling",
            description="The noise levels from 1 to 0 that the sampler goes through. Connect it to the sampler, or to "
            "any other node that takes SIGMAS.",
            search_aliases=["ltxv scheduler", "sigmas", "scheduler", "steps", "basic scheduler", "noise schedule"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=200,
                    tooltip="How many steps. More take longer and give cleaner detail; the official models use 40 "
                    "(2.0) and 30 (2.3). The distilled schedules have their own number.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    tooltip="ltx2 for the dev models and the miniature; distilled for distilled models (8 steps, with "
                    "all scales at 1); distilled_refine for a second pass over a finished latent (3 steps).",
                ),
                io.Float.Input(
                    "max_shift",
                    default=2.05,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How long a large clip (4096 tokens) stays at high noise. Higher gives calmer composition "
                    "and less detail. Only for ltx2.",
                ),
                io.Float.Input(
                    "base_shift",
                    default=0.95,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="The same for a small clip (1024 tokens). Only for ltx2, and only with a latent connected.",
                ),
                io.Float.Input(
                    "terminal",
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="The last noise level before 0. Higher leaves more to the last step. Only for ltx2.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Fits the shift to the size of this latent. Not connected, it is that of 4096 tokens, as "
                    "in the official pipelines.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels; the last one is 0.")],
        )

    @classmethod
    def execute(
        cls,
        steps: int,
        schedule: str,
        max_shift: float = 2.05,
        base_shift: float = 0.95,
        terminal: float = 0.1,
        latent: Latent | None = None,
    ) -> io.NodeOutput:
        if schedule == "ltx2":
            video = None if latent is None else streams(latent).video
            tokens = 4096 if video is None else video[0, 0].numel()
            sigmas = ltx2(steps, tokens, max_shift, base_shift, terminal)
        else:
            sigmas = SCHEDULES[schedule]()
            if steps != len(sigmas) - 1:
                host.say(cls.hidden.unique_id, f"{schedule} has {len(sigmas) - 1} steps; {steps} is ignored")
        return io.NodeOutput(torch.tensor(sigmas))


def _scale(name: str, display: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        display_name=display,
        default=3.0,
        min=1.0,
        max=10.0,
        step=0.1,
        round=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def _own_scale(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=0.0,
        min=0.0,
        max=20.0,
        step=0.1,
        round=0.01,
        optional=True,
        advanced=True,
        tooltip=f"{tooltip} 0 means: as the slider.",
    )


class Sample(io.ComfyNode):
    """Denoises picture and sound together."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVSample",
            display_name="LTX-2 Dual-Stream Sampler",
            category="LTX-2/sampling",
            description="Makes picture and sound together from noise, following the prompt and each other. Connect "
            "the result to LTX-2 Decode to Video.",
            search_aliases=["ksampler", "sampler custom", "multimodal guider", "cfg guider", "denoise", "generate"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model, from LTX-2 Load Model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The encoded prompt, with or without a pass through the Thinking-Token Connector; "
                    "ComfyUI's own LTX-2 conditioning works, too.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="What to fill: an empty latent, or one with a noise mask, of which the masked part is made "
                    "anew. Without a sound part, a silent clip is made.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The noise levels. Where they begin below 1, that much of the given latent is kept.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,  # a browser's numbers are exact up to here
                    control_after_generate=True,
                    tooltip="Another number gives another clip; the same number and settings give the same one.",
                ),
                _scale(
                    "text_scale",
                    "text CFG",
                    "How closely picture and sound follow the prompt. Higher follows it more closely, at the cost of "
                    "motion and natural colours. 1 follows it plainly, ignores the negative prompt and saves a pass; "
                    "distilled models need 1.",
                ),
                _scale(
                    "cross_modal_scale",
                    "cross-modal CFG",
                    "How closely picture and sound follow each other. Higher makes lips and impacts meet their "
                    "sounds. 1 leaves it to the model and saves a pass; distilled models need 1.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The encoded negative prompt. Needed while a text scale is above 1.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    optional=True,
                    advanced=True,
                    tooltip="How a step is taken. euler is what the models are shown with.",
                ),
                io.Float.Input(
                    "stg_scale",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Spatio-temporal guidance: steers away from what the model makes with parts of its "
                    "attention off. Higher holds bodies and objects together better, too high stiffens them. 0 saves "
                    "a pass; distilled models need 0.",
                ),
                io.String.Input(
                    "stg_blocks",
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Whose attention is off for this guidance: block numbers with commas between them. auto "
                    "takes the official one (29 for 2.0, 28 for 2.3), or none where the model has no such block.",
                ),
                io.Float.Input(
                    "rescale",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How much of the contrast that guidance adds is taken back. Higher prevents burnt colours "
                    "and clipped sound, at 1 things may look flat.",
                ),
                _own_scale("video_text_scale", "Text scale of the picture alone."),
                _own_scale("audio_text_scale", "Text scale of the sound alone; the official pipelines use 7."),
                _own_scale("video_cross_modal_scale", "How closely the picture follows the sound."),
                _own_scale("audio_cross_modal_scale", "How closely the sound follows the picture."),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=240.0,
                    step=0.001,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Frames per second, for a latent that does not say it. 0 means: as the latent says, else "
                    "as LTXVConditioning says, else 24.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="av_latent",
                    tooltip="Picture and sound, finished but encoded: for the decoders, or for another sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: Conditioning,
        latent: Latent,
        sigmas: Tensor,
        seed: int,
        text_scale: float,
        cross_modal_scale: float,
        negative: Conditioning | None = None,
        sampler: str = "euler",
        stg_scale: float = 1.0,
        stg_blocks: str = "auto",
        rescale: float = 0.7,
        video_text_scale: float = 0.0,
        audio_text_scale: float = 0.0,
        video_cross_modal_scale: float = 0.0,
        audio_cross_modal_scale: float = 0.0,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        blocks = _stg_blocks(stg_blocks, model.models)
        video, audio = (
            Guidance(text or text_scale, cross_modal or cross_modal_scale, stg_scale, blocks, rescale)
            for text, cross_modal in (
                (video_text_scale, video_cross_modal_scale),
                (audio_text_scale, audio_cross_modal_scale),
            )
        )
        guided = video.needs_negative or audio.needs_negative
        perturbed = video.needs_perturbed or audio.needs_perturbed
        isolated = video.needs_isolated or audio.needs_isolated
        if guided and negative is None:
            scale = max(video.text_scale, audio.text_scale)
            raise ValueError(f"A text scale is {scale:g}, but there is no negative prompt: connect one, or set 1.")
        if model.models.distilled and (guided or perturbed or isolated):
            host.say(cls.hidden.unique_id, "This is a distilled model: it needs both CFG sliders at 1 and STG at 0.")

        given = streams(latent)
        mask = mask_of(latent, given)
        rate = fps_of(latent, fps, otherwise=frame_rate(positive))
        if sentence := unequal_lengths(given, rate):
            host.say(cls.hidden.unique_id, sentence)
        prompts = [contexts(model, each) for each in (positive, negative if guided else None) if each is not None]
        transformer = model.network("transformer")
        config = TransformerConfig.from_json(model.models.config["transformer"])
        room = scratch.sampling(config, given, transformer.dtype, passes=1 + guided + perturbed + isolated)
        with host.use(transformer, scratch=room) as (network,):
            result = sample(
                network,
                given.to(transformer.device),
                fps=rate,
                sigmas=sigmas.tolist(),
                contexts=prompts[0],
                negative=prompts[1] if guided else None,
                video=video,
                audio=audio,
                sampler=sampler,
                seed=seed,
                mask=None if mask is None else mask.to(transformer.device),
                dtype=transformer.dtype,
                on_step=_watch(model.models, len(sigmas) - 1),
            )
        return io.NodeOutput(renewed(latent | {"fps": rate}, result.map(host.handed_out)))


def _stg_blocks(text: str, models: Models) -> tuple[int, ...]:
    """Block numbers as the user wrote them, or the recipe's."""
    if text.strip() == "auto":
        return recipe_of(models).video.stg_blocks
    try:
        blocks = tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise ValueError(f"stg_blocks is {text!r}; write block numbers, such as 28 or 14, 19, or auto.") from None
    if wrong := [block for block in blocks if not 0 <= block < models.layers]:
        raise ValueError(f"stg_blocks names {wrong[0]}; this model has {models.layers} blocks, counted from 0.")
    return blocks


def _watch(models: Models, steps: int) -> Callable[[int, int, Step], None]:
    """Shows how far a run is, and what it looks like if the user wants to see it."""
    bar = host.progress(steps)
    factors = None
    if host.wants_previews():
        factors = miniature_factors() if models.is_miniature else released_factors()

    def on_step(done: int, total: int, step: Step) -> None:
        if factors is None or step.x0.video is None:
            bar(done, total)
        else:
            bar(done, total, _moments(preview_frames(step.x0.video, factors)))

    return on_step


def _moments(frames: Tensor) -> Tensor:
    """Four of the frames (F, H, W, 3) as one picture, in reading order; of a shorter clip its first."""
    if len(frames) < 4:
        return frames[0]
    chosen = frames[torch.linspace(0, len(frames) - 1, 4).round().long()]
    return rearrange(chosen, "(rows columns) h w c -> (rows h) (columns w) c", rows=2)
