"""An audio latent becomes a mel spectrogram, and that becomes a waveform."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio_vae import AudioDecoder, BandwidthExtendingVocoder, Vocoder, vocode_chunked
from ..audio_vae.vocoder import CHUNK
from ..errors import NotANumberError, SettingError
from ..geometry import AUDIO_BINS, AUDIO_CHANNELS, ClipShape
from ..health import check_finite, sound_findings
from ..memory.placement import StageNeed
from ..memory.trace import cost
from .encode_conditions import MEL_BINS
from .engine import Engine
from .needs.blueprint import Blueprint, empty_like
from .precision import widen
from .stage import AUDIO_DECODER, VOCODER, Stage


@dataclass(frozen=True)
class DecodeMel(Stage):
    """Decode ``latents`` audio latents to a mel spectrogram."""

    latents: int
    batch: int = 1
    name = "mel"
    networks = (AUDIO_DECODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the decoder on the whole latent."""
        decoder = blueprint.network("audio_decoder")
        latent = empty_like(decoder, self.batch, AUDIO_CHANNELS, self.latents, AUDIO_BINS)
        work = cost(lambda: decoder(latent).float())
        return StageNeed(self.name, blueprint.weights("audio_decoder"), work, latent.nbytes)

    def mel_frames(self, blueprint: Blueprint) -> int:
        """Return how many frames of a mel spectrogram come out."""
        return blueprint.network("audio_decoder").mel_frames(self.latents)

    def run(self, engine: Engine, latent: Tensor) -> Tensor:
        """Return the mel spectrogram (B, 2, T, 64) of a latent (B, C, L, M), float32."""
        check_finite(latent, "sampling")
        try:
            return self._decoded(engine, latent)
        except NotANumberError as error:
            wider = widen(engine, self, error)
        return self._decoded(wider, latent)

    def _decoded(self, engine: Engine, latent: Tensor) -> Tensor:
        with engine.use(self) as networks:
            return decode_audio(networks[AUDIO_DECODER], latent.to(engine.device(AUDIO_DECODER)))


@dataclass(frozen=True)
class Vocode(Stage):
    """Turn ``mel_frames`` frames of a mel spectrogram into sound, a few seconds at a time."""

    mel_frames: int
    batch: int = 1
    name = "sound"
    networks = (VOCODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the longest piece, beside the whole waveform."""
        vocoder = blueprint.network("vocoder")
        mel = torch.empty(self.batch, 2, self.mel_frames, MEL_BINS, device="meta")
        longest = mel[:, :, : CHUNK + 2 * vocoder.receptive_frames]
        made = list[int]()
        piece = cost(lambda: made.append(vocoder(longest).nbytes))
        waveform = made[0] // longest.shape[2] * self.mel_frames
        seams = math.ceil(self.mel_frames / CHUNK) - 1  # where two pieces hear the same frames
        work = piece * ((self.mel_frames + 2 * vocoder.receptive_frames * seams) / longest.shape[2])
        peak = max(piece.peak + waveform, 2 * waveform)
        return StageNeed(self.name, blueprint.weights("vocoder"), replace(work, peak=peak), mel.nbytes)

    def run(self, engine: Engine, mel: Tensor, shape: ClipShape | None = None) -> tuple[Tensor, int]:
        """Return the waveform (B, 2, N) in -1..1 on the CPU and its sample rate; events hear what sounds wrong.

        Args:
            engine: runs the vocoder.
            mel: (B, 2, T, 64).
            shape: of the clip, as long as which the sound becomes; None leaves it as it comes.

        Raises:
            SettingError: for an empty spectrogram.
        """
        if not mel.numel():
            raise SettingError(f"This spectrogram is empty, with the shape {tuple(mel.shape)}: decode a latent first.")
        with engine.use(self) as networks:
            vocoder = networks[VOCODER]
            rate = vocoder.sample_rate
            samples = None if shape is None else shape.samples(rate)
            waveform = vocode(vocoder, mel.to(engine.device(VOCODER)), samples, engine.events.check).cpu()
        engine.events.on_progress(self.name, 1, 1)
        for each in waveform:
            engine.events.report_findings(sound_findings(each, rate))
        return waveform, rate


@dataclass(frozen=True)
class DecodeAudio:
    """Both stages of the sound."""

    mel: DecodeMel
    vocode: Vocode

    def __iter__(self) -> Iterator[Stage]:
        """Yield them in their order."""
        yield self.mel
        yield self.vocode

    def run(self, engine: Engine, latent: Tensor, shape: ClipShape | None = None) -> tuple[Tensor, int]:
        """Return the waveform (B, 2, N) of a latent (B, C, L, M), as long as the clip, and its sample rate."""
        return self.vocode.run(engine, self.mel.run(engine, latent), shape)


def audio_stages(blueprint: Blueprint, latents: int) -> DecodeAudio | None:
    """Return the stages that decode ``latents`` audio latents; None if the model lacks their networks."""
    if not blueprint.has("audio_decoder", "vocoder"):
        return None
    mel = DecodeMel(latents)
    return DecodeAudio(mel, Vocode(mel.mel_frames(blueprint)))


def decode_audio(decoder: AudioDecoder, latent: Tensor) -> Tensor:
    """Decode an audio latent (B, C, L, M) to its mel spectrogram (B, 2, T, 64), float32.

    Raises:
        NotANumberError: if the decoder produces something that is not a number.
    """
    mel = decoder(latent.to(next(decoder.parameters()).dtype)).float()
    check_finite(mel, "decoding the sound")
    return mel


def vocode(
    vocoder: Vocoder | BandwidthExtendingVocoder,
    mel: Tensor,
    samples: int | None = None,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """Return the waveform (B, 2, N) of a mel spectrogram, float32 in -1..1.

    The decoded sound ends up to two frames before the picture does (audio_vae/README.md, "Autoencoder").

    Args:
        vocoder: ready to run where ``mel`` is.
        mel: (B, 2, T, 64).
        samples: to which the waveform is cut, or filled with silence.
        check: called between pieces; it may raise to interrupt.

    Raises:
        NotANumberError: if the vocoder produces something that is not a number.
    """
    waveform = vocode_chunked(vocoder, mel, check=check).clamp_(-1, 1)
    check_finite(waveform, "the vocoder")
    if samples is None:
        return waveform
    return F.pad(waveform, (0, max(0, samples - waveform.shape[-1])))[..., :samples]
