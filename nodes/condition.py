"""What is given for a clip? Each node adds one thing to a chain, which the sampler takes."""

import re
from collections.abc import Collection, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.checkpoint.versions import VERSIONS
from ..ltx2_core.conditioning import LatentCondition
from ..ltx2_core.conditioning.conditions import (
    Condition,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    Picture,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
)
from ..ltx2_core.encoding import encode_audio, encode_video
from ..ltx2_core.geometry import AUDIO_RATE, SPACE_SCALE, ClipShape, latent_frames
from ..ltx2_core.memory import stages
from ..ltx2_core.memory.plan import Plan, encoding
from ..ltx2_core.memory.stages import Extent
from . import host
from .sources import Audio, footage, picture_inputs, recording
from .types import Conditions, LoadedModel

Chain = tuple[Condition, ...]


def _before() -> io.Input:
    return Conditions.Input(
        "conditions", optional=True, tooltip="What else is given, from another LTX-2 condition node; all of it counts."
    )


def _chain(what: str) -> io.Output:
    return Conditions.Output(
        display_name="conditions", tooltip=f"{what}: for the sampler, or for the next LTX-2 condition node."
    )


def _strength(tooltip: str) -> io.Float.Input:
    return io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _picture_settings() -> list[io.Input]:
    return [
        io.Int.Input(
            "compression",
            default=-1,
            min=-1,
            max=51,
            optional=True,
            advanced=True,
            tooltip="Compresses a picture as video frames are (H.264, CRF) before it is encoded, because pictures that "
            "are cleaner make clips that stand still. Higher brings more motion and less detail. -1 is what the model "
            "was trained with (33 for LTX-2.0 and 2.3), 0 is off.",
        ),
        io.Boolean.Input(
            "append",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Only for frame 0: shows the picture to the model beside the clip, as it does with all other "
            "frames, instead of putting it in. Freer; the official keyframe pipeline does so.",
        ),
    ]


class ImageCondition(io.ComfyNode):
    """A picture at a frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVImage",
            display_name="LTX-2 Image to Video",
            category="LTX-2/condition",
            description="Gives the clip a picture: its first frame, its last one, or any other. It is resized and "
            "cropped to the size of the clip. Chain several for several frames.",
            search_aliases=["image to video", "i2v", "first frame", "last frame", "start image", "guide", "ltxv"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture. Several are taken as a short video that begins at the frame (8 k + 1 of them "
                    "count).",
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-10000,
                    max=10000,
                    tooltip="Where the clip shows it: 0 is the first frame, -1 the last one. Frame 0 becomes the "
                    "picture; others are drawn towards it.",
                ),
                _strength("How firmly the clip keeps to it: 1 shows the picture itself, lower leaves more freedom."),
                _before(),
                *_picture_settings(),
            ],
            outputs=[_chain("The picture and all that was given before")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        frame: int,
        strength: float,
        conditions: Chain = (),
        compression: int = -1,
        append: bool = False,
    ) -> io.NodeOutput:
        picture = Picture(image[..., :3], frame, strength, compression, append)
        return io.NodeOutput((*conditions, picture))


class Keyframes(io.ComfyNode):
    """Several pictures, each at its frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVKeyframes",
            display_name="LTX-2 Keyframes",
            category="LTX-2/condition",
            description="Gives the clip a batch of pictures, each at its own frame: first and last, or as many as you "
            "like. The clip moves from one to the next.",
            search_aliases=["keyframe interpolation", "first last frame", "flf2v", "guide frames", "image list"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as a batch; ComfyUI's Batch Images joins single ones."),
                io.String.Input(
                    "frames",
                    default="0, -1",
                    tooltip="The frame of each picture, in the order of the batch: 0 is the first frame of the clip, "
                    "-1 the last one.",
                ),
                io.String.Input(
                    "strengths",
                    default="1",
                    tooltip="How firmly the clip keeps to each picture, 0 to 1: one number for all, or one for each.",
                ),
                _before(),
                *_picture_settings(),
            ],
            outputs=[_chain("The pictures and all that was given before")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        frames: str,
        strengths: str,
        conditions: Chain = (),
        compression: int = -1,
        append: bool = False,
    ) -> io.NodeOutput:
        places = [int(number) for number in _numbers("frames", frames, whole=True)]
        firm = _numbers("strengths", strengths)
        if len(places) != len(images) or len(firm) not in (1, len(images)):
            raise ValueError(
                f"There are {len(images)} pictures, {len(places)} frames and {len(firm)} strengths: write one frame "
                "for each picture, and one strength for each or for all."
            )
        firm = firm * len(places) if len(firm) == 1 else firm
        pictures = [
            Picture(image[None, ..., :3], frame, strength, compression, append)
            for image, frame, strength in zip(images, places, firm)
        ]
        return io.NodeOutput((*conditions, *pictures))


