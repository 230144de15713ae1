"""A finished clip and what it was made of, the parts that it kept as they were (``README.md``, "References")."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import SettingError
from ..errors.stopping import check_stop
from ..fields import Checked, Whole
from ..geometry import TIME_SCALE, ClipShape
from ..media import change_rate
from .conditions import Condition, InitClip, ReferenceVideo
from .kept import remade
from .masks import feathered
from .values import FRAMES, PIXELS, check_values

LEVELS = 7  # of the pyramid, as far as the picture is large enough
COARSE = 64  # pixels of the longer side, of the mask that is widened
AT_ONCE = 2  # frames; a pyramid takes memory, and frames have nothing to do with each other

_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclass(frozen=True)
class Blending(Checked):
    """How what was made anew passes into what was kept."""

    radius: Annotated[
        int,
        Whole(0, 15),
        "How far around what was made anew it is taken, too, in 64ths of the longer side, before it passes over "
        "softly. More where a shade or a rim is left; 2 to 6 are usual.",
    ] = 5

    def frames(self, chunks: Iterable[Tensor], conditions: Iterable[Condition], shape: ClipShape) -> Iterator[Tensor]:
        """Yield frames that show the clip where it was made anew, and everywhere else what it was made of.

        Args:
            chunks: consecutive frames (F, H, W, 3) of the clip, in 0..1, of any size.
            conditions: what it was made with; the first reference of which a part was made anew counts, else the clip
                that was changed or continued.
            shape: of the clip.

        Yields:
            (F, H, W, 3) in 0..1; where the other one has ended, the frames as they come.

        Raises:
            SettingError: there is neither, or frames are no pictures.
        """
        original, number = _original(conditions, shape), 0
        for chunk in (part for each in chunks for part in each.split(AT_ONCE)):
            check_stop()
            check_values("The clip to blend", chunk, PIXELS, FRAMES)
            shown = max(0, min(len(chunk), original.count - number))
            if shown:
                pixels, mask = original.take(number, shown, chunk.shape[2], chunk.shape[1])
                pixels, mask = pixels.to(chunk), mask.to(chunk)
                pixels = torch.lerp(pixels, chunk[:shown], mask[..., None])  # so that neither grey nor green is left
                blended = blend(chunk[:shown], pixels, widen(mask, self.radius))
                chunk = torch.cat((blended, chunk[shown:]))
            number += len(chunk)
            yield chunk

    @staticmethod
    def sound(waveform: Tensor, rate: int, conditions: Iterable[Condition], shape: ClipShape) -> tuple[Tensor, int]:
        """Return a sound that is the clip's where that was made anew, and everywhere else what it was made of.

        Args:
            waveform: of the clip (1 or 2, N).
            rate: its sample rate, Hz.
            conditions: what it was made with; the clip that was changed or continued counts, if it has a sound.
            shape: of the clip.

        Returns:
            A waveform (1 or 2, N) and its sample rate, the higher one of both.
        """
        given = tuple(conditions)
        before = next((each.audio for each in given if isinstance(each, InitClip) and each.audio is not None), None)
        mask = None if before is None else remade(given, shape).audio
        if before is None or mask is None or mask.min() == 1:
            return waveform, rate
        highest = max(rate, before.sample_rate)
        made, kept = (
            change_rate(waveform, rate, highest),
            change_rate(before.lasting(shape), before.sample_rate, highest),
        )
        made, kept = (each.expand(max(len(made), len(kept)), -1) for each in (made, kept))
        length = min(made.shape[-1], kept.shape[-1])
        weights = F.interpolate(mask[:, 0, None, :, 0], length, mode="linear", align_corners=False)[0, 0]
        return torch.lerp(kept[:, :length], made[:, :length], weights), highest

    @staticmethod
    def check(conditions: Iterable[Condition], shape: ClipShape) -> None:
        """Raise SettingError unless a clip of ``shape`` keeps a part of what it is made with."""
        _original(conditions, shape)


def grown(conditions: Iterable[Condition], scale: Fraction) -> Iterator[Condition]:
    """Yield ``conditions`` for frames that are ``scale`` times as large: masks grow by as many pixels more."""
    for each in conditions:
        yield replace(each, grow=round(each.grow * scale)) if isinstance(each, ReferenceVideo) else each


class _Original:
    """What a clip keeps a part of: its frames, and where they are made anew, in the pieces that are asked for.

    ``opened`` returns for a width and a height frames (1, 3, F, H, W) in -1..1, and a mask (1 or F, h, w) in 0..1 of
    any size; the first ``count`` of them count.
    """

    def __init__(self, count: int, opened: Callable[[int, int], tuple[Iterator[Tensor], Tensor | None]]):
        self.count, self._opened = count, opened
        self._chunks: Iterator[Tensor] | None = None

    def take(self, first: int, count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Return the next frames (F, H, W, 3) in 0..1, and their mask (F, H, W)."""
        if self._chunks is None:
            (self._chunks, self._mask), self._rest = self._opened(width, height), torch.empty(1, 3, 0, height, width)
        while self._rest.shape[2] < count:
            self._rest = torch.cat((self._rest, next(self._chunks).float()), dim=2)
        taken, self._rest = self._rest.split((count, self._rest.shape[2] - count), dim=2)
        assert self._mask is not None
        mask = self._mask if len(self._mask) == 1 else self._mask[first : first + count]
        mask = F.interpolate(mask[:, None], (height, width))[:, 0]
        return rearrange(taken[0] / 2 + 0.5, "c f h w -> f h w c"), mask.expand(count, -1, -1)


