"""From a small latent to a large one: enlarge it, and refine it in tiles."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.upscaler import BUILT_IN as BUILT_IN_FILE
from ..ltx2_core.checkpoint.upscaler import open_upscaler, video_statistics
from ..ltx2_core.conditioning import Frozen, apply_conditions
from ..ltx2_core.generate import needs_negative, recipe_of, sample
from ..ltx2_core.geometry import SPACE_SCALE, TIME_SCALE, ClipShape, pixel_frames
from ..ltx2_core.health import Seams, latent_findings
from ..ltx2_core.latents import STREAMS, AVLatent
from ..ltx2_core.long import extent
from ..ltx2_core.memory import stages
from ..ltx2_core.memory.plan import Plan
from ..ltx2_core.memory.stages import Extent
from ..ltx2_core.refine import refining, tiles_for
from ..ltx2_core.sampling import NEUTRAL, SAMPLERS, Refine, StreamGuidance, Tiles, passes_needed, schedules
from ..ltx2_core.upscaler import upscale
from . import host, preview
from .condition import Chain, items
from .latents import SEAMS, Latent, clip_of, fps_of, masked, renewed, streams
from .load import BUILT_IN
from .sample import LAST_STEP
from .text import Conditioning, contexts, frame_rate
from .types import (
    Conditions,
    GuidanceType,
    HostUpscaler,
    LoadedModel,
    LoadedUpscaler,
    Model,
    plan_input,
)

UPSCALERS = ("latent_upscale_models", "upscale_models")

SEED = io.Int.Input(
    "seed",
    default=0,
    min=0,
    max=2**53 - 1,
    control_after_generate=True,
    tooltip="Another number gives other detail; the same number and settings give the same one.",
)
MODEL = Model.Input("model", tooltip="The LTX-2 model that made the latent, from LTX-2 Load Model.")
UPSCALER = io.LatentUpscaleModel.Input(
    "upscaler", tooltip="From LTX-2 Load Upscaler, or from ComfyUI's own Load Latent Upscale Model."
)


class LoadUpscaler(io.ComfyNode):
    """Opens a latent upscaler; it is read when a node needs it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadUpscaler",
            display_name="LTX-2 Load Upscaler",
            category="LTX-2/loaders",
            description="Opens a latent upscaler of LTX-2 and says what it enlarges: space by 2 or 1.5, or time by 2. "
            "Connect it to LTX-2 Two Stages, or to the upscale node of its kind.",
            search_aliases=["latent upscale model", "load latent upscale model", "spatial upscaler", "hires fix"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "upscaler",
                    options=[BUILT_IN, *host.model_files(*UPSCALERS)],
                    tooltip="The official file, such as ltx-2.3-spatial-upscaler-x2-1.1.safetensors, from "
                    "models/latent_upscale_models. It must be of the same LTX-2 version as the model. The built-in "
                    "one belongs to the built-in model.",
                )
            ],
            outputs=[
                io.LatentUpscaleModel.Output(display_name="upscaler", tooltip="The opened upscaler, not yet in memory.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, upscaler):
        return host.fingerprint([_file(upscaler)])

    @classmethod
    def execute(cls, upscaler: str) -> io.NodeOutput:
        file = open_upscaler(_file(upscaler))
        host.say(cls.hidden.unique_id, f"Enlarges {file.config.enlarges}")
        return io.NodeOutput(LoadedUpscaler(file))


class Upscale(io.ComfyNode):
    """More cells of the latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVUpscale",
            display_name="LTX-2 Latent Upscaler",
            category="LTX-2/refine",
            description="Makes the picture of a latent wider and higher, by 2 or 1.5. Its sound stays as it is. The "
            "result is soft: connect it to LTX-2 Tiled Refiner.",
            search_aliases=["latent upscale", "ltxv latent upsampler", "spatial upscale", "hires fix", "enlarge"],
            hidden=[io.Hidden.unique_id],
            inputs=[MODEL, io.Latent.Input("latent", tooltip="A finished latent, not a noisy one."), UPSCALER,
                    plan_input()],
            outputs=[io.Latent.Output(display_name="av_latent", tooltip="The larger picture, with the same sound.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, upscaler: Any, plan: Plan | None = None) -> io.NodeOutput:
        larger, clip = _upscaled(model, latent, upscaler, plan, "space")
        host.say(cls.hidden.unique_id, f"{clip.width} x {clip.height}")
        return io.NodeOutput(larger)


class UpscaleTime(io.ComfyNode):
    """More frames of the latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVUpscaleTime",
            display_name="LTX-2 Upscale in Time",
            category="LTX-2/refine",
            description="Puts a new frame between all frames of a latent: twice the frame rate at the same speed, with "
            "the same sound. Connect it to LTX-2 Tiled Refiner or to the decoder.",
            search_aliases=["frame interpolation", "temporal upscaler", "fps", "slow motion", "rife"],
            hidden=[io.Hidden.unique_id],
            inputs=[MODEL, io.Latent.Input("latent", tooltip="A finished latent, not a noisy one."), UPSCALER,
                    plan_input()],
            outputs=[
                io.Latent.Output(display_name="av_latent", tooltip="The latent of twice the rate, which it says."),
                io.Int.Output(display_name="frames", tooltip="The new length in frames: twice the old one, less 1."),
                io.Float.Output(display_name="fps", tooltip="The new frame rate."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, upscaler: Any, plan: Plan | None = None) -> io.NodeOutput:
        larger, clip = _upscaled(model, latent, upscaler, plan, "time")
        host.say(cls.hidden.unique_id, f"{clip.frames} frames at {float(clip.fps):g} fps")
        return io.NodeOutput(larger, clip.frames, float(clip.fps))


def _tile_inputs() -> list[io.Input]:
    """In which tiles is refined."""

    def number(name: str, default: int, highest: int, step: int, tooltip: str) -> io.Int.Input:
        limits = {"default": default, "min": 0, "max": highest, "step": step}
        return io.Int.Input(name, **limits, optional=True, advanced=True, tooltip=tooltip)

    more = "More hides their seams better, and takes longer."
    return [
        number("columns", 0, 64, 1, "Tiles side by side. With 0 here and in the next two, as few are chosen as the "
               "memory allows. 1 in all three is the whole clip at once."),
        number("rows", 0, 64, 1, "Tiles one above the other. 0 as above, or 1 if another one is set."),
        number("intervals", 0, 64, 1, "Tiles one after the other in time. 0 as above, or 1 if another one is set."),
        number("overlap", 128, 1024, 32, f"Pixels that neighbouring tiles share. {more}"),
        number("frame_overlap", 32, 256, 8, f"Frames that two intervals share. {more}"),
        io.Combo.Input(
            "mode",
            options=["together", "one by one"],
            optional=True,
            advanced=True,
            tooltip="together blends the tiles at every step, so that they cannot drift apart. one by one finishes "
            "each tile before the next and blends them once, as other tools do: neighbours may disagree.",
        ),
        io.Combo.Input(
            "positions",
            options=["absolute", "local"],
            optional=True,
            advanced=True,
            tooltip="absolute tells each tile where in the clip it is. local tells each that it is a clip by itself: "
            "for clips wider than 2048 pixels or longer than 20 seconds, which the models have not seen.",
        ),
    ]  # fmt: skip


class RefineNode(io.ComfyNode):
    """Puts detail into a large latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVRefine",
            display_name="LTX-2 Tiled Refiner",
            category="LTX-2/refine",
            description="Gives a latent some noise and takes it away again, which fills it with detail; in overlapping "
            "tiles where it is too large for the card. Connect it behind LTX-2 Latent Upscaler, or behind LTX-2 Encode "
            "Clip for a video of your own.",
            search_aliases=["hires fix", "detailer", "img2img", "ultimate upscale", "tiled sampler", "second pass"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MODEL,
                io.Conditioning.Input("positive", tooltip="The encoded prompt; best that of the first stage."),
                io.Latent.Input("latent", tooltip="What to refine, at the size that is wanted."),
                SEED,
                io.Combo.Input(
                    "sound",
                    options=["hold", "refine"],
                    tooltip="hold keeps the sound as it is, and the picture follows it. refine makes it anew with the "
                    "picture, as much as the noise asks for; of tiles it hears the whole picture.",
                ),
                io.Float.Input(
                    "noise_scale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.01,
                    optional=True,
                    tooltip="How much noise is added first. Higher invents more detail and keeps less of the latent. "
                    "0 takes what the sigmas begin with.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The noise levels. Not connected, they are those that the recipe of the model has for its "
                    "second stage.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Needed only while a text scale of the guidance is above 1."
                ),
                GuidanceType.Input(
                    "guidance",
                    optional=True,
                    tooltip="From LTX-2 Guidance. Not connected, it is the recipe's: none, for the distilled LoRA.",
                ),
                *_tile_inputs(),
                plan_input(),
                Conditions.Input(
                    "conditions",
                    optional=True,
                    tooltip="What is given: those of the first stage, which are encoded again at this size.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="av_latent", tooltip="The refined latent, for the decoders."),
                io.String.Output(display_name="report", tooltip="The tiles, and how much of their seams is left."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: Conditioning,
        latent: Latent,
        seed: int,
        sound: str,
        noise_scale: float = 0.0,
        sigmas: Tensor | None = None,
        negative: Conditioning | None = None,
        guidance: StreamGuidance | None = None,
        plan: Plan | None = None,
        conditions: Chain = (),
        **tiles: Any,
    ) -> io.NodeOutput:
        recipe = replace(recipe_of(model.models).refine, keeps_sound=False)
        if sigmas is not None:
            recipe = replace(recipe, sigmas=tuple(sigmas.tolist()))
        if guidance is not None:
            recipe = replace(recipe, video=guidance.video, audio=guidance.audio)
        if noise_scale:
            recipe = replace(recipe, sigmas=tuple(schedules.starting_at(recipe.sigmas, noise_scale)))
        texts, given = (positive, negative), (conditions, sound == "hold")
        refined, report = _refined(model, texts, latent, given, seed, recipe, plan, cls.hidden.unique_id, **tiles)
        host.say(cls.hidden.unique_id, report)
        return io.NodeOutput(refined, report)


class TwoStage(io.ComfyNode):
    """The official second stage in one node."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVTwoStage",
            display_name="LTX-2 Two Stages",
            category="LTX-2/refine",
            description="The second stage of the official pipelines: enlarges what the sampler made at half the size, "
            "and refines it with the recipe of the loaded model. Connect it between sampler and decoder.",
            search_aliases=["hires fix", "second stage", "two stage", "1080p", "upscale", "refine", "4k"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MODEL,
                io.Conditioning.Input("positive", tooltip="The encoded prompt, that of the first stage."),
                io.Latent.Input("latent", tooltip="The finished latent of the first stage."),
                UPSCALER,
                SEED,
                Model.Input(
                    "refine_model",
                    optional=True,
                    tooltip="The model for the second stage, with its own LoRAs. A dev model needs the distilled LoRA "
                    "here: connect the model through LTX-2 Load LoRA. Not connected, it is the model above.",
                ),
                io.Combo.Input(
                    "sound",
                    options=["as the recipe", "hold", "refine"],
                    optional=True,
                    tooltip="Which sound the clip gets. The recipe of dev models keeps that of the first stage, the "
                    "one of distilled models makes it anew with the large picture. hold also keeps it from the "
                    "noise, so that the picture follows it exactly.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Only for recipes with a text scale above 1."),
                *_tile_inputs(),
                plan_input(),
                Conditions.Input(
                    "conditions",
                    optional=True,
                    tooltip="What is given: those of the first stage, which are encoded again at this size.",
                ),
                io.Boolean.Input(
                    "hq",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="The second stage of the hq recipe, for the dev model of LTX-2.3 with its distilled LoRA "
                    "at strength 0.5.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="av_latent", tooltip="The large latent, for the decoders."),
                io.String.Output(display_name="report", tooltip="What was done, and how much of seams is left."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: Conditioning,
        latent: Latent,
        upscaler: Any,
        seed: int,
        refine_model: LoadedModel | None = None,
        sound: str = "as the recipe",
        negative: Conditioning | None = None,
        plan: Plan | None = None,
        conditions: Chain = (),
        hq: bool = False,
        **tiles: Any,
    ) -> io.NodeOutput:
        recipe, second = recipe_of(model.models, hq).refine, refine_model or model
        if sound == "refine":
            recipe = replace(recipe, keeps_sound=False)
        larger, _ = _upscaled(model, latent, upscaler, plan)
        texts, given = (positive, negative), (conditions, sound == "hold")
        refined, report = _refined(second, texts, larger, given, seed, recipe, plan, cls.hidden.unique_id, **tiles)
        if recipe.lora and not second.loras:
            report = f"{report}\n{NO_LORA}"
        host.say(cls.hidden.unique_id, report)
        return io.NodeOutput(refined, report)


NO_LORA = (
    "The second stage of this dev model was made for the distilled LoRA (ltx-2-19b-distilled-lora-384 or "
    "ltx-2.3-22b-distilled-lora-384): connect the model through LTX-2 Load LoRA to refine_model."
)


def _file(name: str) -> Path:
    return BUILT_IN_FILE if name == BUILT_IN else host.model_file(name, *UPSCALERS)


def _upscaled(
    model: LoadedModel, latent: Latent, value: Any, plan: Plan | None, wanted: str | None = None
) -> tuple[Latent, ClipShape]:
    """The larger LATENT, and its clip."""
    given, fps = streams(latent), fps_of(latent)
    upscaler = value if isinstance(value, LoadedUpscaler) else HostUpscaler(value)
    if given.video is None:
        raise ValueError("This LATENT has no picture: an upscaler enlarges nothing else.")
    config = upscaler.config
    if wanted is not None and getattr(config, wanted) == 1:
        other = "LTX-2 Upscale in Time" if wanted == "space" else "LTX-2 Latent Upscaler"
        raise ValueError(f"This upscaler enlarges {config.enlarges}, not {wanted}: connect it to {other}.")
    size = Extent(Extent.of_latent(given).video, None, len(given.video))
    with upscaler.use(stages.upscaling(config, upscaler.dtype, size), plan) as network:
        statistics = video_statistics(model.models).to(upscaler.device)
        larger, fps = upscale(network, given.to(upscaler.device), fps, statistics)
    kept = {key: value for key, value in latent.items() if key not in ("noise_mask", LAST_STEP, SEAMS)}
    result = renewed(kept | {"fps": fps}, larger.map(host.handed_out))
    clip = clip_of(result)
    assert clip is not None
    return result, clip


def _refined(
    model: LoadedModel,
    texts: tuple[Conditioning, Conditioning | None],
    latent: Latent,
    given: tuple[Chain, bool],
    seed: int,
    recipe: Refine,
    plan: Plan | None,
    node_id: str | None,
    columns: int = 0,
    rows: int = 0,
    intervals: int = 0,
    overlap: int = 128,
    frame_overlap: int = 32,
    mode: str = "together",
    positions: str = "absolute",
) -> tuple[Latent, str]:
    """The refined LATENT, and what there is to say about it; of what is ``given``, the flag holds the sound."""
    (positive, negative), (conditions, holds_sound) = texts, given
    begin, rate = streams(latent), fps_of(latent, otherwise=frame_rate(positive))
    if begin.video is None:
        raise ValueError("This LATENT has no picture to refine.")
    shape = ClipShape.of_latent(begin.video, rate)
    everything = [*masked(latent, begin), *items(model, conditions, shape, begin.streams(), plan)]
    if holds_sound and begin.audio is not None:
        everything.append(Frozen("audio"))
    state = apply_conditions(begin, rate, everything)

    both = [getattr(recipe, name) if name in state.free else NEUTRAL for name in STREAMS]
    guided = needs_negative(recipe.sampler, *both)
    if guided and negative is None:
        raise ValueError("This guidance looks at the negative prompt, but there is none: connect one to negative.")
    wanted, unwanted = contexts(model, positive), contexts(model, negative) if guided and negative else None
    passes = tuple(passes_needed(both, len(begin.streams()) == 2, SAMPLERS[recipe.sampler].needs_negative))

    transformer, size, whole = model.network("transformer"), shape.video_latent, extent(state, [])
    cells, local = (frame_overlap // TIME_SCALE, *[overlap // SPACE_SCALE] * 2), positions == "local"
    if columns or rows or intervals:
        tiles = Tiles((max(1, intervals), max(1, rows), max(1, columns)), cells, local)
    else:
        device = transformer.device
        card = host.machine(device), host.room(device, plan), host.may_pin(plan)
        tiles = tiles_for(model.blueprint(), whole, *card, passes=passes, overlap=cells, local=local)
    steps = len(recipe.sigmas) - 1
    calls = steps * SAMPLERS[recipe.sampler].calls
    need = refining(model.blueprint(), whole, tiles, passes, calls, hears="audio" in state.free)
    with host.use(transformer, *preview.networks(model, begin), need=need, plan=plan) as (network, *decoder):
        result = sample(
            network,
            begin.to(transformer.device),
            fps=rate,
            sigmas=list(recipe.sigmas),
            contexts=wanted,
            negative=unwanted,
            video=both[0],
            audio=both[1],
            sampler=recipe.sampler,
            seed=seed,
            items=everything,
            tiles=tiles,
            together=mode == "together",
            dtype=transformer.dtype,
            on_step=preview.watch(node_id, model, rate, steps, *decoder),
            at=transformer.at,
        )
    report = _report(result, tiles, size)
    if recipe.keeps_sound:
        result = AVLatent(result.video, begin.audio)
    kept = {key: value for key, value in latent.items() if key != LAST_STEP} | {"fps": rate}
    return renewed(kept | {SEAMS: (size, tiles.seams(size))}, result.map(host.handed_out)), report


def _report(result: AVLatent, tiles: Tiles, size: Sequence[int]) -> str:
    """In which tiles it was made, whether they show, and what else looks wrong."""
    frames, height, width = tiles.largest(size)
    made = f"{width * SPACE_SCALE} x {height * SPACE_SCALE} pixels and {pixel_frames(frames)} frames"
    findings = latent_findings(result, "refining")
    if tiles.count == 1:
        lines = [f"In one piece of {made}"]
    else:
        assert result.video is not None
        seams = Seams(*tiles.edges(size), beside=2)
        seams.see(result.video.movedim(1, -1))
        lines = [
            f"{tiles.count} tiles (in time, down, across: {' x '.join(map(str, tiles.counts))}), at most {made}",
            f"Across their seams the latent changes {seams.measure():.2f} times as much as beside them",
        ]
        findings += seams.findings()
    return "\n".join([*lines, *map(str, findings)])
