"""How large, how long?"""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning import Begin, apply_conditions
from ..ltx2_core.conditioning.conditions import InitClip
from ..ltx2_core.errors import SettingError
from ..ltx2_core.geometry import TIME_SCALE, ClipShape, exact_fps, floor_frames, nearest_frames, nearest_size
from ..ltx2_core.latents import AVLatent, empty
from ..ltx2_core.pipeline.encode_conditions import EngineEncoders
from ..ltx2_core.settings import STREAM_CHOICES, ClipSettings
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import fps_input, latent_input, latent_output, model_input, picture_inputs, plan_input, schema, widgets
from .values import (
    DEFAULT_FPS,
    Audio,
    HostLatent,
    Latent,
    audio_of_video,
    audio_source,
    to_host_latent,
    video_source,
)

_FRAMES_OUTPUT = io.Int.Output(display_name="frames", tooltip="The length that was really chosen, in frames.")


class EmptyLatent(io.ComfyNode):
    """Says how large and how long the clip will be."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVEmptyLatent",
            "Empty AV Latent",
            "latent",
            description="Size, length and frame rate of a new clip with sound. Sizes become the nearest that LTX-2 can "
            "make, and the node says so. Connect it to the sampler.",
            aliases=["empty latent video", "empty latent audio", "resolution", "duration", "length", "size"],
            inputs=[
                *widgets(ClipSettings, "width", "height", "frames", "fps"),
                *widgets(ClipSettings, "seconds", "batch_size", "streams", optional=True),
            ],
            outputs=[
                latent_output("Picture and sound, still empty; ComfyUI's Separate and Concat AV Latent take it, too."),
                _FRAMES_OUTPUT,
                io.Float.Output(display_name="fps", tooltip="The exact frame rate, for CreateVideo and the like."),
            ],
            shows=True,
        )

    @classmethod
    def execute(cls, streams: str = "picture and sound", batch_size: int = 1, **size: Any) -> io.NodeOutput:
        """Make zeros of the nearest possible size."""
        clip, remarks = _nearest_clip(**size)
        host.show_text(cls.hidden.unique_id, "; ".join([_described(clip), *remarks]))
        latent = to_host_latent(empty(clip, batch_size).select(STREAM_CHOICES[streams]), {"fps": clip.fps})
        return io.NodeOutput(latent, clip.frames, float(clip.fps))


def _nearest_clip(
    width: int, height: int, frames: int, fps: float, seconds: float = 0.0
) -> tuple[ClipShape, list[str]]:
    """Return the nearest clip that LTX-2 can make, and what had to be changed for it."""
    rate = exact_fps(fps)
    length = float(seconds * rate) if seconds > 0 else frames
    clip = ClipShape(nearest_size(width), nearest_size(height), nearest_frames(length), rate)
    rows = (
        ("width", width, clip.width, "a multiple of 32"),
        ("height", height, clip.height, "a multiple of 32"),
        ("frames", round(length), clip.frames, "8 k + 1"),
    )
    return clip, [f"{name} {asked} became {made}, {rule}" for name, asked, made, rule in rows if asked != made]


def _described(clip: ClipShape) -> str:
    size = f"{clip.width} x {clip.height}, {clip.frames} frames"
    return f"{size}, {float(clip.seconds):.2f} s at {float(clip.fps):g} fps"


class Extend(io.ComfyNode):
    """A longer latent, whose beginning is given."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVExtend",
            "Extend",
            "latent",
            description="Makes a latent longer: what it has stays, and the sampler goes on from there, in picture and "
            "sound. Connect LTX-2 Long Video to the sampler where the whole is more than the model makes at once.",
            aliases=["extend video", "continue", "longer", "outpaint time", "next shot"],
            inputs=[
                latent_input("What is continued: a sampler's result, or a clip from LTX-2 Encode Clip."),
                io.Float.Input(
                    "seconds",
                    default=2.0,
                    min=0.1,
                    max=3600.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How much longer it becomes, rounded to a possible number of frames.",
                ),
                fps_input(
                    "Frames per second, for a latent that does not say it. 0 means: as the latent says, else 24."
                ),
            ],
            outputs=[
                latent_output("The beginning as it was, then room for what is new; a mask tells the sampler."),
                io.Int.Output(display_name="frames", tooltip="How long it is now, in frames."),
            ],
            shows=True,
        )

    @classmethod
    def execute(cls, latent: Latent, seconds: float, fps: float = 0.0) -> io.NodeOutput:
        """Put the latent at the beginning of an empty one."""
        begin = HostLatent(latent, fps)
        clip = begin.shape
        frames = clip.frames + max(TIME_SCALE, nearest_frames(float(seconds * clip.fps)) - 1)
        longer = ClipShape(clip.width, clip.height, frames, clip.fps)
        content, mask = _extended(begin, longer)
        host.show_text(cls.hidden.unique_id, f"{clip.frames} frames became {frames}, {float(longer.seconds):.2f} s")
        return io.NodeOutput(begin.with_content(content, noise_mask=to_host_latent(mask, {})["samples"]), frames)


