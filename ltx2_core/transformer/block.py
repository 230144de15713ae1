"""One layer of the transformer (spec: transformer.md, section 7)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..layers import Attention, FeedForward, Rotation, rms_norm
from .config import StreamConfig, TransformerConfig
from .inputs import Perturbation
from .modulation import Modulation


@dataclass(frozen=True)
class StreamState:
    """One stream on its way through the blocks; only ``x`` changes from block to block."""

    x: Tensor  # (B, N, D)
    context: Tensor  # (B, L, D)
    context_bias: Tensor | None  # (B, 1, 1, L)
    attention_bias: Tensor | None  # (B, 1, N, N)
    rotation: Rotation
    cross_rotation: Rotation | None  # time only; None without the other stream
    modulation: Modulation
    text_modulation: Modulation | None
    cross_modulation: Modulation | None
    cross_gate: Modulation | None
    embedded: Tensor  # (B, N or 1, D): the noise level, for the output head
    updated: bool

    def plus(self, change: Tensor) -> "StreamState":
        return replace(self, x=self.x + change)


class Stream(nn.Module):
    """What a stream does by itself: attend to itself, attend to its text, mix channels."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__()
        width, heads, head_dim = stream.width, stream.heads, stream.head_dim
        self.self_attn = Attention(width, heads, head_dim, gated=config.gated, eps=config.eps)
        self.text_attn = Attention(width, heads, head_dim, stream.context_width, config.gated, config.eps)
        self.feed_forward = FeedForward(stream.width)
        self.modulation = nn.Parameter(torch.empty(config.modulation_rows, stream.width))
        # Scale and shift for audio-to-video, scale and shift for video-to-audio, and the gate of this stream.
        self.cross_modulation = nn.Parameter(torch.empty(5, stream.width))
        self.text_modulation = nn.Parameter(torch.empty(2, stream.context_width)) if config.text_modulation else None
        self.eps = config.eps

    def attend(self, state: StreamState, pass_values: bool) -> StreamState:
        shift, scale, gate = state.modulation(self.modulation, 0, 1, 2)
        attended = self.self_attn(
            rms_norm(state.x, self.eps) * (1 + scale) + shift,
            rotation=state.rotation,
            bias=state.attention_bias,
            pass_values=pass_values,
        )
        state = state.plus(gate * attended)
        if self.text_modulation is None or state.text_modulation is None:
            return state.plus(self.text_attn(rms_norm(state.x, self.eps), state.context, bias=state.context_bias))
        shift, scale, gate = state.modulation(self.modulation, 6, 7, 8)
        context_shift, context_scale = state.text_modulation(self.text_modulation, 0, 1)
        attended = self.text_attn(
            rms_norm(state.x, self.eps) * (1 + scale) + shift,
            state.context * (1 + context_scale) + context_shift,
            bias=state.context_bias,
        )
        return state.plus(gate * attended)

    def mix(self, state: StreamState) -> StreamState:
        shift, scale, gate = state.modulation(self.modulation, 3, 4, 5)
        return state.plus(gate * self.feed_forward(rms_norm(state.x, self.eps) * (1 + scale) + shift))


class CrossStream(nn.Module):
    """One stream looks at the other, at equal times."""

    def __init__(self, query: StreamConfig, key: StreamConfig, config: TransformerConfig, rows: tuple[int, int]):
        super().__init__()
        heads, head_dim = config.audio.heads, config.audio.head_dim
        self.attn = Attention(query.width, heads, head_dim, key.width, gated=config.gated, eps=config.eps)
        self.rows = rows  # of this direction's scale and shift in the cross modulation tables
        self.eps = config.eps

    def forward(self, to: StreamState, source: StreamState, to_table: Tensor, source_table: Tensor) -> Tensor:
        """The change of ``to`` after looking at ``source``; (B, N, D)."""
        assert to.cross_gate is not None
        (gate,) = to.cross_gate(to_table[4:], 0)
        attended = self.attn(
            self._normalised(to, to_table),
            self._normalised(source, source_table),
            rotation=to.cross_rotation,
            context_rotation=source.cross_rotation,
        )
        return gate * attended

    def _normalised(self, state: StreamState, table: Tensor) -> Tensor:
        assert state.cross_modulation is not None
        scale, shift = state.cross_modulation(table[:4], *self.rows)
        return rms_norm(state.x, self.eps) * (1 + scale) + shift


class Block(nn.Module):
    """Each stream attends to itself and its text, then to the other, then mixes channels."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = Stream(config.video, config)
        self.audio = Stream(config.audio, config)
        self.audio_to_video = CrossStream(config.video, config.audio, config, rows=(0, 1))
        self.video_to_audio = CrossStream(config.audio, config.video, config, rows=(2, 3))

    def forward(
        self, video: StreamState | None, audio: StreamState | None, index: int, skip: Perturbation
    ) -> tuple[StreamState | None, StreamState | None]:
        if video is not None and video.updated:
            video = self.video.attend(video, pass_values=index in skip.video_values_only)
        if audio is not None and audio.updated:
            audio = self.audio.attend(audio, pass_values=index in skip.audio_values_only)
        if video is not None and audio is not None:
            video, audio = self._exchange(video, audio, skip)
        if video is not None and video.updated:
            video = self.video.mix(video)
        if audio is not None and audio.updated:
            audio = self.audio.mix(audio)
        return video, audio

    def _exchange(self, video: StreamState, audio: StreamState, skip: Perturbation) -> tuple[StreamState, StreamState]:
        """Both directions read the state from before either is written."""
        video_table, audio_table = self.video.cross_modulation, self.audio.cross_modulation
        new_video, new_audio = video, audio
        if skip.audio_to_video and video.updated:
            new_video = video.plus(self.audio_to_video(video, audio, video_table, audio_table))
        if skip.video_to_audio and audio.updated:
            new_audio = audio.plus(self.video_to_audio(audio, video, audio_table, video_table))
        return new_video, new_audio
