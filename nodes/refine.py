"""From a small latent to a large one: enlarge it, and refine it in tiles."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning import Frozen
from ..ltx2_core.errors import SettingError
from ..ltx2_core.geometry import SPACE_SCALE, pixel_frames
from ..ltx2_core.health import Seams
from ..ltx2_core.latents import AVLatent
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.long import sampled_size
from ..ltx2_core.pipeline.refine import Refine
from ..ltx2_core.pipeline.sample import Sampling
from ..ltx2_core.pipeline.stage import NetworkKey
from ..ltx2_core.pipeline.upscale import Upscale
from ..ltx2_core.sampling import Refine as RefineRecipe
from ..ltx2_core.sampling import StreamGuidance, Tiles
from ..ltx2_core.sampling.tiles import TileSettings
from ..ltx2_core.seeds import Seeds
from ..ltx2_core.settings import SamplingSettings, SecondStage
from . import host
from .engine import HostEngine, LoadedModel, upscaler_of
from .inputs import (
    conditions_input,
    guidance_input,
    latent_input,
    latent_output,
    model_input,
    negative_input,
    plan_input,
    positive_input,
    schema,
    settings_from,
    upscaler_input,
    widgets,
)
from .sample import check_negative, given_in, sampling_engine
from .values import Chain, Conditioning, HostConditioning, HostLatent, Latent, script_of

MODEL = model_input("The LTX-2 model that made the latent, from LTX-2 Load Model.")
FINISHED = latent_input("A finished latent, not a noisy one.")
TILES = ("columns", "rows", "intervals", "overlap", "frame_overlap", "mode", "positions")
GIVEN = "What is given: those of the first stage, which are encoded again at this size."

NO_LORA = (
    "The second stage of this dev model was made for the distilled LoRA (ltx-2-19b-distilled-lora-384 or "
    "ltx-2.3-22b-distilled-lora-384): connect the model through LTX-2 Load LoRA to refine_model."
)


class UpscaleNode(io.ComfyNode):
    """More cells of the latent."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVUpscale",
            "Latent Upscaler",
            "refine",
            description="Makes the picture of a latent wider and higher, by 2 or 1.5. Its sound stays as it is. The "
            "result is soft: connect it to LTX-2 Tiled Refiner.",
            aliases=["latent upscale", "ltxv latent upsampler", "spatial upscale", "hires fix", "enlarge"],
            inputs=[MODEL, FINISHED, upscaler_input(), plan_input()],
            outputs=[latent_output("The larger picture, with the same sound.")],
            shows=True,
        )

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, upscaler: Any, plan: Any = None) -> io.NodeOutput:
        """Enlarge the picture."""
        larger = _upscaled(HostEngine(model, plan, cls), HostLatent(latent), upscaler, "space")
        clip = HostLatent(larger).shape
        host.show_text(cls.hidden.unique_id, f"{clip.width} x {clip.height}")
        return io.NodeOutput(larger)


