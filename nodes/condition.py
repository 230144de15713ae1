"""What is given for a clip? Each node adds one thing to a chain, which the sampler takes."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.conditions import (
    InpaintMask,
    KeepAudio,
    KeepVideo,
    Picture,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
    SoundPart,
    pair_keyframes,
)
from ..ltx2_core.errors import SettingError
from ..ltx2_core.settings import KeyframeSettings
from .inputs import conditions_input, conditions_output, picture_inputs, schema, widgets
from .values import Audio, Chain, audio_source, video_source


class ImageCondition(io.ComfyNode):
    """A picture at a frame."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVImage",
            "Image to Video",
            "condition",
            description="Gives the clip a picture: its first frame, its last one, or any other. It is resized and "
            "cropped to the size of the clip. Chain several for several frames.",
            aliases=["image to video", "i2v", "first frame", "last frame", "start image", "guide", "ltxv"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture. Several are taken as a short video that begins at the frame (8 k + 1 of them "
                    "count).",
                ),
                *widgets(Picture, "frame", "strength"),
                conditions_input(),
                *widgets(Picture, "compression", "append"),
            ],
            outputs=[conditions_output("The picture and all that was given before")],
        )

    @classmethod
    def execute(cls, image: Tensor, conditions: Chain | None = None, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), Picture(image[..., :3], **settings)))


class Keyframes(io.ComfyNode):
    """Several pictures, each at its frame."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVKeyframes",
            "Keyframes",
            "condition",
            description="Gives the clip a batch of pictures, each at its own frame: first and last, or as many as you "
            "like. The clip moves from one to the next.",
            aliases=["keyframe interpolation", "first last frame", "flf2v", "guide frames", "image list"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as a batch; ComfyUI's Batch Images joins single ones."),
                *widgets(KeyframeSettings, "frames", "strengths"),
                conditions_input(),
                *widgets(Picture, "compression", "append"),
            ],
            outputs=[conditions_output("The pictures and all that was given before")],
        )

    @classmethod
    def execute(
        cls, images: Tensor, frames: str, strengths: str, conditions: Chain | None = None, **settings: Any
    ) -> io.NodeOutput:
        pairs = pair_keyframes(len(images), frames, strengths)
        pictures = [
            Picture(image[None, ..., :3], frame, strength, **settings)
            for image, (frame, strength) in zip(images, pairs)
        ]
        return io.NodeOutput((*(conditions or ()), *pictures))


class AudioToVideo(io.ComfyNode):
    """Sound, for which a picture is made."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVAudioToVideo",
            "Audio to Video",
            "condition",
            description="Gives the clip its sound: only the picture is made, and follows it. Connect the same sound to "
            "LTX-2 Decode to Video, so that the clip carries it as it is.",
            aliases=["a2v", "audio to video", "lip sync", "music video", "sound to video", "talking"],
            inputs=[
                io.Audio.Input(
                    "audio",
                    tooltip="The sound. What is longer than the clip is not heard, and a shorter one goes on in "
                    "silence.",
                ),
                *widgets(KeepAudio, "noise"),
                conditions_input(),
                *widgets(SoundPart, "start", "seconds"),
            ],
            outputs=[conditions_output("The sound and all that was given before")],
        )

    @classmethod
    def execute(cls, audio: Audio, noise: float = 0.0, conditions: Chain | None = None, **part: float) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), KeepAudio(audio_source(audio, SoundPart(**part)), noise)))


