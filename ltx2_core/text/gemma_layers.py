"""What Gemma 3 and Gemma 4 are both made of, by the names that their files give it (see README.md, "Gemma").

Written from the architecture, without transformers: its releases name and build Gemma differently, and importing it
takes longer than reading a prompt.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..layers import Linear, apply_gelu


class Heads(NamedTuple):
    """How the queries, and the keys and values, of a layer are divided."""

    queries: int
    keys: int  # divides ``queries``
    width: int  # channels d of each


class Norm(nn.Module):
    """Root-mean-square norm in float32, times a weight for each channel; cast back behind the weight.

    Args:
        width: Channels.
        eps: Added to the mean square.
        offset: Added to the weight: Gemma 3 stores what differs from one.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D) over its last axis."""
        weight = self.weight.float()
        return normalise(x, self.eps, weight + self.offset if self.offset else weight)


def normalise(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """Return the root-mean-square norm of ``x`` (..., D), computed in float32, times ``weight`` (D)."""
    return functional.rms_norm(x.float(), x.shape[-1:], weight, eps).to(x.dtype)


@dataclass(frozen=True)
class Sight:
    """What layers of one kind share: which tokens see which, and how positions rotate."""

    visible: Tensor  # (1, 1, L, known + L) bool
    cos: Tensor  # (L, d / 2)
    sin: Tensor

    @classmethod
    def behind(
        cls,
        known: int,
        x: Tensor,
        frequencies: Tensor,
        window: int | None,
        picture: slice | None = None,
        first: int = 0,
    ) -> "Sight":
        """Let each further token see itself and what is before it.

        Args:
            known: How many tokens were read before.
            x: The further ones, (1, L, D).
            frequencies: Radians per position of each pair of channels, (d / 2).
            window: How many tokens are seen at most; None for all.
            picture: Those among the further ones that see each other, also ahead.
            first: Position of the first token that was read.
        """
        at = torch.arange(known + x.shape[1], device=x.device)
        visible = _within(at[known:, None] - at, window)
        if picture is not None:
            places = at[known:][picture]
            distance = places[:, None] - places
            visible[picture, known:][:, picture] = distance < (len(places) if window is None else window)
        angles = (at[known:, None] + first) * frequencies.to(x.device)
        return cls(visible[None, None], angles.cos().to(x.dtype), angles.sin().to(x.dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate channels (i, i + d / 2) of ``x`` (B, H, L, d) by their angle."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


def _within(distance: Tensor, window: int | None) -> Tensor:
    """Which tokens are not behind, and not farther away than ``window``, of all distances."""
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


class Past:
    """Keys and values of what one layer has read, (1, H, L, d): so that each token of a text is read once."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """How many tokens have been read."""
        return 0 if self._kept is None else self._kept[0].shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of further tokens; return all."""
        if self._kept is not None:
            keys, values = torch.cat((self._kept[0], keys), dim=2), torch.cat((self._kept[1], values), dim=2)
        self._kept = keys, values
        return keys, values


class CausalAttention(nn.Module):
    """Attention with a norm on the queries and keys of each head.

    Args:
        width: Channels D of a state.
        heads: How they are divided.
        norm: Makes the norm of a width.
        scale: Times the scores.
        own_values: Whether values have a projection; else they are the keys, before their norm and rotation.
    """

    def __init__(self, width: int, heads: Heads, norm: Callable[[int], Norm], scale: float, own_values: bool = True):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q_proj = Linear(width, heads.queries * heads.width, bias=False)
        self.k_proj = Linear(width, heads.keys * heads.width, bias=False)
        self.v_proj = Linear(width, heads.keys * heads.width, bias=False) if own_values else None
        self.o_proj = Linear(heads.queries * heads.width, width, bias=False)
        self.q_norm, self.k_norm = norm(heads.width), norm(heads.width)

    def forward(self, x: Tensor, sight: Sight, past: Past | None = None) -> Tensor:
        """Attend from each token of ``x`` (B, L, D) to those it sees, those in ``past`` included."""
        projected = self._split(self.k_proj(x))
        values = self.finish_values(projected if self.v_proj is None else self._split(self.v_proj(x)))
        query = sight.rotate(self.q_norm(self._split(self.q_proj(x))))
        keys = sight.rotate(self.k_norm(projected))
        if past is not None:
            keys, values = past.extend(keys, values)
        group = self.heads.queries // self.heads.keys
        key, value = (each.repeat_interleave(group, dim=1) for each in (keys, values))
        seen = functional.scaled_dot_product_attention(query, key, value, sight.visible, scale=self.scale)
        return self.o_proj(seen.transpose(1, 2).flatten(2))

    def finish_values(self, values: Tensor) -> Tensor:
        """Return what is attended to of ``values`` (B, H, L, d): they themselves."""
        return values

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, H * d) to (B, H, L, d)."""
        return x.unflatten(-1, (-1, self.heads.width)).transpose(1, 2)


class Mlp(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=False)
        self.up_proj = Linear(width, hidden, bias=False)
        self.down_proj = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of ``x`` (B, L, D) by itself."""
        return self.down_proj(apply_gelu(self.gate_proj, x) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each between two norms."""

    def __init__(self, width: int, hidden: int, attention: CausalAttention, norm: Callable[[int], Norm]):
        super().__init__()
        self.self_attn, self.mlp = attention, Mlp(width, hidden)
        self.input_layernorm, self.post_attention_layernorm = norm(width), norm(width)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(width), norm(width)

    def forward(self, texts: Sequence[Tensor], sights: Sequence[Sight], past: Past | None = None) -> list[Tensor]:
        """Return the state of each text (1, L, D) after this layer, one computed after the other."""
        return [self.read(x, sight, past) for x, sight in zip(texts, sights)]

    def read(self, x: Tensor, sight: Sight, past: Past | None = None) -> Tensor:
        """Return the state (1, L, D) after this layer; what is read is added to ``past``."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), sight, past))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class TextModel(nn.Module):
    """The modules of the text model, frozen."""

    def __init__(self, vocabulary: int, width: int, layers: Iterable[Layer], norm: Callable[[int], Norm]):
        super().__init__()
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(vocabulary, width))
        self.layers = nn.ModuleList(layers)
        self.norm = norm(width)
        self.eval().requires_grad_(False)
