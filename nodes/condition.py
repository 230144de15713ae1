"""What is given for a clip? Each node adds one thing to a chain, which the sampler takes."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.characters import Character
from ..ltx2_core.conditioning.conditions import (
    InpaintMask,
    KeepAudio,
    KeepVideo,
    Picture,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
    pair_keyframes,
)
from ..ltx2_core.conditioning.light import ORDINARY, GivenLight
from ..ltx2_core.conditioning.sources import SoundPart
from ..ltx2_core.conditioning.tracks import MotionTracks
from ..ltx2_core.settings import KeyframeSettings, place_character
from . import host, inputs
from .engine import LoadedModel
from .values import Audio, Chain, ConditionsType, Video, audio_source, video_source

TRACKS = '[[{"x": 150, "y": 250}, {"x": 380, "y": 150}, {"x": 600, "y": 250}]]'


class ImageCondition(io.ComfyNode):
    """A picture at a frame."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVImage",
            "condition/Image to Video",
            inputs=[
                inputs.socket(
                    io.Image,
                    "image",
                    "The picture, resized in proportion until it covers the clip, and cropped at its centre. Several "
                    "are taken as a short video that begins at the frame: 8 k + 1 of them count, as far as the clip "
                    "lasts. Transparency is ignored: the colours under it count.",
                ),
                *inputs.widgets(Picture, "frame", "strength"),
                inputs.conditions(),
                *inputs.widgets(Picture, "compression", "append"),
                *inputs.widgets(GivenLight, "space"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(
        cls, image: Tensor, conditions: Chain | None = None, space: str = ORDINARY, **settings: Any
    ) -> io.NodeOutput:
        picture = Picture(image[..., :3], space=GivenLight(space).meant, **settings)
        return io.NodeOutput((*(conditions or ()), picture))


class Keyframes(io.ComfyNode):
    """Several pictures, each at its frame."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVKeyframes",
            "condition/Keyframes",
            inputs=[
                inputs.socket(
                    io.Image, "images", "The pictures, as a batch; ComfyUI's Batch Images joins single ones."
                ),
                *inputs.widgets(KeyframeSettings, "frames", "strengths"),
                inputs.conditions(),
                *inputs.widgets(Picture, "compression", "append"),
                *inputs.widgets(GivenLight, "space"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(
        cls, images: Tensor, frames: str, strengths: str, conditions: Chain | None = None, space: str = ORDINARY,
        **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        pairs = pair_keyframes(len(images), frames, strengths)
        pictures = [
            Picture(image[None, ..., :3], frame, strength, space=GivenLight(space).meant, **settings)
            for image, (frame, strength) in zip(images, pairs)
        ]
        return io.NodeOutput((*(conditions or ()), *pictures))


class AudioToVideo(io.ComfyNode):
    """Sound, for which a picture is made."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVAudioToVideo",
            "condition/Audio to Video",
            inputs=[
                inputs.socket(
                    io.Audio,
                    "audio",
                    "The sound. What is longer than the clip is not heard, and a shorter one goes on in silence. One "
                    "channel is heard on both sides.",
                ),
                *inputs.widgets(KeepAudio, "noise"),
                inputs.conditions(),
                *inputs.widgets(SoundPart, "start", "seconds"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(cls, audio: Audio, noise: float = 0.0, conditions: Chain | None = None, **part: float) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), KeepAudio(audio_source(audio, SoundPart(**part)), noise)))


class VideoToAudio(io.ComfyNode):
    """A picture, for which sound is made."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVVideoToAudio",
            "condition/Video to Audio",
            inputs=[
                *inputs.pictures("The picture, at least as long as the clip"),
                inputs.conditions(),
                *inputs.widgets(GivenLight, "space"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(
        cls, images: Tensor | None = None, video: Video | None = None, conditions: Chain | None = None,
        space: str = ORDINARY
    ) -> io.NodeOutput:  # fmt: skip
        return io.NodeOutput((*(conditions or ()), KeepVideo(video_source(images, video, space))))


class ReferenceAudioNode(io.ComfyNode):
    """A voice to be taken over."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVReferenceAudio",
            "condition/Reference Audio",
            inputs=[
                inputs.socket(io.Audio, "audio", "A few seconds of it, 25 tokens each: they cost memory and time."),
                *inputs.widgets(ReferenceAudio, "strength"),
                inputs.conditions(),
                *inputs.widgets(SoundPart, "start", "seconds"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(cls, audio: Audio, strength: float, conditions: Chain | None = None, **part: float) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), ReferenceAudio(audio_source(audio, SoundPart(**part)), strength)))


