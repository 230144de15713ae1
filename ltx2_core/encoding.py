"""Pixels and waveforms become latents: what is given for a clip, before it is sampled."""

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from . import geometry, latents
from .audio_vae import AudioEncoder, encode_waveform
from .checkpoint.versions import VERSIONS
from .conditioning import AVState, apply_conditions
from .conditioning.conditions import Condition, encode_conditions
from .geometry import SPACE_SCALE, ClipShape
from .health import check_finite
from .memory.stages import Extent
from .run import Run
from .video_vae import Tiling, VideoEncoder, encode_stream


def encode_video(
    encoder: VideoEncoder,
    chunks: Iterable[Tensor],
    frames: int,
    device: torch.device,
    tiling: Tiling | None = None,
) -> Tensor:
    """(B, 3, F, H, W) in -1..1, in chunks -> (B, C, f, h, w), float32; few more frames than a tile are held."""
    moved = (chunk.to(device) for chunk in chunks)
    latent = encode_stream(encoder, moved, frames, tiling or Tiling())
    check_finite(latent, "encoding pictures")
    return latent


def encode_audio(
    encoder: AudioEncoder, waveform: Tensor, sample_rate: int, device: torch.device, latents: int | None = None
) -> Tensor:
    """(1 or 2, N) in -1..1 -> (1, C, t, M), float32; ``latents`` as for encode_waveform."""
    latent = encode_waveform(encoder, waveform[None].to(device), sample_rate, latents).float()
    check_finite(latent, "encoding a sound")
    return latent


class RunEncoders:
    """The encoders of a run, each built when it is first needed; only one of them is there at a time."""

    def __init__(self, run: Run):
        self.crf = VERSIONS[run.models.version].image_crf
        self._run, self._open = run, ExitStack()
        self._name: str | None = None
        self._network: Any = None

    def __enter__(self) -> "RunEncoders":
        return self

    def __exit__(self, *_: object) -> None:
        self._name = self._network = None
        self._open.close()

    def video(self, chunks: Iterable[Tensor], shape: tuple[int, int, int]) -> Tensor:
        encoder = self._built("video_encoder", "pictures")
        return encode_video(encoder, chunks, shape[0], self._run.device, self._run.encode_tiling)

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        encoder = self._built("audio_encoder", "hearing")
        return encode_audio(encoder, waveform, sample_rate, self._run.device, latents)

    def _built(self, name: str, stage: str) -> Any:
        if name != self._name:
            self._name, self._network = name, None
            self._open.close()
            (self._network,) = self._open.enter_context(self._run.use(name, stage=stage))
        return self._network


@dataclass
class Outlines:
    """In place of encoders: latents of the right size, of zeros; notes down the largest that is asked for."""

    crf: int = 0
    pictures: tuple[int, int, int] | None = field(default=None, init=False)
    sound: int | None = field(default=None, init=False)

    def video(self, chunks: Iterable[Tensor], shape: tuple[int, int, int]) -> Tensor:
        frames, height, width = shape
        size = geometry.latent_frames(frames), height // SPACE_SCALE, width // SPACE_SCALE
        if self.pictures is None or prod(size) > prod(self.pictures):
            self.pictures = size
        return torch.zeros(1, geometry.VIDEO_CHANNELS, *size)

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        heard = -(-waveform.shape[-1] * geometry.AUDIO_RATE // sample_rate) + 1
        self.sound = max(self.sound or 0, heard, latents or 0)
        return torch.zeros(1, geometry.AUDIO_CHANNELS, latents or heard, geometry.AUDIO_BINS)


@dataclass(frozen=True)
class Outline:
    """What will be given, before anything is encoded."""

    state: AVState  # zeros in place of what is given
    encoded: Extent  # the largest that goes through the encoders


def outline(conditions: Iterable[Condition], shape: ClipShape, streams: Collection[str]) -> Outline:
    """Everything that is ``conditions`` of a clip of these ``streams``, by size alone.

    Raises ValueError for what cannot be given so, and where nothing is left to be made.
    """
    encode = Outlines()
    empty = latents.empty(shape).select(streams)
    state = apply_conditions(empty, shape.fps, encode_conditions(conditions, shape, streams, encode))
    if not state.free:
        raise ValueError("Everything in this clip is given and stays, so there is nothing to make: take something out.")
    return Outline(state, Extent(encode.pictures, encode.sound))
