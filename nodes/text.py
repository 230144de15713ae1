"""What does the prompt say?"""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.encoder_alone import EncoderAlone
from ..ltx2_core.fields import settings_from
from ..ltx2_core.pipeline.encode_text import cached_features
from ..ltx2_core.pipeline.enhance import enhance
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph.latents import GraphPrompt
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.settings import Enhancing, PromptSettings, Variations, given_negative
from ..ltx2_core.text.prompts import MADE_BY, UNPROCESSED
from . import host
from .engine import GemmaLike, HostEngine, LoadedModel
from .inputs import optional, sockets, widgets
from .node import EachOf, Node
from .values import Conditioning, to_host_prompt


class GemmaTextEncode(Node):
    """Reads both prompts with Gemma in one load."""

    id = "LTX2AVGemmaTextEncode"
    title = "text/Gemma Text Encode"
    inputs = [sockets("model", "gemma"), widgets(PromptSettings), optional("plan")]
    outputs = {"positive": io.Conditioning, "negative": io.Conditioning}

    @classmethod
    def execute(
        cls, model: LoadedModel, gemma: GemmaLike, prompt: str, plan: Plan | None = None, **settings: Any
    ) -> io.NodeOutput:
        return io.NodeOutput(*encode_prompts(HostEngine(model, plan, gemma=gemma), [prompt], **settings))


def encode_prompts(
    engine: HostEngine, prompts: list[str], negative: str = "", keep_encoded: bool = True
) -> list[Conditioning]:
    """Return what Gemma reads of each prompt, and of the negative one at last; that of the recipe if it is empty."""
    away = given_negative(negative.strip() or None, recipe_of(engine.models))
    extras = {UNPROCESSED: True, MADE_BY: engine.models.generation}
    return [to_host_prompt([(each, dict(extras))]) for each in cached_features(engine, prompts, away, keep_encoded)]


class EnhancePrompt(Node):
    """Lets Gemma tell a short prompt at length."""

    id = "LTX2AVEnhancePrompt"
    title = "text/Enhance Prompt"
    inputs = [
        sockets("model", "gemma"),
        widgets(PromptSettings, "prompt"),
        widgets(Enhancing, "wording", "temperature", "longest"),
        lambda: [io.String.Input("edited", default="", multiline=True, optional=True)],
        optional("plan", "image"),
        widgets(Enhancing, "system_prompt"),
    ]
    outputs = {"prompt": io.String}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, gemma: GemmaLike, prompt: str, edited: str = "", plan: Plan | None = None,
        image: Tensor | None = None, **how: Any
    ) -> io.NodeOutput:  # fmt: skip
        if edited.strip():
            return io.NodeOutput(edited.strip())
        writer = gemma.of(model.models)
        alone = LoadedModel(EncoderAlone(writer.files.path, sees=image is not None), "auto")
        engine = HostEngine(alone, plan, gemma=writer)
        engine.events = replace(engine.events, on_words=host.show_status)
        written = enhance(engine, prompt, settings_from(Enhancing, how), picture=image)
        cls.show(written)
        return io.NodeOutput(written)


class PromptsAndSeeds(Node):
    """Each prompt with each seed, one after the other."""

    id = "LTX2AVPromptsAndSeeds"
    title = "text/Prompts and Seeds"
    inputs = [widgets(Variations)]
    outputs = {"prompts": EachOf(io.String), "seeds": EachOf(io.Int), "filename_prefix": EachOf(io.String)}

    @classmethod
    def execute(cls, prompts: str, seeds: str, filename_prefix: str) -> io.NodeOutput:
        return io.NodeOutput(*map(list, zip(*Variations(prompts, seeds, filename_prefix).all())))


class ThinkingTokens(Node):
    """Runs the connectors: the prompt is continued with learned tokens, and all of them read each other."""

    id = "LTX2AVThinkingTokens"
    title = "text/Thinking-Token Connector"
    # In the order of the outputs, so that a node that is bypassed hands on each prompt as what it is.
    inputs = [sockets("positive"), optional("negative", "model")]
    outputs = {"positive": io.Conditioning, "negative": io.Conditioning}

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning | None = None, model: LoadedModel | None = None
    ) -> io.NodeOutput:
        if model is None:
            return io.NodeOutput(positive, negative)
        engine = HostEngine(model)
        connected = (None if each is None else GraphPrompt(each).connected(engine) for each in (positive, negative))
        return io.NodeOutput(*(None if each is None else to_host_prompt(each) for each in connected))
