"""How do we get from noise to a clip?"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning import apply_conditions
from ..ltx2_core.generate import OnStep, needs_negative, sample
from ..ltx2_core.health import latent_findings
from ..ltx2_core.latents import NOISE_ORDERS, STREAMS
from ..ltx2_core.long import WindowCache, extent, fingerprint, sample_clip
from ..ltx2_core.lora.stack import files_of
from ..ltx2_core.memory import stages
from ..ltx2_core.memory.plan import Plan
from ..ltx2_core.sampling import (
    NEUTRAL,
    SAMPLERS,
    SCHEDULES,
    AnyGuidance,
    Guidance,
    Step,
    StreamGuidance,
    ltx2,
    passes_needed,
    schedules,
)
from ..ltx2_core.sampling.windows import Segment
from . import host, preview
from .condition import Chain, items
from .guidance import CROSS_MODAL_SCALE, TEXT_SCALE, blocks_of, fraction, scale_input, stg_inputs
from .latents import Latent, fps_input, fps_of, masked, renewed, shape_of, streams, unequal_lengths
from .long import LongClip
from .text import Conditioning, contexts, frame_rate
from .types import Conditions, GuidanceType, LoadedModel, Model, Windows, plan_input

CUSTOM = "custom"
LAST_STEP = "ltx2av_last_step"  # of a sampler that stopped before the end, beside its latent


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
                    options=[*SCHEDULES, CUSTOM],
                    tooltip="ltx2 for the dev models and the miniature; distilled for distilled models (8 steps, with "
                    "all scales at 1); distilled_refine for a second pass over a finished latent (3 steps); "
                    "linear_quadratic, beta and simple for comparison with other workflows; custom takes the list "
                    "below.",
                ),
                fraction(
                    "max_shift",
                    2.05,
                    10.0,
                    "How long a large clip (4096 tokens) stays at high noise. Higher gives calmer composition and less "
                    "detail. Only for ltx2.",
                    step=0.01,
                ),
                fraction(
                    "base_shift",
                    0.95,
                    10.0,
                    "The same for a small clip (1024 tokens). Only for ltx2, and only with a latent connected.",
                    step=0.01,
                ),
                fraction(
                    "terminal",
                    0.1,
                    0.99,
                    "The last noise level before 0. Higher leaves more to the last step. Only for ltx2.",
                    step=0.01,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Fits the shift to the size of this latent. Not connected, it is that of 4096 tokens, as "
                    "in the official pipelines.",
                ),
                fraction(
                    "denoise",
                    1.0,
                    1.0,
                    "How much is made anew. Below 1 the steps are those at the end of a longer schedule, so that the "
                    "given latent is kept the more, the lower this is.",
                    step=0.01,
                ),
                io.String.Input(
                    "custom_sigmas",
                    default="1.0, 0.9, 0.75, 0.5, 0.25, 0",
                    optional=True,
                    advanced=True,
                    tooltip="Noise levels of your own, from at most 1 down to 0; used when the schedule is custom.",
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
        denoise: float = 1.0,
        custom_sigmas: str = "",
    ) -> io.NodeOutput:
        if schedule == CUSTOM:
            return io.NodeOutput(Tensor(schedules.custom(custom_sigmas)))
        make: Callable[[int], list[float]] = SCHEDULES[schedule]
        if schedule == "ltx2":
            video = None if latent is None else streams(latent).video
            tokens = 4096 if video is None else video[0, 0].numel()
            make = partial(ltx2, tokens=tokens, max_shift=max_shift, base_shift=base_shift, terminal=terminal)
        if fixed := schedules.FIXED.get(schedule):
            if steps != len(fixed) - 1:
                host.say(cls.hidden.unique_id, f"{schedule} has {len(fixed) - 1} steps; {steps} is ignored")
            return io.NodeOutput(Tensor(fixed))
        return io.NodeOutput(Tensor(schedules.with_strength(make, steps, denoise)))


def _own_scale(name: str, tooltip: str) -> io.Float.Input:
    return fraction(name, 0.0, 20.0, f"{tooltip} 0 means: as the slider.", step=0.1)


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
                scale_input("text_scale", "text CFG", TEXT_SCALE),
                scale_input("cross_modal_scale", "cross-modal CFG", CROSS_MODAL_SCALE),
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
                *stg_inputs(),
                _own_scale("video_text_scale", "Text scale of the picture alone."),
                _own_scale("audio_text_scale", "Text scale of the sound alone; the official pipelines use 7."),
                _own_scale("video_cross_modal_scale", "How closely the picture follows the sound."),
                _own_scale("audio_cross_modal_scale", "How closely the sound follows the picture."),
                fps_input(
                    "Frames per second, for a latent that does not say it. 0 means: as the latent says, else as "
                    "LTXVConditioning says, else 24."
                ),
                GuidanceType.Input(
                    "guidance",
                    optional=True,
                    tooltip="From LTX-2 Guidance or LTX-2 Recipe: takes the place of the sliders and of all scales "
                    "here.",
                ),
                io.Int.Input(
                    "start_step",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="The first step to take, counted from 0. To go on where another sampler stopped, give its "
                    "end step here, its latent above, and switch add_noise off.",
                ),
                io.Int.Input(
                    "end_step",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Stop before this step, with a latent that is still noisy. 0 goes to the end.",
                ),
                io.Boolean.Input(
                    "add_noise",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Off where the latent comes from a sampler that stopped before its end: it has its noise.",
                ),
                io.Combo.Input(
                    "noise_order",
                    options=list(NOISE_ORDERS),
                    optional=True,
                    advanced=True,
                    tooltip="In which order random numbers become noise: as the official code draws them, or as "
                    "ComfyUI's own samplers do, so that a seed from a core workflow begins with the same noise.",
                ),
                io.Boolean.Input(
                    "batched_passes",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Computes the prompt and the negative prompt as one batch. Faster for small clips on large "
                    "cards, but needs more memory.",
                ),
                plan_input(),
                Conditions.Input(
                    "conditions",
                    optional=True,
                    tooltip="What is given: pictures, sound, a video, what to keep. From the LTX-2 condition nodes.",
                ),
                Windows.Input(
                    "windows",
                    optional=True,
                    tooltip="From LTX-2 Long Video: makes the clip window by window, however long it is.",
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
        guidance: StreamGuidance | None = None,
        start_step: int = 0,
        end_step: int = 0,
        add_noise: bool = True,
        noise_order: str = "official",
        batched_passes: bool = False,
        plan: Plan | None = None,
        conditions: Chain = (),
        windows: LongClip | None = None,
    ) -> io.NodeOutput:
        if guidance is None:
            blocks = blocks_of(stg_blocks, model.models)
            guidance = StreamGuidance(
                *(
                    Guidance(text or text_scale, cross_modal or cross_modal_scale, stg_scale, blocks, rescale)
                    for text, cross_modal in (
                        (video_text_scale, video_cross_modal_scale),
                        (audio_text_scale, audio_cross_modal_scale),
                    )
                )
            )
        begin = streams(latent)
        rate = fps_of(latent, fps, otherwise=frame_rate(positive))
        if sentence := unequal_lengths(begin, rate):
            host.say(cls.hidden.unique_id, sentence)
        shape = shape_of(begin, rate)
        given = [*masked(latent, begin), *items(model, conditions, shape, begin.streams(), plan)]
        state = apply_conditions(begin, rate, given)
        if not state.free:
            raise ValueError("Everything in this latent is given and stays, so there is nothing to make.")

        both = [getattr(guidance, name) if name in state.free else NEUTRAL for name in STREAMS]
        guided = needs_negative(sampler, *both)
        if guided and negative is None:
            raise ValueError(
                f"{_why_negative(sampler, *both)}, but there is no negative prompt: connect one, or set the scales "
                "to 1."
            )
        if model.models.distilled and len(passes_needed(both)) > 1:
            host.say(cls.hidden.unique_id, "This is a distilled model: it needs both CFG sliders at 1 and STG at 0.")
        taken, cut = schedules.slice_steps(sigmas.tolist(), start_step, end_step or None), []
        prompts = [(0.0, positive), *(windows.segments if windows else ())]
        script = [Segment(start, str(number)) for number, (start, _) in enumerate(prompts)]
        encoded = {each.prompt: contexts(model, prompt) for each, (_, prompt) in zip(script, prompts)}
        unwanted = contexts(model, negative) if guided and negative is not None else None
        if windows is not None:
            if start_step or end_step or not add_noise:
                raise ValueError(
                    "Windows are made from beginning to end: set start_step and end_step to 0, add_noise on."
                )
            cut = windows.windowing.windows(shape.frames, rate)

        transformer = model.network("transformer")
        passes = passes_needed(both, len(begin.streams()) == 2, SAMPLERS[sampler].needs_negative)
        size, steps = extent(state, cut), (len(taken) - 1) * max(1, len(cut))
        if batched_passes and "negative" in passes:  # as if all passes were as large as the one for both prompts
            size, passes = replace(size, batch=2 * size.batch), [name for name in passes if name != "negative"]
        need = stages.sampling(model.blueprint(), size, tuple(passes), steps)
        last = latent.get(LAST_STEP)
        final: Step | None = None

        def shown(window: int) -> OnStep:
            def on_step(done: int, total: int, step: Step) -> None:
                nonlocal final
                final = step
                watch(window * (len(taken) - 1) + done, steps, step)

            return on_step

        with host.use(transformer, *preview.networks(model, begin), need=need, plan=plan) as (network, *decoder):
            watch = preview.watch(cls.hidden.unique_id, model, rate, steps, *decoder)
            make = partial(
                sample,
                network,
                fps=rate,
                sigmas=taken,
                negative=unwanted,
                video=both[0],
                audio=both[1],
                sampler=sampler,
                noise_order=noise_order,
                add_noise=add_noise,
                first_step=start_step,
                last=None if last is None else last.to(transformer.device),
                batched=batched_passes,
                dtype=transformer.dtype,
                at=transformer.at,
            )
            settings = (
                *(model.models.files, files_of(model.loras), taken, both, sampler, seed, noise_order),
                *(transformer.dtype, unwanted),
            )
            folder = host.kept("windows") if windows is not None and windows.resume else None
            result = sample_clip(
                make,
                *(begin.to(transformer.device), given, rate, script, encoded, seed, shown),
                *(None if windows is None else windows.windowing, cut, WindowCache(folder, fingerprint(*settings))),
            )
        if taken[-1] == 0:
            host.tell(cls.hidden.unique_id, latent_findings(result, "sampling"))
        unfinished = None if taken[-1] == 0 or windows is not None else final
        kept = {"fps": rate, LAST_STEP: None if unfinished is None else unfinished.to("cpu")}
        return io.NodeOutput(renewed(latent | kept, result.map(host.handed_out)))


def _why_negative(sampler: str, *guidance: AnyGuidance) -> str:
    """What asks for a negative prompt, as the beginning of a sentence."""
    if SAMPLERS[sampler].needs_negative:
        return f"The sampler {sampler} looks at the negative prompt"
    scale = max(row.text_scale for each in guidance for row in each.rows)
    return f"A text scale is {scale:g}" if scale > 1 else "A NAG scale is not 1"
