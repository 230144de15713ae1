"""One layer of the transformer (spec: transformer.md, section 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from ..layers import Attention, FeedForward, Rotation, Seen, rms_norm
from .config import StreamConfig, TransformerConfig
from .inputs import Perturbation
from .modulation import Modulation, Row, gated_sum, modulate


@dataclass(frozen=True, eq=False)
class Text:
    """What a stream reads; passes that read the same share one of these."""

    context: Tensor  # (B, L, D)
    bias: Tensor | None  # (B, 1, 1, L)
    modulation: Modulation | None
    negative: "Text | None" = None  # what normalised attention guidance leads away from
    scale: float = 1.0
    limit: float = 2.5
    blend: float = 0.25


@dataclass(frozen=True, eq=False)
class StreamState:
    """One stream on its way through the blocks; only ``x`` changes from block to block.

    States compare by identity: passes that have not parted yet hold the same one.
    """

    x: Tensor  # (B, N, D)
    text: Text
    attention_bias: Tensor | None  # (B, 1, N, N)
    rotation: Rotation
    cross_rotation: Rotation | None  # time only; None without the other stream
    modulation: Modulation
    cross_modulation: Modulation | None
    cross_gate: Modulation | None
    embedded: Modulation  # one row: the noise level, for the output head
    updated: bool

    def plus(self, change: Tensor, gate: Row | None = None) -> "StreamState":
        """x + gate * change, written into ``change``: other passes may share this state."""
        return replace(self, x=change.add_(self.x) if gate is None else gated_sum(self.x, gate, change))


See = Callable[[Text], Seen]


class Stream(nn.Module):
    """What a stream does by itself: attend to itself, attend to its text, mix channels."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__()
        width, heads, head_dim = stream.width, stream.heads, stream.head_dim
        self.self_attn = Attention(width, heads, head_dim, gated=config.gated, eps=config.eps)
        self.text_attn = Attention(width, heads, head_dim, stream.context_width, config.gated, config.eps)
        self.feed_forward = FeedForward(width)
        self.modulation = nn.Parameter(torch.empty(config.modulation_rows, width))
        # Scale and shift for audio-to-video, scale and shift for video-to-audio, and the gate of this stream.
        self.cross_modulation = nn.Parameter(torch.empty(5, width))
        self.text_modulation = nn.Parameter(torch.empty(2, stream.context_width)) if config.text_modulation else None
        self.eps = config.eps

    def attend(self, state: StreamState | None, values_only: bool) -> StreamState | None:
        """Each token looks at the others; with ``values_only`` at none (the STG perturbation)."""
        if state is None or not state.updated:
            return state
        shift, scale, gate = state.modulation(self.modulation, 0, 1, 2)
        x = modulate(rms_norm(state.x, self.eps), shift, scale)
        if values_only:
            return state.plus(self.self_attn.pass_values(x), gate)
        asked, seen = self.self_attn.ask(x, state.rotation), self.self_attn.see(x, state.rotation)
        del x  # What is not needed any longer makes room: a block holds most here.
        found, gates = self.self_attn.look(asked, seen, state.attention_bias), asked.gates
        del asked, seen
        return state.plus(self.self_attn.finish(found, gates), gate)

    def read(self, state: StreamState | None, see: See) -> StreamState | None:
        """Each token looks at the text, whose keys and values ``see`` gives."""
        if state is None or not state.updated:
            return state
        x, text, gate = rms_norm(state.x, self.eps), state.text, None
        if text.modulation is not None:
            shift, scale, gate = state.modulation(self.modulation, 6, 7, 8)
            x = modulate(x, shift, scale)
        asked = self.text_attn.ask(x)
        del x
        found = self.text_attn.look(asked, see(text), text.bias)
        if text.negative is not None:
            found = away_from(found, self.text_attn.look(asked, see(text.negative), text.negative.bias), text)
        return state.plus(self.text_attn.finish(found, asked.gates), gate)

    def see(self, text: Text) -> Seen:
        """Keys and values of the text, equal for all that read it."""
        context = text.context
        if text.modulation is not None and self.text_modulation is not None:
            context = modulate(context.clone(), *text.modulation(self.text_modulation, 0, 1))
        return self.text_attn.see(context)

    def mix(self, state: StreamState | None) -> StreamState | None:
        """Each token by itself."""
        if state is None or not state.updated:
            return state
        shift, scale, gate = state.modulation(self.modulation, 3, 4, 5)
        return state.plus(self.feed_forward(modulate(rms_norm(state.x, self.eps), shift, scale)), gate)


