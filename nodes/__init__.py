"""Which sockets and widgets does a person need?  The nodes, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from ..ltx2_core.conditioning.sockets import Kinds
from ..ltx2_core.errors import write_all_letters
from ..ltx2_core.pipeline.graph.codec import MelSpectrogram
from ..ltx2_core.pipeline.graph.latents import LongClipPlan
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.sampling import StreamGuidance
from .benchmark import Benchmark
from .codec import AudioDecode, Decode, VideoDecode, VocoderNode
from .compare import BlendClip, CompareClips
from .condition import (
    AudioToVideo,
    CharacterNode,
    GeneratedKeyframesNode,
    ImageCondition,
    InpaintNode,
    Keyframes,
    MotionTracksNode,
    ReferenceAudioNode,
    ReferenceVideoNode,
    RetakeNode,
    VideoToAudio,
)
from .engine import GemmaLike, LoadedModel, UpscalerLike
from .guidance import GuidanceNode, RecipeNode, ScheduleNode
from .hdr import LoadHDR, SaveHDR
from .host import answer_browser, check_alone, guarded, place_examples
from .latents import EmptyLatent, Encode, Extend, LoadLatent, SaveLatent
from .load import LoadGemma, LoadModel, LoadUpscaler
from .lora import LoadICLora, LoadLora, LoadLoraAdvanced, LoraStack
from .plan import MemoryPlan
from .provenance import CheckClip, SignClip
from .refine import RaiseFrameRate, RefineNode, TwoStage, UpscaleNode, UpscaleTime
from .sample import LongVideo, SampleNode, SegmentNode, SeveralCards
from .text import EnhancePrompt, GemmaTextEncode, PromptsAndSeeds, ThinkingTokens
from .timeline import TimelineNode

# What goes through our own sockets, and where it comes from.
KINDS: Kinds = {
    "LTX2AV_MODEL": (LoadedModel, "LTX-2 Load Model"),
    "LTX2AV_GEMMA": (GemmaLike, "LTX-2 Load Gemma"),
    "LATENT_UPSCALE_MODEL": (UpscalerLike, "LTX-2 Load Upscaler"),
    "LTX2AV_MEL": (MelSpectrogram, "LTX-2 Audio VAE Decode"),
    "LTX2AV_GUIDANCE": (StreamGuidance, "LTX-2 Guidance"),
    "LTX2AV_PLAN": (Plan, "LTX-2 Memory Plan"),
    "LTX2AV_CONDITIONS": (tuple, "an LTX-2 condition node"),
    "LTX2AV_WINDOWS": (LongClipPlan, "LTX-2 Long Video"),
}

# In the order of the menu.
NODES: list[type[io.ComfyNode]] = [
    *(LoadModel, LoadGemma, LoadLora, LoadLoraAdvanced, LoraStack, LoadICLora, LoadUpscaler, LoadHDR),
    *(MemoryPlan, Benchmark),
    *(PromptsAndSeeds, EnhancePrompt, GemmaTextEncode, ThinkingTokens, TimelineNode),
    *(EmptyLatent, Encode, Extend, SaveLatent, LoadLatent),
    *(ImageCondition, Keyframes, GeneratedKeyframesNode, AudioToVideo, VideoToAudio),
    *(ReferenceAudioNode, ReferenceVideoNode, CharacterNode, MotionTracksNode, RetakeNode, InpaintNode),
    *(ScheduleNode, RecipeNode, GuidanceNode, LongVideo, SegmentNode, SampleNode, SeveralCards),
    *(UpscaleNode, UpscaleTime, RefineNode, TwoStage, RaiseFrameRate),
    *(VideoDecode, AudioDecode, VocoderNode, Decode, SaveHDR, BlendClip, CompareClips, SignClip, CheckClip),
]


class LTX2AV(ComfyExtension):
    """LTX-2 audio-video."""

    async def on_load(self) -> None:
        """Register what the browser calls."""
        write_all_letters()
        check_alone()
        answer_browser()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        place_examples()
        return [guarded(node, KINDS) for node in NODES]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI asks the pack for."""
    return LTX2AV()
