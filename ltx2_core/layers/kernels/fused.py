"""Kernels of our own in Triton, for what no library has. Importing this file needs Triton."""

import torch
from torch import Tensor

from ..rope import Rotation
from ..sharing import Rounding, stand_in, with_rounded

try:  # it comes with torch on Linux
    import triton
    import triton.language as tl
except ImportError as missing:
    raise ImportError("There is no Triton.") from missing


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
    a: tl.tensor,
    token: tl.tensor,
    plain: tl.tensor,
    numbers: tl.tensor,
    scales: tl.tensor,
    width: tl.constexpr,
    fixed: tl.constexpr,
):
    """Store a token, which has its dtype already, in float8; and as it is if ``plain`` is somewhere.

    ``scales`` are written, or ``fixed`` is the one of all tokens: then divisions round to the dtype, as official code
    does, and what is too large is clamped.
    """
    to = token * width + tl.arange(0, width)
    if plain is not None:
        tl.store(plain + to, a)
    wide = a.to(tl.float32)
    if fixed:
        wide = tl.div_rn(wide, tl.zeros([width], tl.float32) + tl.load(scales)).to(a.dtype).to(tl.float32)
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
    rows: tl.tensor,
    plain: tl.tensor,
    numbers: tl.tensor,
    scales: tl.tensor,
    eps: float,
    width: tl.constexpr,
    fixed: tl.constexpr,
):
    """A token of a group is normalised and modulated in float32; ``rows`` are scales of all groups, then shifts."""
    group, place = tl.program_id(1).to(tl.int64), tl.arange(0, width)
    token = group * tl.num_programs(0) + tl.program_id(0)
    a = tl.load(x + token * width + place).to(tl.float32)
    a = a * tl.rsqrt(tl.sum(a * a) / width + eps)
    if rows is not None:
        scale = tl.load(rows + group * width + place).to(tl.float32)
        shift = tl.load(rows + (group + tl.num_programs(1)) * width + place).to(tl.float32)
        a = a * (1 + scale) + shift
    _store(a.to(x.dtype.element_ty), token, plain, numbers, scales, width, fixed)


@triton.jit
def _gelu_round_token(
    x: tl.tensor, plain: tl.tensor, numbers: tl.tensor, scales: tl.tensor, width: tl.constexpr, fixed: tl.constexpr
):
    """In the tanh form: (1 + tanh(y)) / 2 is sigmoid(2 y)."""
    token = tl.program_id(0).to(tl.int64)
    a = tl.load(x + token * width + tl.arange(0, width)).to(tl.float32)
    a = a * tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
    _store(a.to(x.dtype.element_ty), token, plain, numbers, scales, width, fixed)


@triton.jit
def _gate_round_token(
    x: tl.tensor,
    gates: tl.tensor,
    plain: tl.tensor,
    numbers: tl.tensor,
    scales: tl.tensor,
    head: tl.constexpr,
    width: tl.constexpr,
    fixed: tl.constexpr,
):
    """Every ``head`` channels of a token have a gate, if there are gates."""
    token, place = tl.program_id(0).to(tl.int64), tl.arange(0, width)
    a = tl.load(x + token * width + place)
    if gates is not None:
        gate = tl.load(gates + token * (width // head) + place // head)
        a = (a.to(tl.float32) * gate.to(tl.float32)).to(x.dtype.element_ty)
    _store(a, token, plain, numbers, scales, width, fixed)


class _Made:
    """What a kernel makes of x (..., D): every token in float8 with its scale, and as it is if that is wanted."""

    def __init__(self, x: Tensor, rounding: Rounding):
        width = x.shape[-1]
        if not x.is_contiguous() or width & (width - 1):
            raise ValueError("Tokens must lie in memory one after the other, of a power of two of channels.")
        self.x, self.tokens, self.rounding = x, x.numel() // width, rounding
        fixed = rounding.scale is not None
        self.sizes = {"width": width, "fixed": fixed, "num_warps": min(max(width // 1024, 1), 16)}
        self.plain = torch.empty_like(x) if rounding.keeps else None
        self.numbers = torch.empty(self.tokens, width, dtype=torch.float8_e4m3fn, device=x.device)
        of_tokens = torch.empty(self.tokens, 1, dtype=torch.float32, device=x.device)
        self.scales = of_tokens if rounding.scale is None else rounding.scale

    @property
    def places(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Where kernels write."""
        return self.plain, self.numbers, self.scales

    @property
    def result(self) -> Tensor:
        """What layers take."""
        made = stand_in(self.x) if self.plain is None else self.plain
        return with_rounded(made, self.rounding.name, self.numbers, self.scales)

    def counted(self, gates: Tensor | None = None) -> Tensor:
        """Stand in for a kernel on the meta device: tokens and gates are read once, what is made is written once."""
        own = self.x.new_empty(self.tokens, 1) if gates is None else gates.view(self.tokens, -1)
        x, numbers = (each.view(self.tokens, own.shape[1], -1) for each in (self.x, self.numbers))
        torch.addcmul(x, own[:, :, None], own[:, :, None], out=numbers)
        if self.plain is not None:  # one operation more than there is
            torch.zeros(self.plain.shape, dtype=self.plain.dtype, device="meta")
        return self.result


def norm_round(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, rounding: Rounding) -> Tensor:
    """Do what ``light.norm_round`` does, and round what it makes to float8.

    Args:
        x: (B, groups, n, D); or (B, N, D) without ``scale`` and ``shift``; contiguous, and D is a power of two.
        scale: (B or 1, groups, 1, D).
        shift: likewise.
        eps: added to the mean square.
        rounding: how.

    Raises:
        ValueError: for another layout of tokens in memory, or another D.
    """
    made, rows, groups = _Made(x, rounding), None, 1
    if scale is not None and shift is not None:
        groups = len(x) * x.shape[1]
        rows = torch.stack([each.expand(len(x), -1, -1, -1).reshape(groups, -1) for each in (scale, shift)])
    if x.is_meta:
        return made.counted()
    _norm_round_token[(made.tokens // groups, groups)](x, rows, *made.places, eps, **made.sizes)
    return made.result


def gelu_round(x: Tensor, rounding: Rounding) -> Tensor:
    """Do what ``light.gelu_round`` does, and round what it makes, as ``norm_round`` does; x is (..., D)."""
    made = _Made(x, rounding)
    if x.is_meta:
        return made.counted()
    _gelu_round_token[(made.tokens,)](x, *made.places, **made.sizes)
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
    _gate_round_token[(made.tokens,)](x, own, *made.places, head=heads.shape[-1], **made.sizes)
    return made.result