class CrossStream(nn.Module):
    """One stream looks at the other, at equal times."""

    def __init__(self, query: StreamConfig, key: StreamConfig, config: TransformerConfig, rows: tuple[int, int]):
        super().__init__()
        heads, head_dim = config.audio.heads, config.audio.head_dim
        self.attn = Attention(query.width, heads, head_dim, key.width, gated=config.gated, eps=config.eps)
        self.rows = rows  # of this direction's scale and shift in the cross modulation tables
        self.eps = config.eps

    def forward(self, to: StreamState, source: StreamState, to_table: Tensor, source_table: Tensor) -> StreamState:
        """``to`` after looking at ``source``."""
        assert to.cross_gate is not None
        (gate,) = to.cross_gate(to_table[4:], 0)
        asked = self.attn.ask(self._normalised(to, to_table), to.cross_rotation)
        seen = self.attn.see(self._normalised(source, source_table), source.cross_rotation)
        return to.plus(self.attn.finish(self.attn.look(asked, seen), asked.gates), gate)

    def _normalised(self, state: StreamState, table: Tensor) -> Tensor:
        assert state.cross_modulation is not None
        scale, shift = state.cross_modulation(table[:4], *self.rows)
        return modulate(rms_norm(state.x, self.eps), shift, scale)


States = tuple[StreamState | None, StreamState | None]


class Block(nn.Module):
    """Each stream attends to itself and its text, then to the other, then mixes channels."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = Stream(config.video, config)
        self.audio = Stream(config.audio, config)
        self.audio_to_video = CrossStream(config.video, config.audio, config, rows=(0, 1))
        self.video_to_audio = CrossStream(config.audio, config.video, config, rows=(2, 3))

    def forward(self, passes: list[States], index: int, skips: Sequence[Perturbation]) -> list[States]:
        """All passes of a step, each (video, audio), through block number ``index``.

        What passes have in common is computed once: everything up to where they part, and the keys and values of
        texts that they share. ``passes`` is emptied: a state makes room as soon as nobody needs it.
        """
        videos, audios = _unzip(passes)
        videos = _each(self.video.attend, videos, [index in skip.video_values_only for skip in skips])
        audios = _each(self.audio.attend, audios, [index in skip.audio_values_only for skip in skips])
        videos = _each(self.video.read, videos, [cache(self.video.see)] * len(skips))
        audios = _each(self.audio.read, audios, [cache(self.audio.see)] * len(skips))
        # Both directions read the state from before either is written.
        before = audios.copy()
        audios = _each(self._to_audio, audios, videos, [skip.video_to_audio for skip in skips])
        videos = _each(self._to_video, videos, before, [skip.audio_to_video for skip in skips])
        return list(zip(_each(self.video.mix, videos), _each(self.audio.mix, audios)))

    def _to_video(self, video: StreamState | None, audio: StreamState | None, looks: bool) -> StreamState | None:
        if video is None or audio is None or not (looks and video.updated):
            return video
        return self.audio_to_video(video, audio, self.video.cross_modulation, self.audio.cross_modulation)

    def _to_audio(self, audio: StreamState | None, video: StreamState | None, looks: bool) -> StreamState | None:
        if video is None or audio is None or not (looks and audio.updated):
            return audio
        return self.video_to_audio(audio, video, self.audio.cross_modulation, self.video.cross_modulation)


def _each(step: Callable[..., StreamState | None], states: list, *more: Sequence) -> list:
    """``step`` of every state and what belongs to it; where all of that is the same, it runs once.

    ``states`` is emptied on the way, so that a state that has been used does not stay until the last one is.
    """
    arguments = list(zip(states, *more))
    states.clear()
    distinct = list(dict.fromkeys(arguments))
    places = [distinct.index(each) for each in arguments]
    arguments.clear()
    results = []
    while distinct:
        results.append(step(*distinct.pop(0)))
    return [results[place] for place in places]


def _unzip(passes: list[States]) -> tuple[list[StreamState | None], list[StreamState | None]]:
    """The states of either stream; empties ``passes``."""
    videos, audios = [video for video, _ in passes], [audio for _, audio in passes]
    passes.clear()
    return videos, audios


def away_from(found: Tensor, negative: Tensor, text: Text) -> Tensor:
    """What the text says, led away from what the negative text says ("Normalized Attention Guidance", 2025).

    Heads are taken together: (B, H, N, d). The guided result is not allowed to grow beyond ``limit`` times the norm of
    the plain one, and ``blend`` of it is mixed in.
    """
    guided = found * text.scale - negative * (text.scale - 1)
    ratio = guided.abs().sum((1, 3), keepdim=True) / found.abs().sum((1, 3), keepdim=True).clamp(min=1e-6)
    guided = guided * (text.limit / ratio.clamp(min=text.limit))
    return guided * text.blend + found * (1 - text.blend)
