"""The dual-stream diffusion transformer of LTX-2 (paper, section 3; spec: transformer.md)."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import Rope, Rotation
from .block import Block, States, StreamState, Text
from .config import StreamConfig, TransformerConfig
from .inputs import UNPERTURBED, Pass, Perturbation, StreamInput
from .modulation import AdaLN, Modulation, modulate


class CaptionProjection(nn.Module):
    """Brings the text contexts of 2.0 to the width of a stream; (B, L, C) to (B, L, D)."""

    def __init__(self, caption_width: int, width: int):
        super().__init__()
        self.up = nn.Linear(caption_width, width)
        self.out = nn.Linear(width, width)

    def forward(self, context: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(context), approximate="tanh"))


class StreamEnds(nn.Module):
    """Where a stream enters and leaves the transformer: tokens in, modulation from sigma, velocity out."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig, cross_max_position: float):
        super().__init__()
        self.config = config
        self.context_width = stream.context_width
        self.project_in = nn.Linear(stream.channels_in, stream.width)
        self.modulate = AdaLN(stream.width, config.modulation_rows)
        self.modulate_text = AdaLN(stream.width, 2) if config.text_modulation else None
        self.modulate_cross = AdaLN(stream.width, 4)
        self.gate_cross = AdaLN(stream.width, 1)
        self.caption = CaptionProjection(config.caption_width, stream.width) if config.caption_width else None
        self.modulation = nn.Parameter(torch.empty(2, stream.width))
        self.project_out = nn.Linear(stream.width, stream.channels_out)
        kind = (config.rope_theta, config.rope_interleaved, config.rope_double)
        self.rope = Rope(stream.heads, stream.head_dim, stream.max_positions, *kind)
        self.cross_rope = Rope(config.audio.heads, config.audio.head_dim, (cross_max_position,), *kind)
        # Of every tensor of positions that is still in use: the passes and steps that are given the same one share it.
        self._rotations = WeakTensorKeyDictionary()

    def enter(self, stream: StreamInput, other: StreamInput | None) -> StreamState:
        """The state before the first block."""
        dtype, expected = stream.tokens.dtype, self.config.caption_width or self.context_width
        if stream.context.shape[-1] != expected:
            raise ValueError(
                f"The prompt was encoded to contexts of width {stream.context.shape[-1]}, this transformer reads "
                f"{expected}: text projection, connectors and transformer must be of one LTX-2 version."
            )
        levels, level = _distinct_levels(stream)
        embedded = self.modulate.embed(levels * self.config.sigma_scale, dtype)
        each_clip = torch.arange(len(stream.sigma), device=level.device)[:, None]
        return StreamState(
            x=self.project_in(stream.tokens),
            text=self._text(stream, each_clip),
            attention_bias=_attention_bias(stream.attention_mask, dtype),
            rotation=self._rotation(self.rope, stream.positions, dtype),
            cross_rotation=None if other is None else self._rotation(self.cross_rope, stream.positions, dtype),
            modulation=Modulation(self.modulate.modulate(embedded), level),
            cross_modulation=None if other is None else self.modulate_by_own_level(levels, level, other.sigma, dtype),
            cross_gate=None
            if other is None
            else Modulation(self.gate_cross(other.sigma * self.config.cross_gate_scale, dtype), each_clip),
            embedded=Modulation(embedded[:, None], level),
            updated=stream.updated,
        )

    def _rotation(self, rope: Rope, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotations of ``positions``, made when they are first seen."""
        made = self._rotations.setdefault(positions, {})
        if (rope, dtype) not in made:
            # One position per axis: the middle of the token.
            made[rope, dtype] = rope(positions.float().mean(-1)[:, : len(rope.max_positions)], dtype)
        return made[rope, dtype]

    def _text(self, stream: StreamInput, each_clip: Tensor) -> Text:
        dtype, modulation, caption = stream.tokens.dtype, None, self.caption or nn.Identity()
        if self.modulate_text is not None:
            rows = self.modulate_text(stream.sigma * self.config.sigma_scale, dtype)
            modulation = Modulation(rows, each_clip)
        bias = _context_bias(stream.context_mask, dtype)
        if (nag := stream.nag) is None:
            return Text(caption(stream.context), bias, modulation)
        negative = Text(caption(nag.context), None, modulation)
        return Text(caption(stream.context), bias, modulation, negative, nag.scale, nag.limit, nag.blend)

    def modulate_by_own_level(
        self, levels: Tensor, level: Tensor, other_sigma: Tensor, dtype: torch.dtype
    ) -> Modulation:
        """Scale and shift between the streams follow each token's own noise level, since May 2026 (rule C)."""
        return Modulation(self.modulate_cross(levels * self.config.sigma_scale, dtype), level)

    def leave(self, state: StreamState) -> Tensor:
        """The state after the last block to the velocity (B, N, C)."""
        x = F.layer_norm(state.x, state.x.shape[-1:], eps=self.config.eps)
        return self.project_out(modulate(x, *state.embedded(self.modulation, 0, 1)))


class Transformer(nn.Module):
    """Predicts the velocity of both streams; either may be absent."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        # Both streams meet on one clock, the longer of the two.
        cross_max_position = max(config.video.max_positions[0], config.audio.max_positions[0])
        self.video = StreamEnds(config.video, config, cross_max_position)
        self.audio = StreamEnds(config.audio, config, cross_max_position)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(
        self,
        video: StreamInput | None,
        audio: StreamInput | None,
        perturbation: Perturbation = UNPERTURBED,
        between_blocks: Callable[[], None] | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The velocities (B, N, C) of video and audio; None for an absent stream."""
        return self.sweep([Pass(video, audio, perturbation)], between_blocks)[0]

    @torch.no_grad()
    def sweep(
        self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """The velocities of all passes of a step, in one walk over the blocks.

        Exactly what separate calls give, but every block is visited once, and passes that are given the same
        ``StreamInput`` objects share what they have in common. ``between_blocks`` is called before each block; it may
        raise to interrupt.
        """
        states, skips = self._enter(passes), [each.perturbation for each in passes]
        for index, block in enumerate(self.blocks):
            if between_blocks is not None:
                between_blocks()
            states = block(states, index, skips)
        return [
            (
                None if video is None else self.video.leave(video),
                None if audio is None else self.audio.leave(audio),
            )
            for video, audio in states
        ]

    def _enter(self, passes: Sequence[Pass]) -> list[States]:
        enter_video, enter_audio = cache(self.video.enter), cache(self.audio.enter)
        return [
            (
                None if each.video is None else enter_video(each.video, each.audio),
                None if each.audio is None else enter_audio(each.audio, each.video),
            )
            for each in passes
        ]


def _distinct_levels(stream: StreamInput) -> tuple[Tensor, Tensor]:
    """The noise levels that occur (M,), and which of them each token has (B, N) or (B, 1)."""
    if stream.timesteps is None:
        return stream.sigma.float(), torch.arange(len(stream.sigma), device=stream.sigma.device)[:, None]
    levels, level = torch.unique(stream.timesteps.float(), return_inverse=True)
    return levels, level


def _context_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a token of the context may be seen, the lowest number where not; (B, L) to (B, 1, 1, L)."""
    if mask is None:
        return None
    return ((mask.to(dtype) - 1) * torch.finfo(dtype).max)[:, None, None]


def _attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """log(mask), so that weights are multiplied by it; (B, N, N) to (B, 1, N, N)."""
    if mask is None:
        return None
    limits = torch.finfo(dtype)
    bias = mask.float().clamp(min=limits.tiny).log().to(dtype)
    return torch.where(mask > 0, bias, limits.min)[:, None]
