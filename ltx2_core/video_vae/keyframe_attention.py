"""Attention between a clip and keyframes beside it (see README.md, "Diffusion: keyframes")."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import alike

NEAREST = 2  # keyframes that a frame of the clip sees, and frames that a keyframe sees
_BRICK = 8  # rows and columns of queries that share one box of keys


@dataclass(frozen=True, eq=False)
class Joint:
    """A clip and keyframes beside it, which go through the same layers.

    Attributes:
        clip: (B, T, ...).
        keyframes: (B, K, ...), otherwise of the clip's shape.
        times: of the keyframes, in frames of ``clip``.
    """

    clip: Tensor
    keyframes: Tensor
    times: tuple[float, ...]

    def with_clip(self, clip: Tensor) -> "Joint":
        """Return the same keyframes beside another ``clip``."""
        return Joint(clip, self.keyframes, self.times)

    def at(self, times: tuple[float, ...]) -> "Joint":
        """Return the same with keyframes at other ``times``."""
        return Joint(self.clip, self.keyframes, times)

    def map(self, function: Callable[..., Tensor], *others: "Joint") -> "Joint":
        """Apply ``function`` to the clip and to the keyframes, with those of ``others``."""
        clips, keyframes = ([getattr(each, name) for each in others] for name in ("clip", "keyframes"))
        return Joint(function(self.clip, *clips), function(self.keyframes, *keyframes), self.times)


Hidden = TypeVar("Hidden", Tensor, Joint)  # a clip, alone or with keyframes


def on_each(function: Callable[..., Tensor], x: Hidden, *others: Hidden) -> Hidden:
    """Apply ``function`` to a clip, or to clip and keyframes, each with that of ``others``."""
    return x.map(function, *others) if isinstance(x, Joint) else function(x, *others)


def attend_jointly(q: Joint, k: Joint, v: Joint, kernel: Sequence[int]) -> Joint:
    """Let a clip and its keyframes attend to each other.

    A query of the clip sees the window around it, and the same rows and columns of the nearest keyframes. One of a
    keyframe sees its own rows and columns, and those of the nearest frames. At borders windows are cut off.

    Args:
        q: Queries (B, T or K, H, W, heads, d), already scaled.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        kernel: Keys along time, height and width.

    Returns:
        The same shape as ``q``.
    """
    frames, reach = q.clip.shape[1], kernel[0] // 2
    found, beside = torch.empty_like(q.clip), torch.empty_like(q.keyframes)
    windows = [range(frames)[max(0, frame - reach) : frame + reach + 1] for frame in range(frames)]
    for frame, window in alike(enumerate(windows), lambda each: len(each[1])):
        near = nearest(abs(frame - time) for time in q.times)
        around = slice(window.start, window.stop)
        keys, values = (torch.cat((x.clip[:, around], x.keyframes[:, near]), dim=1) for x in (k, v))
        found[:, frame] = attend_in_frames(q.clip[:, frame], keys, values, kernel[1:])
    for number, time in alike(enumerate(q.times)):
        near = nearest(abs(frame - time) for frame in range(frames))
        keys, values = (torch.cat((x.keyframes[:, [number]], x.clip[:, near]), dim=1) for x in (k, v))
        beside[:, number] = attend_in_frames(q.keyframes[:, number], keys, values, kernel[1:])
    return Joint(found, beside, q.times)


def nearest(distances: Iterable[float]) -> list[int]:
    """Return the places of the NEAREST smallest distances, of equal ones the first."""
    known = list(distances)
    return sorted(range(len(known)), key=known.__getitem__)[:NEAREST]


def attend_in_frames(q: Tensor, k: Tensor, v: Tensor, kernel: Sequence[int]) -> Tensor:
    """Attend from one frame (B, H, W, heads, d) to the windows around each query in all frames (B, M, H, W, heads, d).

    Windows of ``kernel`` rows and columns are cut off at borders. A row of bricks runs at a time.
    """
    found, (height, width) = torch.empty_like(q), q.shape[1:3]
    columns = _Side.of(width, kernel[1])
    picked, near = columns.queries.to(q.device), columns.keys.to(q.device)
    for first in range(0, height, _BRICK):
        rows = slice(first, min(first + _BRICK, height))
        box = slice(max(0, first - kernel[0] // 2), min(height, rows.stop + kernel[0] // 2))
        across = _near(torch.arange(rows.start, rows.stop), torch.arange(box.start, box.stop), kernel[0])
        seen = across[None, :, None, None, :, None] & columns.seen[:, None, :, None, None, :]
        seen = seen.expand(-1, -1, -1, k.shape[1], -1, -1).flatten(3).flatten(1, 2)[:, None].to(q.device)
        for clip in range(len(q)):
            queries = q[clip, rows][:, picked].permute(1, 3, 0, 2, 4).flatten(2, 3)
            keys, values = (x[clip, :, box][:, :, near].permute(2, 4, 0, 1, 3, 5).flatten(2, 4) for x in (k, v))
            some = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=1.0)
            some = some.unflatten(2, (rows.stop - rows.start, -1)).permute(2, 0, 3, 1, 4)
            target = found[clip, rows]
            target[:, picked.flatten()] = some.flatten(1, 2)
    return found


@dataclass(frozen=True, eq=False)
class _Side:
    """How bricks lie along one side; a last one that would stick out is moved back over its neighbour."""

    queries: Tensor  # (n, q), places
    keys: Tensor  # (n, k), places; those outside are moved in, and not seen
    seen: Tensor  # (n, q, k)

    @classmethod
    def of(cls, length: int, reach: int) -> "_Side":
        brick = min(_BRICK, length)
        starts = torch.tensor([min(start, length - brick) for start in range(0, length, brick)])[:, None]
        queries, keys = starts + torch.arange(brick), starts + torch.arange(brick + 2 * (reach // 2)) - reach // 2
        inside = (keys >= 0) & (keys < length)
        return cls(queries, keys.clamp(0, length - 1), _near(queries, keys, reach) & inside[:, None])


def _near(queries: Tensor, keys: Tensor, reach: int) -> Tensor:
    """Whether each key (..., k) lies in the window of each query (..., q), as (..., q, k)."""
    return (queries[..., :, None] - keys[..., None, :]).abs() <= reach // 2
