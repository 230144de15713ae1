"""The end of a clip: its latent becomes sound, at once, and frames, as they are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from ..checkpoint import Models
from ..checkpoint.belonging import check_latent
from ..conditioning.blend import Blending
from ..conditioning.conditions import Condition
from ..conditioning.kept import kept_audio, kept_video
from ..conditioning.light import Grading
from ..conditioning.sources import AudioSource, VideoSource
from ..errors import MediaError
from ..geometry import ClipShape
from ..health import Seams
from ..latents import AVLatent
from ..settings import Request
from .decode_audio import DecodeAudio, audio_stages
from .decode_video import DecodeVideo
from .engine import Engine
from .engines.local import LocalEngine
from .grade import grade, in_full_precision
from .plan import plan_stages
from .precision import clean_inference
from .stage import Events, Stage
from .takes import SeamLines, Take


@dataclass(frozen=True)
class Clip:
    """A finished clip.

    Attributes:
        chunks: consecutive frames (F, H, W, 3) in 0..1, decoded as they are asked for, once.
        fps: frames per second.
        waveform: (1 or 2, N) in -1..1, as long as the frames; None if the clip is silent.
        sample_rate: of the waveform, in Hz.
        latent: of both streams, on the CPU.
        decoder_seed: of the noise that the frames were denoised from; None where the decoder denoises nothing.
        grading: of HDR, what the numbers of the frames mean; None for SDR.
        parameters: prompt and settings as one text, as sharing sites read it.
        notes: what a latent that was kept said of how it was made.
    """

    chunks: Iterator[Tensor]
    fps: Fraction
    waveform: Tensor | None
    sample_rate: int | None
    latent: AVLatent
    decoder_seed: int | None = None
    grading: Grading | None = None
    parameters: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        """What a file says of the clip beside its frames and its sound."""
        seed = {} if self.decoder_seed is None else {"decoder_seed": str(self.decoder_seed)}
        return {**self.notes, **seed, **({"parameters": self.parameters} if self.parameters else {})}

    @cached_property
    def frames(self) -> Tensor:
        """All frames, (F, H, W, 3). Raises MediaError where there are none, or none any more."""
        if not (chunks := list(self.chunks)):
            raise MediaError(
                "There are no frames: the clip is sound alone, or its chunks were taken before, which come once. Ask "
                "for its frames first, or make the clip again."
            )
        return torch.cat(chunks)


@dataclass(frozen=True)
class Finish:
    """How a latent becomes a clip.

    Attributes:
        shape: of the clip.
        decode_audio: mel spectrogram and sound; None where the clip has none.
        decode_video: the frames; None where the clip has none.
        kept_audio: that the clip carries as it is, in place of the decoded one.
        kept_video: whose frames the clip carries as they are, likewise.
        seams: the size of the latent, and where its tiles meet, if it was refined in tiles.
        every_second: whether every second frame is left out.
        grading: of HDR.
        blend: how frames and sound pass over into what was kept; None shows them as they were made.
        blended: what the clip was made with, for that.
        shown: width and height of what is kept of them, from the left and upper edge; None for all.
    """

    shape: ClipShape
    decode_audio: DecodeAudio | None
    decode_video: DecodeVideo | None
    kept_audio: AudioSource | None = None
    kept_video: VideoSource | None = None
    seams: SeamLines | None = None
    every_second: bool = False
    grading: Grading | None = None
    blend: Blending | None = None
    blended: tuple[Condition, ...] = ()
    shown: tuple[int, int] | None = None

    def run(
        self, engine: Engine, latent: AVLatent, parameters: str = "", notes: Mapping[str, str] | None = None
    ) -> Clip:
        """Return the clip of a latent of one; the last two are what it says of itself."""
        waveform, rate = self._heard(engine, latent.audio)
        decoder = None if self.kept_video else self.decode_video
        seed = None if decoder is None else decoder.seed(engine.blueprint)
        frames, kept = self._frames(engine, latent), latent.to("cpu")
        return Clip(frames, self.shape.fps, waveform, rate, kept, seed, self.grading, parameters, notes or {})

    def _heard(self, engine: Engine, latent: Tensor | None) -> tuple[Tensor | None, int | None]:
        """The waveform (1 or 2, N) and its sample rate: a given sound as it is, else the decoded one."""
        if self.kept_audio is not None:
            engine.events.report_findings(self.kept_audio.findings(self.shape))
            return self.kept_audio.lasting(self.shape), self.kept_audio.sample_rate
        if latent is None or self.decode_audio is None:
            return None, None
        decoded, rate = self.decode_audio.run(engine, latent, self.shape)
        waveform = changeable(decoded[0])
        return (waveform, rate) if self.blend is None else self.blend.sound(waveform, rate, self.blended, self.shape)

    @clean_inference()
    def _frames(self, engine: Engine, latent: AVLatent) -> Iterator[Tensor]:
        """Yield chunks of frames (F, H, W, 3), each made when it is asked for."""
        frames = self._shown(engine, latent)
        frames = every_second(frames) if self.every_second else frames
        frames = frames if self.blend is None else self.blend.frames(frames, self.blended, self.shape)
        width, height = self.shown or (None, None)
        yield from (changeable(chunk[:, :height, :width]) for chunk in frames)

    def _shown(self, engine: Engine, latent: AVLatent) -> Iterator[Tensor]:
        """Yield chunks of frames: those of a given video as they are, else the decoded ones."""
        if self.kept_video is not None:
            yield from self.kept_video.chunks(self.shape.fps, self.shape.frames)
        elif latent.video is not None and self.decode_video is not None:
            seams = None if self.seams is None else Seams(*self.seams[1])
            for chunk in self.decode_video.run(engine, latent.video, seams, latent.keyframes):
                yield chunk[0]


def changeable(made: Tensor) -> Tensor:
    """Return what a network has made, in the same memory, as a tensor that its owner may change and take gradients of.

    Those of inference mode allow neither.
    """
    with torch.inference_mode(False):
        return torch.from_numpy(made.float().cpu().numpy())


def every_second(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the first frame of ``chunks`` (F, H, W, 3), and from there on every second one."""
    offset = 0
    for chunk in chunks:
        if len(kept := chunk[offset::2]):
            yield kept
        offset = (offset + len(chunk)) % 2