class UpscaleTime(io.ComfyNode):
    """More frames of the latent."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVUpscaleTime",
            "Upscale in Time",
            "refine",
            description="Puts a new frame between all frames of a latent: twice the frame rate at the same speed, with "
            "the same sound. Connect it to LTX-2 Tiled Refiner or to the decoder.",
            aliases=["frame interpolation", "temporal upscaler", "fps", "slow motion", "rife"],
            inputs=[MODEL, FINISHED, upscaler_input(), plan_input()],
            outputs=[
                latent_output("The latent of twice the rate, which it says."),
                io.Int.Output(display_name="frames", tooltip="The new length in frames: twice the old one, less 1."),
                io.Float.Output(display_name="fps", tooltip="The new frame rate."),
            ],
            shows=True,
        )

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, upscaler: Any, plan: Any = None) -> io.NodeOutput:
        """Put frames in between."""
        larger = _upscaled(HostEngine(model, plan, cls), HostLatent(latent), upscaler, "time")
        clip = HostLatent(larger).shape
        host.show_text(cls.hidden.unique_id, f"{clip.frames} frames at {float(clip.fps):g} fps")
        return io.NodeOutput(larger, clip.frames, float(clip.fps))


class RefineNode(io.ComfyNode):
    """Puts detail into a large latent."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVRefine",
            "Tiled Refiner",
            "refine",
            description="Gives a latent some noise and takes it away again, which fills it with detail; in overlapping "
            "tiles where it is too large for the card. Connect it behind LTX-2 Latent Upscaler, or behind LTX-2 Encode "
            "Clip for a video of your own.",
            aliases=["hires fix", "detailer", "img2img", "ultimate upscale", "tiled sampler", "second pass"],
            inputs=[
                MODEL,
                positive_input("The encoded prompt; best that of the first stage."),
                latent_input("What to refine, at the size that is wanted."),
                *widgets(SamplingSettings, "seed"),
                io.Combo.Input(
                    "sound",
                    options=["hold", "refine"],
                    tooltip="hold keeps the sound as it is, and the picture follows it. refine makes it anew with the "
                    "picture, as much as the noise asks for; of tiles it hears the whole picture.",
                ),
                *widgets(SecondStage, "noise_scale", optional=True),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The noise levels. Not connected, they are those that the recipe of the model has for its "
                    "second stage.",
                ),
                negative_input("Needed only while a text scale of the guidance is above 1."),
                guidance_input("From LTX-2 Guidance. Not connected, it is the recipe's: none, for the distilled LoRA."),
                *widgets(TileSettings, *TILES),
                plan_input(),
                conditions_input(GIVEN),
            ],
            outputs=[
                latent_output("The refined latent, for the decoders."),
                io.String.Output(display_name="report", tooltip="The tiles, and how much of their seams is left."),
            ],
            shows=True,
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: Conditioning,
        latent: Latent,
        seed: int,
        sound: str,
        negative: Conditioning | None = None,
        sigmas: Tensor | None = None,
        guidance: StreamGuidance | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        """Refine the latent."""
        levels = None if sigmas is None else tuple(sigmas.tolist())
        second = SecondStage(
            sound="refine", noise_scale=settings.pop("noise_scale", 0.0), sigmas=levels, guidance=guidance
        )
        recipe = second.completed(recipe_of(model.models).refine)
        texts = positive, negative
        refined, report = _refined(cls, model, texts, latent, recipe, seed, hold=sound == "hold", **settings)
        return io.NodeOutput(refined, report)


