"""From latents to pictures and sound."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import Types, io
from torch import Tensor

from ..ltx2_core.conditioning.light import LightDecoding
from ..ltx2_core.fields import settings_from
from ..ltx2_core.media import even_frames
from ..ltx2_core.pipeline.grade import prepare_decoding
from ..ltx2_core.pipeline.graph.codec import Audio, MelSpectrogram, decode_frames, decode_mel, decode_sound, vocode
from ..ltx2_core.pipeline.graph.latents import GraphLatent
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.video_vae import Denoising, Tiling
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import fps, optional, sockets, widgets
from .node import EachOf, Node
from .values import GeneratedVideo, Latent, MelType


class VideoDecode(Node):
    """Latents to frames."""

    id = "LTX2AVVideoDecode"
    title = "decode/Video VAE Decode"
    inputs = [sockets("model", "latent"), widgets(Tiling), optional("plan"), widgets(Denoising), widgets(LightDecoding)]
    outputs = {"images": io.Image}
    shows = True

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, plan: Plan | None = None, **decoding: Any) -> io.NodeOutput:
        light = settings_from(LightDecoding, decoding)
        engine, finish = prepare_decoding(HostEngine(model, plan), light)
        frames = decode_frames(engine, GraphLatent(latent), decoding)
        return io.NodeOutput(finish(frames[:, :: 2 if light.every_second else 1].flatten(0, 1)))


class AudioDecode(Node):
    """Latents to a mel spectrogram."""

    id = "LTX2AVAudioDecode"
    title = "decode/Audio VAE Decode"
    inputs = [sockets("model", "latent"), fps]
    outputs = {"mel": MelType}
    shows = True

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, fps: float = 0.0) -> io.NodeOutput:
        decoded = decode_mel(HostEngine(model), GraphLatent(latent, fps))
        return io.NodeOutput(replace(decoded, mel=host.to_host_format(decoded.mel)))


class VocoderNode(Node):
    """A mel spectrogram to sound."""

    id = "LTX2AVVocoder"
    title = "decode/Vocoder"
    inputs = [sockets("model", "mel")]
    outputs = {"audio": io.Audio}
    shows = True

    @classmethod
    def execute(cls, model: LoadedModel, mel: MelSpectrogram) -> io.NodeOutput:
        return io.NodeOutput(vocode(HostEngine(model), mel))


class Decode(Node):
    """Latents to a finished clip."""

    id = "LTX2AVDecode"
    title = "decode/Decode to Video"
    inputs = [sockets("model", "latent"), widgets(Tiling), fps, optional("plan", "audio", "images"), widgets(Denoising)]
    outputs = {"video": EachOf(io.Video), "images": io.Image, "audio": io.Audio}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, latent: Latent, fps: float = 0.0, plan: Plan | None = None,
        audio: Audio | None = None, images: Tensor | None = None, **decoding: Any
    ) -> io.NodeOutput:  # fmt: skip
        engine, content = HostEngine(model, plan), GraphLatent(latent, fps)
        sound = decode_sound(engine, content, audio)
        frames = decode_frames(engine, content, decoding, images)
        even, findings = even_frames(frames)
        engine.events.report_findings(findings)
        videos = [_video(content, pictures, sound, number) for number, pictures in enumerate(even)]
        return io.NodeOutput(videos, frames.flatten(0, 1), sound)


def _video(latent: GraphLatent, images: Tensor, audio: Audio | None, number: int) -> GeneratedVideo:
    """Return a VIDEO of clip ``number`` of a batch."""
    sound = None if audio is None else audio | {"waveform": audio["waveform"][number : number + 1]}
    return GeneratedVideo(Types.VideoComponents(images=images, audio=sound, frame_rate=latent.fps))
