"""Which sockets and widgets does a person need?  The nodes, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from .codec import AudioDecode, Decode, Encode, VideoDecode, Vocoder
from .condition import (
    AudioToVideo,
    ImageCondition,
    Inpaint,
    Keyframes,
    ReferenceAudio,
    ReferenceVideo,
    Retake,
    VideoToAudio,
)
from .guidance import GuidanceNode, Recipe
from .latents import EmptyLatent, Extend
from .load import LoadGemma, LoadModel
from .long import LongVideo, SegmentNode
from .lora import LoadICLora, LoadLora, LoadLoraAdvanced, LoraStack
from .plan import MemoryPlan
from .refine import LoadUpscaler, RefineNode, TwoStage, Upscale, UpscaleTime
from .sample import Sample, Schedule
from .text import GemmaTextEncode, ThinkingTokens

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    LoadGemma,
    LoadLora,
    LoadLoraAdvanced,
    LoraStack,
    LoadICLora,
    LoadUpscaler,
    MemoryPlan,
    GemmaTextEncode,
    ThinkingTokens,
    EmptyLatent,
    Encode,
    Extend,
    ImageCondition,
    Keyframes,
    AudioToVideo,
    VideoToAudio,
    ReferenceAudio,
    ReferenceVideo,
    Retake,
    Inpaint,
    Schedule,
    Recipe,
    GuidanceNode,
    LongVideo,
    SegmentNode,
    Sample,
    Upscale,
    UpscaleTime,
    RefineNode,
    TwoStage,
    VideoDecode,
    AudioDecode,
    Vocoder,
    Decode,
]


class LTX2AV(ComfyExtension):
    """LTX-2 audio-video."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI asks the pack for."""
    return LTX2AV()
