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
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
)
from ..ltx2_core.conditioning.light import ORDINARY, GivenLight
from ..ltx2_core.conditioning.pictures import GeneratedKeyframes, Picture, pair_keyframes
from ..ltx2_core.conditioning.sources import SoundPart
from ..ltx2_core.conditioning.tracks import MotionTracks
from ..ltx2_core.pipeline.characters import place_character
from ..ltx2_core.pipeline.graph.codec import Audio, audio_source
from ..ltx2_core.settings import KeyframeSettings
from .engine import LoadedModel
from .inputs import optional, sockets, widgets
from .node import ConditionNode, Given, Node
from .values import Video, video_source


class ImageCondition(ConditionNode):
    """A picture at a frame."""

    id = "LTX2AVImage"
    title = "condition/Image to Video"
    inputs = [
        sockets("image"),
        widgets(Picture, "frame", "strength"),
        optional("conditions"),
        widgets(Picture, "compression", "append"),
        widgets(GivenLight, "space"),
    ]

    @classmethod
    def given(cls, image: Tensor, space: str = ORDINARY, **settings: Any) -> Given:
        return [Picture(image[..., :3], space=GivenLight(space).meant, **settings)]


class Keyframes(ConditionNode):
    """Several pictures, each at its frame."""

    id = "LTX2AVKeyframes"
    title = "condition/Keyframes"
    inputs = [
        sockets("images"),
        widgets(KeyframeSettings, "frames", "strengths"),
        optional("conditions"),
        widgets(Picture, "compression", "append"),
        widgets(GivenLight, "space"),
    ]

    @classmethod
    def given(cls, images: Tensor, frames: str, strengths: str, space: str = ORDINARY, **settings: Any) -> Given:
        return [
            Picture(image[None, ..., :3], frame, strength, space=GivenLight(space).meant, **settings)
            for image, (frame, strength) in zip(images, pair_keyframes(len(images), frames, strengths))
        ]


class GeneratedKeyframesNode(ConditionNode):
    """Frames that are generated one by one beside the clip."""

    id = "LTX2AVGeneratedKeyframes"
    title = "condition/Generated Keyframes"
    inputs = [widgets(GeneratedKeyframes, "count", "frames"), optional("conditions")]
    adds = GeneratedKeyframes


class AudioToVideo(ConditionNode):
    """Sound, for which a picture is made."""

    id = "LTX2AVAudioToVideo"
    title = "condition/Audio to Video"
    inputs = [sockets("audio"), widgets(KeepAudio, "noise"), optional("conditions"), widgets(SoundPart)]

    @classmethod
    def given(cls, audio: Audio, noise: float = 0.0, **part: float) -> Given:
        return [KeepAudio(audio_source(audio, SoundPart(**part)), noise)]


class VideoToAudio(ConditionNode):
    """A picture, for which sound is made."""

    id = "LTX2AVVideoToAudio"
    title = "condition/Video to Audio"
    inputs = [optional("images", "video", "conditions"), widgets(GivenLight, "space")]

    @classmethod
    def given(cls, images: Tensor | None = None, video: Video | None = None, space: str = ORDINARY) -> Given:
        return [KeepVideo(video_source(images, video, space))]


class ReferenceAudioNode(ConditionNode):
    """A voice to be taken over."""

    id = "LTX2AVReferenceAudio"
    title = "condition/Reference Audio"
    inputs = [sockets("audio"), widgets(ReferenceAudio, "strength"), optional("conditions"), widgets(SoundPart)]

    @classmethod
    def given(cls, audio: Audio, strength: float, **part: float) -> Given:
        return [ReferenceAudio(audio_source(audio, SoundPart(**part)), strength)]


class ReferenceVideoNode(ConditionNode):
    """A video that an IC-LoRA follows."""

    id = "LTX2AVReferenceVideo"
    title = "condition/Reference Video"
    inputs = [
        optional("images", "video"),
        widgets(ReferenceVideo, "downscale", "temporal_scale", "strength", "attention"),
        optional("mask", "conditions", "fill"),
        widgets(ReferenceVideo, "grow", "grow_frames"),
        widgets(GivenLight, "space"),
        widgets(ReferenceVideo, "twice", "outpaint", "margin", "edges"),
    ]

    @classmethod
    def given(
        cls, images: Tensor | None = None, video: Video | None = None, space: str = ORDINARY, **settings: Any
    ) -> Given:
        return [ReferenceVideo(video_source(images, video, space), **settings)]


class CharacterNode(ConditionNode):
    """Somebody who is seen and heard in every clip."""

    id = "LTX2AVCharacter"
    title = "condition/Character"
    inputs = [
        sockets("model"),
        optional("pictures", "voice"),
        widgets(Character, "way", "strength"),
        optional("conditions"),
        widgets(SoundPart),
    ]
    shows = True

    @classmethod
    def given(
        cls, model: LoadedModel, way: str, strength: float, pictures: Tensor | None = None, voice: Audio | None = None,
        **part: float
    ) -> Given:  # fmt: skip
        heard = None if voice is None else audio_source(voice, SoundPart(**part))
        character = Character(None if pictures is None else pictures[..., :3], heard, way, strength)
        placed, told = place_character(character, model.loras, model.models.version)
        cls.show(told)
        return placed


class MotionTracksNode(Node):
    """Tracks of points, drawn as frames for a reference."""

    id = "LTX2AVMotionTracks"
    title = "condition/Motion Tracks"
    inputs = [widgets(MotionTracks)]
    outputs = {"images": io.Image}

    @classmethod
    def execute(cls, **tracks: Any) -> io.NodeOutput:
        drawn = MotionTracks(**tracks)
        return io.NodeOutput(torch.cat([*drawn.read(range(len(drawn)))]))


class RetakeNode(ConditionNode):
    """A time range to be made anew."""

    id = "LTX2AVRetake"
    title = "condition/Retake"
    inputs = [widgets(RetakeRange, "start", "end", "streams"), optional("conditions")]
    adds = RetakeRange


class InpaintNode(ConditionNode):
    """A region to be made anew."""

    id = "LTX2AVInpaint"
    title = "condition/Inpaint"
    inputs = [sockets("mask"), widgets(InpaintMask, "feather", "sound"), optional("conditions")]
    adds = InpaintMask
