"""How large, how long? And the host's LATENT as our two streams, and back."""

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core import latents
from ..ltx2_core.conditioning import Begin, Inpaint, LatentCondition, apply_conditions
from ..ltx2_core.geometry import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_RATE,
    SPACE_SCALE,
    TIME_SCALE,
    VIDEO_CHANNELS,
    ClipShape,
    exact_fps,
    nearest_frames,
    nearest_size,
)
from ..ltx2_core.health import Seams
from ..ltx2_core.latents import STREAMS, AVLatent
from . import host

Latent = dict[str, Any]

USUAL_FPS = Fraction(24)
SEAMS = "ltx2av_seams"  # beside a latent: its size, and where its tiles meet, in frames and pixels

STREAMS_OF = {"picture and sound": STREAMS, "picture only": ("video",), "sound only": ("audio",)}


class EmptyLatent(io.ComfyNode):
    """Says how large and how long the clip will be."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVEmptyLatent",
            display_name="LTX-2 Empty AV Latent",
            category="LTX-2/latent",
            description="Size, length and frame rate of a new clip with sound. Sizes become the nearest that LTX-2 can "
            "make, and the node says so. Connect it to the sampler.",
            search_aliases=["empty latent video", "empty latent audio", "resolution", "duration", "length", "size"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Int.Input(
                    "width",
                    default=768,
                    min=32,
                    max=4096,
                    step=32,
                    tooltip="Width in pixels. Anything else than a multiple of 32 becomes the nearest one. Time and "
                    "memory grow faster than the area.",
                ),
                io.Int.Input("height", default=512, min=32, max=4096, step=32, tooltip="Height in pixels, likewise."),
                io.Int.Input(
                    "frames",
                    default=121,
                    min=1,
                    max=2881,
                    step=8,
                    tooltip="Length in frames: 8 k + 1, such as 97, 121 or 241; anything else becomes the nearest one. "
                    "The models were made for up to about 20 seconds.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    round=0.001,
                    tooltip="Frames per second. It decides how long the sound is, and how fast things seem to move. "
                    "23.976 and 29.97 are taken as the broadcast fractions they stand for.",
                ),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="Length in seconds, rounded to a possible number of frames. Above 0 it is used instead of "
                    "frames.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="How many clips to make at once. Each one needs its own memory.",
                ),
                io.Combo.Input(
                    "streams",
                    options=list(STREAMS_OF),
                    optional=True,
                    advanced=True,
                    tooltip="sound only makes no picture, which is much faster: connect the sampler to LTX-2 Audio VAE "
                    "Decode. Width and height do not matter then.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="av_latent",
                    tooltip="Picture and sound, still empty. Works with ComfyUI's Separate and Concat AV Latent, too.",
                ),
                io.Int.Output(display_name="frames", tooltip="The length that was really chosen, in frames."),
                io.Float.Output(display_name="fps", tooltip="The exact frame rate, for CreateVideo and the like."),
            ],
        )

    @classmethod
    def execute(
        cls,
        width: int,
        height: int,
        frames: int,
        fps: float,
        seconds: float = 0.0,
        batch_size: int = 1,
        streams: str = "picture and sound",
    ) -> io.NodeOutput:
        rate = exact_fps(fps)
        length = float(seconds * rate) if seconds > 0 else frames
        asked = {"width": width, "height": height, "frames": round(length)}
        made = {"width": nearest_size(width), "height": nearest_size(height), "frames": nearest_frames(length)}
        clip = ClipShape(**made, fps=rate)
        rules = {"width": "a multiple of 32", "height": "a multiple of 32", "frames": "8 k + 1"}
        snapped = [f"{it} {asked[it]} became {made[it]}, {rule}" for it, rule in rules.items() if asked[it] != made[it]]
        size = f"{clip.width} x {clip.height}, {clip.frames} frames, {float(clip.seconds):.2f} s at {fps:g} fps"
        host.say(cls.hidden.unique_id, "; ".join([size, *snapped]))
        empty = latents.empty(clip, batch_size).select(STREAMS_OF[streams]).map(host.handed_out)
        return io.NodeOutput(renewed({"fps": rate}, empty), clip.frames, float(rate))


class Extend(io.ComfyNode):
    """A longer latent, whose beginning is given."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVExtend",
            display_name="LTX-2 Extend",
            category="LTX-2/latent",
            description="Makes a latent longer: what it has stays, and the sampler goes on from there, in picture and "
            "sound. Connect LTX-2 Long Video to the sampler where the whole is more than the model makes at once.",
            search_aliases=["extend video", "continue", "longer", "outpaint time", "next shot"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="What is continued: a sampler's result, or a clip from LTX-2 Encode Clip."
                ),
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
                io.Latent.Output(
                    display_name="av_latent",
                    tooltip="The beginning as it was, then room for what is new; a mask tells the sampler.",
                ),
                io.Int.Output(display_name="frames", tooltip="How long it is now, in frames."),
            ],
        )

    @classmethod
    def execute(cls, latent: Latent, seconds: float, fps: float = 0.0) -> io.NodeOutput:
        content, rate = streams(latent), fps_of(latent, fps)
        clip = shape_of(content, rate)
        frames = clip.frames + max(TIME_SCALE, nearest_frames(float(seconds * rate)) - 1)
        longer = ClipShape(clip.width, clip.height, frames, rate)
        batch = len(next(iter(content.streams().values())))
        given = [Begin(name, x) for name, x in content.streams().items()]
        state = apply_conditions(latents.empty(longer, batch).select(content.streams()), rate, given)
        whole = state.map(lambda each: each.unpacked(each.latent))
        mask = state.map(lambda each: each.unpacked(each.mask.expand_as(each.latent))[:, :1])
        host.say(cls.hidden.unique_id, f"{clip.frames} frames became {frames}, {float(longer.seconds):.2f} s")
        masks = renewed({}, mask)["samples"]
        extended = renewed(latent | {"fps": rate}, whole.map(host.handed_out)) | {"noise_mask": masks}
        return io.NodeOutput(extended, frames)


