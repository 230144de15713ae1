"""The dual-stream diffusion transformer of LTX-2 (paper, section 3; spec: transformer.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import Rope, Rotation
from .block import Block, Pair, StreamState, Text
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


@dataclass(frozen=True, eq=False)
class Levels:
    """What the noise levels of a step make of a stream, in all passes."""

    modulation: Modulation
    embedded: Modulation
    text: Modulation | None
    cross_modulation: Modulation | None
    cross_gate: Modulation | None


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

    @property
    def parts(self) -> list[nn.Module]:
        """What needs its weights only while it is called, once for all passes at one noise level."""
        parts = [self.modulate, self.modulate_text, self.modulate_cross, self.gate_cross]
        return [part for part in parts if part is not None]

    def levels(self, sigma: Tensor, timesteps: Tensor | None, other_sigma: Tensor | None, dtype: torch.dtype) -> Levels:
        """What follows from the noise levels of a stream, and of the other one."""
        levels, level = _distinct_levels(sigma, timesteps)
        each_clip = torch.arange(len(sigma), device=level.device)[:, None]
        embedded, rows = self.modulate(levels * self.config.sigma_scale, dtype)
        text = cross_modulation = cross_gate = None
        if self.modulate_text is not None:
            text = Modulation(self.modulate_text(sigma * self.config.sigma_scale, dtype)[1], each_clip)
        if other_sigma is not None:
            cross_modulation = self.modulate_by_own_level(levels, level, other_sigma, dtype)
            gates = self.gate_cross(other_sigma * self.config.cross_gate_scale, dtype)[1]
            cross_gate = Modulation(gates, each_clip)
        return Levels(Modulation(rows, level), Modulation(embedded[:, None], level), text, cross_modulation, cross_gate)

    def enter(self, stream: StreamInput, other: StreamInput | None, levels: Levels) -> StreamState:
        """The state before the first block."""
        dtype, expected = stream.tokens.dtype, self.config.caption_width or self.context_width
        if stream.context.shape[-1] != expected:
            raise ValueError(
                f"The prompt was encoded to contexts of width {stream.context.shape[-1]}, this transformer reads "
                f"{expected}: text projection, connectors and transformer must be of one LTX-2 version."
            )
        return StreamState(
            x=self.project_in(stream.tokens),
            text=self._text(stream, levels.text),
            visibility=stream.visibility,
            rotation=self._rotation(self.rope, stream.positions, dtype),
            cross_rotation=None if other is None else self._rotation(self.cross_rope, stream.positions, dtype),
            modulation=levels.modulation,
            cross_modulation=levels.cross_modulation,
            cross_gate=levels.cross_gate,
            embedded=levels.embedded,
            updated=stream.updated,
        )

    def _rotation(self, rope: Rope, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotations of ``positions``, made when they are first seen."""
        made = self._rotations.setdefault(positions, {})
        if (rope, dtype) not in made:
            # One position per axis: the middle of the token.
            made[rope, dtype] = rope(positions.float().mean(-1)[:, : len(rope.max_positions)], dtype)
        return made[rope, dtype]

    def _text(self, stream: StreamInput, modulation: Modulation | None) -> Text:
        caption, bias = self.caption or nn.Identity(), _context_bias(stream.context_mask, stream.tokens.dtype)
        if (nag := stream.nag) is None:
            return Text(caption(stream.context), bias, modulation)
        negative = Text(caption(nag.context), None, modulation)
        return Text(caption(stream.context), bias, modulation, negative, nag.scale, nag.limit, nag.blend)

    def modulate_by_own_level(
        self, levels: Tensor, level: Tensor, other_sigma: Tensor, dtype: torch.dtype
    ) -> Modulation:
        """Scale and shift between the streams follow each token's own noise level, since May 2026 (rule C)."""
        return Modulation(self.modulate_cross(levels * self.config.sigma_scale, dtype)[1], level)

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

    def _enter(self, passes: Sequence[Pass]) -> list[Pair]:
        def through(ends: StreamEnds) -> Callable[[StreamInput | None, StreamInput | None], StreamState | None]:
            levels_of = cache(ends.levels)

            @cache
            def enter(stream: StreamInput | None, other: StreamInput | None) -> StreamState | None:
                if stream is None:
                    return None
                other_sigma = None if other is None else other.sigma
                levels = levels_of(stream.sigma, stream.timesteps, other_sigma, stream.tokens.dtype)
                return ends.enter(stream, other, levels)

            return enter

        enter_video, enter_audio = through(self.video), through(self.audio)
        return [(enter_video(each.video, each.audio), enter_audio(each.audio, each.video)) for each in passes]


def _distinct_levels(sigma: Tensor, timesteps: Tensor | None) -> tuple[Tensor, Tensor]:
    """The noise levels that occur (M,), and which of them each token has (B, N) or (B, 1)."""
    if timesteps is None:
        return sigma.float(), torch.arange(len(sigma), device=sigma.device)[:, None]
    levels, level = torch.unique(timesteps.float(), return_inverse=True)
    return levels, level


def _context_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a token of the context may be seen, the lowest number where not; (B, L) to (B, 1, 1, L)."""
    if mask is None:
        return None
    return ((mask.to(dtype) - 1) * torch.finfo(dtype).max)[:, None, None]
