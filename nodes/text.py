"""What does the prompt say?"""

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.text_cache import text_cache
from ..ltx2_core.lora.stack import text_identity
from ..ltx2_core.pipeline.encode_text import read_features
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.settings import PromptSettings
from ..ltx2_core.text.prompts import UNPROCESSED
from . import host, inputs
from .engine import HostEngine, LoadedGemma, LoadedModel
from .values import Conditioning, GemmaType, HostConditioning

READS = ("text_features",)


class GemmaTextEncode(io.ComfyNode):
    """Reads both prompts with Gemma in one load."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVGemmaTextEncode",
            "text/Gemma Text Encode",
            aliases=["clip text encode", "prompt", "positive", "negative", "text encode", "conditioning"],
            inputs=[
                inputs.model("The LTX-2 model that the prompt is for: it holds the text projection."),
                inputs.socket(GemmaType, "gemma", "The text encoder, from LTX-2 Load Gemma."),
                *inputs.widgets(PromptSettings, "prompt", "negative", "keep_encoded"),
                inputs.plan(),
            ],
            outputs=[
                inputs.output(io.Conditioning, "positive", "What the prompt says to both streams."),
                inputs.output(io.Conditioning, "negative", "What the negative prompt says."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        gemma: LoadedGemma,
        prompt: str,
        negative: str,
        keep_encoded: bool = True,
        plan: Plan | None = None,
    ) -> io.NodeOutput:
        encoded = _features(HostEngine(model, plan, gemma=gemma), [prompt, negative], keep_encoded)
        positive, negative_features = ([[host.to_host_format(each), {UNPROCESSED: True}]] for each in encoded)
        return io.NodeOutput(positive, negative_features)


def _features(engine: HostEngine, prompts: list[str], keep: bool) -> list[Tensor]:
    """Return the features of all prompts as CONDITIONING carries them, from disk if they are all there."""
    loras = text_identity(engine.loras, READS)
    cache = text_cache(keep, engine.models, engine.encoder, engine.gemma_dtype, READS, loras)
    known = [cache.find(each) for each in prompts]
    if all(each is not None for each in known):
        return [each["features"] for each in known if each is not None]
    encoded = [each.joined() for each in read_features(engine, prompts)]
    for prompt, features in zip(prompts, encoded):
        cache.keep(prompt, features=features)
    return encoded


class ThinkingTokens(io.ComfyNode):
    """Runs the connectors: the prompt is continued with learned tokens, and all of them read each other."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVThinkingTokens",
            "text/Thinking-Token Connector",
            aliases=["connector", "registers", "embeddings connector", "thinking tokens", "text context"],
            inputs=[
                inputs.model("The LTX-2 model whose connectors to use."),
                inputs.positive(
                    "An encoded prompt, from LTX-2 Gemma Text Encode or from ComfyUI's own LTX-2 text encoder. One "
                    "that has been here before passes unchanged."
                ),
                inputs.negative("The encoded negative prompt, if any."),
            ],
            outputs=[
                inputs.output(io.Conditioning, "positive", "Contexts of both streams, for the sampler."),
                inputs.output(io.Conditioning, "negative", "The same for the negative prompt."),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, positive: Conditioning, negative: Conditioning | None = None) -> io.NodeOutput:
        engine = HostEngine(model)
        connected = HostConditioning(positive).connected(engine)
        return io.NodeOutput(connected, None if negative is None else HostConditioning(negative).connected(engine))