def _original(conditions: Iterable[Condition], shape: ClipShape) -> _Original:
    """Find what a clip keeps a part of: a reference, else the clip that it begins as. SettingError without any."""
    given = tuple(conditions)
    for each in given:
        if isinstance(each, ReferenceVideo) and each.remakes:
            return _of_reference(each, shape.fps)
    for each in given:
        if isinstance(each, InitClip):
            return _of_clip(each, given, shape)
    raise SettingError(
        "There is nothing to blend: give the clip that is changed or continued, or a reference video with fill or "
        "outpaint, of which a part is made anew."
    )


def _of_reference(reference: ReferenceVideo, fps: Fraction) -> _Original:
    count = reference.video.count(fps)
    if reference.fill is not None and len(reference.fill) > 1:
        count = min(count, len(reference.fill))
    return _Original(count, lambda width, height: reference.shown(fps, count, width, height))


def _of_clip(clip: InitClip, given: Iterable[Condition], shape: ClipShape) -> _Original:
    """A clip that is changed or continued, which passes over into what is new in ``TIME_SCALE`` frames."""
    cells = remade(given, shape).video
    assert cells is not None
    if cells.min() == 1:
        raise SettingError(
            "There is nothing to blend: all of the clip is made anew. Say which part of it is, with a retake or a "
            "mask, or do not blend."
        )
    count, cells = clip.frames_in(shape), cells[0, 0]
    mask = torch.cat((cells[:1], cells[1:].repeat_interleave(TIME_SCALE, dim=0)))
    mask = feathered(mask, TIME_SCALE, (3, 1, 1))
    return _Original(count, lambda width, height: (clip.video.fitted(shape.fps, count, width, height), mask))


def widen(mask: Tensor, radius: int) -> Tensor:
    """Let a mask (F, H, W) in 0..1 grow by ``radius`` pixels of a small picture, whose longer side has 64, softly."""
    if not radius:
        return mask
    scale = COARSE / max(mask.shape[-2:])
    small = [max(1, round(side * scale)) for side in mask.shape[-2:]]
    coarse = F.interpolate(mask[:, None].float(), small, mode="bilinear", align_corners=False)
    coarse = F.max_pool2d(coarse, 2 * radius + 1, stride=1, padding=radius)
    return F.interpolate(coarse, mask.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def blend(made: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """Blend frames band by band: coarse structure passes over widely, fine structure sharply.

    Args:
        made: (F, H, W, 3) in 0..1, shown where ``mask`` is 1.
        kept: (F, H, W, 3) in 0..1, shown where it is 0.
        mask: (F, H, W) in 0..1.

    Returns:
        (F, H, W, 3) in 0..1.

    Source: Burt and Adelson, A Multiresolution Spline (1983), in the form of LTXVLaplacianPyramidBlend of
    ComfyUI-LTXVideo.
    """
    height, width = mask.shape[1:]
    padding = (0, _next_power(width) - width, 0, _next_power(height) - height)
    sides = height + padding[3], width + padding[1]
    count = min(LEVELS, min(sides).bit_length() - 1)
    # Every step is linear, so bands of the difference are enough.
    change = rearrange(made.float() - kept.float(), "f h w c -> f c h w").contiguous()
    changes, weights = (_gaussians(F.pad(each, padding, "reflect"), count) for each in (change, mask[:, None].float()))
    coarse, weight = changes.pop(), weights.pop()
    blended = coarse * weight
    for fine, weight in zip(reversed(changes), reversed(weights)):
        blended = torch.addcmul(_enlarge(blended), fine - _enlarge(coarse), weight)
        coarse = fine
    return (kept + rearrange(blended[..., :height, :width], "f c h w -> f h w c")).clamp(0, 1).to(made.dtype)


def _next_power(side: int) -> int:
    return 1 << (side - 1).bit_length()


def _gaussians(frames: Tensor, count: int) -> list[Tensor]:
    levels = [frames]
    while len(levels) < count:
        smooth = _smooth(levels[-1])
        half = [side // 2 for side in smooth.shape[-2:]]
        levels.append(F.interpolate(smooth, half, mode="bilinear", align_corners=False))
    return levels


def _enlarge(frames: Tensor) -> Tensor:
    double = [2 * side for side in frames.shape[-2:]]
    return _smooth(F.interpolate(frames, double, mode="bilinear", align_corners=False))


def _smooth(frames: Tensor) -> Tensor:
    """Smooth (F, C, H, W) by a binomial kernel of 5 x 5, row by row and column by column."""
    for axis, padding in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded, length = F.pad(frames, padding, "reflect"), frames.shape[axis]
        frames = _TAPS[0] * padded.narrow(axis, 0, length)
        for number, tap in enumerate(_TAPS[1:], 1):  # a third of what a convolution by channels takes on a CPU
            frames.add_(padded.narrow(axis, number, length), alpha=tap)
    return frames
