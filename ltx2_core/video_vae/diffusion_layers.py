"""The blocks of the diffusion decoder (see README.md, "Diffusion"). Clips are (B, T, H, W, C)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import Rotation, alike, needs_grad
from ..layers.norms import RMSNorm, rms_norm
from .diffusion_config import StageConfig, UpsampleConfig
from .keyframe_attention import Hidden, Joint, attend_jointly, on_each
from .neighbourhood_attention import Size, attend

_THETA = 10_000.0
SHARES = 8  # of a clip that are rotated, whose channels are mixed, and that become cells, at a time
HEAD_SHARES = 2  # of the heads that attend, one after the other
_FEWEST = 4096  # tokens at a time, enough for full speed


class WindowAttention(nn.Module):
    """Multi-head attention of every token to the window around it. There is no ``forward``: blocks call ``attend``."""

    def __init__(self, channels: int, head_dim: int, kernel: Size):
        super().__init__()
        self.head_dim, self.kernel = head_dim, kernel
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.out = nn.Linear(channels, channels)

    def attend(self, x: Hidden, prepare: Callable[[Tensor], Tensor]) -> Hidden:
        """Attend and project hidden states (B, T, H, W, C), of which tokens are ``prepare``d before.

        Some heads run at a time, whose queries, keys and values then take little beside what all of them find.
        """
        found = on_each(lambda each: torch.empty_like(each).unflatten(-1, (-1, self.head_dim)), x)
        tokens = x.clip if isinstance(x, Joint) else x
        count = tokens.shape[-1] // self.head_dim
        step = math.ceil(count / HEAD_SHARES) if tokens[..., 0].numel() > _FEWEST else count
        for first in range(0, count, step):
            heads = slice(first, first + step)
            self._attend(x, prepare, heads, on_each(partial(_heads_of, heads), found))
        return on_each(lambda each: self.out(each.flatten(-2)), found)

    def _attend(self, x: Hidden, prepare: Callable[[Tensor], Tensor], heads: slice, found: Hidden) -> None:
        """Write what these heads find to ``found`` (B, T, H, W, heads, d)."""
        if isinstance(x, Joint) and isinstance(found, Joint):
            clip, keyframes = self._project(x.clip, prepare, heads), self._project(x.keyframes, prepare, heads, x.times)
            q, k, v = (Joint(a, b, x.times) for a, b in zip(clip, keyframes))
            found.map(Tensor.copy_, attend_jointly(q, k, v, self.kernel))
        else:
            q, k, v = self._project(x, prepare, heads)
            attend(q, k, v, self.kernel, found)

    def _project(
        self, x: Tensor, prepare: Callable[[Tensor], Tensor], heads: slice, times: Sequence[float] | None = None
    ) -> Sequence[Tensor]:
        """Queries, keys and values of these heads with their positions; in time at ``times``, None for one after the
        other."""
        rope = AxialRope.of((x.shape[1], x.shape[2], x.shape[3]), self.head_dim, x.device, times)
        linear = self._linear(heads)

        def project(part: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = linear(prepare(part)).unflatten(-1, (3, -1, self.head_dim)).unbind(-3)
            q, k = self.q_norm(q).float() * self.head_dim**-0.5, self.k_norm(k).float()
            return rope(q, first), rope(k, first), v

        if needs_grad(x, self.qkv.weight):
            return [each.to(x.dtype) for each in project(x)]
        count = len(range(x.shape[-1] // self.head_dim)[heads])
        made = x.new_empty(3, *x.shape[:-1], count, self.head_dim).unbind(0)
        step = math.ceil(x.shape[1] / SHARES)
        parts = zip(range(0, x.shape[1], step), x.split(step, dim=1))
        for first, part in alike(parts, lambda each: each[1].shape[1]):
            for target, each in zip(made, project(part, first)):
                target[:, first : first + step].copy_(each)
            del each  # before the next ones are made
        return made

    def _linear(self, heads: slice) -> Callable[[Tensor], Tensor]:
        """Return the part of ``qkv`` that is of these heads; a quantised layer is computed as a whole."""
        if not isinstance(self.qkv, nn.Linear):
            return lambda x: self.qkv(x).unflatten(-1, (3, -1, self.head_dim))[..., heads, :].flatten(-3)
        weight, bias = (
            each.unflatten(0, (3, -1, self.head_dim))[:, heads].flatten(0, 2)
            for each in (self.qkv.weight, self.qkv.bias)
        )
        return partial(F.linear, weight=weight, bias=bias)


@dataclass(frozen=True, eq=False)
class AxialRope:
    """Rotary positions in a clip, counted from its first cell: each axis has channels of its own."""

    axes: tuple[tuple[Tensor, Tensor], ...]  # cosines and sines in time, height and width: (T, H, W, 1, pairs) or 1s

    @classmethod
    def of(cls, size: Size, head_dim: int, device: torch.device, times: Sequence[float] | None = None) -> "AxialRope":
        """Compute the angles of a clip of ``size`` in float32, from frequencies in float64.

        Its frames are at ``times``; None for one after the other.
        """
        axes = []
        for axis, (length, width) in enumerate(zip(size, axis_widths(head_dim))):
            exponents = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
            positions = torch.arange(length, dtype=torch.float32, device=device)
            if axis == 0 and times is not None:
                positions = torch.tensor(times, dtype=torch.float32, device=device)
            shape = [1, 1, 1, 1, width // 2]
            shape[axis] = length
            angles = (positions[:, None] * (_THETA**-exponents).float().to(device)).reshape(shape)
            axes.append((angles.cos(), angles.sin()))
        return cls(tuple(axes))

    def __call__(self, x: Tensor, first: int = 0) -> Tensor:
        """Rotate x (B, T, H, W, heads, d) in place; its time begins at ``first``."""
        start = 0
        for axis, (cos, sin) in enumerate(self.axes):
            width = 2 * cos.shape[-1]
            if axis == 0:
                cos, sin = (each[first : first + x.shape[1]] for each in (cos, sin))
            Rotation(cos, sin, interleaved=True)(x[..., start : start + width])
            start += width
        return x


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head tell positions in time, height and width; all are even."""
    time = head_dim // 4 // 2 * 2
    if (head_dim - time) // 2 % 2:
        time -= 2
    side = (head_dim - time) // 2
    return time, side, side


