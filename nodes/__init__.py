"""Which sockets and widgets does a person need?  The nodes, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from .codec import AudioDecode, Decode, VideoDecode, Vocoder
from .guidance import GuidanceNode, Recipe
from .latents import EmptyLatent
from .load import LoadGemma, LoadModel
from .sample import Sample, Schedule
from .text import GemmaTextEncode, ThinkingTokens

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    LoadGemma,
    GemmaTextEncode,
    ThinkingTokens,
    EmptyLatent,
    Schedule,
    Recipe,
    GuidanceNode,
    Sample,
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
