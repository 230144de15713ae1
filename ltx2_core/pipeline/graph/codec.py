"""Clips to latents of node graphs, and back to frames and sound."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from ...conditioning.begin import extended
from ...conditioning.blend import Blending
from ...conditioning.compare import Comparison, rate_of
from ...conditioning.conditions import Condition, InitClip
from ...conditioning.sources import AudioSource, SoundPart, VideoSource, check_length
from ...errors import SettingError
from ...fields import settings_from
from ...geometry import TIME_SCALE, ClipShape, exact_fps, nearest_frames, nearest_size
from ...latents import AVLatent
from ...text.prompts import MADE_BY
from ...video_vae import Denoising, Tiling
from ..decode_audio import DecodeMel, Vocode
from ..decode_video import DecodeVideo
from ..encode_conditions import EngineEncoders
from ..engine import Engine
from ..grade import prepare_encoding
from .latents import DEFAULT_FPS, GraphLatent, Latent, latent_of


class Audio(TypedDict):
    """An AUDIO, as ComfyUI has it."""

    waveform: Tensor  # (B, C, N)
    sample_rate: int


@dataclass(frozen=True)
class MelSpectrogram:
    """A spectrogram (B, 2, T, 64), and its clip; None where the latent had no picture."""

    mel: Tensor
    clip: ClipShape | None


def audio_source(audio: Audio, part: SoundPart = SoundPart()) -> AudioSource:
    """Return the chosen part of an AUDIO. Raises SettingError for a batch of several, and if nothing is left."""
    if (count := len(audio["waveform"])) > 1:
        raise SettingError(
            f"This AUDIO holds {count} sounds, and one is meant: connect a single one, such as that of one clip from "
            "Get Video Components."
        )
    rate, whole = audio["sample_rate"], audio["waveform"][0]
    if not whole.shape[-1]:
        raise SettingError("This AUDIO is empty: connect a sound that lasts.")
    waveform, lasts = part.of(whole, rate), whole.shape[-1] / rate
    if not waveform.shape[-1]:
        wrong = f"start is {part.start:g} s, and it lasts {lasts:.2f} s: begin earlier"
        if part.start < lasts:
            wrong = (
                f"seconds is {part.seconds:g}, less than a sample lasts: take more seconds, or 0 for all that follows"
            )
        raise SettingError(f"Nothing is left of this AUDIO: {wrong}.")
    return AudioSource(waveform, rate)


def encode_clip(engine: Engine, clip: InitClip, shape: ClipShape) -> Latent:
    """Return the LATENT of a clip, with a sound part if it has a sound."""
    with EngineEncoders(prepare_encoding(engine, [clip])) as encoders:
        streams = ("video",) if clip.audio is None else ("video", "audio")
        encoded = {each.stream: each.latent for each in clip.encode(shape, streams, encoders)}
    content = AVLatent(encoded["video"], encoded.get("audio"))
    return latent_of(content, {"fps": shape.fps, MADE_BY: engine.models.generation})


def describe_clip(clip: InitClip, shape: ClipShape) -> str:
    """Return what is encoded, and what looks wrong about its sound."""
    if clip.audio is None:
        return f"{shape.describe()}\nThere is no sound, so the latent has none: the sampler makes a silent clip of it."
    return "\n".join([shape.describe(), *map(str, clip.audio.findings(shape))])


def extend_latent(latent: GraphLatent, seconds: float) -> tuple[Latent, ClipShape]:
    """Return a LATENT that begins with ``latent`` and is so much longer, all of which is to be made, and its size."""
    clip = latent.shape
    frames = clip.frames + max(TIME_SCALE, nearest_frames(float(seconds * clip.fps)) - 1)
    longer = ClipShape(clip.width, clip.height, frames, clip.fps)
    content, mask = extended(latent.content, longer)
    return latent.with_content(content, extras={"noise_mask": tuple(mask.streams().values())}), longer


def decode_frames(
    engine: Engine, latent: GraphLatent, decoding: Mapping[str, Any], given: Tensor | None = None
) -> Tensor:
    """Return the frames of every clip, (B, F, H, W, 3) in 0..1, on the CPU.

    Args:
        engine: of the video decoder.
        latent: of the clips.
        decoding: values of the widgets for tiles and for the diffusion decoder.
        given: frames (F, H, W, 3) that are shown as they are, the last one to the end of the clip; nothing is decoded.
    """
    batch, _, count, height, width = latent.video.shape
    if given is not None:
        check_length(video := VideoSource(given[..., :3]), latent.shape)
        return torch.cat([*video.chunks(latent.shape.fps, latent.shape.frames)]).repeat(batch, 1, 1, 1, 1)
    if latent.read_by(engine.models).last_step is not None:
        engine.events.on_remark(
            "This LATENT is still noisy, since its sampler stopped before its last step: set end_step there to 0, or "
            "let a second sampler begin with that step."
        )
    values = dict(decoding)
    tiling = settings_from(Tiling, values)
    denoising, frames = settings_from(Denoising, values), latent.content.generated_frames
    stage = DecodeVideo((count, height, width), tiling, batch, denoising, frames, whole=True)
    decoded = stage.collect(engine, latent.video, latent.seams, latent.content.keyframes)
    wide, high = latent.shown or (None, None)
    return decoded[:, :, :high, :wide]


def decode_mel(engine: Engine, latent: GraphLatent) -> MelSpectrogram:
    """Return the mel spectrogram of every clip."""
    audio = latent.read_by(engine.models).audio
    return MelSpectrogram(DecodeMel(audio.shape[2], len(audio)).run(engine, audio), latent.clip)


def vocode(engine: Engine, mel: MelSpectrogram) -> Audio:
    """Return the sound of every clip, on the CPU."""
    waveform, rate = Vocode(mel.mel.shape[2], len(mel.mel)).run(engine, mel.mel, mel.clip)
    return Audio(waveform=waveform, sample_rate=rate)


def decode_sound(engine: Engine, latent: GraphLatent, given: Audio | None) -> Audio | None:
    """Return the sound of every clip: a given one as it is, else the decoded one; None without any."""
    if given is None:
        if said := latent.unequal_lengths:
            engine.events.on_remark(said)
        return None if latent.content.audio is None else vocode(engine, decode_mel(engine, latent))
    clips, sounds = len(latent.video), given["waveform"]
    own = sounds.split(1) if len(sounds) == clips else [sounds]  # a sound for each clip, or one for all
    sources = [audio_source(Audio(waveform=one, sample_rate=given["sample_rate"])) for one in own]
    engine.events.report_findings(sources[0].findings(latent.shape))  # they are equally long
    waveform = torch.stack([source.lasting(latent.shape) for source in sources]).repeat(clips // len(sources), 1, 1)
    return Audio(waveform=waveform, sample_rate=sources[0].sample_rate)


def compare_clips(how: Comparison, first: InitClip, second: InitClip) -> dict[str, Any]:
    """Return two clips as the parts of one VIDEO, at the frame rate of the first: images, audio, frame_rate."""
    fps, heard = rate_of(first.video) or DEFAULT_FPS, how.heard(first.audio, second.audio)
    audio = None if heard is None else Audio(waveform=heard.waveform[None], sample_rate=heard.sample_rate)
    images = torch.cat([*how.frames(first.video, second.video, fps)])
    return {"images": images, "audio": audio, "frame_rate": fps}


def blend_clip(
    how: Blending, given: Iterable[Condition], images: Tensor, audio: Audio | None, fps: float
) -> tuple[Tensor, Audio | None]:
    """Return the frames and the sound of a clip with what it kept of what it was made of.

    Args:
        how: how both pass over into each other.
        given: what the clip was made with, the clip that was changed or continued among them.
        images: frames (F, H, W, 3) in 0..1.
        audio: their sound, if there is one.
        fps: frames per second.

    Raises:
        SettingError: it kept nothing, or the sound is of several clips.
    """
    given, (count, height, width) = tuple(given), images.shape[:3]
    shape = ClipShape(nearest_size(width), nearest_size(height), nearest_frames(count), exact_fps(fps))
    frames = torch.cat([*how.frames([images[..., :3]], given, shape)])
    if audio is None:
        return frames, None
    heard = audio_source(audio)
    waveform, rate = how.sound(heard.waveform, heard.sample_rate, given, shape)
    return frames, Audio(waveform=waveform[None], sample_rate=rate)
