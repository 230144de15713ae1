"""From a small latent to a large one: enlarge it, and refine it in tiles."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.rate import of_round
from ..ltx2_core.errors import SettingError
from ..ltx2_core.fields import settings_from
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.grade import prepare_encoding
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.raise_rate import RaiseRate, check_known_keyframes
from ..ltx2_core.pipeline.refine import Refine
from ..ltx2_core.pipeline.stage import NetworkKey
from ..ltx2_core.pipeline.upscale import Upscale
from ..ltx2_core.sampling import Refine as RefineRecipe
from ..ltx2_core.sampling.tiles import TileSettings
from ..ltx2_core.settings import RecipeSettings, SamplingSettings, SecondStage
from . import host
from .engine import HostEngine, LoadedModel, UpscalerLike, upscaler_of
from .inputs import (
    CONDITIONS,
    GUIDANCE,
    LATENT,
    MODEL,
    NEGATIVE,
    PLAN,
    POSITIVE,
    SIGMAS,
    UPSCALER,
    choice,
    socket,
    widgets,
)
from .node import Node
from .sample import check_negative, given_in, sampling_engine
from .values import Chain, Conditioning, HostConditioning, HostLatent, Latent, ModelType, script_of

TILES = ("columns", "rows", "intervals", "overlap", "frame_overlap", "mode", "positions")

NO_LORA = (
    "The second stage of this dev model was made for the distilled LoRA (ltx-2-19b-distilled-lora-384, "
    "ltx-2.3-22b-distilled-lora-384 or ltx-2.5-22b-distilled-lora-450): connect the model through LTX-2 Load LoRA to "
    "refine_model."
)


class UpscaleNode(Node):
    """More cells of the latent."""

    id = "LTX2AVUpscale"
    title = "refine/Latent Upscaler"
    inputs = [MODEL, LATENT, UPSCALER, PLAN]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, latent: Latent, upscaler: UpscalerLike, plan: Plan | None = None
    ) -> io.NodeOutput:
        larger = upscaled(HostEngine(model, plan, cls), HostLatent(latent), upscaler, "space")
        clip = HostLatent(larger).shape
        cls.show(f"{clip.width} x {clip.height}")
        return io.NodeOutput(larger)


class UpscaleTime(Node):
    """More frames of the latent."""

    id = "LTX2AVUpscaleTime"
    title = "refine/Upscale in Time"
    inputs = [MODEL, LATENT, UPSCALER, PLAN]
    outputs = {"av_latent": io.Latent, "frames": io.Int, "fps": io.Float}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, latent: Latent, upscaler: UpscalerLike, plan: Plan | None = None
    ) -> io.NodeOutput:
        larger = upscaled(HostEngine(model, plan, cls), HostLatent(latent), upscaler, "time")
        clip = HostLatent(larger).shape
        cls.show(f"{clip.frames} frames at {float(clip.fps):g} fps")
        return io.NodeOutput(larger, clip.frames, float(clip.fps))


class RefineNode(Node):
    """Puts detail into a large latent."""

    id = "LTX2AVRefine"
    title = "refine/Tiled Refiner"
    inputs = [
        MODEL,
        POSITIVE,
        LATENT,
        widgets(SamplingSettings, "seed"),
        choice("sound", lambda: ["hold", "refine", "hold and refer"]),
        widgets(SecondStage, "noise_scale", optional=True),
        SIGMAS,
        NEGATIVE,
        GUIDANCE,
        widgets(TileSettings, *TILES),
        PLAN,
        CONDITIONS,
        widgets(SecondStage, "keep_references", "keep_keyframes"),
    ]
    outputs = {"av_latent": io.Latent, "report": io.String}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, seed: int, sound: str, **settings: Any
    ) -> io.NodeOutput:
        sigmas: Tensor | None = settings.pop("sigmas", None)
        levels = None if sigmas is None else tuple(sigmas.tolist())
        guidance, texts = settings.pop("guidance", None), (positive, settings.pop("negative", None))
        second = settings_from(SecondStage, settings, sound=sound, sigmas=levels, guidance=guidance)
        recipe = second.completed(recipe_of(model.models).refine, settings.get("conditions") or ())
        return io.NodeOutput(*_refined(cls, model, texts, latent, second, recipe, seed, settings))


class TwoStage(Node):
    """The official second stage in one node."""

    id = "LTX2AVTwoStage"
    title = "refine/Two Stages"
    inputs = [
        MODEL,
        POSITIVE,
        LATENT,
        UPSCALER,
        widgets(SamplingSettings, "seed"),
        socket(ModelType, "refine_model", optional=True),
        widgets(SecondStage, "sound", optional=True),
        NEGATIVE,
        widgets(TileSettings, *TILES),
        PLAN,
        CONDITIONS,
        widgets(RecipeSettings, "hq"),
        widgets(SecondStage, "keep_references", "keep_keyframes", "detailing"),
    ]
    outputs = {"av_latent": io.Latent, "report": io.String}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, upscaler: UpscalerLike, seed: int,
        **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        second, texts = settings_from(SecondStage, settings), (positive, settings.pop("negative", None))
        official = recipe_of(model.models, settings.pop("hq", False)).refine
        recipe = second.completed(official, settings.get("conditions") or ())
        begin = HostLatent(latent, prompt=HostConditioning(positive))
        larger = upscaled(HostEngine(model, settings.get("plan"), cls), begin, upscaler)
        refiner = settings.pop("refine_model", None) or model
        if begin.content.video is not None:
            settings["followed"] = second.followed(
                begin.content.video, HostLatent(larger).shape.video_latent, refiner.loras
            )
        refined, report = _refined(cls, refiner, texts, larger, second, recipe, seed, settings)
        if recipe.lora and not refiner.loras:
            report = f"{report}\n{NO_LORA}"
            cls.show(NO_LORA)
        return io.NodeOutput(refined, report)


class RaiseFrameRate(Node):
    """Twice or four times as many frames per second."""

    id = "LTX2AVRaiseFrameRate"
    title = "refine/Raise Frame Rate"
    inputs = [
        MODEL,
        POSITIVE,
        LATENT,
        UPSCALER,
        widgets(SecondStage, "rounds", rounds=1),
        widgets(SamplingSettings, "seed"),
        PLAN,
        CONDITIONS,
    ]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, upscaler: UpscalerLike, rounds: int, seed: int,
        plan: Plan | None = None, conditions: Chain | None = None
    ) -> io.NodeOutput:  # fmt: skip
        for number in range(1, rounds + 1):
            check_known_keyframes(HostLatent(latent).content)
            begin = HostLatent(upscaled(HostEngine(model, plan, cls), HostLatent(latent), upscaler, "time"))
            engine, given = sampling_engine(cls, model, begin, plan), of_round(conditions or ())
            careful = prepare_encoding(engine, given)
            items = engine.model.conditions.encode(given, begin.shape, ("video",), careful, begin.times)
            stage = RaiseRate.of(begin.content, begin.fps, number, items, seed, begin.drawn_by_first)
            result = stage.run(engine, begin.content, begin.fps, script_of(engine, positive), items)
            latent = begin.raised(result, stage.draws)
        cls.show(HostLatent(latent).shape.describe())
        return io.NodeOutput(latent)


def upscaled(engine: HostEngine, latent: HostLatent, value: UpscalerLike, wanted: str | None = None) -> Latent:
    """Return the larger LATENT; ``wanted`` is "space" or "time" where a node enlarges one of them only."""
    upscaler = upscaler_of(value, engine.models)
    if not latent.has_picture:
        raise SettingError("This LATENT has no picture: an upscaler enlarges nothing else.")
    latent.check_no_guides()
    if wanted is not None and getattr(upscaler.config, wanted) == 1:
        other = "LTX-2 Upscale in Time" if wanted == "space" else "LTX-2 Latent Upscaler"
        raise SettingError(f"This upscaler enlarges {upscaler.config.enlarges}, not {wanted}: connect it to {other}.")
    key: NetworkKey[Any] = NetworkKey("upscaler", source=upscaler)
    keyframes = 0 if latent.content.keyframes is None else len(latent.content.keyframes.frames)
    stage = Upscale(key, upscaler.config, latent.shape.video_latent, upscaler.dtype, latent.batch, keyframes)
    content, fps = stage.run(engine, latent.content, latent.fps)
    return latent.upscaled(content, fps)


def _refined(
    node: type[io.ComfyNode],
    model: LoadedModel,
    texts: tuple[Conditioning, Conditioning | None],
    latent: Latent,
    second: SecondStage,
    recipe: RefineRecipe,
    seed: int,
    settings: dict[str, Any],
) -> tuple[Latent, str]:
    """Return the refined LATENT, and what there is to say about it.

    ``settings`` are conditions, plan and tiles, and what is ``followed`` of the first stage.
    """
    begin = HostLatent(latent, prompt=HostConditioning(texts[0]))
    if not begin.has_picture:
        raise SettingError("This LATENT has no picture to refine.")
    engine = sampling_engine(node, model, begin, settings.get("plan"))
    held = (*settings.get("followed", ()), *(second.held if begin.content.audio is not None else ()))
    conditions = settings.get("conditions") or ()
    items, state = given_in(begin, second.given(conditions), engine, *held)
    chosen, loras = settings_from(TileSettings, settings), second.kept_loras(model.loras, conditions)
    stage = Refine.of(recipe, SamplingSettings(seed=seed), chosen, state, loras, begin.drawn_by_first)
    check_negative(stage.sampling, texts[1])
    stage = engine.fit(stage)
    script = script_of(engine, texts[0], texts[1] if stage.sampling.needs_negative else None)
    result = stage.run(engine, begin.content, begin.fps, script, items)
    said = stage.describe(result)
    host.show_text(engine.node_id, "\n".join(said))
    report = "\n".join([*said, *map(str, engine.findings)])
    kept = replace(result, audio=begin.content.audio) if recipe.keeps_sound else result
    return begin.refined(kept, stage.tiles, state.draws), report
