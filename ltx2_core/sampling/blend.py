"""Several prompts at a time: the mean of what the network makes of each, by the weight that it has at each token."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..conditioning import AVState, State
from ..conditioning.masks import fit_video_mask
from ..errors import SettingError
from ..geometry import video_tokens
from ..latents import AVLatent
from ..text import Contexts, PromptWeight

_EDGE = 8  # cells at most over which the edge of an area fades, as in ComfyUI


def shares(weights: Sequence[PromptWeight], state: AVState) -> list[AVLatent]:
    """Return which share each of several prompts has in each token, (1, N, 1); of the sound by strength alone.

    Appended tokens have no place of their own in the picture: there, too, strength alone counts.

    Raises:
        SettingError: Some tokens would have no prompt at all.
    """
    found = [state.map(lambda each, weight=weight: _at_tokens(weight, each)) for weight in weights]
    total = found[0]
    for each in found[1:]:
        total = total + each
    if any((x <= 0).any() for x in total.streams().values()):
        raise SettingError(
            "These prompts with masks, areas or strengths leave a part of the clip without any: combine them with one "
            "for everything, or make the masks larger."
        )
    return [each.map(torch.div, total) for each in found]


def check_prompts(contexts: Contexts, state: AVState, sigmas: Sequence[float]) -> None:
    """Check before a run that at each of ``sigmas`` every token has a prompt; raises SettingError as ``shares``."""
    for sigma in sigmas:
        weights = [weight for _, weight in contexts.parts_at(sigma)]
        if len(weights) > 1:
            shares(weights, state)


def blended(estimates: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Return the mean of ``estimates`` (B, N, C), each with its share, in float32."""
    total = torch.zeros_like(estimates[0], dtype=torch.float32)
    for estimate, share in zip(estimates, parts):
        total = total + estimate.float() * share.to(total)
    return total


def _at_tokens(weight: PromptWeight, state: State) -> Tensor:
    """The weight of each token of a stream."""
    count = state.latent.shape[1]
    plain = torch.full((1, count, 1), float(weight.strength), device=state.latent.device)
    if len(state.shape) != 4 or not weight.has_place:
        return plain
    size = state.shape[1], state.shape[2], state.shape[3]
    cells = torch.ones(1, 1, *size)
    if weight.mask is not None:
        cells = fit_video_mask(weight.mask, torch.empty(1, 1, *size, device="meta")).clamp(min=0).cpu()
    if weight.area is not None:
        cells = cells * _in_area(weight, size)
    return state.with_own(plain, video_tokens(cells).to(plain) * float(weight.strength))


def _in_area(weight: PromptWeight, size: tuple[int, int, int]) -> Tensor:
    """1 in an area (F, H, W), fading out at edges inside the picture unless there is a mask, which says it all."""
    assert weight.area is not None
    axes = len(weight.area) // 2
    inside = torch.ones(size)
    for axis, length, start in zip(range(3 - axes, 3), weight.area[:axes], weight.area[axes:]):
        whole = 1 if weight.in_cells else size[axis]
        first = min(round(start * whole), size[axis] - 1)
        stop = min(first + max(1, round(length * whole)), size[axis])
        line = _line(size[axis], first, stop, soft=weight.mask is None)
        inside = inside * line.view([-1 if each == axis else 1 for each in range(3)])
    return inside


def _line(size: int, first: int, stop: int, soft: bool) -> Tensor:
    """1 from ``first`` to ``stop``, else 0."""
    line = torch.zeros(size)
    line[first:stop] = 1
    edge = min(_EDGE, math.floor((stop - first) / 4)) if soft else 0
    ramp = torch.arange(1, edge + 1) / max(edge, 1)
    if first > 0 and edge:
        line[first : first + edge] *= ramp
    if stop < size and edge:
        line[stop - edge : stop] *= ramp.flip(0)
    return line