class ReferenceVideoNode(io.ComfyNode):
    """A video that an IC-LoRA follows."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVReferenceVideo",
            "condition/Reference Video",
            inputs=[
                *inputs.pictures("The reference, cut to the length of the clip"),
                *inputs.widgets(ReferenceVideo, "downscale", "temporal_scale", "strength", "attention"),
                inputs.socket(
                    io.Mask,
                    "mask",
                    "Where the reference counts: white fully, black not at all. One for all frames, or one for each "
                    "frame of the reference.",
                    optional=True,
                ),
                inputs.conditions(),
                inputs.socket(
                    io.Mask,
                    "fill",
                    "What the in- and outpainting IC-LoRA makes anew, white: it is painted green in the reference. One "
                    "for all frames, or one for each frame of the reference.",
                    optional=True,
                ),
                *inputs.widgets(ReferenceVideo, "grow", "grow_frames"),
                *inputs.widgets(GivenLight, "space"),
                *inputs.widgets(ReferenceVideo, "twice", "outpaint", "margin"),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(
        cls, images: Tensor | None = None, video: Video | None = None, mask: Tensor | None = None,
        conditions: Chain | None = None, space: str = ORDINARY, **settings: Any
    ) -> io.NodeOutput:  # fmt: skip
        reference = ReferenceVideo(video_source(images, video, space), mask=mask, **settings)
        return io.NodeOutput((*(conditions or ()), reference))


class CharacterNode(io.ComfyNode):
    """Somebody who is seen and heard in every clip."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVCharacter",
            "condition/Character",
            inputs=[
                inputs.model("The model with its LoRAs, as the sampler gets it: they say how a character is kept."),
                inputs.socket(
                    io.Image,
                    "pictures",
                    "Who it is: one picture, or several as a batch, alone on a plain background. Transparency is "
                    "ignored: the colours under it count.",
                    optional=True,
                ),
                inputs.socket(io.Audio, "voice", "A few seconds of its voice, 25 tokens each.", optional=True),
                *inputs.widgets(Character, "way", "strength"),
                inputs.conditions(),
                *inputs.widgets(SoundPart, "start", "seconds"),
            ],
            outputs={"conditions": ConditionsType},
            shows=True,
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, way: str, strength: float, pictures: Tensor | None = None, voice: Audio | None = None,
        conditions: Chain | None = None, **part: float
    ) -> io.NodeOutput:  # fmt: skip
        heard = None if voice is None else audio_source(voice, SoundPart(**part))
        character = Character(None if pictures is None else pictures[..., :3], heard, way, strength)
        given, told = place_character(character, model.loras, model.models.version)
        host.show_text(cls.hidden.unique_id, told)
        return io.NodeOutput((*(conditions or ()), *given))


class MotionTracksNode(io.ComfyNode):
    """Tracks of points, drawn as frames for a reference."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVMotionTracks",
            "condition/Motion Tracks",
            inputs=[
                io.String.Input(
                    "tracks",
                    default=TRACKS,
                    multiline=True,
                    tooltip="Where points go, as JSON: a list of tracks, each a list of points with x and y in pixels "
                    "of the picture, from its upper left corner. The points of a spline editor can be connected here.",
                ),
                *inputs.widgets(MotionTracks, "width", "height", "frames"),
            ],
            outputs={"images": io.Image},
        )

    @classmethod
    def execute(cls, tracks: str, **size: int) -> io.NodeOutput:
        drawn = MotionTracks.parse(tracks, **size)
        return io.NodeOutput(torch.cat([*drawn.read(range(len(drawn)))]))


class RetakeNode(io.ComfyNode):
    """A time range to be made anew."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVRetake",
            "condition/Retake",
            inputs=[*inputs.widgets(RetakeRange, "start", "end", "streams"), inputs.conditions()],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(cls, start: float, end: float, streams: str, conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), RetakeRange(start, end, streams)))


class InpaintNode(io.ComfyNode):
    """A region to be made anew."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVInpaint",
            "condition/Inpaint",
            inputs=[
                inputs.socket(
                    io.Mask,
                    "mask",
                    "White is made anew. One mask for all frames, or one for each frame of the clip; it is resized "
                    "and cropped as pictures are, and counts in cells of 32 x 32 pixels and 8 frames: a cell that is "
                    "half white changes by half.",
                ),
                *inputs.widgets(InpaintMask, "feather", "sound"),
                inputs.conditions(),
            ],
            outputs={"conditions": ConditionsType},
        )

    @classmethod
    def execute(cls, mask: Tensor, feather: int, sound: bool, conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), InpaintMask(mask, feather, sound)))