class TwoStage(io.ComfyNode):
    """The official second stage in one node."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVTwoStage",
            "Two Stages",
            "refine",
            description="The second stage of the official pipelines: enlarges what the sampler made at half the size, "
            "and refines it with the recipe of the loaded model. Connect it between sampler and decoder.",
            aliases=["hires fix", "second stage", "two stage", "1080p", "upscale", "refine", "4k"],
            inputs=[
                MODEL,
                positive_input("The encoded prompt, that of the first stage."),
                latent_input("The finished latent of the first stage."),
                upscaler_input(),
                *widgets(SamplingSettings, "seed"),
                model_input(
                    "The model for the second stage, with its own LoRAs. A dev model needs the distilled LoRA here: "
                    "connect the model through LTX-2 Load LoRA. Not connected, it is the model above.",
                    name="refine_model",
                    optional=True,
                ),
                *widgets(SecondStage, "sound", optional=True),
                negative_input("Only for recipes with a text scale above 1."),
                *widgets(TileSettings, *TILES),
                plan_input(),
                conditions_input(GIVEN),
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
                latent_output("The large latent, for the decoders."),
                io.String.Output(display_name="report", tooltip="What was done, and how much of seams is left."),
            ],
            shows=True,
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
        hq: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        """Enlarge the latent and refine it."""
        recipe = SecondStage(sound=sound).completed(recipe_of(model.models, hq).refine)
        larger = _upscaled(HostEngine(model, settings.get("plan"), cls), HostLatent(latent), upscaler)
        second, texts = refine_model or model, (positive, negative)
        refined, report = _refined(cls, second, texts, larger, recipe, seed, hold=sound == "hold", **settings)
        if recipe.lora and not second.loras:
            report = f"{report}\n{NO_LORA}"
            host.show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(refined, report)


def _upscaled(engine: HostEngine, latent: HostLatent, value: Any, wanted: str | None = None) -> Latent:
    """Return the larger LATENT; ``wanted`` is "space" or "time" where a node enlarges one of them only."""
    upscaler = upscaler_of(value)
    if not latent.has_picture:
        raise SettingError("This LATENT has no picture: an upscaler enlarges nothing else.")
    if wanted is not None and getattr(upscaler.config, wanted) == 1:
        other = "LTX-2 Upscale in Time" if wanted == "space" else "LTX-2 Latent Upscaler"
        raise SettingError(f"This upscaler enlarges {upscaler.config.enlarges}, not {wanted}: connect it to {other}.")
    key: NetworkKey[Any] = NetworkKey("upscaler", source=upscaler)
    stage = Upscale(key, upscaler.config, latent.shape.video_latent, upscaler.dtype, latent.batch)
    content, fps = stage.run(engine, latent.content, latent.fps)
    return latent.upscaled(content, fps)


def _refined(
    node: Any,
    model: LoadedModel,
    texts: tuple[Conditioning, Conditioning | None],
    latent: Latent,
    recipe: RefineRecipe,
    seed: int,
    *,
    hold: bool,
    plan: Any = None,
    conditions: Chain | None = None,
    **tiles: Any,
) -> tuple[Latent, str]:
    """Return the refined LATENT, and what there is to say about it; ``hold`` keeps the sound from the noise."""
    begin = HostLatent(latent, otherwise=HostConditioning(texts[0]).frame_rate)
    if not begin.has_picture:
        raise SettingError("This LATENT has no picture to refine.")
    engine = sampling_engine(node, model, begin, plan)
    held = [Frozen("audio")] if hold and begin.content.audio is not None else []
    items, state = given_in(begin, conditions, engine, *held)
    chosen = settings_from(TileSettings, tiles)
    sampling = _second_sampling(recipe, seed, chosen).for_streams(state.free)
    check_negative(sampling, texts[1])
    stage = engine.fit(Refine(sampling, sampled_size(state, ()), "audio" in state.free, chosen.cells, chosen.local))
    script = script_of(engine, texts[0], texts[1] if sampling.needs_negative else None)
    result = stage.run(engine, begin.content, begin.fps, script, items)
    report = "\n".join([*_describe_tiles(result, stage.tiles, begin.shape.video_latent), *map(str, engine.findings)])
    engine.show(report)
    kept = AVLatent(result.video, begin.content.audio) if recipe.keeps_sound else result
    return begin.refined(kept, stage.tiles), report


def _second_sampling(recipe: RefineRecipe, seed: int, tiles: TileSettings) -> Sampling:
    """Return how the second stage is sampled; its seed is the one that one run of both stages would take."""
    settings = replace(SamplingSettings(), seed=Seeds(seed).refine, sampler=recipe.sampler)
    guidance = StreamGuidance(recipe.video, recipe.audio)
    return Sampling(tuple(recipe.sigmas), guidance, settings, tiles.chosen(), tiles.together)


def _describe_tiles(result: AVLatent, tiles: Tiles, size: Sequence[int]) -> list[str]:
    """Say in which tiles it was made, and whether they show."""
    frames, height, width = tiles.largest(size)
    largest = f"{width * SPACE_SCALE} x {height * SPACE_SCALE} pixels and {pixel_frames(frames)} frames"
    if tiles.count == 1:
        return [f"In one piece of {largest}"]
    assert result.video is not None
    seams = Seams(*tiles.edges(size), beside=2)
    seams.see(result.video.movedim(1, -1))
    return [
        f"{tiles.count} tiles (in time, down, across: {' x '.join(map(str, tiles.counts))}), at most {largest}",
        f"Across their seams the latent changes {seams.measure():.2f} times as much as beside them",
        *map(str, seams.findings()),
    ]
