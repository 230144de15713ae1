"""The dual-stream diffusion transformer of LTX-2 (arXiv 2601.03233, section 3; see README.md)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import SettingError
from ..layers import Linear, Rope, Rotation, TokenLevels, apply_gelu, repeat
from .block import Block
from .config import StreamConfig, TransformerConfig
from .graphs import SweepGraphs
from .inputs import UNPERTURBED, Pass, Perturbation, StreamInput, Velocities
from .modulation import AdaLN, Modulation, modulate
from .state import StatePair, StreamState, TextInput
from .step_cache import StepCache


class CaptionProjection(nn.Module):
    """Projects the text contexts of 2.0 to the width of a stream."""

    def __init__(self, caption_width: int, width: int):
        super().__init__()
        self.up = Linear(caption_width, width)
        self.out = Linear(width, width)

    def forward(self, context: Tensor) -> Tensor:
        """Project (B, L, C) to (B, L, D)."""
        return self.out(apply_gelu(self.up, context))


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """Everything in a stream that depends on the noise levels of a step, for all passes with these levels."""

    modulation: Modulation
    embedded: Modulation  # the embedding itself, for the output head
    text: Modulation | None  # 2.3
    cross_modulation: Modulation | None  # None without the other stream
    cross_gate: Modulation | None


class StreamIO(nn.Module):
    """The layers of a stream before and after the blocks: tokens in, modulation from sigma, velocity out."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig, cross_max_position: float):
        super().__init__()
        self.config = config
        self.context_width = stream.context_width
        self.project_in = Linear(stream.channels_in, stream.width)
        self.keyframe_mark = nn.Parameter(torch.empty(1, stream.width)) if stream.marks_keyframes else None
        self.modulate = AdaLN(stream.width, config.modulation_rows)
        self.modulate_text = AdaLN(stream.width, 2) if config.text_modulation else None
        self.modulate_cross = AdaLN(stream.width, 4)
        self.gate_cross = AdaLN(stream.width, 1)
        self.caption = CaptionProjection(config.caption_width, stream.width) if config.caption_width else None
        self.modulation = nn.Parameter(torch.empty(2, stream.width))
        self.project_out = Linear(stream.width, stream.channels_out)
        rope = partial(Rope, theta=config.rope_theta, interleaved=config.rope_interleaved, double=config.rope_double)
        self.rope = rope(stream.heads, stream.head_dim, stream.max_positions)
        self.cross_rope = rope(config.audio.heads, config.audio.head_dim, (cross_max_position,))
        # One entry per tensor of positions that is still in use; passes and steps with the same tensor share it.
        self._rotations = WeakTensorKeyDictionary()

    @property
    def streamable_modules(self) -> list[nn.Module]:
        """Submodules that are called once for all passes at one noise level and need their weights only then."""
        modules = [self.modulate, self.modulate_text, self.modulate_cross, self.gate_cross]
        return [module for module in modules if module is not None]

    def noise_levels(
        self,
        sigma: Tensor,
        timesteps: Tensor | None,
        other_sigma: Tensor | None,
        dtype: torch.dtype,
        shares: TokenLevels | None = None,
    ) -> NoiseLevels:
        """Compute everything that depends on the noise levels of a stream, and of the other one (see README.md,
        "Modulation between the streams").

        Args:
            sigma: Noise level of the stream as a whole (B,).
            timesteps: Noise level of each token (B, N); None for ``sigma`` everywhere.
            other_sigma: Noise level of the other stream (B,); None if it is absent.
            dtype: The dtype of the hidden states.
            shares: The shares of sigma that ``timesteps`` are made of; None if they are to be found.
        """
        levels, level = _distinct_levels(sigma, timesteps, shares)
        each_clip = torch.arange(len(sigma), device=level.device)[:, None]
        embedded, rows = self.modulate(levels * self.config.sigma_scale, dtype)
        text = cross_modulation = cross_gate = None
        if self.modulate_text is not None:
            text = Modulation(self.modulate_text(sigma * self.config.sigma_scale, dtype)[1], each_clip)
        if other_sigma is not None:
            cross_modulation = Modulation(self.modulate_cross(levels * self.config.sigma_scale, dtype)[1], level)
            gates = self.gate_cross(other_sigma * self.config.cross_gate_scale, dtype)[1]
            cross_gate = Modulation(gates, each_clip)
        own, output = Modulation(rows, level), Modulation(embedded[:, None], level)
        return NoiseLevels(own, output, text, cross_modulation, cross_gate)

    def embed(self, stream: StreamInput, other: StreamInput | None, levels: NoiseLevels) -> StreamState:
        """Make the state before the first block.

        Raises:
            SettingError: The context has the width of another model version.
        """
        dtype, expected = stream.tokens.dtype, self.config.caption_width or self.context_width
        if stream.context.shape[-1] != expected:
            raise SettingError(
                f"The prompt was encoded to contexts of width {stream.context.shape[-1]}, this transformer reads "
                f"{expected}: text projection, connectors and transformer must be of one LTX-2 version."
            )
        return StreamState(
            x=self._project_tokens(stream),
            texts=(self._text_input(stream, levels.text),),
            visibility=stream.visibility,
            rotation=self._rotation(self.rope, stream.positions, dtype),
            cross_rotation=None if other is None else self._rotation(self.cross_rope, stream.positions, dtype),
            modulation=levels.modulation,
            cross_modulation=levels.cross_modulation,
            cross_gate=levels.cross_gate,
            embedded=levels.embedded,
            updated=stream.updated,
            share=stream.share,
        )

    def _project_tokens(self, stream: StreamInput) -> Tensor:
        """Tokens as the blocks see them; those of keyframes carry their mark (see README.md, "Keyframes")."""
        x = self.project_in(stream.tokens)
        if self.keyframe_mark is None or stream.keyframes is None:
            return x
        return torch.addcmul(x, stream.keyframes.to(x), self.keyframe_mark.to(x))

    def _rotation(self, rope: Rope, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotations of ``positions``, computed on first use."""
        cached = self._rotations.setdefault(positions, {})
        if (rope, dtype) not in cached:
            # One position per axis: the middle of the token.
            cached[rope, dtype] = rope(positions.float().mean(-1)[:, : len(rope.max_positions)], dtype)
        return cached[rope, dtype]

    def _text_input(self, stream: StreamInput, modulation: Modulation | None) -> TextInput:
        caption, cache = self.caption or nn.Identity(), stream.text_cache if modulation is None else None
        context = caption(stream.context) if cache is None else cache.find(self, partial(caption, stream.context))
        negative = None if stream.nag is None else TextInput(caption(stream.nag.context), None, modulation)
        return TextInput(context, stream.schedule, modulation, stream.nag, negative, cache)

    def to_velocity(self, state: StreamState) -> Tensor:
        """Map the state after the last block to the velocity (B, N, C)."""
        x = F.layer_norm(state.x, state.x.shape[-1:], eps=self.config.eps)
        shift, scale = state.embedded(self.modulation, 0, 1)
        return self.project_out(modulate(x, shift, scale))


class Transformer(nn.Module):
    """Predicts the velocity of both streams; either may be absent.

    Attributes:
        graphs: the walk over the blocks as CUDA graphs, while it is ``graphed``.
    """

    graphs: SweepGraphs | None = None

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        # Attention between the streams has one time axis, the longer of the two.
        cross_max_position = max(config.video.max_positions[0], config.audio.max_positions[0])
        self.video = StreamIO(config.video, config, cross_max_position)
        self.audio = StreamIO(config.audio, config, cross_max_position)
        blocks = [*repeat(partial(Block, config), config.layers)]
        for block in blocks[1:]:  # the first one looks everywhere
            block.video.self_attn.may_be_sparse = True
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        video: StreamInput | None,
        audio: StreamInput | None,
        perturbation: Perturbation = UNPERTURBED,
        between_blocks: Callable[[], None] | None = None,
    ) -> Velocities:
        """Predict the velocities (B, N, C) of video and audio; None for an absent stream.

        Args:
            video: The video stream, or None.
            audio: The audio stream, or None.
            perturbation: The parts of the network to leave out.
            between_blocks: Called before each block; it may raise to interrupt.
        """
        return self.sweep([Pass(video, audio, perturbation)], between_blocks)[0]

    def sweep(
        self,
        passes: Sequence[Pass],
        between_blocks: Callable[[], None] | None = None,
        step_cache: StepCache | None = None,
    ) -> list[Velocities]:
        """Predict the velocities of all passes of a step, visiting every block once.

        The results are those of separate calls, bit for bit for passes that are no batch (see README.md, "Block");
        passes with the same ``StreamInput`` objects share what they have in common.

        Args:
            passes: The evaluations of this step.
            between_blocks: Called before each block; it may raise to interrupt.
            step_cache: Leaves out blocks of the picture in steps that change little.
        """
        walk = self._walk if self.graphs is None else self.graphs.walk
        states = walk(self.embed(passes), [each.perturbation for each in passes], between_blocks, step_cache)
        return [
            (
                None if video is None else self.video.to_velocity(video),
                None if audio is None else self.audio.to_velocity(audio),
            )
            for video, audio in states
        ]

    @contextmanager
    def graphed(self) -> Iterator[SweepGraphs]:
        """Let steps be CUDA graphs where that is possible, within this context; they are given up at its end."""
        self.graphs = SweepGraphs(self.blocks, self._walk)
        try:
            yield self.graphs
        finally:
            del self.graphs

    def _walk(
        self,
        states: list[StatePair],
        skips: Sequence[Perturbation],
        between_blocks: Callable[[], None] | None,
        step_cache: StepCache | None,
    ) -> list[StatePair]:
        """Take the states of all passes through the blocks; the list is emptied, as a block does."""
        given, states = states, states.copy()
        given.clear()
        if step_cache is not None:
            step_cache.start(states)
        for index, block in enumerate(self.blocks):
            if between_blocks is not None:
                between_blocks()
            states = block(states, index, skips)
            if step_cache is not None:
                states = step_cache.after(index, len(self.blocks), states, skips)
        return states

    def embed(self, passes: Sequence[Pass]) -> list[StatePair]:
        """Make the states of video and audio before the first block, once for passes with the same inputs."""
        embed_video, embed_audio = _cached_embed(self.video), _cached_embed(self.audio)
        return [(embed_video(each.video, each.audio), embed_audio(each.audio, each.video)) for each in passes]


def _cached_embed(io: StreamIO) -> Callable[[StreamInput | None, StreamInput | None], StreamState | None]:
    """``io.embed`` of a stream beside the other one, computed once for each pair of inputs."""
    cached_levels = cache(io.noise_levels)

    @cache
    def embed(stream: StreamInput | None, other: StreamInput | None) -> StreamState | None:
        if stream is None:
            return None
        other_sigma = None if other is None else other.sigma
        levels = cached_levels(stream.sigma, stream.timesteps, other_sigma, stream.tokens.dtype, stream.levels)
        return io.embed(stream, other, levels)

    return embed


def _distinct_levels(sigma: Tensor, timesteps: Tensor | None, shares: TokenLevels | None) -> tuple[Tensor, Tensor]:
    """The noise levels that occur (M,), and which of them each token has (B, N) or (B, 1)."""
    if timesteps is None:
        return sigma.float(), torch.arange(len(sigma), device=sigma.device)[:, None]
    if shares is not None:
        return shares.shares * sigma[:1].float(), shares.index
    found = TokenLevels.of(timesteps)
    return found.shares, found.index
