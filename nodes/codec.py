"""From latents to pictures and sound."""

from fractions import Fraction
from typing import Any

from comfy_api.latest import Types, io
from torch import Tensor

from ..ltx2_core.conditioning.light import LightDecoding
from ..ltx2_core.conditioning.sources import VideoSource, check_length, even_frames
from ..ltx2_core.fields import settings_from
from ..ltx2_core.geometry import ClipShape
from ..ltx2_core.pipeline.decode_audio import DecodeMel, Vocode
from ..ltx2_core.pipeline.decode_video import DecodeVideo
from ..ltx2_core.pipeline.grade import prepare_decoding
from ..ltx2_core.pipeline.graph import GraphLatent
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.video_vae import Denoising, Tiling
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import fps, optional, sockets, widgets
from .node import EachOf, Node
from .values import Audio, GeneratedVideo, Latent, MelSpectrogram, MelType, audio_source

TILING = ("tile_size", "tile_overlap", "tile_frames", "frame_overlap")
DENOISING = ("decoder_seed", "decoder_steps", "decoder_keyframes")


class VideoDecode(Node):
    """Latents to frames."""

    id = "LTX2AVVideoDecode"
    title = "decode/Video VAE Decode"
    inputs = [
        sockets("model", "latent"),
        widgets(Tiling, *TILING),
        optional("plan"),
        widgets(Denoising, *DENOISING),
        widgets(LightDecoding, "hdr", "every_second"),
    ]
    outputs = {"images": io.Image}
    shows = True

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, plan: Plan | None = None, **decoding: Any) -> io.NodeOutput:
        light = settings_from(LightDecoding, decoding)
        engine, finish = prepare_decoding(HostEngine(model, plan, cls), light)
        frames = _frames(engine, GraphLatent(latent), decoding)
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
        return io.NodeOutput(_mel(HostEngine(model, node=cls), GraphLatent(latent, fps)))


class VocoderNode(Node):
    """A mel spectrogram to sound."""

    id = "LTX2AVVocoder"
    title = "decode/Vocoder"
    inputs = [sockets("model", "mel")]
    outputs = {"audio": io.Audio}
    shows = True

    @classmethod
    def execute(cls, model: LoadedModel, mel: MelSpectrogram) -> io.NodeOutput:
        return io.NodeOutput(_audio(HostEngine(model, node=cls), mel))


class Decode(Node):
    """Latents to a finished clip."""

    id = "LTX2AVDecode"
    title = "decode/Decode to Video"
    inputs = [
        sockets("model", "latent"),
        widgets(Tiling, *TILING),
        fps,
        optional("plan", "audio", "images"),
        widgets(Denoising, *DENOISING),
    ]
    outputs = {"video": EachOf(io.Video), "images": io.Image, "audio": io.Audio}
    shows = True

    @classmethod
    def execute(
        cls, model: LoadedModel, latent: Latent, fps: float = 0.0, plan: Plan | None = None,
        audio: Audio | None = None, images: Tensor | None = None, **decoding: Any
    ) -> io.NodeOutput:  # fmt: skip
        engine, content = HostEngine(model, plan, cls), GraphLatent(latent, fps)
        batch = len(content.video)
        sound = _sound(engine, content, audio)
        frames = _frames(engine, content, decoding) if images is None else _given_frames(images, content.shape, batch)
        even, findings = even_frames(frames)
        engine.events.report_findings(findings)
        videos = [_video(pictures, sound, number, content.fps) for number, pictures in enumerate(even)]
        return io.NodeOutput(videos, frames.flatten(0, 1), sound)


def _sound(engine: HostEngine, latent: GraphLatent, given: Audio | None) -> Audio | None:
    """Return the sound of every clip: a given one as it is, else the decoded one; None without any."""
    if given is not None:
        source = audio_source(given)
        engine.events.report_findings(source.findings(latent.shape))
        waveform = source.lasting(latent.shape).repeat(len(latent.video), 1, 1)
        return {"waveform": waveform, "sample_rate": source.sample_rate}
    return None if latent.content.audio is None else _audio(engine, _mel(engine, latent))


def _given_frames(images: Tensor, shape: ClipShape, batch: int) -> Tensor:
    check_length(VideoSource(images), shape)
    return images[: shape.frames, ..., :3].repeat(batch, 1, 1, 1, 1)


def _video(images: Tensor, audio: Audio | None, number: int, fps: Fraction) -> Any:
    """Return a VIDEO of clip ``number`` of a batch."""
    sound = None if audio is None else audio | {"waveform": audio["waveform"][number : number + 1]}
    return GeneratedVideo(Types.VideoComponents(images=images, audio=sound, frame_rate=fps))


def _frames(engine: HostEngine, latent: GraphLatent, decoding: dict[str, Any]) -> Tensor:
    """Return the frames of every clip, (B, F, H, W, 3) in 0..1, on the CPU; ``decoding`` are widgets of the node."""
    batch, _, count, height, width = latent.video.shape
    tiling, denoising = ({name: decoding[name] for name in names if name in decoding} for names in (TILING, DENOISING))
    chosen = Tiling(**tiling) if tiling.get("tile_size") else None
    keyframes = latent.content.keyframes
    frames = () if keyframes is None else keyframes.frames
    stage = DecodeVideo((count, height, width), chosen, batch, Denoising(**denoising), frames)
    return stage.collect(engine, latent.video, latent.seams, keyframes)


def _mel(engine: HostEngine, latent: GraphLatent) -> MelSpectrogram:
    audio = latent.audio
    mel = DecodeMel(audio.shape[2], len(audio)).run(engine, audio)
    return MelSpectrogram(host.to_host_format(mel), latent.clip)


def _audio(engine: HostEngine, mel: MelSpectrogram) -> Audio:
    """Return the sound of every clip, on the CPU."""
    waveform, rate = Vocode(mel.mel.shape[2], len(mel.mel)).run(engine, mel.mel, mel.clip)
    return {"waveform": waveform, "sample_rate": rate}