def _extended(begin: HostLatent, longer: ClipShape) -> tuple[AVLatent, AVLatent]:
    """Return a longer latent that begins with ``begin``, and the mask of what is new in it."""
    streams = begin.content.streams()
    state = apply_conditions(
        empty(longer, begin.batch).select(streams), longer.fps, [Begin(name, x) for name, x in streams.items()]
    )
    content = state.map(lambda each: each.unpacked(each.latent))
    return content, state.map(lambda each: each.unpacked(each.mask.expand_as(each.latent))[:, :1])


def _own_size(name: str, step: int, most: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=0, min=0, max=most, step=step, optional=True, tooltip=tooltip)


class Encode(io.ComfyNode):
    """A clip to a latent."""

    @classmethod
    def define_schema(cls):
        """Describe the node."""
        return schema(
            "LTX2AVEncode",
            "Encode Clip",
            "latent",
            description="Turns a clip into a latent: to retake or inpaint a part of it, or to continue it. A video "
            "from a file is read piece by piece, however long it is.",
            aliases=["vae encode", "video to latent", "load latent", "vae encode tiled", "audio encode"],
            inputs=[
                model_input(),
                *picture_inputs("The clip"),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Its sound; not connected, that of the video. Without any, the latent has no sound part.",
                ),
                _own_size("width", 32, 4096, "The clip is resized and cropped to this width. 0 takes its own, or the "
                          "nearest multiple of 32."),
                _own_size("height", 32, 4096, "Likewise."),
                _own_size("frames", 8, 100_000, "How many frames of it to take, 8 k + 1. 0 takes all; what fills no "
                          "latent is left out."),
                io.Float.Input(
                    "fps", default=0.0, min=0.0, max=240.0, step=0.001, round=0.001, optional=True,
                    tooltip="Frames per second of the latent; a video of another rate is resampled. 0 takes that of "
                    "the video, and 24 for images.",
                ),
                plan_input(),
            ],
            outputs=[
                latent_output("The clip, with its frame rate, for the sampler."),
                io.Int.Output(display_name="frames", tooltip="How many frames it has."),
                io.Float.Output(display_name="fps", tooltip="Its frame rate."),
            ],
            shows=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        images: Tensor | None = None,
        video: Any = None,
        audio: Audio | None = None,
        plan: Any = None,
        **size: Any,
    ) -> io.NodeOutput:
        """Encode picture and sound."""
        rate = exact_fps(size.pop("fps", 0) or (DEFAULT_FPS if video is None else video.get_frame_rate()))
        sound = audio_source(audio) if audio is not None else None if video is None else audio_of_video(video)
        init = InitClip(video_source(images, video), sound)
        clip = _clip_of(init, rate, **size)
        _show_clip(cls.hidden.unique_id, init, clip)
        with EngineEncoders(HostEngine(model, plan, cls)) as encoders:
            begin = init.encode(clip, ("video",) if sound is None else ("video", "audio"), encoders)
            encoded = {each.stream: each.latent for each in begin}
        content = AVLatent(encoded["video"], encoded.get("audio"))
        return io.NodeOutput(to_host_latent(content, {"fps": rate}), clip.frames, float(rate))


def _clip_of(init: InitClip, rate: Any, width: int = 0, height: int = 0, frames: int = 0) -> ClipShape:
    """Return the clip that is taken of ``init``; SettingError if it has fewer frames than are asked for."""
    available, size = init.video.count(rate), init.video.size()
    if frames > available:
        raise SettingError(f"frames is {frames}, but the clip has {available} at {float(rate):g} fps: ask for fewer.")
    length = floor_frames(frames or available)
    return ClipShape(width or nearest_size(size[0]), height or nearest_size(size[1]), length, rate)


def _show_clip(node_id: str | None, init: InitClip, clip: ClipShape) -> None:
    lines = [_described(clip)]
    if init.audio is None:
        lines.append("There is no sound, so the latent has none: the sampler makes a silent clip of it.")
    else:
        lines += map(str, init.audio.findings(clip))
    host.show_text(node_id, "\n".join(lines))
