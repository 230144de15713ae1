"""How do we get from noise to a clip?"""

from dataclasses import replace
from typing import Any

from comfy_api.latest import InputImpl, io

from ..ltx2_core.disk_cache import cache_folder
from ..ltx2_core.fields import OutputName
from ..ltx2_core.pipeline.engines.launch import PROCESSES, count_of, make_together, words_of_clip, words_of_files
from ..ltx2_core.pipeline.graph.latents import GraphLatent, GraphPrompt, LongClipPlan
from ..ltx2_core.pipeline.graph.stages import sample_latent
from ..ltx2_core.sampling import Guidance, ScheduleSettings
from ..ltx2_core.sampling.windows import Segment, Windowing
from ..ltx2_core.settings import ClipSettings, LongClip, PromptSettings, RecipeSettings, SamplingSettings, StreamScales
from . import host
from .engine import GemmaLike, HostEngine, LoadedModel, sampling_engine
from .inputs import choice, fps, optional, sockets, widgets
from .node import Node
from .values import Chain, Conditioning, Latent, WindowsType, to_host_latent


class SampleNode(Node):
    """Denoises picture and sound together."""

    id = "LTX2AVSample"
    title = "sampling/Dual-Stream Sampler"
    inputs = [
        sockets("model", "positive", "latent"),
        optional("sigmas"),
        widgets(SamplingSettings, "seed"),
        widgets(Guidance, "text_scale", "cross_modal_scale"),
        optional("negative"),
        widgets(SamplingSettings, "sampler"),
        widgets(Guidance, "stg_scale", "stg_blocks", "rescale"),
        widgets(StreamScales, "video_text_scale", "audio_text_scale"),
        widgets(StreamScales, "video_cross_modal_scale", "audio_cross_modal_scale"),
        fps,
        optional("guidance"),
        widgets(SamplingSettings, "start_step", "end_step", "add_noise", "noise_order", "batched_passes"),
        optional("plan", "conditions", "windows"),
        widgets(SamplingSettings, "step_noise"),
        widgets(RecipeSettings, "settings", optional=True),
        widgets(ScheduleSettings, "steps", optional=True),
        widgets(RecipeSettings, "hq"),
        widgets(SamplingSettings, "eta", "step_cache"),
    ]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, positive: Conditioning, latent: Latent, negative: Conditioning | None = None,
        conditions: Chain | None = None, windows: LongClipPlan | None = None, **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        begin = GraphLatent(latent, settings.pop("fps", 0.0), GraphPrompt(positive))
        engine = sampling_engine(cls, model, begin, settings.pop("plan", None))
        prompts, folder = (positive, negative), cache_folder("windows")
        result = sample_latent(engine, begin, prompts, conditions or (), windows, settings, folder)
        return io.NodeOutput(to_host_latent(result))


class LongVideo(Node):
    """Cuts a long clip into windows."""

    id = "LTX2AVLongVideo"
    title = "sampling/Long Video"
    inputs = [
        widgets(Windowing, "window", "overlap", "drift_control", "overlap_strength"),
        widgets(LongClip, "resume"),
        widgets(Windowing, "transition", optional=True),
    ]
    outputs = {"windows": WindowsType}

    @classmethod
    def execute(cls, resume: bool = True, **windowing: Any) -> io.NodeOutput:
        return io.NodeOutput(LongClipPlan(Windowing(**windowing), resume))


class SegmentNode(Node):
    """Another prompt from a moment on."""

    id = "LTX2AVSegment"
    title = "sampling/Segment"
    inputs = [sockets("windows", "positive"), widgets(Segment, "start")]
    outputs = {"windows": WindowsType}

    @classmethod
    def execute(cls, windows: LongClipPlan, positive: Conditioning, start: float) -> io.NodeOutput:
        return io.NodeOutput(replace(windows, segments=(*windows.segments, (start, positive))))


class SeveralCards(Node):
    """A clip by several processes, each of which has a card of its own."""

    id = "LTX2AVSeveralCards"
    title = "sampling/Generate on Several Cards"
    inputs = [
        sockets("model", "gemma"),
        widgets(PromptSettings, "prompt", "negative"),
        widgets(ClipSettings, "width", "height", "frames", "fps"),
        widgets(SamplingSettings, "seed"),
        choice("processes", lambda: [*PROCESSES]),
        widgets(OutputName, filename_prefix="LTX-2_cards"),
    ]
    outputs = {"video": io.Video}
    shows = knows_graph = ends_graph = True

    @classmethod
    def execute(
        cls, model: LoadedModel, gemma: GemmaLike, prompt: str, negative: str, processes: str, filename_prefix: str,
        **clip: Any
    ) -> io.NodeOutput:  # fmt: skip
        engine = HostEngine(model, gemma=gemma)
        path = host.output_file(filename_prefix, ".mp4", (clip["width"], clip["height"]))
        how, count = model.resources, count_of(processes, model.resources.device or "cpu")
        words = words_of_files(model.models, engine.encoder.path, engine.loras, how)
        words += words_of_clip(prompt, negative, clip, told="prompt" in host.graph_tags(cls.hidden))
        engine.leave_cards()
        make_together(words, path, count, engine.events)
        cls.show_saved(path)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))
