"""What does the prompt say?"""

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.encoder_alone import EncoderAlone
from ..ltx2_core.pipeline.encode_text import cached_features
from ..ltx2_core.pipeline.enhance import enhance
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.settings import Enhancing, PromptSettings, Variations, given_negative
from ..ltx2_core.text.prompts import UNPROCESSED
from . import host, inputs
from .engine import GemmaLike, HostEngine, LoadedModel
from .values import Conditioning, GemmaType, HostConditioning

EDITED = (
    "What is handed on in place of what Gemma writes, as soon as there is something: copy its text from the node, and "
    "change it. Empty lets Gemma write."
)
LOOKED_AT = (
    "The picture that the clip begins with. Gemma looks at it, so that the prompt goes on from there; it takes a Gemma "
    "3 with its part for pictures, such as gemma_3_12B_it."
)


class GemmaTextEncode(io.ComfyNode):
    """Reads both prompts with Gemma in one load."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVGemmaTextEncode",
            "text/Gemma Text Encode",
            inputs=[
                inputs.model("The LTX-2 model that the prompt is for: it holds the text projection."),
                inputs.socket(GemmaType, "gemma", "The text encoder, from LTX-2 Load Gemma."),
                *inputs.widgets(PromptSettings, "prompt", "negative", "keep_encoded"),
                inputs.plan(),
            ],
            outputs={"positive": io.Conditioning, "negative": io.Conditioning},
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        gemma: GemmaLike,
        prompt: str,
        negative: str = "",
        keep_encoded: bool = True,
        plan: Plan | None = None,
    ) -> io.NodeOutput:
        engine = HostEngine(model, plan, gemma=gemma)
        return io.NodeOutput(*encode_prompts(engine, [prompt], negative, keep_encoded))


def encode_prompts(engine: HostEngine, prompts: list[str], negative: str, keep: bool = True) -> list[Conditioning]:
    """Return what Gemma reads of each prompt, and of the negative one at last; that of the recipe if it is empty."""
    asked = [*prompts, given_negative(negative.strip() or None, recipe_of(engine.models))]
    return [[[host.to_host_format(each), {UNPROCESSED: True}]] for each in cached_features(engine, asked, keep)]


class EnhancePrompt(io.ComfyNode):
    """Lets Gemma tell a short prompt at length."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVEnhancePrompt",
            "text/Enhance Prompt",
            inputs=[
                inputs.model("The LTX-2 model that the prompt is for: it says which Gemma 'as the model' is."),
                inputs.socket(GemmaType, "gemma", "What writes, from LTX-2 Load Gemma: an instruct Gemma."),
                *inputs.widgets(PromptSettings, "prompt"),
                *inputs.widgets(Enhancing, "wording", "temperature", "longest"),
                io.String.Input("edited", default="", multiline=True, optional=True, tooltip=EDITED),
                inputs.plan(),
                io.Image.Input("image", optional=True, tooltip=LOOKED_AT),
            ],
            outputs={"prompt": io.String},
            shows=True,
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        gemma: GemmaLike,
        prompt: str,
        edited: str = "",
        plan: Plan | None = None,
        image: Tensor | None = None,
        **settings: int | float,
    ) -> io.NodeOutput:
        if edited.strip():
            return io.NodeOutput(edited.strip())
        writer = gemma.of(model.models)
        alone = LoadedModel(EncoderAlone(writer.files.path, sees=image is not None), "auto")
        engine = HostEngine(alone, plan, cls, gemma=writer)
        engine.events = replace(engine.events, on_words=host.show_status)
        written = enhance(engine, prompt, inputs.settings_from(Enhancing, settings), picture=image)
        host.show_text(cls.hidden.unique_id, written)
        return io.NodeOutput(written)


class PromptsAndSeeds(io.ComfyNode):
    """Each prompt with each seed, one after the other."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVPromptsAndSeeds",
            "text/Prompts and Seeds",
            inputs=inputs.widgets(Variations, "prompts", "seeds", "filename_prefix"),
            outputs={
                "prompts": inputs.EachOf(io.String),
                "seeds": inputs.EachOf(io.Int),
                "filename_prefix": inputs.EachOf(io.String),
            },
        )

    @classmethod
    def execute(cls, prompts: str, seeds: str, filename_prefix: str) -> io.NodeOutput:
        return io.NodeOutput(*map(list, zip(*Variations(prompts, seeds, filename_prefix).all())))


class ThinkingTokens(io.ComfyNode):
    """Runs the connectors: the prompt is continued with learned tokens, and all of them read each other."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVThinkingTokens",
            "text/Thinking-Token Connector",
            inputs=[
                # In the order of the outputs, so that a node that is bypassed hands on each prompt as what it is.
                inputs.positive(
                    "An encoded prompt, from LTX-2 Gemma Text Encode or from ComfyUI's own LTX-2 text encoder. One "
                    "that has been here before passes unchanged."
                ),
                inputs.negative("The encoded negative prompt, if any."),
                inputs.model(
                    "The LTX-2 model whose connectors to use. Not connected, prompts pass unchanged, and the sampler "
                    "runs the connectors of its own model.",
                    optional=True,
                ),
            ],
            outputs={"positive": io.Conditioning, "negative": io.Conditioning},
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning | None = None, model: LoadedModel | None = None
    ) -> io.NodeOutput:
        given = (positive, negative)
        if model is None:
            return io.NodeOutput(*given)
        engine = HostEngine(model)
        return io.NodeOutput(*(None if each is None else HostConditioning(each).connected(engine) for each in given))
