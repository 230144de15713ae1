"""Which sockets and widgets does a person need?  The nodes, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from . import host
from .codec import AudioDecode, Decode, VideoDecode, VocoderNode
from .condition import (
    AudioToVideo,
    ImageCondition,
    InpaintNode,
    Keyframes,
    ReferenceAudioNode,
    ReferenceVideoNode,
    RetakeNode,
    VideoToAudio,
)
from .guidance import GuidanceNode, RecipeNode, ScheduleNode
from .latents import EmptyLatent, Encode, Extend
from .load import LoadGemma, LoadModel, LoadUpscaler
from .lora import LoadICLora, LoadLora, LoadLoraAdvanced, LoraStack
from .plan import MemoryPlan
from .refine import RefineNode, TwoStage, UpscaleNode, UpscaleTime
from .sample import LongVideo, SampleNode, SegmentNode
from .text import GemmaTextEncode, ThinkingTokens

# In the order of the menu.
NODES: list[type[io.ComfyNode]] = [
    *(LoadModel, LoadGemma, LoadLora, LoadLoraAdvanced, LoraStack, LoadICLora, LoadUpscaler, MemoryPlan),
    *(GemmaTextEncode, ThinkingTokens),
    *(EmptyLatent, Encode, Extend),
    *(ImageCondition, Keyframes, AudioToVideo, VideoToAudio),
    *(ReferenceAudioNode, ReferenceVideoNode, RetakeNode, InpaintNode),
    *(ScheduleNode, RecipeNode, GuidanceNode, LongVideo, SegmentNode, SampleNode),
    *(UpscaleNode, UpscaleTime, RefineNode, TwoStage),
    *(VideoDecode, AudioDecode, VocoderNode, Decode),
]

for _node in NODES:
    host.tell_memory(_node)


class LTX2AV(ComfyExtension):
    """LTX-2 audio-video."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI asks the pack for."""
    return LTX2AV()
