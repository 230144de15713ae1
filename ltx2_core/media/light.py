"""HDR: light above white, in the spaces in which files hold it and models see it, and as an HLG screen shows it.

Sources: release 1.2.0 of the official packages for what is used where, and for the matrices; S-2016-001 of the Academy
for ACEScct, ARRI for LogC3 at EI 800, ITU-R BT.2100 for HLG. See ``README.md``, "HDR".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .colour import BT709_PRIMARIES, D65, HLG_CURVE

Point = tuple[float, float]
Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Primaries:
    """Chromaticities x, y of red, green, blue and white."""

    red: Point
    green: Point
    blue: Point
    white: Point

    @property
    def chromaticities(self) -> tuple[float, ...]:
        """All eight numbers, in the order in which EXR files say them."""
        return (*self.red, *self.green, *self.blue, *self.white)


BT709 = Primaries(*BT709_PRIMARIES, D65)
AP1 = Primaries((0.713, 0.293), (0.165, 0.830), (0.128, 0.044), (0.32168, 0.33767))

# Linear light of AP1 (white D60) to BT.709 (white D65), and BT.709 to BT.2020 (ITU-R BT.2087).
_AP1_TO_BT709 = ((1.70505, -0.62179, -0.08326), (-0.13026, 1.1408, -0.01055), (-0.024, -0.12897, 1.15297))
_BT709_TO_BT2020 = (
    (0.62740389, 0.32928304, 0.04331307),
    (0.06909729, 0.9195404, 0.01136232),
    (0.01639144, 0.08801331, 0.89559525),
)


@dataclass(frozen=True)
class LogCurve:
    """How light from 0 on becomes codes in 0..1, which a VAE can take, and back."""

    encode: Curve
    decode: Curve


def _encode_acescct(light: Tensor) -> Tensor:
    log = (light.clamp(min=1e-12).log2() + 9.72) / 17.52
    return torch.where(light > 0.0078125, log, 10.5402377416545 * light + 0.0729055341958355)


def _decode_acescct(codes: Tensor) -> Tensor:
    linear = (codes - 0.0729055341958355) / 10.5402377416545
    return torch.where(codes > 0.155251141552511, (codes * 17.52 - 9.72).exp2(), linear)


def _encode_logc3(light: Tensor) -> Tensor:
    log = 0.247190 * (5.555556 * light + 0.052272).log10() + 0.385537
    return torch.where(light >= 0.010591, log, 5.367655 * light + 0.092809)


def _decode_logc3(codes: Tensor) -> Tensor:
    linear = (codes - 0.092809) / 5.367655
    log = (10 ** ((codes - 0.385537) / 0.247190) - 0.052272) / 5.555556
    return torch.where(codes >= 5.367655 * 0.010591 + 0.092809, log, linear)


@dataclass(frozen=True)
class Space:
    """What the three numbers of a pixel mean; without a ``curve`` they are proportional to light."""

    name: str
    primaries: Primaries
    curve: LogCurve | None = None


SRGB_LINEAR = Space("sRGB linear", BT709)
ACESCG = Space("ACEScg", AP1)
ACESCCT = Space("ACEScct", AP1, LogCurve(_encode_acescct, _decode_acescct))
LOGC3 = Space("LogC3", BT709, LogCurve(_encode_logc3, _decode_logc3))


@dataclass(frozen=True)
class Grading:
    """The spaces of an HDR clip: ``seen`` is that of the frames of a model, ``kept`` that of EXR files."""

    seen: Space
    kept: Space = SRGB_LINEAR

    def to_light(self, frames: Tensor, wide: bool = False) -> Tensor:
        """Return frames (..., 3) of the model in linear light of sRGB, ``wide`` as in ``convert``."""
        return convert(frames.float(), self.seen, SRGB_LINEAR, wide)

    def to_file(self, frames: Tensor) -> Tensor:
        """Return frames (..., 3) of the model as files hold them."""
        return convert(frames.float(), self.seen, self.kept)


def convert(pixels: Tensor, source: Space, target: Space, wide: bool = False) -> Tensor:
    """Return pixels (..., 3) of one space in another.

    Light below 0, and codes outside of 0..1, are cut off. Light that stays in its space is not touched, and where it is
    ``wide``, colours beyond the primaries of a target without a curve stay light below 0, from which they come back.
    """
    if source is target:
        return pixels if target.curve is None else pixels.clamp(0, 1)
    light = pixels if source.curve is None else source.curve.decode(pixels.clamp(0, 1))
    if source.primaries != target.primaries:
        light = light @ _matrix(source.primaries).to(light).T
    if target.curve is None:
        return light if wide else light.clamp(min=0)
    return target.curve.encode(light.clamp(min=0)).clamp(0, 1)


def to_hlg(light: Tensor) -> Tensor:
    """Return how HLG (ITU-R BT.2100) codes light (..., 3) of BT.709: signals in 0..1 of BT.2020.

    White, which is 1, becomes the signal 0.75; what is brighter is rolled off towards the brightest that HLG has.
    """
    a, b, c = HLG_CURVE
    scene = (light @ light.new_tensor(_BT709_TO_BT2020).T).clamp(min=0)
    white = (math.exp((0.75 - c) / a) + b) / 12
    rolled = 1 - (1 - white) * (-white / (1 - white) * (scene - 1)).exp()
    scene = torch.where(scene <= 1, scene * white, rolled)
    log = a * (12 * scene - b).clamp(min=1e-12).log() + c
    return torch.where(scene <= 1 / 12, (3 * scene).sqrt(), log).clamp(0, 1)


@cache
def _matrix(source: Primaries) -> Tensor:
    """The 3 x 3 matrix from linear light of ``source`` to the other primaries, in float64."""
    to_bt709 = torch.tensor(_AP1_TO_BT709, dtype=torch.float64, device="cpu")
    return to_bt709 if source == AP1 else to_bt709.inverse()
