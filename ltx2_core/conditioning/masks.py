"""Parts of a clip that are made anew while the rest stays (``README.md``, "Masks")."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from .state import State, tokens

# Soft masks are rounded to this many steps: each noise level that occurs in a clip costs memory in the transformer.
_STEPS = 32


@dataclass(frozen=True, eq=False)
class Inpaint:
    """Generate where ``mask`` is 1 and keep, with ``strength``, where it is 0; in between, partly.

    What is kept is ``latent``, or what the clip begins with. Masks of several items multiply.
    """

    stream: str
    mask: Tensor  # (B or 1, 1, F, H, W) or (B or 1, 1, T, 1), 0..1, cells of the latent
    latent: Tensor | None = None  # (B or 1, C, F, H, W) or (B or 1, C, T, M)
    strength: float = 1.0

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError for a mask or a latent of another size than the clip."""
        size = (1, *state.shape[1:]) if self.stream == "video" else (1, state.shape[1], 1)
        if self.mask.shape[1:] != size:
            raise SettingError(
                f"The mask of the {self.stream} has the shape {tuple(self.mask.shape[1:])}, this clip needs {size}: "
                "make it of the same size and length."
            )
        generated = (tokens(self.mask).to(state.mask) * _STEPS).round() / _STEPS
        state = keep(state, generated, self.strength)
        if self.latent is None:
            return state
        if self.latent.shape[1:] != state.shape:
            raise SettingError(
                f"What the mask of the {self.stream} keeps has the latent {tuple(self.latent.shape[1:])}, the clip "
                f"{state.shape}: encode it at the size and length of the clip."
            )
        clean = torch.lerp(tokens(self.latent).to(state.clean), state.own(state.clean), generated)
        return replace(state, clean=state.with_own(state.clean, clean))


@dataclass(frozen=True, eq=False)
class Retake:
    """Generate what lies between two times, in seconds, and keep the rest of what the clip begins with.

    ``more`` are further ranges, each from a time to another one.
    """

    stream: str
    start: float
    end: float
    more: tuple[tuple[float, float], ...] = ()

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError for an empty range, and for one outside the clip."""
        inside = torch.stack([self._inside(state, *span) for span in ((self.start, self.end), *self.more)])
        return keep(state, inside.any(0).float())

    def _inside(self, state: State, first: float, last: float) -> Tensor:
        """Which tokens (B, n, 1) touch a range."""
        if first >= last:
            raise SettingError(
                f"The range to retake goes from {first:g} s to {last:g} s; it must end after its beginning."
            )
        start, end = state.positions[:, 0, : state.count, :, None].unbind(2)
        inside = (end > first) & (start < last)
        if not inside.any():
            what = "clip" if self.stream == "video" else "sound of the clip"
            raise SettingError(
                f"The range to retake goes from {first:g} s to {last:g} s, but the {what} ends at "
                f"{end.max().item():.2f} s: choose a range inside."
            )
        return inside


def keep(state: State, generated: Tensor, strength: float = 1.0) -> State:
    """Keep more of the own tokens of ``state``, with ``strength``, where ``generated`` (B, n, 1) is below 1."""
    mask = state.own(state.mask) * generated + (1 - strength) * (1 - generated)
    return replace(state, mask=state.with_own(state.mask, mask))


def cells(mask: Tensor, shape: tuple[int, int, int], every: int = 1) -> Tensor:
    """Reduce a mask of pixels to cells of a latent: each cell is the mean of the pixels that it shows.

    Args:
        mask: (F, H, W) in 0..1; F is 1, for the same mask in all frames, or the number of frames of the latent.
        shape: (f, h, w) of the latent.
        every: Of how many frames, after the first, the latent shows one; F may count the others, too.

    Raises:
        SettingError: For another number of frames.
    """
    length, height, width = shape
    frames = geometry.pixel_frames(length)
    if len(mask) not in (1, frames, (frames - 1) * every + 1):
        raise SettingError(f"The mask has {len(mask)} frames; it needs 1, or {frames} as the clip.")
    small = F.interpolate(mask[:, None].float(), (height, width), mode="area")[:, 0]
    if len(mask) == 1:
        return small.expand(shape)
    later = small[1:].unflatten(0, (length - 1, -1)).mean(1)
    return torch.cat((small[:1], later))


def feathered(mask: Tensor, distance: int, near: tuple[int, int, int]) -> Tensor:
    """Let a mask (F, H, W) fall linearly to 0 around what it covers, over ``distance`` cells or frames.

    ``near`` is how much of each axis lies around one: 1 for none of it but the cell itself, 3 for its neighbours, too.
    """
    beside = [side // 2 for side in near]
    for _ in range(distance):
        around = F.max_pool3d(mask[None], near, stride=1, padding=beside)[0]
        mask = torch.maximum(mask, around - 1 / (distance + 1))
    return mask


def fit_video_mask(mask: Tensor | None, video: Tensor) -> Tensor:
    """Fit a mask to a video latent (B, C, F, H, W); None generates everything.

    ``mask`` may have the latent's axes, some of length 1, or be pictures (F, H, W) or (F, 1, H, W) of any size.
    Returns (B, 1, F, H, W).
    """
    batch, _, *size = video.shape
    if mask is None:
        return torch.ones(batch, 1, *size)
    if mask.ndim < 5:
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    return _repeat(F.interpolate(mask[:, :1].float(), size, mode="trilinear"), batch)


def fit_audio_mask(mask: Tensor | None, audio: Tensor) -> Tensor:
    """Fit a mask to an audio latent (B, C, T, M); None generates everything.

    ``mask`` may have the latent's axes, some of length 1, or be (B, T). Returns (B, 1, T, 1).
    """
    batch, _, length, _ = audio.shape
    if mask is None:
        return torch.ones(batch, 1, length, 1)
    mask = mask[:, None, :, None] if mask.ndim == 2 else mask[:, :1].mean(dim=-1, keepdim=True)
    return _repeat(F.interpolate(mask.float(), (length, 1), mode="bilinear"), batch)


def _repeat(mask: Tensor, batch: int) -> Tensor:
    """Return one mask for every clip of the batch, in turn."""
    return mask[torch.arange(batch) % len(mask)]
