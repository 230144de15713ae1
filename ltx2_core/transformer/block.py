"""One layer of the transformer (spec: transformer.md, section 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from ..layers import Attention, FeedForward, Rotation, Seen, Visibility, rms_norm
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
    visibility: Visibility | None
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


States = list[StreamState | None]  # of one stream in every pass


class SelfAttention(Attention):
    """Each token looks at the others; with ``values_only`` at none (the STG perturbation)."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__(stream.width, stream.heads, stream.head_dim, gated=config.gated, eps=config.eps)
        self.eps = config.eps

    def forward(self, states: States, table: Tensor, values_only: Sequence[bool]) -> States:  # type: ignore[override]
        return _each(partial(self._attend, table), states, values_only)

    def _attend(self, table: Tensor, state: StreamState, values_only: bool) -> StreamState:
        shift, scale, gate = state.modulation(table, 0, 1, 2)
        x = modulate(rms_norm(state.x, self.eps), shift, scale)
        if values_only:
            return state.plus(self.pass_values(x), gate)
        asked, seen = self.ask(x, state.rotation), self.see(x, state.rotation)
        del x  # What is not needed any longer makes room: a block holds most here.
        found, gates = self.look(asked, seen, state.visibility), asked.gates
        del asked, seen
        return state.plus(self.finish(found, gates), gate)


class TextAttention(Attention):
    """Each token looks at the text, whose keys and values are the same for all that read it."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__(stream.width, stream.heads, stream.head_dim, stream.context_width, config.gated, config.eps)
        self.eps = config.eps

    def forward(self, states: States, table: Tensor, text_table: Tensor | None) -> States:  # type: ignore[override]
        return _each(partial(self._read, table, cache(partial(self._see_text, text_table))), states)

    def _read(self, table: Tensor, see: Callable[[Text], Seen], state: StreamState) -> StreamState:
        x, text, gate = rms_norm(state.x, self.eps), state.text, None
        if text.modulation is not None:
            shift, scale, gate = state.modulation(table, 6, 7, 8)
            x = modulate(x, shift, scale)
        asked = self.ask(x)
        del x
        found = self.look(asked, see(text), text.bias)
        if text.negative is not None:
            found = away_from(found, self.look(asked, see(text.negative), text.negative.bias), text)
        return state.plus(self.finish(found, asked.gates), gate)

    def _see_text(self, table: Tensor | None, text: Text) -> Seen:
        context = text.context
        if text.modulation is not None and table is not None:
            context = modulate(context.clone(), *text.modulation(table, 0, 1))
        return self.see(context)


class Mixer(FeedForward):
    """Each token by itself."""

    def __init__(self, width: int, eps: float):
        super().__init__(width)
        self.eps = eps

    def forward(self, states: States, table: Tensor) -> States:  # type: ignore[override]
        return _each(partial(self._mix, table), states)

    def _mix(self, table: Tensor, state: StreamState) -> StreamState:
        shift, scale, gate = state.modulation(table, 3, 4, 5)
        return state.plus(super().forward(modulate(rms_norm(state.x, self.eps), shift, scale)), gate)


class Stream(nn.Module):
    """What a stream does by itself. Parts that no pass needs are not called."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__()
        self.self_attn = SelfAttention(stream, config)
        self.text_attn = TextAttention(stream, config)
        self.feed_forward = Mixer(stream.width, config.eps)
        self.modulation = nn.Parameter(torch.empty(config.modulation_rows, stream.width))
        # Scale and shift for audio-to-video, scale and shift for video-to-audio, and the gate of this stream.
        self.cross_modulation = nn.Parameter(torch.empty(5, stream.width))
        self.text_modulation = nn.Parameter(torch.empty(2, stream.context_width)) if config.text_modulation else None

    def attend(self, states: States, values_only: Sequence[bool]) -> States:
        return self.self_attn(states, self.modulation, values_only) if any(map(_moves, states)) else states

    def read(self, states: States) -> States:
        return self.text_attn(states, self.modulation, self.text_modulation) if any(map(_moves, states)) else states

    def mix(self, states: States) -> States:
        return self.feed_forward(states, self.modulation) if any(map(_moves, states)) else states


