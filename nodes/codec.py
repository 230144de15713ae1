"""From latents to pictures and sound."""

from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..ltx2_core.generate import decode_audio, decode_video, vocode
from ..ltx2_core.geometry import SPACE_SCALE, ClipShape, pixel_frames
from ..ltx2_core.health import Finding, PictureHealth, sound_findings
from ..ltx2_core.memory import scratch
from ..ltx2_core.video_vae import Tiling
from . import host
from .latents import Latent, clip_of, fps_input, streams
from .types import LoadedModel, Mel, MelSpectrogram, Model

Audio = dict[str, Any]

NO_PICTURE = "This LATENT has no picture to decode: it is the sound part of an audio-video latent."
NO_SOUND = "This LATENT has no sound to decode: it is the picture part of an audio-video latent."


def _tiling() -> list[io.Input]:
    """The inputs that say in which pieces a clip is decoded."""

    def number(name: str, default: int, lowest: int, highest: int, step: int, tooltip: str) -> io.Int.Input:
        limits = {"default": default, "min": lowest, "max": highest, "step": step}
        return io.Int.Input(name, **limits, optional=True, advanced=True, tooltip=tooltip)

    less = "Smaller needs less memory and takes longer."
    more = "More hides their seams better, and takes longer."
    return [
        number("tile_size", Tiling.pixels, 64, 4096, 32, f"Pixels of a tile along the clip's longer side. {less}"),
        number("tile_overlap", Tiling.pixel_overlap, 0, 1024, 32, f"Pixels that neighbouring tiles share. {more}"),
        number("tile_frames", Tiling.frames, 16, 4096, 8, f"Frames that are decoded at once. {less}"),
        number("frame_overlap", Tiling.frame_overlap, 0, 1024, 8, f"Frames that two such pieces share. {more}"),
    ]


def _fps(effect: str) -> io.Float.Input:
    return fps_input(f"Frames per second; {effect}. 0 means: as the latent says, else 24.")


MODEL = Model.Input("model", tooltip="The LTX-2 model, from LTX-2 Load Model.")


