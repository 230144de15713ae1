"""A running clip, coarsely: small frames of every step, and a picture of its sound."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from math import ceil, log, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..audio_vae.config import MEL_RATE
from ..audio_vae.mel import FLOOR
from ..audio_vae.preview import mel_picture
from ..geometry import TIME_SCALE, pixel_frames
from ..latents import AVLatent
from ..video_vae.preview import PreviewFactors, preview_frames


@dataclass(frozen=True)
class Sheet:
    """All frames of a sketch in one picture.

    Attributes:
        picture: (H, W, 3) in 0..1: the frames row by row, the last row filled up with black.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        columns: frames in a row.
    """

    picture: Tensor
    width: int
    height: int
    columns: int


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

    def sheet(self, size: int) -> Sheet | None:
        """Return all frames in one picture, each at most ``size`` pixels long; None without frames."""
        if self.frames is None:
            return None
        frames = _at_most(self.frames, size)
        _, height, width, _ = frames.shape
        columns = ceil(sqrt(len(frames)))
        empty = frames.new_zeros(-len(frames) % columns, height, width, 3)
        pattern = "(rows columns) h w c -> (rows h) (columns w) c"
        return Sheet(rearrange(torch.cat((frames, empty)), pattern, columns=columns), width, height, columns)

    def sound_picture(self, size: int) -> Tensor | None:
        """Return the mel spectrogram (64, T, 3), at most ``size`` pixels long; None without sound."""
        if self.sound is None:
            return None
        bins, length, _ = self.sound.shape
        return _resize(self.sound[None], bins, min(length, size))[0]

    def as_message(self, size: int) -> dict[str, Any]:
        """Return all frames on one sheet, and the sound, for a browser; no side of a frame is above ``size``."""
        content: dict[str, Any] = {"seconds": self.seconds, "video": None, "audio": None}
        if sheet := self.sheet(size):
            shape = {"width": sheet.width, "height": sheet.height, "columns": sheet.columns, "starts": self.starts}
            content["video"] = {"image": data_url(sheet.picture), **shape}
        if (sound := self.sound_picture(size)) is not None:
            content["audio"] = {"image": data_url(sound)}
        return content

    def still(self, size: int) -> Tensor | None:
        """Return one picture (H, W, 3): four moments in reading order, of a shorter clip the first, above the sound."""
        parts = []
        if self.frames is not None:
            side = 2 if len(self.frames) >= 4 else 1
            chosen = self.frames[torch.linspace(0, len(self.frames) - 1, 4).round().long() if side == 2 else [0]]
            scale = size / side / max(chosen.shape[1:3])
            chosen = _resize(chosen, round(chosen.shape[1] * scale), round(chosen.shape[2] * scale))
            chosen = F.pad(chosen, (0, 0, 1, 1, 1, 1))  # a thin dark frame around each
            parts.append(rearrange(chosen, "(rows columns) h w c -> (rows h) (columns w) c", rows=side))
        if self.sound is not None:
            width = parts[0].shape[1] if parts else size
            parts.append(_resize(self.sound[None], size // 6, width)[0])
        return torch.cat(parts) if parts else None


def sketch(x0: AVLatent, fps: Fraction, factors: PreviewFactors, to_mel: Callable[[Tensor], Tensor | None]) -> Sketch:
    """Return a sketch of a running ``x0``.

    Args:
        x0: (B, C, F, H, W) and (B, C, T, M); the first clip is shown.
        fps: frames per second of the clip.
        factors: from latents to colours.
        to_mel: returns the mel spectrogram (T, 64) of an audio latent (B, C, T, M), or None.
    """
    frames = None if x0.video is None else preview_frames(x0.video, factors)
    mel = None if x0.audio is None else to_mel(x0.audio)
    if x0.video is not None:
        seconds = float(pixel_frames(x0.video.shape[2]) / fps)
    else:
        seconds = 0.0 if mel is None else len(mel) / MEL_RATE
    each = Fraction(TIME_SCALE, factors.later.shape[1]) / fps  # seconds that a frame stands for, after the first
    later = 0 if frames is None else len(frames) - 1
    starts = [0.0, *(float(1 / fps + number * each) for number in range(later))]
    return Sketch(seconds, frames, starts, None if mel is None else mel_picture(_fit_length(mel, seconds)))


def _fit_length(mel: Tensor, seconds: float) -> Tensor:
    """Return ``mel`` (T, bins), cut or filled with silence."""
    length = round(seconds * MEL_RATE)
    return F.pad(mel, (0, 0, 0, max(0, length - len(mel))), value=log(FLOOR))[:length]


def _at_most(pictures: Tensor, size: int) -> Tensor:
    """Return (N, h, w, 3), made smaller if their longer side is above ``size``."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, size / max(height, width))
    return _resize(pictures, round(height * scale), round(width * scale))


def _resize(pictures: Tensor, height: int, width: int) -> Tensor:
    """Return (N, h, w, 3) at another size, smoothly."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    channels_first = rearrange(pictures, "n h w c -> n c h w")
    resized = F.interpolate(channels_first, (max(1, height), max(1, width)), mode="bilinear", antialias=True)
    return rearrange(resized.clamp(0, 1), "n c h w -> n h w c")


def data_url(picture: Tensor) -> str:
    """Return a picture (H, W, 3) in 0..1 as a JPEG in the form of an address."""
    file = BytesIO()
    as_image(picture).save(file, "JPEG", quality=95, subsampling=0)  # frames may be tiny, and lie side by side
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()


def as_image(picture: Tensor) -> Image.Image:
    """Return a picture (H, W, 3) in 0..1 as one of Pillow's."""
    return Image.fromarray(picture.mul(255).round().byte().cpu().numpy())