class GatedMLP(nn.Module):
    """down(SiLU(gate(x)) * up(x)) through four times as many channels (SwiGLU, arXiv 2002.05202)."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = math.ceil(4 * channels / 16) * 16
        self.gate = nn.Linear(channels, hidden, bias=False)
        self.up = nn.Linear(channels, hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        """Mix the channels of each token of ``x`` (B, T, H, W, C), which is ``prepare``d before."""
        if needs_grad(x):
            x = prepare(x)
            return self.down(F.silu(self.gate(x)) * self.up(x))

        def mix(source: Tensor) -> Tensor:
            return self.down(torch.ops.aten.silu_(self.gate(source)).mul_(self.up(source)))

        tokens = x.flatten(0, -2)
        output = torch.empty_like(tokens)
        step = max(_FEWEST, math.ceil(len(tokens) / SHARES))
        for part, target in alike(zip(tokens.split(step), output.split(step)), lambda each: len(each[0])):
            target.copy_(mix(prepare(part)))
        return output.view_as(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); ``x`` is left as it is, since a block may be run again.

    Args:
        stage: Width and window.
        head_dim: Channels of a head.
        gates: Whether what is added is scaled by a vector, as in old files.
    """

    def __init__(self, stage: StageConfig, head_dim: int, gates: bool):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(stage.channels), RMSNorm(stage.channels)
        self.attention = WindowAttention(stage.channels, head_dim, stage.kernel)
        self.mlp = GatedMLP(stage.channels)
        self.attention_gate, self.mlp_gate = _gate(stage.channels, gates), _gate(stage.channels, gates)

    def forward(self, x: Hidden, shifts: Sequence[tuple[Tensor, Tensor] | None] = (None, None)) -> Hidden:
        """Return the next hidden states of ``x`` (B, T, H, W, C); ``shifts`` modulate the two norms."""
        first, second = (partial(_normalise, *each) for each in zip((self.norm1, self.norm2), shifts))
        x = on_each(lambda each, change: _add(each, change, self.attention_gate), x, self.attention.attend(x, first))
        return on_each(lambda each: _add(each, self.mlp(each, second), self.mlp_gate), x)


