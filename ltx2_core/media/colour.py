"""Pictures of wide gamut and of HDR, brought to what an ordinary screen shows: BT.709 primaries, SDR and BT.1886."""

from functools import cache

import torch
from torch import Tensor

# FFmpeg's numbers for primaries, matrices and transfers (ISO/IEC 23091-2).
RGB, BT709, UNKNOWN, BT2020, DISPLAY_P3 = 0, 1, 2, 9, 12
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18
BT709_CURVES = (1, 6, 14, 15)  # transfers of one curve
HDR = {PQ: "PQ", HLG: "HLG"}
MATRICES = (*range(8), BT2020)  # that FFmpeg can undo
HDR_MATRICES = (RGB, BT709, UNKNOWN, BT2020)  # of these, that HDR is coded by; ICtCp, above all, is none
# Chromaticities x, y of red, green and blue (ITU-R BT.709, ITU-R BT.2020, SMPTE EG 432-1); white is D65 in each.
BT709_PRIMARIES = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
WIDE_PRIMARIES = {
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)
_PQ = (2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32)  # m1, m2, c1, c2, c3
HLG_CURVE = (0.17883277, 0.28466892, 0.55991073)  # a, b, c
GAMMA = 2.4  # of an SDR screen (ITU-R BT.1886)
WHITE = 203.0  # nits of the reference white of HDR, which is the white of SDR here (ITU-R BT.2408)
PEAK = 1000.0  # nits of the brightest light that is told from others


def is_ordinary(primaries: int, transfer: int) -> bool:
    """Return whether pictures with these tags are read as they are: of no wide gamut that we know, and neither HDR
    nor light itself."""
    return primaries not in WIDE_PRIMARIES and transfer not in (*HDR, LINEAR)


def is_known(primaries: int, transfer: int) -> bool:
    """Return whether a picture with these tags needs nothing else, such as a profile, to be read as it is meant."""
    return primaries in (BT709, *WIDE_PRIMARIES) and transfer in (*BT709_CURVES, LINEAR, SRGB, *HDR)


def to_bt709(rgb: Tensor, primaries: int, transfer: int, srgb: bool = False) -> Tensor:
    """Convert pictures to BT.709 primaries and, where they are HDR, tone-map them to SDR.

    Greys stay grey, and colours that BT.709 does not have are moved towards the grey of their luminance until they fit.

    Args:
        rgb: (..., 3) in 0..1, as coded.
        primaries: FFmpeg's number; HDR without known ones is of BT.2020.
        transfer: FFmpeg's number; any but sRGB, PQ, HLG and linear light (1 is white) counts as SDR of BT.1886.
        srgb: codes linear light by the curve of sRGB, by which single pictures are shown.

    Returns:
        (..., 3) in 0..1, for a screen of BT.709 and BT.1886; what is coded by the curve of sRGB stays so.
    """
    if transfer in HDR:
        primaries = BT2020 if primaries == UNKNOWN else primaries
        light = tone_map(pq_to_nits(rgb) if transfer == PQ else hlg_to_nits(rgb)) / WHITE
    else:
        light = rgb if transfer == LINEAR else srgb_to_light(rgb) if transfer == SRGB else rgb**GAMMA
    light = fit_gamut(light @ matrix_to_bt709(primaries).to(rgb).T)
    by_srgb = transfer == SRGB or (srgb and transfer == LINEAR)
    return light_to_srgb(light) if by_srgb else light ** (1 / GAMMA)


def srgb_to_light(code: Tensor) -> Tensor:
    """Return the light in 0..1 of values that are coded by the curve of sRGB (IEC 61966-2-1)."""
    return torch.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def light_to_srgb(light: Tensor) -> Tensor:
    """Return the values by which the curve of sRGB (IEC 61966-2-1) codes light in 0..1."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq_to_nits(code: Tensor) -> Tensor:
    """Return the light in nits of values in 0..1 that are coded by PQ (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = _PQ
    power = code.clamp(0, 1) ** (1 / m2)
    return 10_000 * ((power - c1).clamp(min=0) / (c2 - c3 * power)) ** (1 / m1)


def nits_to_pq(nits: Tensor) -> Tensor:
    """Return the values in 0..1 by which PQ (SMPTE ST 2084) codes light in nits."""
    m1, m2, c1, c2, c3 = _PQ
    power = (nits / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_to_nits(code: Tensor) -> Tensor:
    """Return the light in nits, on a screen of 1,000 nits, of values (..., 3) in 0..1 coded by HLG (ITU-R BT.2100)."""
    a, b, c = HLG_CURVE
    scene = torch.where(code <= 0.5, code**2 / 3, (((code - c) / a).exp() + b) / 12)
    luminance = scene @ scene.new_tensor((0.2627, 0.6780, 0.0593))
    return 1000 * luminance[..., None] ** 0.2 * scene


def tone_map(nits: Tensor) -> Tensor:
    """Bring light (..., 3) of up to ``PEAK`` nits down to ``WHITE``, in the ratios of its channels.

    The brightest channel follows the curve of ITU-R BT.2390 (EETF), the others come along, so no colour changes and
    none is clipped alone. What is darker than about 90 nits stays as it is; what is brighter than ``PEAK`` is as bright
    as that.
    """
    brightest = nits.amax(-1, keepdim=True)
    source = nits_to_pq(nits.new_tensor(PEAK))
    target = nits_to_pq(nits.new_tensor(WHITE)) / source
    knee = 1.5 * target - 0.5
    value = (nits_to_pq(brightest) / source).clamp(max=1)
    t = ((value - knee) / (1 - knee)).clamp(min=0)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    mapped = pq_to_nits(source * rolled)
    return torch.where(value <= knee, nits, nits * (mapped / brightest.clamp(min=1e-6)))


def fit_gamut(light: Tensor) -> Tensor:
    """Move linear light (..., 3) of BT.709 towards the grey of its luminance until every channel is within 0..1."""
    grey = (light @ _rgb_to_xyz(BT709_PRIMARIES)[1].to(light))[..., None].clamp(0, 1)
    least, most = light.amin(-1, keepdim=True), light.amax(-1, keepdim=True)
    keep = torch.minimum(grey / (grey - least).clamp(min=1e-9), (1 - grey) / (most - grey).clamp(min=1e-9))
    return (grey + keep.clamp(max=1) * (light - grey)).clamp(0, 1)


@cache
def matrix_to_bt709(primaries: int) -> Tensor:
    """Return the 3 x 3 matrix that brings linear light from these primaries to those of BT.709."""
    own = WIDE_PRIMARIES.get(primaries, BT709_PRIMARIES)
    with torch.device("cpu"):  # for whoever asks next, whatever this caller computes on
        return torch.linalg.solve(_rgb_to_xyz(BT709_PRIMARIES), _rgb_to_xyz(own))


def _rgb_to_xyz(primaries: tuple[tuple[float, float], ...]) -> Tensor:
    """The 3 x 3 matrix from linear light of primaries with white D65 to CIE XYZ (SMPTE RP 177), in float64."""
    points = torch.tensor([*primaries, D65], dtype=torch.float64)
    x, y = points.T
    *columns, white = torch.stack((x / y, torch.ones_like(y), (1 - x - y) / y), dim=1)
    matrix = torch.stack(columns, dim=1)
    return matrix * torch.linalg.solve(matrix, white)