class CrossStream(nn.Module):
    """One stream looks at the other, at equal times."""

    def __init__(self, query: StreamConfig, key: StreamConfig, config: TransformerConfig, rows: tuple[int, int]):
        super().__init__()
        heads, head_dim = config.audio.heads, config.audio.head_dim
        self.attn = Attention(query.width, heads, head_dim, key.width, gated=config.gated, eps=config.eps)
        self.rows = rows  # of this direction's scale and shift in the cross modulation tables
        self.eps = config.eps

    def forward(
        self, states: States, sources: States, looks: Sequence[bool], table: Tensor, source_table: Tensor
    ) -> States:
        """``states`` after those that may have looked at ``sources``."""
        return _each(partial(self._look, table, source_table), states, sources, looks)

    def _look(
        self, table: Tensor, source_table: Tensor, state: StreamState, source: StreamState, looks: bool
    ) -> StreamState:
        if not looks:
            return state
        assert state.cross_gate is not None
        (gate,) = state.cross_gate(table[4:], 0)
        asked = self.attn.ask(self._normalised(state, table), state.cross_rotation)
        seen = self.attn.see(self._normalised(source, source_table), source.cross_rotation)
        return state.plus(self.attn.finish(self.attn.look(asked, seen), asked.gates), gate)

    def _normalised(self, state: StreamState, table: Tensor) -> Tensor:
        assert state.cross_modulation is not None
        scale, shift = state.cross_modulation(table[:4], *self.rows)
        return modulate(rms_norm(state.x, self.eps), shift, scale)


Pair = tuple[StreamState | None, StreamState | None]


class Block(nn.Module):
    """Each stream attends to itself and its text, then to the other, then mixes channels."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = Stream(config.video, config)
        self.audio = Stream(config.audio, config)
        self.audio_to_video = CrossStream(config.video, config.audio, config, rows=(0, 1))
        self.video_to_audio = CrossStream(config.audio, config.video, config, rows=(2, 3))

    @property
    def parts(self) -> list[nn.Module]:
        """What needs its weights only while it is called, once for all passes; in the order of use."""
        video, audio = self.video, self.audio
        return [
            video.self_attn, audio.self_attn, video.text_attn, audio.text_attn,
            self.video_to_audio, self.audio_to_video, video.feed_forward, audio.feed_forward,
        ]  # fmt: skip

    def forward(self, passes: list[Pair], index: int, skips: Sequence[Perturbation]) -> list[Pair]:
        """All passes of a step, each (video, audio), through block number ``index``.

        What passes have in common is computed once: everything up to where they part, and the keys and values of
        texts that they share. ``passes`` is emptied: a state makes room as soon as nobody needs it.
        """
        videos, audios = _unzip(passes)
        videos = self.video.attend(videos, [index in skip.video_values_only for skip in skips])
        audios = self.audio.attend(audios, [index in skip.audio_values_only for skip in skips])
        videos = self.video.read(videos)
        audios = self.audio.read(audios)
        # Both directions read the state from before either is written.
        before = audios.copy()
        tables = self.video.cross_modulation, self.audio.cross_modulation
        audios = _meet(self.video_to_audio, audios, videos, [skip.video_to_audio for skip in skips], *tables[::-1])
        videos = _meet(self.audio_to_video, videos, before, [skip.audio_to_video for skip in skips], *tables)
        return list(zip(self.video.mix(videos), self.audio.mix(audios)))


def _meet(way: CrossStream, states: States, sources: States, asked: Sequence[bool], *tables: Tensor) -> States:
    looks = [look and _moves(state) and source is not None for look, state, source in zip(asked, states, sources)]
    return way(states, sources, looks, *tables) if any(looks) else states


def _moves(state: StreamState | None) -> bool:
    return state is not None and state.updated


def _each(step: Callable[..., StreamState], states: States, *more: Sequence) -> States:
    """``step`` of every state that moves and what belongs to it; where all of that is the same, it runs once.

    ``states`` is emptied on the way, so that a state that has been used does not stay until the last one is.
    """
    arguments = list(zip(states, *more))
    states.clear()
    distinct = list(dict.fromkeys(arguments))
    places = [distinct.index(each) for each in arguments]
    arguments.clear()
    results: States = []
    while distinct:
        state, *others = distinct.pop(0)
        results.append(step(state, *others) if _moves(state) else state)
        del state
    return [results[place] for place in places]


def _unzip(passes: list[Pair]) -> tuple[States, States]:
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