class DiffusionBlock(nn.Module):
    """A block to which a context is added first, and whose norms depend on the noise level; arguments as for it."""

    def __init__(self, stage: StageConfig, head_dim: int, gates: bool):
        super().__init__()
        self.block = Block(stage, head_dim, gates)
        self.context = nn.Linear(stage.channels, stage.channels)
        self.context_gate = _gate(stage.channels, gates)
        self.modulation = nn.Parameter(torch.empty(7, stage.channels))

    def forward(self, x: Hidden, context: Hidden, modulation: Tensor) -> Hidden:
        """Return the next hidden states of ``x``.

        Args:
            x: (B, T, H, W, C), left as it is.
            context: What is to be seen, of the same shape.
            modulation: (7, C), of the noise level; the gates in it are not used.
        """
        scale1, shift1, _, scale2, shift2, *_ = (modulation + self.modulation).unbind(0)
        x = on_each(lambda each, seen: _add(each, self.context(seen), self.context_gate), x, context)
        return self.block(x, ((shift1, scale1), (shift2, scale2)))


class TimeEmbedding(nn.Module):
    """The noise level as shifts and scales that all blocks share."""

    def __init__(self, embedding: int, channels: int, multiplier: float):
        super().__init__()
        self.multiplier = multiplier
        self.first, self.second = nn.Linear(256, embedding), nn.Linear(embedding, embedding)
        self.modulation = nn.Linear(embedding, 7 * channels)

    def forward(self, time: float) -> Tensor:
        """Return the modulation (7, C) of ``time`` in 0..1."""
        return self.modulation(F.silu(self.embed(time))).unflatten(-1, (7, -1))

    def embed(self, time: float) -> Tensor:
        """Return the embedding (D,) of ``time`` in 0..1."""
        weight = self.first.weight
        frequencies = _THETA ** (-torch.arange(128, dtype=torch.float32, device=weight.device) / 128)
        angles = time * self.multiplier * frequencies
        return self.second(F.silu(self.first(torch.cat((angles.cos(), angles.sin())).to(weight.dtype))))


class Upsample(nn.Module):
    """More channels by a linear layer, unfolded to more frames, rows and columns."""

    def __init__(self, channels: int, config: UpsampleConfig):
        super().__init__()
        self.stride = config.stride
        self.linear = nn.Linear(channels, math.prod(config.stride) * channels // config.divisor)

    def forward(self, x: Hidden, drop_first: bool) -> Hidden:
        """Enlarge (B, T, H, W, C) by the stride; keyframes are each a clip of one frame, and so enlarged in space only.

        Args:
            x: hidden states.
            drop_first: Whether ``x`` begins with the clip, whose first cell stands for one frame alone.
        """
        if isinstance(x, Joint):
            alone = self._enlarge(x.keyframes.flatten(0, 1)[:, None], drop_first=True)
            return Joint(self._enlarge(x.clip, drop_first), alone[:, 0].unflatten(0, x.keyframes.shape[:2]), x.times)
        return self._enlarge(x, drop_first)

    def _enlarge(self, x: Tensor, drop_first: bool) -> Tensor:
        t, h, w = self.stride
        x = rearrange(self.linear(x), "B T H W (C t h w) -> B (T t) (H h) (W w) C", t=t, h=h, w=w)
        return x[:, 1:] if drop_first and t == 2 else x


def _heads_of(heads: slice, x: Tensor) -> Tensor:
    """Return these heads of ``x`` (..., heads, d)."""
    return x[..., heads, :]


def _gate(channels: int, wanted: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(channels)) if wanted else None


def _add(x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
    """Return x + gate * change, written into what nobody else has."""
    return (change if gate is None else change * gate).add_(x)


def _normalise(norm: RMSNorm, change: tuple[Tensor, Tensor] | None, x: Tensor) -> Tensor:
    """Return norm(x) (1 + scale) + shift."""
    if change is None:
        return norm(x)
    shift, scale = change
    normal = rms_norm(x, norm.eps, norm.weight * (1 + scale))
    return normal + shift if needs_grad(normal, shift) else normal.add_(shift)