class AudioToVideo(io.ComfyNode):
    """Sound, for which a picture is made."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVAudioToVideo",
            display_name="LTX-2 Audio to Video",
            category="LTX-2/condition",
            description="Gives the clip its sound: only the picture is made, and follows it. Connect the same sound to "
            "LTX-2 Decode to Video, so that the clip carries it as it is.",
            search_aliases=["a2v", "audio to video", "lip sync", "music video", "sound to video", "talking"],
            inputs=[
                io.Audio.Input(
                    "audio",
                    tooltip="The sound. What is longer than the clip is not heard, and a shorter one goes on in "
                    "silence.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Shows the model a noisier sound than it is. Try 0.1 to 0.3 where clean speech makes a "
                    "picture that stands still. The sound of the clip stays clean.",
                ),
                _before(),
            ],
            outputs=[_chain("The sound and all that was given before")],
        )

    @classmethod
    def execute(cls, audio: Audio, noise: float = 0.0, conditions: Chain = ()) -> io.NodeOutput:
        return io.NodeOutput((*conditions, KeepAudio(recording(audio), noise)))


class VideoToAudio(io.ComfyNode):
    """A picture, for which sound is made."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVVideoToAudio",
            display_name="LTX-2 Video to Audio",
            category="LTX-2/condition",
            description="Gives the clip its picture: only the sound is made, and follows it. Connect the same frames "
            "to LTX-2 Decode to Video, so that the clip carries them as they are.",
            search_aliases=["v2a", "video to audio", "foley", "sound effects", "add sound", "soundtrack"],
            inputs=[*picture_inputs("The picture, at least as long as the clip"), _before()],
            outputs=[_chain("The picture and all that was given before")],
        )

    @classmethod
    def execute(cls, images: Tensor | None = None, video: Any = None, conditions: Chain = ()) -> io.NodeOutput:
        return io.NodeOutput((*conditions, KeepVideo(footage(images, video))))


class ReferenceAudioNode(io.ComfyNode):
    """A voice to be taken over."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVReferenceAudio",
            display_name="LTX-2 Reference Audio",
            category="LTX-2/condition",
            description="Lets the clip hear a sound from before its beginning, such as a voice that somebody in it is "
            "to have. Needs a LoRA that was trained for it (ID-LoRA, Dub-It).",
            search_aliases=["voice", "voice clone", "id lora", "speaker", "identity", "dubbing", "reference sound"],
            inputs=[
                io.Audio.Input("audio", tooltip="A few seconds of it; all of them cost memory and time."),
                _strength("How much of it is heard; 1 is as the LoRAs were trained."),
                _before(),
            ],
            outputs=[_chain("The sound and all that was given before")],
        )

    @classmethod
    def execute(cls, audio: Audio, strength: float, conditions: Chain = ()) -> io.NodeOutput:
        return io.NodeOutput((*conditions, ReferenceAudio(recording(audio), strength)))


class ReferenceVideoNode(io.ComfyNode):
    """A video that an IC-LoRA follows."""

    @classmethod
    def define_schema(cls):
        def factor(name: str, most: int, tooltip: str) -> io.Int.Input:
            return io.Int.Input(name, default=1, min=1, max=most, tooltip=f"{tooltip} LTX-2 Load IC-LoRA says it.")

        return io.Schema(
            node_id="LTX2AVReferenceVideo",
            display_name="LTX-2 Reference Video",
            category="LTX-2/condition",
            description="Lets the clip look at another one: depth, poses, edges or an earlier take. Needs an IC-LoRA "
            "that was trained for it.",
            search_aliases=["ic lora", "control", "depth", "pose", "canny", "video to video", "v2v", "guide video"],
            inputs=[
                *picture_inputs("The reference; what is longer than the clip is left out"),
                factor("downscale", 8, "How many times smaller than the clip the IC-LoRA wants it."),
                factor("temporal_scale", 16, "Of how many frames the IC-LoRA wants one."),
                _strength("How much of the reference is shown; 1 is as the LoRAs were trained."),
                io.Float.Input(
                    "attention",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How strongly clip and reference see each other: lower follows it more loosely.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the reference counts: white fully, black not at all. One for all frames, or one for "
                    "each frame of the reference.",
                ),
                _before(),
            ],
            outputs=[_chain("The reference and all that was given before")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor | None = None,
        video: Any = None,
        downscale: int = 1,
        temporal_scale: int = 1,
        strength: float = 1.0,
        attention: float = 1.0,
        mask: Tensor | None = None,
        conditions: Chain = (),
    ) -> io.NodeOutput:
        clip = ReferenceVideo(footage(images, video), downscale, temporal_scale, strength, attention, mask)
        return io.NodeOutput((*conditions, clip))


class Retake(io.ComfyNode):
    """A time range to be made anew."""

    @classmethod
    def define_schema(cls):
        def moment(name: str, default: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(name, default=default, min=0.0, max=3600.0, step=0.01, round=0.001, tooltip=tooltip)

        return io.Schema(
            node_id="LTX2AVRetake",
            display_name="LTX-2 Retake",
            category="LTX-2/condition",
            description="Makes a part of a clip anew, from one second to another, and keeps the rest. The latent of "
            "the sampler is the clip to be changed, from LTX-2 Encode Clip or from a sampler.",
            search_aliases=["retake", "redo", "regenerate", "time range", "temporal inpaint", "edit"],
            inputs=[
                moment("start", 0.0, "From here on it is made anew, in seconds; whole latents of 8 frames change."),
                moment("end", 1.0, "Until here, in seconds."),
                io.Combo.Input(
                    "streams",
                    options=["picture and sound", "picture", "sound"],
                    tooltip="What is made anew; the other one stays as it is, and is followed.",
                ),
                _before(),
            ],
            outputs=[_chain("The range and all that was given before")],
        )

    @classmethod
    def execute(cls, start: float, end: float, streams: str, conditions: Chain = ()) -> io.NodeOutput:
        if start >= end:
            raise ValueError(
                f"The range to retake goes from {start:g} s to {end:g} s; it must end after its beginning."
            )
        return io.NodeOutput((*conditions, RetakeRange(start, end, streams)))


class Inpaint(io.ComfyNode):
    """A region to be made anew."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVInpaint",
            display_name="LTX-2 Inpaint",
            category="LTX-2/condition",
            description="Makes what a mask covers anew, and keeps the rest. The latent of the sampler is the clip to "
            "be changed, from LTX-2 Encode Clip or from a sampler.",
            search_aliases=["inpaint", "mask", "region", "remove", "replace", "set latent noise mask", "outpaint"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White is made anew. One mask for all frames, or one for each frame of the clip; it is "
                    "resized and cropped as pictures are, and counts in cells of 32 x 32 pixels and 8 frames.",
                ),
                io.Int.Input(
                    "feather",
                    default=1,
                    min=0,
                    max=16,
                    tooltip="Over how many cells of 32 pixels around the mask the change fades out. 0 is a hard edge.",
                ),
                io.Boolean.Input(
                    "sound", default=False, tooltip="Makes the sound anew, too; otherwise it stays, and is followed."
                ),
                _before(),
            ],
            outputs=[_chain("The mask and all that was given before")],
        )

    @classmethod
    def execute(cls, mask: Tensor, feather: int, sound: bool, conditions: Chain = ()) -> io.NodeOutput:
        return io.NodeOutput((*conditions, InpaintMask(mask, feather, sound)))