@clean_inference()
def decode_take(models: Models, take: Take, request: Request, events: Events = Events()) -> list[Clip]:
    """Make the clips of a latent that was kept (``takes.load_take``); nothing is sampled, and no prompt read.

    Args:
        models: the opened files, of which only decoders and vocoder are used.
        take: the latent. Without a frame rate of its own it has that of the request.
        request: of which tiles, decoding, machine, hdr and high quality count, and a given sound or video.
        events: whom to tell.

    Raises:
        CheckpointError: the files lack a decoder.
        LTX2Error: it does not fit, is no HDR, or was made by a model of other latents.
    """
    check_latent(take.made_by, models)
    content, shape = take.content, take.content.shape(take.fps or request.clip.fps)
    own_video, own_audio = kept_video(request.conditions), kept_audio(request.conditions)
    if content.video is not None and own_video is None:
        models.source("video_decoder")
    grading = grade(models, request.loras, request.hdr)
    engine: Engine = LocalEngine(models, request.resources, events)
    engine = engine if grading is None else in_full_precision(engine)
    video = None if own_video is not None else _video_stage(content, request)
    audio = None if content.audio is None else audio_stages(engine.blueprint, content.audio.shape[2])
    stages: list[Stage] = [*(audio or ()), *(() if video is None else (video,))]
    engine.follow(plan_stages(stages, engine.blueprint, engine.room(), shape, engine.load))
    finish = Finish(
        shape, audio, video, own_audio, own_video, take.seams, request.high_quality, grading, shown=take.shown
    )
    notes = {name: text for name, text in take.tags.items() if name != "parameters"}
    return [finish.run(engine, each, take.tags.get("parameters", ""), notes) for each in content.clips()]


def _video_stage(content: AVLatent, request: Request) -> DecodeVideo | None:
    if content.video is None:
        return None
    _, _, frames, height, width = content.video.shape
    size, keyframes = (frames, height, width), content.generated_frames
    return DecodeVideo(size, request.tiling, denoising=request.decoding, keyframes=keyframes)
