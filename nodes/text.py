"""What does the prompt say?"""

from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.text_cache import text_cache
from ..ltx2_core.lora.stack import text_changes
from ..ltx2_core.memory import stages
from ..ltx2_core.memory.plan import Plan
from ..ltx2_core.sampling.recipes import NEGATIVE
from ..ltx2_core.text import (
    ConnectorConfig,
    Contexts,
    Features,
    TextFeaturesConfig,
    compute_hidden_states,
    connect,
    extract_features,
)
from . import host
from .types import Gemma, LoadedGemma, LoadedModel, Model, plan_input

# The host's mark of a CONDITIONING that has not been through the connectors.
UNPROCESSED = "unprocessed_ltxav_embeds"

# What other nodes may have written into a CONDITIONING that changes the latent's meaning: not obeyed here, so refused.
FOREIGN = {
    "keyframe_idxs": "guide frames (LTXVAddGuide)",
    "ref_audio": "a reference sound (LTXVReferenceAudio)",
}

Conditioning = list[list[Any]]


class GemmaTextEncode(io.ComfyNode):
    """Reads both prompts with Gemma in one load."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVGemmaTextEncode",
            display_name="LTX-2 Gemma Text Encode",
            category="LTX-2/text",
            description="Reads the prompt and the negative prompt with Gemma. Connect the results to the LTX-2 "
            "Thinking-Token Connector, or directly to the sampler.",
            search_aliases=["clip text encode", "prompt", "positive", "negative", "text encode", "conditioning"],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model that the prompt is for: it holds the text projection."),
                Gemma.Input("gemma", tooltip="The text encoder, from LTX-2 Load Gemma."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a red ball bounces twice on the left",
                    tooltip="What is seen and what is heard, in whole sentences and in the order of events. Up to 1024 "
                    "tokens are read; what comes after them is ignored, and the log says so.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default=NEGATIVE,
                    tooltip="What to stay away from, in picture and sound. It works only while a text scale is above "
                    "1. Empty means: away from the average clip.",
                ),
                io.Boolean.Input(
                    "keep_encoded",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Keeps encoded prompts on disk (at most 1 GB), so that a repeated prompt never loads "
                    "Gemma, also after a restart. The prompts themselves are not written down.",
                ),
                plan_input(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="What the prompt says to both streams."),
                io.Conditioning.Output(display_name="negative", tooltip="What the negative prompt says."),
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
        prompts, dtype, components = [prompt, negative], gemma.network.dtype, ["text_features"]
        changes = text_changes(model.loras, components)
        kept = text_cache(keep_encoded, model.models, gemma.files, dtype, components, changes)
        found = [kept.find(each) for each in prompts]
        encoded = [each["features"] for each in found if each is not None]
        if len(encoded) < len(prompts):
            encoded = _encoded(model, gemma, prompts, plan)
            for each, features in zip(prompts, encoded):
                kept.keep(each, features=features)
        return io.NodeOutput(*([[host.handed_out(each), {UNPROCESSED: True}]] for each in encoded))


def _encoded(model: LoadedModel, gemma: LoadedGemma, prompts: list[str], plan: Plan | None) -> list[Tensor]:
    """The features of all prompts as CONDITIONING carries them."""
    reading_need, projecting_need = stages.prompt(model.blueprint(gemma), len(prompts))
    with host.use(gemma.network, need=reading_need, plan=plan) as (encoder,):
        reading = compute_hidden_states(encoder, gemma.tokenizer, prompts)
    with host.use(model.network("text_features", gemma.network.dtype), need=projecting_need, plan=plan) as (
        projection,
    ):
        return [each.joined() for each in extract_features(projection, reading)]


class ThinkingTokens(io.ComfyNode):
    """Runs the connectors: the prompt is continued with learned tokens, and all of them read each other."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVThinkingTokens",
            display_name="LTX-2 Thinking-Token Connector",
            category="LTX-2/text",
            description="Continues an encoded prompt with the model's learned thinking tokens and makes the contexts "
            "of picture and sound. Without this node the sampler does it, but then in every run.",
            search_aliases=["connector", "registers", "embeddings connector", "thinking tokens", "text context"],
            inputs=[
                Model.Input("model", tooltip="The LTX-2 model whose connectors to use."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="An encoded prompt, from LTX-2 Gemma Text Encode or from ComfyUI's own LTX-2 text encoder. "
                    "One that has been here before passes unchanged.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="The encoded negative prompt, if any."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Contexts of both streams, for the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="The same for the negative prompt."),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, positive: Conditioning, negative: Conditioning | None = None) -> io.NodeOutput:
        return io.NodeOutput(*(None if each is None else _processed(model, each) for each in (positive, negative)))


def contexts(model: LoadedModel, conditioning: Conditioning) -> Contexts:
    """What the transformer reads of a CONDITIONING, whether or not it has been through the connectors."""
    tensor, extras = conditioning[0]
    if len(conditioning) > 1:
        host.log.warning("This CONDITIONING joins %d prompts; LTX-2 reads the first one.", len(conditioning))
    for key, meaning in FOREIGN.items():
        if extras.get(key) is not None:
            raise ValueError(f"This CONDITIONING holds {meaning}, which our nodes cannot use: take that node out.")
    widths = [_connector(model, "video").width, _connector(model, "audio").width]
    if _is_processed(tensor, extras, sum(widths)):
        return Contexts(*tensor.split(widths, dim=-1))
    features = Features.from_joined(tensor, TextFeaturesConfig.from_json(model.models.config["transformer"]))
    return _connected(model, features)


def frame_rate(conditioning: Conditioning) -> float | None:
    """What the host's LTXVConditioning says about the frame rate."""
    return conditioning[0][1].get("frame_rate")


def _processed(model: LoadedModel, conditioning: Conditioning) -> Conditioning:
    made = contexts(model, conditioning)
    extras = {key: value for key, value in conditioning[0][1].items() if key != UNPROCESSED}
    return [[host.handed_out(torch.cat((made.video, made.audio), dim=-1)), extras]]


def _is_processed(tensor: Tensor, extras: dict[str, Any], width: int) -> bool:
    """As the host tells it: no mark, and as wide as both contexts together."""
    return not extras.get(UNPROCESSED) and tensor.shape[-1] == width


def _connected(model: LoadedModel, features: Features) -> Contexts:
    video, audio = model.network("video_connector"), model.network("audio_connector")
    features = Features(*(x.to(video.device, video.dtype) for x in (features.video, features.audio)))
    (need,) = stages.connectors(model.blueprint(), 1)
    with host.use(video, audio, need=need) as (video_connector, audio_connector):
        return connect(features, video_connector, audio_connector)


def _connector(model: LoadedModel, stream: Literal["video", "audio"]) -> ConnectorConfig:
    return ConnectorConfig.from_json(model.models.config["transformer"], stream)
