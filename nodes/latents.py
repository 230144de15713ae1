"""How large, how long? And which latent is kept, and gone on from?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.conditions import InitClip
from ..ltx2_core.conditioning.light import ORDINARY, GivenLight
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.fields import OutputName
from ..ltx2_core.geometry import exact_fps
from ..ltx2_core.latents import empty
from ..ltx2_core.pipeline.duration import fit_length, follow_given
from ..ltx2_core.pipeline.generate import recipe_of
from ..ltx2_core.pipeline.graph.codec import Audio, audio_source, describe_clip, encode_clip, extend_latent
from ..ltx2_core.pipeline.graph.latents import DEFAULT_FPS, GraphLatent, GraphPrompt, latent_of, latent_of_take
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.takes import SUFFIX, load_take, save_take
from ..ltx2_core.settings import STREAM_CHOICES, ClipSettings, ExtendSettings, OwnClipSettings, RecipeSettings
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import choice, fps, optional, sockets, widgets
from .node import Node
from .values import Conditioning, Latent, Video, audio_of_video, to_host_latent, video_source


class EmptyLatent(Node):
    """Says how large and how long the clip will be."""

    id = "LTX2AVEmptyLatent"
    title = "latent/Empty AV Latent"
    inputs = [
        widgets(ClipSettings, "width", "height", "frames", "fps"),
        widgets(ClipSettings, "seconds", "batch_size", "streams", optional=True),
        optional("model", "picture"),
        widgets(ClipSettings, "size", "megapixels", "length", optional=True),
        widgets(RecipeSettings, "hq"),
        optional("positive", "video", "audio"),
        widgets(ClipSettings, "least_seconds", "most_seconds"),
    ]
    outputs = {"av_latent": io.Latent, "frames": io.Int, "fps": io.Float}
    shows = True

    @classmethod
    def execute(
        cls, streams: str = "picture and sound", batch_size: int = 1, model: LoadedModel | None = None,
        picture: Tensor | None = None, hq: bool = False, positive: Conditioning | None = None,
        video: Video | None = None, audio: Audio | None = None, **size: Any
    ) -> io.NodeOutput:  # fmt: skip
        asked = ClipSettings(**size, streams=streams)
        if asked.follows_prompt and model is not None and positive is not None:
            asked = fit_length(asked, model.models, GraphPrompt(positive).contexts(HostEngine(model)))
        film = None if video is None else video_source(None, video)
        asked = follow_given(asked, None if audio is None else audio_source(audio), film)
        shown = film if picture is None else video_source(picture, None)
        recipe = None if model is None else recipe_of(model.models, hq)
        clip, remarks = asked.fitting(recipe, None if shown is None else shown.size())
        cls.show("; ".join([clip.describe(), *remarks]))
        latent = latent_of(empty(clip, batch_size).select(STREAM_CHOICES[streams]), {"fps": clip.fps})
        return io.NodeOutput(to_host_latent(latent), clip.frames, float(clip.fps))


class Extend(Node):
    """A longer latent, whose beginning is given."""

    id = "LTX2AVExtend"
    title = "latent/Extend"
    inputs = [sockets("latent"), widgets(ExtendSettings, "seconds"), fps]
    outputs = {"av_latent": io.Latent, "frames": io.Int}
    shows = True

    @classmethod
    def execute(cls, latent: Latent, seconds: float, fps: float = 0.0) -> io.NodeOutput:
        begin = GraphLatent(latent, fps)
        longer, clip = extend_latent(begin, seconds)
        cls.show(f"{begin.shape.frames} frames became {clip.frames}, {float(clip.seconds):.2f} s")
        return io.NodeOutput(to_host_latent(longer), clip.frames)


class Encode(Node):
    """A clip to a latent."""

    id = "LTX2AVEncode"
    title = "latent/Encode Clip"
    inputs = [
        sockets("model"),
        optional("images", "video", "audio"),
        widgets(OwnClipSettings, "width", "height", "frames", "fps", optional=True),
        optional("plan"),
        widgets(GivenLight, "space"),
        widgets(OwnClipSettings, "megapixels", optional=True),
    ]
    outputs = {"av_latent": io.Latent, "frames": io.Int, "fps": io.Float}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, images: Tensor | None = None, video: Video | None = None,
        audio: Audio | None = None, plan: Plan | None = None, space: str = ORDINARY, **size: Any
    ) -> io.NodeOutput:  # fmt: skip
        asked = OwnClipSettings(**size)
        rate = exact_fps(asked.fps or (DEFAULT_FPS if video is None else video.get_frame_rate()))
        sound = audio_source(audio) if audio is not None else None if video is None else audio_of_video(video)
        init = InitClip(video_source(images, video, space), sound)
        clip = init.shape(rate, *asked.size_of(init.video.size(), recipe_of(model.models)), asked.frames)
        cls.show(describe_clip(init, clip))
        encoded = encode_clip(HostEngine(model, plan), init, clip)
        return io.NodeOutput(to_host_latent(encoded), clip.frames, float(rate))


class SaveLatent(Node):
    """A latent to a file."""

    id = "LTX2AVSaveLatent"
    title = "latent/Save AV Latent"
    inputs = [sockets("latent"), widgets(OutputName, filename_prefix="LTX-2_latent")]
    outputs = {"av_latent": io.Latent}
    shows = knows_graph = ends_graph = True

    @classmethod
    def execute(cls, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        content = GraphLatent(latent)
        path = host.output_file(filename_prefix, SUFFIX, (content.shape.width, content.shape.height))
        cls.show_saved(save_take(path, content.as_take(host.graph_tags(cls.hidden))))
        return io.NodeOutput(latent)


class LoadLatent(Node):
    """A file to a latent."""

    id = "LTX2AVLoadLatent"
    title = "latent/Load AV Latent"
    inputs = [choice("file", lambda: host.kept_files(SUFFIX))]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> list[Stamp]:
        return stamps([host.kept_file(file)])

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        take = load_take(host.kept_file(file))
        cls.show(take.describe())
        return io.NodeOutput(to_host_latent(latent_of_take(take)))