def streams(latent: Latent) -> AVLatent:
    """Both streams of a LATENT; one of them is None if it is the latent of a picture or a sound only."""
    samples = latent["samples"]
    parts = samples.unbind() if samples.is_nested else [samples]
    videos = [x for x in parts if x.ndim == 5 and x.shape[1] == VIDEO_CHANNELS]
    sounds = [x for x in parts if x.ndim == 4 and x.shape[1] == AUDIO_CHANNELS and x.shape[3] == AUDIO_BINS]
    if len(videos) > 1 or len(sounds) > 1 or len(videos) + len(sounds) != len(parts):
        shapes = " and ".join(str(tuple(x.shape)) for x in parts)
        raise ValueError(
            f"This LATENT has the shape {shapes}. LTX-2 needs video (B, {VIDEO_CHANNELS}, F, H, W), audio "
            f"(B, {AUDIO_CHANNELS}, T, {AUDIO_BINS}), or both: connect LTX-2 Empty AV Latent."
        )
    return AVLatent(*(found[0] if found else None for found in (videos, sounds)))


def renewed(latent: Latent, content: AVLatent) -> Latent:
    """A copy of ``latent`` with other content; whatever else is written in it stays."""
    tensors = list(content.streams().values())
    return latent | {"samples": host.nested(*tensors) if len(tensors) == 2 else tensors[0]}


def seams_of(latent: Latent) -> Seams:
    """Watches the frames of a LATENT for lines where its tiles meet, if it was refined in tiles."""
    size, lines = latent.get(SEAMS, (None, None))
    video = streams(latent).video
    if video is None or lines is None or tuple(video.shape[2:]) != size:  # it may have been cropped since
        lines = ((), (), ())
    return Seams(*lines)


