"""Attention in which every query sees a box of keys around it (see README.md, "Neighbourhood attention").

The plain way runs everywhere and is exact. A kernel of comfy-kitchen takes its place where it gives the same numbers.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import alike
from ..layers.kernels import Kernel, Operation

Size = tuple[int, int, int]  # frames, rows, columns

BRICK: Size = (4, 8, 8)  # queries that share one box of keys
_SHARES = 32  # of a clip whose keys are copied at a time: the copies then take about as much as the queries
_LARGEST = 2**31  # elements of a tensor that kernels are trusted to address


def attend(q: Tensor, k: Tensor, v: Tensor, kernel: Size, output: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T) v over the window of each query.

    A window has exactly ``kernel`` keys: it is centred on its query and shifted inwards at the borders of the clip. An
    axis shorter than the window is seen as a whole.

    Args:
        q: Queries (B, T, H, W, heads, d), already scaled.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        kernel: Keys along time, height and width.
        output: Where to write it, such as some heads of a tensor; None for a new one.

    Returns:
        (B, T, H, W, heads, d).
    """
    fast = None if q.is_meta or q.numel() >= _LARGEST else ATTENTION.find(q)
    frames, rows, columns = (min(reach, length) for reach, length in zip(kernel, q.shape[1:4]))
    if fast is None:
        return attend_in_bricks(q, k, v, (frames, rows, columns), output)
    found = fast(q, k, v, (frames, rows, columns))
    return found if output is None else output.copy_(found)


def attend_in_bricks(q: Tensor, k: Tensor, v: Tensor, kernel: Size, output: Tensor | None = None) -> Tensor:
    """Attend the plain way: in bricks of queries, whose windows together are one box; arguments as for ``attend``.

    A share of the bricks that see the same of their boxes runs at a time.
    """
    layout = _layout((q.shape[1], q.shape[2], q.shape[3]), kernel)
    asked, seen = layout.cells_of_brick.to(q.device), layout.cells_of_box.to(q.device)
    masks = [axis.seen().to(q.device) for axis in layout.axes]
    output = torch.empty_like(q) if output is None else output
    for clip in range(len(q)):
        queries, keys, values, result = (x[clip].flatten(0, 2) for x in (q, k, v, output))
        for bricks, boxes, pattern in alike(layout.kinds(q.device), lambda kind: len(kind[0])):
            mask = layout.mask(pattern, masks)
            shares = zip(bricks.split(layout.step), boxes.split(layout.step))
            for some, theirs in alike(shares, lambda share: len(share[0])):
                own, others = some + asked, theirs + seen
                result.index_copy_(0, own.flatten(), _attend(queries, keys, values, own, others, mask))
    return output


def _attend(q: Tensor, k: Tensor, v: Tensor, own: Tensor, others: Tensor, mask: Tensor | None) -> Tensor:
    """Attend from the cells ``own`` (n, q) to ``others`` (n, k) of tokens (N, heads, d); return (n * q, heads, d)."""
    some_q, some_k, some_v = _pick(q, own), _pick(k, others), _pick(v, others)
    found = F.scaled_dot_product_attention(some_q, some_k, some_v, attn_mask=mask, scale=1.0)
    return found.transpose(1, 2).flatten(0, 1)


def _pick(x: Tensor, cells: Tensor) -> Tensor:
    """Copy the heads of these cells, (N, heads, d) to (boxes, heads, cells of a box, d)."""
    return x.index_select(0, cells.flatten()).unflatten(0, cells.shape).transpose(1, 2)


@dataclass(frozen=True)
class _Axis:
    """How bricks lie along one axis; a last one that would stick out is moved back over its neighbour."""

    starts: list[int]  # of the bricks
    boxes: list[int]  # of the boxes of keys that they see
    brick: int
    box: int
    offsets: list[tuple[int, ...]]  # of each brick: where in its box the window of each query begins
    reach: int

    @classmethod
    def of(cls, length: int, brick: int, reach: int) -> "_Axis":
        """Lay bricks along ``length`` queries whose windows are ``reach`` keys long."""
        brick = min(brick, length)
        box = min(length, brick + reach - 1)
        starts = [min(start, length - brick) for start in range(0, length, brick)]
        windows = [[window_start(start + i, length, reach) for i in range(brick)] for start in starts]
        boxes = [min(window[0], length - box) for window in windows]
        offsets = [tuple(place - first for place in window) for window, first in zip(windows, boxes)]
        return cls(starts, boxes, brick, box, offsets, reach)

    @property
    def patterns(self) -> list[tuple[int, ...]]:
        """The offsets that bricks have, the most frequent first."""
        return sorted(set(self.offsets), key=lambda offsets: -self.offsets.count(offsets))

    def seen(self) -> Tensor:
        """Return which keys of a box the queries of a brick see, for each pattern: (patterns, brick, box)."""
        begins = torch.tensor(self.patterns)[:, :, None]
        keys = torch.arange(self.box)
        return (keys >= begins) & (keys < begins + self.reach)


