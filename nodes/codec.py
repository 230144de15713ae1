"""From pictures and sound to latents, and back."""

from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..ltx2_core.conditioning.given import STREAMS, Beginning, Footage, check_length, whole
from ..ltx2_core.generate import decode_audio, decode_video, vocode
from ..ltx2_core.geometry import SPACE_SCALE, ClipShape, exact_fps, nearest_size, pixel_frames
from ..ltx2_core.health import Finding, PictureHealth, sound_findings
from ..ltx2_core.latents import AVLatent
from ..ltx2_core.memory import stages
from ..ltx2_core.memory.plan import Plan, decoding
from ..ltx2_core.memory.stages import Extent
from ..ltx2_core.video_vae import Tiling
from . import host
from .condition import NodeEncoders
from .latents import USUAL_FPS, Latent, clip_of, fps_input, renewed, seams_of, streams
from .sources import Audio, footage, picture_inputs, recording, sound_of
from .types import LoadedModel, Mel, MelSpectrogram, Model, plan_input

NO_PICTURE = "This LATENT has no picture to decode: it is the sound part of an audio-video latent."
NO_SOUND = "This LATENT has no sound to decode: it is the picture part of an audio-video latent."


def _tiling() -> list[io.Input]:
    """The inputs that say in which pieces a clip is decoded, and how much memory that may take."""

    def number(name: str, default: int, lowest: int, highest: int, step: int, tooltip: str) -> io.Int.Input:
        limits = {"default": default, "min": lowest, "max": highest, "step": step}
        return io.Int.Input(name, **limits, optional=True, advanced=True, tooltip=tooltip)

    less = "Smaller needs less memory and takes longer."
    more = "More hides their seams better, and takes longer."
    return [
        number(
            "tile_size",
            0,
            0,
            4096,
            32,
            "Pixels of a tile along the clip's longer side. 0 takes the largest tiles that the card has room for, up "
            f"to {Tiling.tile_size}, and chooses the three numbers below as well. {less}",
        ),
        number("tile_overlap", Tiling.tile_overlap, 0, 1024, 32, f"Pixels that neighbouring tiles share. {more}"),
        number("tile_frames", Tiling.tile_frames, 16, 4096, 8, f"Frames that are decoded at once. {less}"),
        number("frame_overlap", Tiling.frame_overlap, 0, 1024, 8, f"Frames that two such pieces share. {more}"),
    ]


def _chosen(size: int, overlap: int, frames: int, frame_overlap: int) -> Tiling | None:
    """The tiles that the inputs ask for; None for those that fit."""
    return Tiling(size, overlap, frames, frame_overlap) if size else None


def _fps(effect: str) -> io.Float.Input:
    return fps_input(f"Frames per second; {effect}. 0 means: as the latent says, else 24.")


MODEL = Model.Input("model", tooltip="The LTX-2 model, from LTX-2 Load Model.")