def fps_input(tooltip: str) -> io.Float.Input:
    """Asks for the frame rate of latents that do not say it; 0 where they do."""
    return io.Float.Input(
        "fps",
        default=0.0,
        min=0.0,
        max=240.0,
        step=0.001,
        round=0.001,
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


def fps_of(latent: Latent, chosen: float = 0.0, otherwise: float | None = None) -> Fraction:
    """The frame rate: what the user has chosen, else what the latent says, else ``otherwise``, else 24."""
    for fps in (chosen, latent.get("fps"), otherwise):
        if fps:
            return exact_fps(fps)
    host.log.info("This LATENT does not say its frame rate; it is taken as %s frames per second.", USUAL_FPS)
    return USUAL_FPS


def clip_of(latent: Latent, chosen: float = 0.0) -> ClipShape | None:
    """The clip that a LATENT will be; None if it has no picture."""
    video = streams(latent).video
    return None if video is None else ClipShape.of_latent(video, fps_of(latent, chosen))


def shape_of(content: AVLatent, fps: Fraction) -> ClipShape:
    """The clip that ``content`` is; of a sound alone, one whose picture would be as small as can be."""
    if content.video is not None:
        return ClipShape.of_latent(content.video, fps)
    assert content.audio is not None
    return ClipShape(SPACE_SCALE, SPACE_SCALE, nearest_frames(float(content.audio.shape[2] / AUDIO_RATE * fps)), fps)


def unequal_lengths(content: AVLatent, fps: Fraction) -> str | None:
    """What to tell the user if picture and sound will not end together; ComfyUI's own rounding makes no difference."""
    if content.video is None or content.audio is None:
        return None
    clip, sound = ClipShape.of_latent(content.video, fps), content.audio.shape[2]
    if abs(sound - clip.audio_latents) <= 1:
        return None
    return (
        f"The sound of this LATENT lasts {sound / AUDIO_RATE:.2f} s, the picture {float(clip.seconds):.2f} s at "
        f"{float(fps):g} fps: was it made for another frame rate?"
    )


def masked(latent: Latent, content: AVLatent) -> list[LatentCondition]:
    """What the noise mask of a LATENT keeps."""
    mask = mask_of(latent, content)
    return [] if mask is None else [Inpaint(stream, each) for stream, each in mask.streams().items()]


def mask_of(latent: Latent, content: AVLatent) -> AVLatent | None:
    """The noise mask of a LATENT, (B, 1, F, H, W) and (B, 1, T, 1), 1 = generate; None if everything is generated."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    if mask.is_nested:
        video, audio = mask.unbind()
    else:
        video, audio = (mask, None) if content.video is not None else (None, mask)
    return AVLatent(
        None if content.video is None else _video_mask(video, content.video),
        None if content.audio is None else _audio_mask(audio, content.audio),
    )


def _video_mask(mask: Tensor | None, video: Tensor) -> Tensor:
    """``mask`` may have the latent's axes, some of length 1, or be pictures (F, H, W) or (F, 1, H, W) of any size."""
    batch, _, *size = video.shape
    if mask is None:
        return torch.ones(batch, 1, *size)
    if mask.ndim < 5:
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    return _each(F.interpolate(mask[:, :1].float(), size, mode="trilinear"), batch)


def _audio_mask(mask: Tensor | None, audio: Tensor) -> Tensor:
    """``mask`` may have the latent's axes, some of length 1, or be (B, T)."""
    batch, _, length, _ = audio.shape
    if mask is None:
        return torch.ones(batch, 1, length, 1)
    mask = mask[:, None, :, None] if mask.ndim == 2 else mask[:, :1].mean(dim=-1, keepdim=True)
    return _each(F.interpolate(mask.float(), (length, 1), mode="bilinear"), batch)


def _each(mask: Tensor, batch: int) -> Tensor:
    """One mask for every clip of the batch, in turn."""
    return mask[torch.arange(batch) % len(mask)]