class VideoToAudio(io.ComfyNode):
    """A picture, for which sound is made."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVVideoToAudio",
            "Video to Audio",
            "condition",
            description="Gives the clip its picture: only the sound is made, and follows it. Connect the same frames "
            "to LTX-2 Decode to Video, so that the clip carries them as they are.",
            aliases=["v2a", "video to audio", "foley", "sound effects", "add sound", "soundtrack"],
            inputs=[*picture_inputs("The picture, at least as long as the clip"), conditions_input()],
            outputs=[conditions_output("The picture and all that was given before")],
        )

    @classmethod
    def execute(cls, images: Tensor | None = None, video: Any = None, conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), KeepVideo(video_source(images, video))))


class ReferenceAudioNode(io.ComfyNode):
    """A voice to be taken over."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVReferenceAudio",
            "Reference Audio",
            "condition",
            description="Lets the clip hear a sound from before its beginning, such as a voice that somebody in it is "
            "to have. Needs a LoRA that was trained for it (ID-LoRA, Dub-It).",
            aliases=["voice", "voice clone", "id lora", "speaker", "identity", "dubbing", "reference sound"],
            inputs=[
                io.Audio.Input("audio", tooltip="A few seconds of it; all of them cost memory and time."),
                *widgets(ReferenceAudio, "strength"),
                conditions_input(),
                *widgets(SoundPart, "start", "seconds"),
            ],
            outputs=[conditions_output("The sound and all that was given before")],
        )

    @classmethod
    def execute(cls, audio: Audio, strength: float, conditions: Chain | None = None, **part: float) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), ReferenceAudio(audio_source(audio, SoundPart(**part)), strength)))


class ReferenceVideoNode(io.ComfyNode):
    """A video that an IC-LoRA follows."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVReferenceVideo",
            "Reference Video",
            "condition",
            description="Lets the clip look at another one: depth, poses, edges or an earlier take. Needs an IC-LoRA "
            "that was trained for it.",
            aliases=["ic lora", "control", "depth", "pose", "canny", "video to video", "v2v", "guide video"],
            inputs=[
                *picture_inputs("The reference; what is longer than the clip is left out"),
                *widgets(ReferenceVideo, "downscale", "temporal_scale", "strength", "attention"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the reference counts: white fully, black not at all. One for all frames, or one for "
                    "each frame of the reference.",
                ),
                conditions_input(),
            ],
            outputs=[conditions_output("The reference and all that was given before")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor | None = None,
        video: Any = None,
        mask: Tensor | None = None,
        conditions: Chain | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        reference = ReferenceVideo(video_source(images, video), **settings, mask=mask)
        return io.NodeOutput((*(conditions or ()), reference))


class RetakeNode(io.ComfyNode):
    """A time range to be made anew."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVRetake",
            "Retake",
            "condition",
            description="Makes a part of a clip anew, from one second to another, and keeps the rest. The latent of "
            "the sampler is the clip to be changed, from LTX-2 Encode Clip or from a sampler.",
            aliases=["retake", "redo", "regenerate", "time range", "temporal inpaint", "edit"],
            inputs=[*widgets(RetakeRange, "start", "end", "streams"), conditions_input()],
            outputs=[conditions_output("The range and all that was given before")],
        )

    @classmethod
    def execute(cls, start: float, end: float, streams: str, conditions: Chain | None = None) -> io.NodeOutput:
        if start >= end:
            raise SettingError(
                f"The range to retake goes from {start:g} s to {end:g} s; it must end after its beginning."
            )
        return io.NodeOutput((*(conditions or ()), RetakeRange(start, end, streams)))


class InpaintNode(io.ComfyNode):
    """A region to be made anew."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVInpaint",
            "Inpaint",
            "condition",
            description="Makes what a mask covers anew, and keeps the rest. The latent of the sampler is the clip to "
            "be changed, from LTX-2 Encode Clip or from a sampler.",
            aliases=["inpaint", "mask", "region", "remove", "replace", "set latent noise mask", "outpaint"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White is made anew. One mask for all frames, or one for each frame of the clip; it is "
                    "resized and cropped as pictures are, and counts in cells of 32 x 32 pixels and 8 frames.",
                ),
                *widgets(InpaintMask, "feather", "sound"),
                conditions_input(),
            ],
            outputs=[conditions_output("The mask and all that was given before")],
        )

    @classmethod
    def execute(cls, mask: Tensor, feather: int, sound: bool, conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), InpaintMask(mask, feather, sound)))
