"""Kernels of our own in Triton, for what no library has. Importing this file needs Triton."""

from itertools import chain

import torch
from torch import Tensor

from ..rope import Rotation
from ..sharing import Rounded, Rounding, stand_in, with_rounded

try:  # it comes with torch on Linux
    import triton
    import triton.language as tl
except ImportError as missing:
    raise ImportError("There is no Triton.") from missing


PIXELS = 4096  # numbers of those that are normalised together


@triton.jit
def _norm_rotate_token(
    x: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    eps: float,
    half: tl.constexpr,
    pairs: tl.constexpr,
    block: tl.constexpr,
):
    """All heads of one token are normalised together, in float32, and rounded once at the end.

    ``half`` of a head's channels are first ones of its ``pairs``, of which a token has so many in all; ``block`` is the
    next power of two.
    """
    token, pair = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    here = pair < pairs
    first = token * (2 * pairs) + (pair // half) * (2 * half) + pair % half
    weight_first = (pair // half) * (2 * half) + pair % half
    a = tl.load(x + first, mask=here, other=0.0).to(tl.float32)
    b = tl.load(x + first + half, mask=here, other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / (2 * pairs) + eps)
    a = a * factor * tl.load(weight + weight_first, mask=here, other=0.0).to(tl.float32)
    b = b * factor * tl.load(weight + weight_first + half, mask=here, other=0.0).to(tl.float32)
    c = tl.load(cos + token * pairs + pair, mask=here, other=0.0).to(tl.float32)
    s = tl.load(sin + token * pairs + pair, mask=here, other=0.0).to(tl.float32)
    tl.store(x + first, (a * c - b * s).to(x.dtype.element_ty), mask=here)
    tl.store(x + first + half, (b * c + a * s).to(x.dtype.element_ty), mask=here)


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
    """Do what ``light.norm_rotate`` does, for pairs (i, i + d/2), reading and writing ``x`` once and in place.

    Args:
        x: (B, N, H d), contiguous; overwritten.
        weight: (H d).
        eps: added to the mean square.
        rotation: of N tokens, not interleaved.

    Raises:
        ValueError: for another layout of tokens or angles in memory.
    """
    cos, sin, heads = rotation.cos, rotation.sin, rotation.heads
    if x.is_meta:
        return _count(x, cos, sin)
    rows = [each.transpose(1, 2) for each in (cos, sin)]  # (B or 1, N, H, d/2)
    if not all(each.is_contiguous() for each in (x, *rows)):
        raise ValueError("Tokens, cosines and sines must lie in memory token by token.")
    pairs = x.shape[-1] // 2
    for clip, c, s in zip(x, *(each.expand(len(x), -1, -1, -1) for each in rows)):
        _norm_rotate_token[(x.shape[1],)](
            clip, weight, c, s, eps, half=pairs // heads, pairs=pairs, block=triton.next_power_of_2(pairs)
        )
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _count(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Stand in for the kernel on the meta device: tokens, cosines and sines are read once, tokens written once."""
    heads = x.unflatten(2, (cos.shape[1], -1)).transpose(1, 2)
    pairs = heads.unflatten(-1, (2, -1))
    torch.addcmul(pairs, cos[:, :, :, None], sin[:, :, :, None], out=pairs)
    return heads


@triton.jit
def _store(
    a: tl.tensor, token: tl.tensor, places: "tuple", width: tl.constexpr, ways: tl.constexpr, fixed: tl.constexpr
):
    """Store a token, which has its dtype already, in all ``places``.

    The first is for the token as it is, or None; then there are two for each of so many ``ways`` of rounding it to
    float8, for its numbers and its scale. Of the first ``fixed`` ways the scale is there, one for all tokens: then
    divisions round to the dtype, as official code does, and what is too large is clamped.
    """
    to = token * width + tl.arange(0, width)
    if places[0] is not None:
        tl.store(places[0] + to, a)
    for way in tl.static_range(ways):
        numbers, scales = places[2 * way + 1], places[2 * way + 2]
        wide = a.to(tl.float32)
        if way < fixed:
            scale = tl.load(scales)
            wide = tl.div_rn(wide, tl.zeros([width], tl.float32) + scale).to(a.dtype).to(tl.float32)
            wide = tl.minimum(tl.maximum(wide, -448.0), 448.0)
        else:
            largest = tl.max(tl.abs(wide), axis=0)
            scale = tl.maximum(tl.div_rn(largest, tl.full((), 448.0, tl.float32)), 1.1754943508222875e-38)
            tl.store(scales + token, scale)
            wide = tl.div_rn(wide, tl.zeros([width], tl.float32) + scale)
        tl.store(numbers + to, wide.to(tl.float8e4nv))


@triton.jit
def _norm_round_token(
    x: tl.tensor,
    change: tl.tensor,
    rows: "tuple",
    places: "tuple",
    eps: float,
    width: tl.constexpr,
    ways: tl.constexpr,
    fixed: tl.constexpr,
):
    """A token is normalised in float32, modulated if there are rows, and stored.

    Args:
        x: tokens of all groups, one after the other.
        change: None, or what is added before, times the gate if there is one; it becomes the sum.
        rows: gate, scale and shift, of which every group has a row; each may be None.
        places: where ``_store`` stores.
        eps: added to the mean square.
        width: of a token.
        ways: of rounding.
        fixed: in how many of them one scale is that of all.
    """
    gate, row_scale, row_shift = rows
    group, place = tl.program_id(1).to(tl.int64), tl.arange(0, width)
    token = group * tl.num_programs(0) + tl.program_id(0)
    a = tl.load(x + token * width + place).to(tl.float32)
    if change is not None:
        more = tl.load(change + token * width + place).to(tl.float32)
        if gate is not None:
            more *= tl.load(gate + group * width + place).to(tl.float32)
        total = (a + more).to(x.dtype.element_ty)
        tl.store(change + token * width + place, total)
        a = total.to(tl.float32)
    a = a * tl.rsqrt(tl.sum(a * a) / width + eps)
    if row_scale is not None:
        a *= 1 + tl.load(row_scale + group * width + place).to(tl.float32)
        a += tl.load(row_shift + group * width + place).to(tl.float32)
    _store(a.to(x.dtype.element_ty), token, places, width, ways, fixed)


@triton.jit
def _gelu_round_token(x: tl.tensor, places: "tuple", width: tl.constexpr, ways: tl.constexpr, fixed: tl.constexpr):
    """In the tanh form: (1 + tanh(y)) / 2 is sigmoid(2 y)."""
    token = tl.program_id(0).to(tl.int64)
    a = tl.load(x + token * width + tl.arange(0, width)).to(tl.float32)
    a = a * tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
    _store(a.to(x.dtype.element_ty), token, places, width, ways, fixed)


@triton.jit
def _gate_round_token(
    x: tl.tensor,
    gates: tl.tensor,
    places: "tuple",
    head: tl.constexpr,
    width: tl.constexpr,
    ways: tl.constexpr,
    fixed: tl.constexpr,
):
    """Every ``head`` channels of a token have a gate, if there are gates."""
    token, place = tl.program_id(0).to(tl.int64), tl.arange(0, width)
    a = tl.load(x + token * width + place)
    if gates is not None:
        gate = tl.load(gates + token * (width // head) + place // head)
        a = (a.to(tl.float32) * gate.to(tl.float32)).to(x.dtype.element_ty)
    _store(a, token, places, width, ways, fixed)


@triton.jit
def _norm_silu_token(
    x: tl.tensor,
    out: tl.tensor,
    size: "tuple",
    x_steps: "tuple",
    out_steps: "tuple",
    eps: float,
    channels: tl.constexpr,
    at_once: tl.constexpr,
):
    """So many pixels ``at_once`` are normalised in float32, rounded as the norm alone is, and activated.

    Args:
        x: a clip whose channels lie next to each other.
        out: where to, likewise.
        size: its pixels in all, and its rows and columns.
        x_steps: from one frame, row and column of x to the next.
        out_steps: the same of ``out``.
        eps: added to the mean square.
        channels: of a pixel.
        at_once: pixels.
    """
    pixels, rows, columns = size
    pixel = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    frame, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
    place, here = tl.arange(0, channels)[None, :], (pixel < pixels)[:, None]
    first = frame * x_steps[0] + row * x_steps[1] + column * x_steps[2]
    a = tl.load(x + first[:, None] + place, mask=here, other=0.0).to(tl.float32)
    a = a * tl.rsqrt(tl.sum(a * a, axis=1) / channels + eps)[:, None]
    a = a.to(x.dtype.element_ty).to(tl.float32)
    first = frame * out_steps[0] + row * out_steps[1] + column * out_steps[2]
    tl.store(out + first[:, None] + place, (a * tl.sigmoid(a)).to(out.dtype.element_ty), mask=here)


def norm_silu(x: Tensor, out: Tensor, eps: float) -> Tensor:
    """Do what ``light.norm_silu`` does, reading x and writing ``out`` once.

    Args:
        x: (B, C, F, H, W), of a power of two of channels.
        out: likewise, in memory pixel by pixel; it may be the middle of a larger clip.
        eps: added to the mean square.

    Raises:
        ValueError: for another layout of ``out`` in memory, or another C.
    """
    _, channels, frames, rows, columns = x.shape
    if out.stride(1) != 1 or channels & (channels - 1):
        raise ValueError("Pixels must lie in memory one after the other, of a power of two of channels.")
    x = x.contiguous(memory_format=torch.channels_last_3d)
    if x.is_meta:
        return torch.ops.aten.silu.out(x, out=out)  # reads and writes as much
    pixels, at_once = frames * rows * columns, max(PIXELS // channels, 1)
    for clip, made in zip(x, out):
        steps = clip.stride()[1:], made.stride()[1:]
        _norm_silu_token[(triton.cdiv(pixels, at_once),)](
            clip, made, (pixels, rows, columns), *steps, eps, channels=channels, at_once=at_once
        )
    return out


class _Made:
    """What a kernel makes of x (..., D): every token in float8 with its scale, and as it is if that is wanted.

    Without ``rounding`` it is only the latter.
    """

    def __init__(self, x: Tensor, rounding: Rounding | None):
        width = x.shape[-1]
        if not x.is_contiguous() or width & (width - 1):
            raise ValueError("Tokens must lie in memory one after the other, of a power of two of channels.")
        self.x, self.tokens = x, x.numel() // width
        scales = {} if rounding is None else rounding.scales
        fixed = sum(scale is not None for scale in scales.values())
        self.sizes = {"width": width, "ways": len(scales), "fixed": fixed, "num_warps": min(max(width // 1024, 1), 16)}
        self.plain = torch.empty_like(x) if rounding is None or rounding.keeps else None
        self.rounded: Rounded = {}
        for name, scale in sorted(scales.items(), key=lambda way: way[1] is None):  # the fixed ones first
            numbers = torch.empty(self.tokens, width, dtype=torch.float8_e4m3fn, device=x.device)
            own = torch.empty(self.tokens, 1, dtype=torch.float32, device=x.device) if scale is None else scale
            self.rounded[name] = numbers, own

    @property
    def places(self) -> tuple[Tensor | None, ...]:
        """Where kernels write."""
        return self.plain, *chain.from_iterable(self.rounded.values())

    @property
    def result(self) -> Tensor:
        """What layers take."""
        made = stand_in(self.x) if self.plain is None else self.plain
        return with_rounded(made, self.rounded) if self.rounded else made

    @property
    def _written(self) -> list[Tensor]:
        """What has a number for each of x."""
        numbers = [each for each, _ in self.rounded.values()]
        return numbers if self.plain is None else [*numbers, self.plain]

    def counted(self, gates: Tensor | None = None) -> Tensor:
        """Stand in for a kernel on the meta device: tokens and gates are read once, what is made is written once."""
        first, *others = self._written
        own = self.x.new_empty(self.tokens, 1) if gates is None else gates.view(self.tokens, -1)
        x, out = (each.view(self.tokens, own.shape[1], -1) for each in (self.x, first))
        torch.addcmul(x, own[:, :, None], own[:, :, None], out=out)
        for each in others:  # operations more than there are
            torch.zeros(each.shape, out=each)
        return self.result

    def counted_sum(self, change: Tensor) -> Tensor:
        """Stand in for a kernel that first adds x and ``change``: both are read once, what is made is written once."""
        torch.add(self.x, change, out=change)
        for each in self._written:  # operations more than there are
            torch.zeros(each.shape, out=each)
        return self.result


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Do what ``light.norm_modulate`` does, of x and rows as ``norm_round`` takes them."""
    return norm_round(x, scale, shift, eps, None)


def norm_round(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, rounding: Rounding | None) -> Tensor:
    """Do what ``light.norm_round`` does, and round what it makes to float8.

    Args:
        x: (B, groups, n, D); or (B, N, D) without ``scale`` and ``shift``; contiguous, and D is a power of two.
        scale: (B or 1, groups, 1, D).
        shift: likewise.
        eps: added to the mean square.
        rounding: how; None if nobody reads float8.

    Raises:
        ValueError: for another layout of tokens in memory, or another D.
    """
    made = _Made(x, rounding)
    if x.is_meta:
        return made.counted()
    groups, rows = 1 if scale is None else len(x) * x.shape[1], [_rows_of(x, each) for each in (scale, shift)]
    _norm_round_token[(made.tokens // groups, groups)](x, None, (None, *rows), made.places, eps, **made.sizes)
    return made.result


def sum_norm(
    x: Tensor,
    gate: Tensor | None,
    change: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rounding: Rounding | None,
) -> Tensor:
    """Do what ``light.sum_norm`` does, reading x and ``change`` once, and round what it makes as ``norm_round`` does.

    Args:
        x: (B, groups, n, D), contiguous, and D is a power of two.
        gate: (B or 1, groups or 1, 1, D).
        change: as x; overwritten.
        scale: as gate.
        shift: likewise.
        eps: added to the mean square.
        rounding: how; None if nobody reads float8.

    Raises:
        ValueError: for another layout of tokens in memory, or another D.
    """
    made, groups = _Made(x, rounding), len(x) * x.shape[1]
    if not change.is_contiguous():
        raise ValueError("What is added must lie in memory token by token.")
    rows = [_rows_of(x, each) for each in (gate, scale, shift)]
    if x.is_meta:
        return made.counted_sum(change)
    _norm_round_token[(made.tokens // groups, groups)](x, change, tuple(rows), made.places, eps, **made.sizes)
    return made.result


def _rows_of(x: Tensor, of_groups: Tensor | None) -> Tensor | None:
    """One row behind the other for each group of x (B, groups, n, D)."""
    return None if of_groups is None else of_groups.expand(*x.shape[:2], 1, -1).contiguous()


def gelu_round(x: Tensor, rounding: Rounding) -> Tensor:
    """Do what ``light.gelu_round`` does, and round what it makes, as ``norm_round`` does; x is (..., D)."""
    made = _Made(x, rounding)
    if x.is_meta:
        return made.counted()
    _gelu_round_token[(made.tokens,)](x, made.places, **made.sizes)
    return made.result


def gate_round(heads: Tensor, gates: Tensor | None, rounding: Rounding) -> Tensor:
    """Do what ``light.gate_round`` does, and round what it makes, as ``norm_round`` does.

    Args:
        heads: (B, H, N, d), in memory token by token.
        gates: (B, H, N, 1).
        rounding: how.
    """
    x = heads.transpose(1, 2).flatten(2)
    made, own = _Made(x, rounding), None if gates is None else gates.transpose(1, 2).contiguous()
    if x.is_meta:
        return made.counted(own)
    _gate_round_token[(made.tokens,)](x, own, made.places, head=heads.shape[-1], **made.sizes)
    return made.result
