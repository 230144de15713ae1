"""What people say about light: in which space their EXR files are, and what becomes of an HDR clip."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..fields import Checked, Choice, Number, OutputName, Switch
from ..geometry import exact_fps
from ..media import write_clip
from ..media.exr import ExrFrames
from ..media.light import ACESCCT, ACESCG, LOGC3, SRGB_LINEAR, Grading, Space, convert
from .sources import AudioSource, samples_of

__all__ = [
    "FILE_SPACES", "MODEL_SPACES", "GivenLight", "Grading", "LightDecoding", "LightSource", "LightTarget",
    "check_light", "holds_light",
]  # fmt: skip

FILE_SPACES = {space.name: space for space in (SRGB_LINEAR, ACESCG, ACESCCT)}
ORDINARY = "SDR"  # what pictures are called that are no light
# By the names that headers of HDR IC-LoRAs have for them; "true" says only that it is one.
MODEL_SPACES = {"acescct": ACESCCT, "logc3": LOGC3, "true": LOGC3}


@dataclass(frozen=True)
class LightSource(Checked):
    """Light that is read from an .exr file, or from a folder of them."""

    space: Annotated[
        str,
        Choice(tuple(FILE_SPACES), flag="hdr"),
        "What the numbers of the files mean: light of sRGB or of ACEScg, or codes of ACEScct.",
    ] = SRGB_LINEAR.name

    def frames(self, path: Path) -> ExrFrames:
        """Return the files of ``path``."""
        return ExrFrames(path, FILE_SPACES[self.space])

    def read(self, path: Path) -> tuple[Tensor, Tensor]:
        """Return all frames (F, H, W, 3) of ``path``: in linear light of sRGB, and as LTX-2.5 sees them."""
        frames = self.frames(path)
        pixels = torch.cat([*frames.read(range(len(frames)))])
        return convert(pixels, frames.space, SRGB_LINEAR, wide=True), convert(pixels, frames.space, ACESCCT)


@dataclass(frozen=True)
class GivenLight(Checked):
    """What the numbers of given pictures mean."""

    space: Annotated[
        str,
        Choice((ORDINARY, *FILE_SPACES), advanced=True, flag="hdr"),
        "What the numbers of the pictures mean: SDR for ordinary pictures; for HDR light of sRGB, as LTX-2 Load HDR "
        "gives it, or of ACEScg, or codes of ACEScct. Light has no upper limit, is not compressed, and needs LTX-2.5.",
    ] = ORDINARY

    @property
    def meant(self) -> Space | None:
        """The space of light; None for ordinary pictures."""
        return FILE_SPACES.get(self.space)


@dataclass(frozen=True)
class LightDecoding(Checked):
    """Whether frames are decoded as light."""

    hdr: Annotated[
        bool,
        Switch(advanced=True, flag="hdr"),
        "Decodes HDR: frames in linear light of sRGB, which has no upper limit, for LTX-2 Save HDR. For LTX-2.5, or an "
        "older model with an HDR IC-LoRA; takes float32, and so more memory.",
    ] = False
    every_second: Annotated[
        bool,
        Switch(advanced=True, flag="high_quality"),
        "Hands on every second frame, the first among them: of a clip whose reference showed each frame twice.",
    ] = False


CHUNK_FRAMES = 8  # that are converted at once
FORMS = {"HLG video": ".mp4", "EXR frames": ""}


@dataclass(frozen=True)
class LightTarget(OutputName):
    """Light that is written: as a video for screens, or as pictures for grading."""

    form: Annotated[
        str,
        Choice(tuple(FORMS), flag="output"),
        "HLG video is an .mp4 of 10 bit (HEVC, BT.2020) for screens and players; EXR frames are a folder of half-float "
        "pictures for grading, with sound.wav beside them.",
    ] = "HLG video"
    space: Annotated[
        str,
        Choice(tuple(FILE_SPACES), flag="hdr"),
        "In which space EXR frames are: light of sRGB or of ACEScg, or codes of ACEScct.",
    ] = SRGB_LINEAR.name
    fps: Annotated[float, Number(1, 240, 0.001, digits=0.001, unit="frames per second"), "Frames per second."] = 24.0

    @property
    def suffix(self) -> str:
        """The end of the name."""
        return FORMS[self.form]

    def write(
        self,
        path: str | os.PathLike,
        frames: Tensor,
        sound: AudioSource | None,
        tags: Mapping[str, str] | None = None,
    ) -> Path:
        """Write frames (F, H, W, 3) in linear light of sRGB to ``path``, which ends as ``suffix`` says.

        The files carry ``tags``.
        """
        grading, fps = Grading(SRGB_LINEAR, FILE_SPACES[self.space]), exact_fps(self.fps)
        chunks = frames.split(CHUNK_FRAMES)
        return write_clip(path, chunks, fps, *samples_of(sound), metadata=tags, grading=grading)


def holds_light(conditions: Iterable[Any]) -> bool:
    """Return whether any of the given pictures and videos is light."""
    return True in _lights(conditions)


def check_light(conditions: Iterable[Any], grading: Grading | None, takes_ordinary: bool) -> None:
    """Refuse given pictures and videos that a clip cannot take.

    Args:
        conditions: all that is given.
        grading: of the clip; None for SDR.
        takes_ordinary: whether it may be made of ordinary videos, as HDR IC-LoRAs do.

    Raises:
        SettingError: for light in a clip of SDR, or of a model that sees another space; for ordinary pictures in a clip
            of HDR that does not take them; for both in one clip.
    """
    lights = _lights(conditions)
    if lights == {True, False}:
        raise SettingError(
            "Light (EXR) and ordinary pictures or videos do not go together: give all of them as light, and say its "
            "space, or none."
        )
    if lights == {True} and (grading is None or grading.seen is not ACESCCT):
        raise SettingError(
            "EXR files hold light, which only LTX-2.5 sees, in a clip of HDR: say their space with hdr, or convert "
            "them to ordinary pictures."
        )
    if lights == {False} and grading is not None and not takes_ordinary:
        raise SettingError(
            "A clip of HDR takes pictures and videos as EXR files, whose light has no limit: convert them, or leave "
            "hdr out."
        )


def _lights(conditions: Iterable[Any]) -> set[bool]:
    """Whether given pictures and videos are light, of all that there are."""
    return {
        pictures.space is not None
        for condition in conditions
        if hasattr(pictures := getattr(condition, "video", condition), "space")
    }