class Encode(io.ComfyNode):
    """A clip to a latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVEncode",
            display_name="LTX-2 Encode Clip",
            category="LTX-2/latent",
            description="Turns a clip into a latent: to retake or inpaint a part of it, or to continue it. A video "
            "from a file is read piece by piece, however long it is.",
            search_aliases=["vae encode", "video to latent", "load latent", "vae encode tiled", "audio encode"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MODEL,
                *picture_inputs("The clip"),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Its sound; not connected, that of the video. Without any, the latent has no sound part.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    step=32,
                    optional=True,
                    tooltip="The clip is resized and cropped to this width. 0 takes its own, or the nearest multiple "
                    "of 32.",
                ),
                io.Int.Input("height", default=0, min=0, max=4096, step=32, optional=True, tooltip="Likewise."),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=100_000,
                    step=8,
                    optional=True,
                    tooltip="How many frames of it to take, 8 k + 1. 0 takes all; what fills no latent is left out.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=240.0,
                    step=0.001,
                    round=0.001,
                    optional=True,
                    tooltip="Frames per second of the latent; a video of another rate is resampled. 0 takes that of "
                    "the video, and 24 for images.",
                ),
                plan_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="av_latent", tooltip="The clip, with its frame rate, for the sampler."),
                io.Int.Output(display_name="frames", tooltip="How many frames it has."),
                io.Float.Output(display_name="fps", tooltip="Its frame rate."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        images: Tensor | None = None,
        video: Any = None,
        audio: Audio | None = None,
        width: int = 0,
        height: int = 0,
        frames: int = 0,
        fps: float = 0.0,
        plan: Plan | None = None,
    ) -> io.NodeOutput:
        film = footage(images, video)
        rate = exact_fps(fps or (USUAL_FPS if video is None else video.get_frame_rate()))
        found, size = film.count(rate), film.size()
        if frames > found:
            raise ValueError(f"frames is {frames}, but the clip has {found} at {float(rate):g} fps: ask for fewer.")
        clip = ClipShape(width or nearest_size(size[0]), height or nearest_size(size[1]), whole(frames or found), rate)
        sound = recording(audio) if audio is not None else None if video is None else sound_of(video)
        said = [
            f"{clip.width} x {clip.height}, {clip.frames} frames, {float(clip.seconds):.2f} s at {float(rate):g} fps"
        ]
        if sound is None:
            said.append("There is no sound, so the latent has none: the sampler makes a silent clip of it.")
        else:
            said += map(str, sound.findings(clip))
        host.say(cls.hidden.unique_id, "\n".join(said))
        streams = STREAMS if sound is not None else STREAMS[:1]
        begin = Beginning(film, sound).items(clip, streams, NodeEncoders(model, plan))
        encoded = {each.stream: host.handed_out(each.latent) for each in begin}
        content = AVLatent(encoded["video"], encoded.get("audio"))
        return io.NodeOutput(renewed({"fps": rate}, content), clip.frames, float(rate))


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
                plan_input(),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="All frames, clip after clip.")],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        latent: Latent,
        tile_size: int = 0,
        tile_overlap: int = Tiling.tile_overlap,
        tile_frames: int = Tiling.tile_frames,
        frame_overlap: int = Tiling.frame_overlap,
        plan: Plan | None = None,
    ) -> io.NodeOutput:
        frames, findings = _frames(model, latent, _chosen(tile_size, tile_overlap, tile_frames, frame_overlap), plan)
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
                plan_input(),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The clip carries this sound as it is instead of the one in the latent: cut, or filled "
                    "with silence, to its length. For LTX-2 Audio to Video.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The clip shows these frames as they are instead of those in the latent. For LTX-2 Video "
                    "to Audio.",
                ),
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
        tile_size: int = 0,
        tile_overlap: int = Tiling.tile_overlap,
        tile_frames: int = Tiling.tile_frames,
        frame_overlap: int = Tiling.frame_overlap,
        fps: float = 0.0,
        plan: Plan | None = None,
        audio: Audio | None = None,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        clip, picture = clip_of(latent, fps), streams(latent).video
        if clip is None or picture is None:
            raise ValueError(NO_PICTURE)
        batch, wrong_sound, wrong_picture = len(picture), list[Finding](), list[Finding]()
        if audio is not None:
            given = recording(audio)
            audio = {"waveform": given.lasting(clip).repeat(batch, 1, 1), "sample_rate": given.sample_rate}
            wrong_sound = given.findings(clip)
        elif streams(latent).audio is not None:
            audio, wrong_sound = _audio(model, _mel(model, latent, clip))
        if images is not None:
            check_length(Footage(images), clip)
            frames = images[: clip.frames, ..., :3].repeat(batch, 1, 1, 1, 1)
        else:
            tiling = _chosen(tile_size, tile_overlap, tile_frames, frame_overlap)
            frames, wrong_picture = _frames(model, latent, tiling, plan)
        host.tell(cls.hidden.unique_id, [*wrong_sound, *wrong_picture])
        videos = [
            InputImpl.VideoFromComponents(
                Types.VideoComponents(
                    images=pictures,
                    audio=None if audio is None else audio | {"waveform": audio["waveform"][number : number + 1]},
                    frame_rate=clip.fps,
                )
            )
            for number, pictures in enumerate(frames)
        ]
        return io.NodeOutput(videos, frames.flatten(0, 1), audio)


def _frames(
    model: LoadedModel, latent: Latent, tiling: Tiling | None, plan: Plan | None
) -> tuple[Tensor, list[Finding]]:
    """The frames of every clip, (B, F, H, W, 3) in 0..1, on the CPU, and what looks wrong."""
    video = streams(latent).video
    if video is None:
        raise ValueError(NO_PICTURE)
    network = model.network("video_decoder")
    _, _, count, height, width = video.shape
    extent = Extent((count, height, width), None, len(video))
    need, tiling = decoding(model.blueprint(), extent, host.room(network.device, plan), tiling)
    frames = torch.empty(len(video), pixel_frames(count), height * SPACE_SCALE, width * SPACE_SCALE, 3)
    done, health, seams = 0, PictureHealth(), seams_of(latent)
    with host.use(network, need=need, plan=plan) as (decoder,):
        for chunk in decode_video(decoder, video.to(network.device), tiling, host.progress()):
            health.see(chunk)
            seams.see(chunk)
            frames[:, done : done + chunk.shape[1]] = chunk
            done += chunk.shape[1]
    return frames, [*health.findings(), *seams.findings()]


def _mel(model: LoadedModel, latent: Latent, clip: ClipShape | None) -> MelSpectrogram:
    audio = streams(latent).audio
    if audio is None:
        raise ValueError(NO_SOUND)
    network = model.network("audio_decoder")
    need = stages.mel(model.blueprint(), Extent(None, audio.shape[2], len(audio)))
    with host.use(network, need=need) as (decoder,):
        return MelSpectrogram(host.handed_out(decode_audio(decoder, audio.to(network.device))), clip)


def _audio(model: LoadedModel, mel: MelSpectrogram) -> tuple[Audio, list[Finding]]:
    """The sound of every clip, on the CPU, and what sounds wrong."""
    network = model.network("vocoder")
    need = stages.sound(model.blueprint(), mel.mel.shape[2], len(mel.mel))
    with host.use(network, need=need) as (vocoder,):
        samples = None if mel.clip is None else mel.clip.samples(vocoder.sample_rate)
        waveform = vocode(vocoder, mel.mel.to(network.device), samples).cpu()
    findings = [finding for each in waveform for finding in sound_findings(each, vocoder.sample_rate)]
    return {"waveform": waveform, "sample_rate": vocoder.sample_rate}, findings