class VideoDecode(io.ComfyNode):
    """Latents to frames."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVVideoDecode",
            display_name="LTX-2 Video VAE Decode",
            category="LTX-2/decode",
            description="Turns the picture part of a latent into frames. Connect it to Save Image, Create Video, or "
            "whatever works on frames; for a finished clip with sound take LTX-2 Decode to Video.",
            search_aliases=["vae decode", "vae decode tiled", "latent to image", "latent to frames"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MODEL,
                io.Latent.Input("latent", tooltip="The result of the sampler, or a video-only latent."),
                *_tiling(),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="All frames, clip after clip.")],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        latent: Latent,
        tile_size: int = Tiling.pixels,
        tile_overlap: int = Tiling.pixel_overlap,
        tile_frames: int = Tiling.frames,
        frame_overlap: int = Tiling.frame_overlap,
    ) -> io.NodeOutput:
        tiling = Tiling(tile_size, tile_overlap, tile_frames, frame_overlap)
        frames, findings = _frames(model, latent, tiling)
        host.tell(cls.hidden.unique_id, findings)
        return io.NodeOutput(frames.flatten(0, 1))


class AudioDecode(io.ComfyNode):
    """Latents to a mel spectrogram."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVAudioDecode",
            display_name="LTX-2 Audio VAE Decode",
            category="LTX-2/decode",
            description="Turns the sound part of a latent into a mel spectrogram. Connect it to LTX-2 Vocoder.",
            search_aliases=["ltxv audio vae decode", "vae decode audio", "mel spectrogram", "latent to sound"],
            inputs=[
                MODEL,
                io.Latent.Input("latent", tooltip="The result of the sampler, or an audio-only latent."),
                _fps("with the frames of the latent it says how long the sound has to be"),
            ],
            outputs=[Mel.Output(display_name="mel", tooltip="How strong each pitch is over time, both channels.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, latent: Latent, fps: float = 0.0) -> io.NodeOutput:
        return io.NodeOutput(_mel(model, latent, clip_of(latent, fps)))


class Vocoder(io.ComfyNode):
    """A mel spectrogram to sound."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVVocoder",
            display_name="LTX-2 Vocoder",
            category="LTX-2/decode",
            description="Turns a mel spectrogram into stereo sound, exactly as long as the picture. Connect it to Save "
            "Audio or Create Video.",
            search_aliases=["mel to audio", "spectrogram to waveform", "hifigan", "bigvgan"],
            hidden=[io.Hidden.unique_id],
            inputs=[MODEL, Mel.Input("mel", tooltip="From LTX-2 Audio VAE Decode.")],
            outputs=[
                io.Audio.Output(display_name="audio", tooltip="Stereo, at 24 kHz from LTX-2.0 and 48 kHz from LTX-2.3.")
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, mel: MelSpectrogram) -> io.NodeOutput:
        audio, findings = _audio(model, mel)
        host.tell(cls.hidden.unique_id, findings)
        return io.NodeOutput(audio)


class Decode(io.ComfyNode):
    """Latents to a finished clip."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVDecode",
            display_name="LTX-2 Decode to Video",
            category="LTX-2/decode",
            description="Turns a latent into a clip with sound of the same length. Connect it to Save Video.",
            search_aliases=["vae decode", "create video", "video combine", "latent to video", "decode audio video"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MODEL,
                io.Latent.Input("latent", tooltip="The result of the sampler. Without sound in it the clip is silent."),
                *_tiling(),
                _fps("the speed of the clip"),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    is_output_list=True,
                    tooltip="The clip with its sound and exact frame rate; of a batch, one after the other.",
                ),
                io.Image.Output(display_name="images", tooltip="All frames, clip after clip."),
                io.Audio.Output(display_name="audio", tooltip="The sound, exactly as long as the picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        latent: Latent,
        tile_size: int = Tiling.pixels,
        tile_overlap: int = Tiling.pixel_overlap,
        tile_frames: int = Tiling.frames,
        frame_overlap: int = Tiling.frame_overlap,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        tiling = Tiling(tile_size, tile_overlap, tile_frames, frame_overlap)
        clip = clip_of(latent, fps)
        if clip is None:
            raise ValueError(NO_PICTURE)
        audio, wrong_sound = None, list[Finding]()
        if streams(latent).audio is not None:
            audio, wrong_sound = _audio(model, _mel(model, latent, clip))
        frames, wrong_picture = _frames(model, latent, tiling)
        host.tell(cls.hidden.unique_id, [*wrong_sound, *wrong_picture])
        videos = [
            InputImpl.VideoFromComponents(
                Types.VideoComponents(
                    images=images,
                    audio=None if audio is None else audio | {"waveform": audio["waveform"][number : number + 1]},
                    frame_rate=clip.fps,
                )
            )
            for number, images in enumerate(frames)
        ]
        return io.NodeOutput(videos, frames.flatten(0, 1), audio)


def _frames(model: LoadedModel, latent: Latent, tiling: Tiling) -> tuple[Tensor, list[Finding]]:
    """The frames of every clip, (B, F, H, W, 3) in 0..1, on the CPU, and what looks wrong."""
    video = streams(latent).video
    if video is None:
        raise ValueError(NO_PICTURE)
    network = model.network("video_decoder")
    _, _, count, height, width = video.shape
    frames = torch.empty(len(video), pixel_frames(count), height * SPACE_SCALE, width * SPACE_SCALE, 3)
    done, health = 0, PictureHealth()
    with host.use(network, scratch=scratch.video_decoding(video, tiling, network.dtype)) as (decoder,):
        for chunk in decode_video(decoder, video.to(network.device), tiling, host.progress()):
            health.see(chunk)
            frames[:, done : done + chunk.shape[1]] = chunk
            done += chunk.shape[1]
    return frames, health.findings()


def _mel(model: LoadedModel, latent: Latent, clip: ClipShape | None) -> MelSpectrogram:
    audio = streams(latent).audio
    if audio is None:
        raise ValueError(NO_SOUND)
    network = model.network("audio_decoder")
    with host.use(network, scratch=scratch.audio_decoding(audio, network.dtype)) as (decoder,):
        return MelSpectrogram(host.handed_out(decode_audio(decoder, audio.to(network.device))), clip)


def _audio(model: LoadedModel, mel: MelSpectrogram) -> tuple[Audio, list[Finding]]:
    """The sound of every clip, on the CPU, and what sounds wrong."""
    network = model.network("vocoder")
    with host.use(network, scratch=scratch.vocoding(mel.mel)) as (vocoder,):
        samples = None if mel.clip is None else mel.clip.samples(vocoder.sample_rate)
        waveform = vocode(vocoder, mel.mel.to(network.device), samples).cpu()
    findings = [finding for each in waveform for finding in sound_findings(each, vocoder.sample_rate)]
    return {"waveform": waveform, "sample_rate": vocoder.sample_rate}, findings