def _numbers(name: str, text: str, whole: bool = False) -> list[float]:
    """Numbers in a row, as people write them."""
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    try:
        return [int(word) if whole else float(word) for word in words]
    except ValueError:
        raise ValueError(f"{name} is {text!r}; write numbers with commas, for example 0, 60, -1.") from None


class NodeEncoders:
    """The encoders of a model, on the card for as long as they are used."""

    def __init__(self, model: LoadedModel, plan: Plan | None = None):
        self.crf = VERSIONS[model.models.version].image_crf
        self._model, self._plan = model, plan

    def video(self, chunks: Iterable[Tensor], shape: tuple[int, int, int]) -> Tensor:
        network = self._model.network("video_encoder")
        frames, height, width = shape
        extent = Extent((latent_frames(frames), height // SPACE_SCALE, width // SPACE_SCALE), None)
        need, tiling = encoding(self._model.blueprint(), extent, host.room(network.device, self._plan))
        with host.use(network, need=need, plan=self._plan) as (encoder,):
            return encode_video(encoder, chunks, frames, network.device, tiling).cpu()

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        network = self._model.network("audio_encoder")
        longest = max(latents or 0, -(-waveform.shape[-1] * AUDIO_RATE // sample_rate) + 1)
        need = stages.hearing(self._model.blueprint(), Extent(None, longest))
        with host.use(network, need=need, plan=self._plan) as (encoder,):
            return encode_audio(encoder, waveform, sample_rate, network.device, latents).cpu()


# What was encoded, for as long as the model and what is given are in the graph: another seed needs no encoder.
_encoded: WeakKeyDictionary[LoadedModel, WeakKeyDictionary[Condition, dict[tuple, list[LatentCondition]]]] = (
    WeakKeyDictionary()
)


def items(
    model: LoadedModel, given: Chain, shape: ClipShape, streams: Collection[str], plan: Plan | None = None
) -> list[LatentCondition]:
    """Everything in a chain as items of a clip, encoded once for each size."""
    known, encode = _encoded.setdefault(model, WeakKeyDictionary()), NodeEncoders(model, plan)
    found: list[LatentCondition] = []
    for each in given:
        sizes, size = known.setdefault(each, {}), (shape, tuple(streams))
        if size not in sizes:
            sizes[size] = [*each.encode(shape, streams, encode)]
        found += sizes[size]
    return found
