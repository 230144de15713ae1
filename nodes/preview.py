"""What does the clip look and sound like so far? Small frames of every step, and a picture of its sound."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log, sqrt
from time import monotonic
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..ltx2_core.audio_vae import AudioDecoder
from ..ltx2_core.audio_vae.mel import FLOOR
from ..ltx2_core.audio_vae.preview import mel_picture, preview_mel
from ..ltx2_core.checkpoint import Models
from ..ltx2_core.geometry import AUDIO_RATE, TIME_SCALE, pixel_frames
from ..ltx2_core.latents import AVLatent
from ..ltx2_core.mini.preview import miniature_factors, miniature_mel_factors
from ..ltx2_core.pipeline.stage import AUDIO_DECODER, TRANSFORMER, Engine, NetworkKey, Networks
from ..ltx2_core.sampling import Step
from ..ltx2_core.video_vae.preview import preview_frames, released_factors
from . import host

EVENT = "ltx2av.preview"  # js/preview.js plays what it brings
PREVIEW_TIME_SHARE = 0.02  # of a run
MEL_RATE = 4 * AUDIO_RATE  # mel frames per second


@dataclass(frozen=True)
class Sketch:
    """A running clip, coarsely; a missing stream is None.

    Attributes:
        seconds: of the clip.
        frames: (F, h, w, 3) in 0..1.
        starts: when each frame begins, in seconds.
        sound: (64, T, 3) in 0..1: the mel spectrogram, as long as the clip.
    """

    seconds: float
    frames: Tensor | None
    starts: list[float]
    sound: Tensor | None


class Preview:
    """Shows how far a run is, and what it looks like if the user wants to see it.

    The moving preview goes to our widget in the browser, a still one to everybody else. The first and the last step
    are always shown, and as many between them as take no more than PREVIEW_TIME_SHARE of the time.
    """

    def __init__(self, node: Any, models: Models, fps: Fraction, has_sound: bool):
        """Prepare for one run.

        Args:
            node: the class of the running node.
            models: the files; the miniature has factors of its own.
            fps: frames per second of the clip.
            has_sound: whether there is a sound to show.
        """
        self._node_id, self._models, self._fps = node.hidden.unique_id, models, fps
        self._has_sound, self._wanted = has_sound, host.wants_previews()
        self._bar: Callable[..., None] = host.progress()
        self._sketch: Callable[[AVLatent], Sketch] | None = None
        self._begun = self._spent = 0.0
        self.last_step: Step | None = None

    def networks(self, engine: Engine) -> list[NetworkKey[Any]]:
        """Return what must be ready beside the transformer: the audio decoder of a released model, if it is wanted.

        Decoding five seconds of sound takes 0.3 TFLOP, 0.15 % of one pass over a clip of 768 x 512 pixels. On another
        device than the transformer's it would hold up the run, so there the sound is not shown.
        """
        wanted = self._wanted and self._has_sound and not self._models.is_miniature
        if not wanted or "audio_decoder" not in self._models.sources:
            return []
        return [AUDIO_DECODER] if engine.device(AUDIO_DECODER) == engine.device(TRANSFORMER) else []

    def start(self, networks: Networks) -> None:
        """Begin a run with these networks."""
        decoder = networks.find(AUDIO_DECODER)
        self._sketch = _sketcher(self._models, self._fps, decoder) if self._wanted else None
        self._begun, self._spent = monotonic(), 0.0

    def on_step(self, done: int, total: int, step: Step) -> None:
        """Show step ``done`` of ``total``."""
        self.last_step, now = step, monotonic()
        too_often = 1 < done < total and self._spent > PREVIEW_TIME_SHARE * (now - self._begun)
        if self._sketch is None or too_often:
            self._bar(done, total)
            return
        clip, size = self._sketch(step.x0), host.preview_size()
        host.send(EVENT, self._node_id, {"step": done, "steps": total, **moving(clip, size)})
        self._bar(done, total, still(clip, size // 2))  # the host enlarges it
        self._spent += monotonic() - now


def _sketcher(models: Models, fps: Fraction, decoder: AudioDecoder | None) -> Callable[[AVLatent], Sketch]:
    """Return what makes a sketch of a running x0."""
    factors = miniature_factors() if models.is_miniature else released_factors()
    mel_factors = miniature_mel_factors() if models.is_miniature else None
    each = Fraction(TIME_SCALE, factors.later.shape[1]) / fps  # seconds that a frame stands for, after the first

    def mel_of(audio: Tensor) -> Tensor | None:
        if mel_factors is not None:
            return preview_mel(audio, mel_factors)
        return None if decoder is None else decoder(audio[:1]).float()[0].mean(dim=0).cpu()

    def sketch(x0: AVLatent) -> Sketch:
        frames = None if x0.video is None else preview_frames(x0.video, factors)
        mel = None if x0.audio is None else mel_of(x0.audio)
        if x0.video is not None:
            seconds = float(pixel_frames(x0.video.shape[2]) / fps)
        else:
            seconds = 0.0 if mel is None else len(mel) / MEL_RATE
        later = 0 if frames is None else len(frames) - 1
        starts = [0.0, *(float(1 / fps + number * each) for number in range(later))]
        return Sketch(seconds, frames, starts, None if mel is None else mel_picture(_lasting(mel, seconds)))

    return sketch


def _lasting(mel: Tensor, seconds: float) -> Tensor:
    """``mel`` (T, bins), cut or filled with silence."""
    length = round(seconds * MEL_RATE)
    return F.pad(mel, (0, 0, 0, max(0, length - len(mel))), value=log(FLOOR))[:length]


def moving(clip: Sketch, size: int) -> dict[str, Any]:
    """All frames on one sheet, row by row, and the sound, for our widget; no side of a frame is above ``size``."""
    content: dict[str, Any] = {"seconds": clip.seconds, "video": None, "audio": None}
    if clip.frames is not None:
        frames = _at_most(clip.frames, size)
        _, height, width, _ = frames.shape
        columns = ceil(sqrt(len(frames)))
        empty = frames.new_zeros(-len(frames) % columns, height, width, 3)
        sheet = rearrange(torch.cat((frames, empty)), "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
        shape = {"width": width, "height": height, "columns": columns, "starts": clip.starts}
        content["video"] = {"image": host.data_url(sheet), **shape}
    if clip.sound is not None:
        bins, length, _ = clip.sound.shape
        content["audio"] = {"image": host.data_url(_resized(clip.sound[None], bins, min(length, size))[0])}
    return content


def still(clip: Sketch, size: int) -> Tensor | None:
    """One picture (H, W, 3): four moments in reading order (of a shorter clip the first), and under them the sound."""
    parts = []
    if clip.frames is not None:
        side = 2 if len(clip.frames) >= 4 else 1
        chosen = clip.frames[torch.linspace(0, len(clip.frames) - 1, 4).round().long() if side == 2 else [0]]
        scale = size / side / max(chosen.shape[1:3])
        chosen = _resized(chosen, round(chosen.shape[1] * scale), round(chosen.shape[2] * scale))
        chosen = F.pad(chosen, (0, 0, 1, 1, 1, 1))  # a thin dark frame around each
        parts.append(rearrange(chosen, "(rows columns) h w c -> (rows h) (columns w) c", rows=side))
    if clip.sound is not None:
        width = parts[0].shape[1] if parts else size
        parts.append(_resized(clip.sound[None], size // 6, width)[0])
    return torch.cat(parts) if parts else None


def _at_most(pictures: Tensor, size: int) -> Tensor:
    """(N, h, w, 3), made smaller if their longer side is above ``size``."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, size / max(height, width))
    return _resized(pictures, round(height * scale), round(width * scale))


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """(N, h, w, 3) at another size, smoothly."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    channels_first = rearrange(pictures, "n h w c -> n c h w")
    resized = F.interpolate(channels_first, (max(1, height), max(1, width)), mode="bilinear", antialias=True)
    return rearrange(resized.clamp(0, 1), "n c h w -> n h w c")