def window_start(query: int, length: int, reach: int) -> int:
    """Return the first key of the window of ``query`` on an axis of ``length``."""
    return max(0, min(query - reach // 2, length - reach))


@dataclass(frozen=True, eq=False)
class _Layout:
    """The bricks of a clip. Cells are counted from the clip's first, row by row; all tensors are on the CPU."""

    axes: tuple[_Axis, _Axis, _Axis]
    bricks: Tensor  # (N, 1), the first cell of each brick, those of the same masks together
    boxes: Tensor  # (N, 1), that of its box
    alike: list[int]  # how many bricks in a row have the same masks
    patterns: Tensor  # (len(alike), 3), which of the masks of each axis they have
    cells_of_brick: Tensor  # (q,), from the first one on
    cells_of_box: Tensor  # (k,)

    def kinds(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
        """Yield the first cells of all bricks of one pattern and of their boxes, and the pattern."""
        each = (x.to(device).split(self.alike) for x in (self.bricks, self.boxes))
        return zip(*each, self.patterns.tolist())

    @property
    def step(self) -> int:
        """How many bricks attend at a time."""
        return max(1, math.ceil(len(self.bricks) / _SHARES))

    def mask(self, pattern: list[int], masks: Sequence[Tensor]) -> Tensor | None:
        """Return which keys of its box each query of a brick of this pattern sees, (q, k); None if they see all.

        ``masks`` are those of the axes, as ``_Axis.seen`` returns them.
        """
        if all(axis.box == axis.reach for axis in self.axes):
            return None
        t, h, w = (mask[place] for mask, place in zip(masks, pattern))
        plane = (h.view(len(h), 1, -1, 1) & w.view(len(w), 1, -1)).view(len(h) * len(w), 1, -1)
        return (t.view(len(t), 1, -1, 1) & plane).view(len(t) * len(plane), -1)


@lru_cache(maxsize=32)
def _layout(size: Size, kernel: Size) -> _Layout:
    _, rows, columns = size
    axes = [_Axis.of(length, brick, reach) for length, brick, reach in zip(size, BRICK, kernel)]
    numbers = [torch.tensor([axis.patterns.index(each) for each in axis.offsets]) for axis in axes]
    patterns = torch.cartesian_prod(*numbers)
    kinds, kind, alike = patterns.unique(dim=0, return_inverse=True, return_counts=True)
    order = kind.argsort(stable=True)

    def count(sides: Iterable[Iterable[int]]) -> Tensor:
        t, h, w = torch.cartesian_prod(*(torch.tensor(list(side)) for side in sides)).unbind(1)
        return (t * rows + h) * columns + w

    return _Layout(
        axes=(axes[0], axes[1], axes[2]),
        bricks=count(axis.starts for axis in axes)[order, None],
        boxes=count(axis.boxes for axis in axes)[order, None],
        alike=alike.tolist(),
        patterns=kinds,
        cells_of_brick=count(range(axis.brick) for axis in axes),
        cells_of_box=count(range(axis.box) for axis in axes),
    )


def kitchen_kernel() -> Callable[[Tensor, Tensor, Tensor, Size], Tensor]:
    """Return comfy-kitchen's na3d with our arguments. Raises ImportError or AttributeError where there is none.

    Its own way on a CPU is no faster than ours.
    """
    na3d = importlib.import_module("comfy_kitchen").na3d
    return lambda q, k, v, kernel: na3d(q, k, v, list(kernel), scale=1.0)


def _sample(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Size]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn((3, 1, 7, 12, 13, 2, _HEAD), generator=generator).to(device, dtype).unbind(0)
    return q * _HEAD**-0.5, k, v, (3, 11, 5)


_HEAD = 64  # channels, as in all decoders that were published

ATTENTION = Operation("Neighbourhood attention", attend_in_bricks, [Kernel("comfy-kitchen", kitchen_kernel)], _sample)
