"""Which single frames are generated beside a clip, and what becomes of them?"""

from comfy_api.latest import io

from ..ltx2_core.conditioning.conditions import GeneratedKeyframes
from ..ltx2_core.conditioning.rate import of_round
from ..ltx2_core.pipeline.grade import prepare_encoding
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.raise_rate import RaiseRate, check_known_keyframes
from ..ltx2_core.settings import SamplingSettings, SecondStage
from . import host, inputs
from .engine import HostEngine, LoadedModel, UpscalerLike
from .refine import upscaled
from .sample import sampling_engine
from .values import Chain, Conditioning, ConditionsType, HostLatent, Latent, script_of


class GeneratedKeyframesNode(io.ComfyNode):
    """Frames that are generated one by one beside the clip."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVGeneratedKeyframes",
            "condition/Generated Keyframes",
            inputs=[*inputs.widgets(GeneratedKeyframes, "count", "frames"), inputs.conditions()],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(cls, count: int, frames: str = "", conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), GeneratedKeyframes(count, frames)))


class RaiseFrameRate(io.ComfyNode):
    """Twice or four times as many frames per second."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVRaiseFrameRate",
            "refine/Raise Frame Rate",
            inputs=[
                inputs.model("The LTX-2.5 model of the second stage, with its LoRAs."),
                inputs.positive("The encoded prompt, that of the first stage."),
                inputs.latent("A finished latent with generated keyframes, from LTX-2 Two Stages."),
                inputs.UPSCALER,
                *inputs.widgets(SecondStage, "rounds", rounds=1),
                *inputs.widgets(SamplingSettings, "seed"),
                inputs.plan(),
                inputs.conditions("What is given: pictures of the first stage, which are encoded again."),
            ],
            outputs={"av_latent": io.Latent},
            shows=True,
        )

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
        host.show_text(cls.hidden.unique_id, HostLatent(latent).shape.describe())
        return io.NodeOutput(latent)
