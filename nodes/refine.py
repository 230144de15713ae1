"""From a small latent to a large one: enlarge it, and refine it in tiles."""

from functools import partial
from typing import Any, ClassVar

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.fields import settings_from
from ..ltx2_core.geometry import ClipShape
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph.latents import GraphLatent, GraphPrompt
from ..ltx2_core.pipeline.graph.stages import Raising, Refining, enlarge_and_refine, refine_latent, upscale_latent
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.raise_rate import check_known_keyframes
from ..ltx2_core.sampling.tiles import TileSettings
from ..ltx2_core.settings import RecipeSettings, SamplingSettings, SecondStage
from ..ltx2_core.settings.second_stage import SECOND_STAGE_SOUND
from .engine import HostEngine, LoadedModel, UpscalerLike, sampling_engine, upscaler_of
from .inputs import choice, optional, sockets, widgets
from .node import Node
from .values import Chain, Conditioning, Latent, to_host_latent


class _Enlarging(Node):
    """A node that enlarges a latent in ``wanted``, space or time."""

    wanted: ClassVar[str]
    inputs = [sockets("model", "latent", "upscaler"), optional("plan")]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def enlarged(
        cls, model: LoadedModel, latent: Latent, upscaler: UpscalerLike, plan: Plan | None = None, **tones: Any
    ) -> tuple[Latent, ClipShape]:
        """Return the larger latent, and its size."""
        engine, begin, second = HostEngine(model, plan), GraphLatent(latent), SecondStage(**tones)
        larger = upscale_latent(engine, begin, upscaler_of(upscaler, model.models), cls.wanted, second)
        return to_host_latent(larger), GraphLatent(larger).shape


class UpscaleNode(_Enlarging):
    """More cells of the latent."""

    id = "LTX2AVUpscale"
    title = "refine/Latent Upscaler"
    inputs = [*_Enlarging.inputs, widgets(SecondStage, "adain_factor", "tone_map_compression")]
    wanted = "space"

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        larger, clip = cls.enlarged(**values)
        cls.show(f"{clip.width} x {clip.height}")
        return io.NodeOutput(larger)


class UpscaleTime(_Enlarging):
    """More frames of the latent."""

    id = "LTX2AVUpscaleTime"
    title = "refine/Upscale in Time"
    outputs = {"av_latent": io.Latent, "frames": io.Int, "fps": io.Float}
    wanted = "time"

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        larger, clip = cls.enlarged(**values)
        cls.show(f"{clip.frames} frames at {float(clip.fps):g} fps")
        return io.NodeOutput(larger, clip.frames, float(clip.fps))


class RefineNode(Node):
    """Puts detail into a large latent."""

    id = "LTX2AVRefine"
    title = "refine/Tiled Refiner"
    inputs = [
        sockets("model", "positive", "latent"),
        widgets(SamplingSettings, "seed"),
        choice("sound", lambda: list(SECOND_STAGE_SOUND[1:])),  # no recipe is beside it
        widgets(SecondStage, "noise_scale", optional=True),
        optional("sigmas", "negative", "guidance"),
        widgets(TileSettings),
        optional("plan", "conditions"),
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
        tiles, guidance = settings_from(TileSettings, settings), settings.get("guidance")
        second = settings_from(SecondStage, settings, sound=sound, sigmas=levels, guidance=guidance, tiles=tiles)
        conditions, prompts = settings.get("conditions") or (), (positive, settings.get("negative"))
        recipe = second.completed(recipe_of(model.models).refine, conditions)
        begin = GraphLatent(latent, prompt=GraphPrompt(positive))
        engine = sampling_engine(cls, model, begin, settings.get("plan"))
        refined, report = refine_latent(engine, begin, prompts, second, recipe, seed, conditions)
        return io.NodeOutput(to_host_latent(refined), report)


class TwoStage(Node):
    """The official second stage in one node."""

    id = "LTX2AVTwoStage"
    title = "refine/Two Stages"
    inputs = [
        sockets("model", "positive", "latent", "upscaler"),
        widgets(SamplingSettings, "seed"),
        optional("refine_model"),
        widgets(SecondStage, "sound", optional=True),
        optional("negative"),
        widgets(TileSettings),
        optional("plan", "conditions"),
        widgets(RecipeSettings, "hq"),
        widgets(SecondStage, "keep_references", "keep_keyframes", "detailing", "adain_factor", "tone_map_compression"),
    ]
    outputs = {"av_latent": io.Latent, "report": io.String}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, upscaler: UpscalerLike, seed: int,
        **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        second = settings_from(SecondStage, settings, tiles=settings_from(TileSettings, settings))
        conditions, prompts = settings.get("conditions") or (), (positive, settings.get("negative"))
        recipe = second.completed(recipe_of(model.models, settings.get("hq", False)).refine, conditions)
        begin, plan = GraphLatent(latent, prompt=GraphPrompt(positive)), settings.get("plan")
        engine_of = partial(sampling_engine, cls, settings.get("refine_model") or model, plan=plan)
        lay_out = partial(Refining.of, prompts, second, recipe, seed, conditions, begin.content)
        enlarging, network = HostEngine(model, plan), upscaler_of(upscaler, model.models)
        refined, report = enlarge_and_refine(enlarging, begin, network, engine_of, lay_out, second=second)
        return io.NodeOutput(to_host_latent(refined), report)


class RaiseFrameRate(Node):
    """Twice or four times as many frames per second."""

    id = "LTX2AVRaiseFrameRate"
    title = "refine/Raise Frame Rate"
    inputs = [
        sockets("model", "positive", "latent", "upscaler"),
        widgets(SecondStage, "rounds", rounds=1),
        widgets(SamplingSettings, "seed"),
        optional("plan", "conditions"),
    ]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, upscaler: UpscalerLike, rounds: int, seed: int,
        plan: Plan | None = None, conditions: Chain | None = None
    ) -> io.NodeOutput:  # fmt: skip
        engine_of = partial(sampling_engine, cls, model, plan=plan)
        for number in range(1, rounds + 1):
            begin = GraphLatent(latent)
            check_known_keyframes(begin.content)
            engine, network = HostEngine(model, plan), upscaler_of(upscaler, model.models)
            lay_out = partial(Raising.of, positive, conditions or (), number, seed)
            latent = enlarge_and_refine(engine, begin, network, engine_of, lay_out, "time")
        cls.show(GraphLatent(latent).shape.describe())
        return io.NodeOutput(to_host_latent(latent))
