"""The blocks of the diffusion decoder (see README.md, "Diffusion"). Clips are (B, T, H, W, C)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import Rotation, needs_grad
from ..layers.norms import RMSNorm
from .diffusion_config import StageConfig, UpsampleConfig
from .keyframe_attention import Hidden, Joint, attend_jointly, on_each
from .neighbourhood_attention import Size, attend

_THETA = 10_000.0
SHARES = 8  # of a clip that are rotated, whose channels are mixed, and that become cells, at a time
_FEWEST = 4096  # tokens at a time, enough for full speed


class WindowAttention(nn.Module):
    """Multi-head attention of every token to the window around it. There is no ``forward``: blocks call the steps."""

    def __init__(self, channels: int, head_dim: int, kernel: Size):
        super().__init__()
        self.head_dim, self.kernel = head_dim, kernel
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.out = nn.Linear(channels, channels)

    def project(self, x: Tensor) -> Tensor:
        """Project tokens (B, T, H, W, C) to queries, keys and values without positions, (B, T, H, W, 3, heads, d)."""
        return self.qkv(x).unflatten(-1, (3, -1, self.head_dim))

    def attend(self, qkv: Hidden) -> Hidden:
        """Attend and project; (B, T, H, W, 3, heads, d), which is overwritten, to (B, T, H, W, C)."""
        if isinstance(qkv, Joint):
            return self._attend_jointly(qkv)
        q, k, v = self._placed(qkv)
        found = attend(q, k, v, self.kernel)
        del q, k, v, qkv
        return self.out(found.flatten(-2))

    def _attend_jointly(self, qkv: Joint) -> Joint:
        clip, keyframes = self._placed(qkv.clip), self._placed(qkv.keyframes, qkv.times)
        q, k, v = (Joint(a, b, qkv.times) for a, b in zip(clip, keyframes))
        found = attend_jointly(q, k, v, self.kernel)
        return found.map(lambda x: self.out(x.flatten(-2)))

    def _placed(self, qkv: Tensor, times: Sequence[float] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values with their positions; in time at ``times``, None for one after the other."""
        q, k, v = qkv.unbind(-3)
        rope = AxialRope.of((q.shape[1], q.shape[2], q.shape[3]), self.head_dim, q.device, times)
        return self._place(q, self.q_norm, self.head_dim**-0.5, rope), self._place(k, self.k_norm, 1.0, rope), v

    def _place(self, x: Tensor, norm: RMSNorm, scale: float, rope: "AxialRope") -> Tensor:
        """Normalise the heads of ``x`` (B, T, H, W, heads, d), scale them, and rotate them by their positions."""
        if needs_grad(x):
            return rope(norm(x).float().mul(scale)).to(x.dtype)
        step = math.ceil(x.shape[1] / SHARES)
        for first, part in zip(range(0, x.shape[1], step), x.split(step, dim=1)):
            part.copy_(rope(norm(part).float().mul_(scale), first))
        return x


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

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of each token of ``x`` (B, T, H, W, C)."""
        if needs_grad(x):
            return self.down(F.silu(self.gate(x)) * self.up(x))
        tokens = x.flatten(0, -2)
        output = torch.empty_like(tokens)
        step = max(_FEWEST, math.ceil(len(tokens) / SHARES))
        for source, target in zip(tokens.split(step), output.split(step)):
            target.copy_(self.down(torch.ops.aten.silu_(self.gate(source)).mul_(self.up(source))))
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
        qkv = on_each(lambda each: self.attention.project(_modulate(self.norm1(each), shifts[0])), x)
        x = on_each(lambda each, change: _add(each, change, self.attention_gate), x, self.attention.attend(qkv))
        del qkv
        return on_each(lambda each: _add(each, self.mlp(_modulate(self.norm2(each), shifts[1])), self.mlp_gate), x)


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


def _gate(channels: int, wanted: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(channels)) if wanted else None


def _add(x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
    """Return x + gate * change, written into what nobody else has."""
    return (change if gate is None else change * gate).add_(x)


def _modulate(x: Tensor, change: tuple[Tensor, Tensor] | None) -> Tensor:
    if change is None:
        return x
    shift, scale = change
    return x * (1 + scale) + shift if needs_grad(x, scale) else x.mul_(1 + scale).add_(shift)
