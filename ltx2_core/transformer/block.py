"""One layer of the transformer (see README.md, "Block")."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn

from ..layers import Attention, FeedForward, KeyValue, Query
from .config import StreamConfig, TransformerConfig
from .inputs import Nag, Perturbation
from .modulation import Readers, gated_sum, modulate
from .passes import map_distinct
from .state import StatePair, States, StreamState, TextInput, is_updated


class SelfAttention(Attention):
    """Tokens of a stream attend to each other, or with ``values_only`` each to itself (the STG perturbation).

    Attributes:
        may_be_sparse: whether what matters little may be left out, where that is asked for.
    """

    may_be_sparse = False

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__(stream.width, stream.heads, stream.head_dim, gated=config.gated, eps=config.eps)
        self.eps = config.eps

    def forward(self, states: States, table: Tensor, values_only: Sequence[bool]) -> States:
        """Update the states of all passes.

        Args:
            states: The stream in every pass; emptied on the way.
            table: The block's modulation table (6 or 9, D).
            values_only: For every pass, whether this block is perturbed.
        """
        return map_distinct(partial(self._update, table), states, values_only)

    def _update(self, table: Tensor, state: StreamState, values_only: bool) -> StreamState:
        shift, scale, gate = state.modulation(table, 0, 1, 2)
        readers = (self.v, self.gate) if values_only else (self.q, self.k, self.v, self.gate)
        x = state.normalise(self.eps, readers, shift, scale)
        if values_only:
            return state.plus(self.pass_values(x), gate)
        query, key_value = self.project_self(x, state.rotation)
        del x  # What is not needed any longer makes room: a block holds most here.
        attend = partial(self.attend, may_be_sparse=self.may_be_sparse)
        heads, gates = state.share.attend_within(attend, query, key_value, state.visibility), query.gates
        del query, key_value
        return state.plus(self.project_out(heads, gates), gate)


class TextAttention(Attention):
    """Tokens of a stream attend to the text, whose keys and values are computed once for all passes that share it."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__(stream.width, stream.heads, stream.head_dim, stream.context_width, config.gated, config.eps)
        self.eps = config.eps

    def forward(self, states: States, table: Tensor, text_table: Tensor | None) -> States:
        """Update the states of all passes.

        Args:
            states: The stream in every pass; emptied on the way.
            table: The block's modulation table (6 or 9, D).
            text_table: The block's table for the text (2, C); None in 2.0.
        """
        project_text = cache(partial(self._project_text, text_table))
        return map_distinct(partial(self._update, table, project_text), states)

    def _update(self, table: Tensor, project_text: Callable[[TextInput], KeyValue], state: StreamState) -> StreamState:
        shift, scale, gate = None, None, None
        if state.texts[0].modulation is not None:
            shift, scale, gate = state.modulation(table, 6, 7, 8)
        x = state.normalise(self.eps, (self.q, self.gate), shift, scale)
        query = self.project_query(x)
        del x
        if len(state.texts) == 1:
            heads = self._read(query.q, state.texts[0], project_text)
        else:
            parts = [self._read(q, text, project_text) for q, text in zip(query.q.split(1), state.texts)]
            heads = torch.cat([part.transpose(1, 2) for part in parts]).transpose(1, 2)
        return state.plus(self.project_out(heads, query.gates), gate)

    def _read(self, q: Tensor, text: TextInput, project_text: Callable[[TextInput], KeyValue]) -> Tensor:
        """Return what queries (B, H, N, d) find in a text."""
        query = Query(q, None)
        heads = self.attend(query, project_text(text), text.schedule)
        if text.nag is not None and text.negative is not None:
            negative = self.attend(query, project_text(text.negative))
            heads = guide_attention(heads, negative, text.nag)
        return heads

    def _project_text(self, table: Tensor | None, text: TextInput) -> KeyValue:
        context = text.context
        if text.cache is not None:
            return text.cache.find(self, lambda: self.project_key_value(context).by_head())
        if text.modulation is not None and table is not None:
            shift, scale = text.modulation(table, 0, 1)
            context = modulate(context.clone(), shift, scale)
        return self.project_key_value(context)


class BlockFeedForward(FeedForward):
    """The feed-forward network of a stream, with its norm, modulation and gate."""

    def __init__(self, width: int, eps: float, bias: bool):
        super().__init__(width, bias)
        self.eps = eps

    def forward(self, states: States, table: Tensor) -> States:
        """Update the states of all passes; ``table`` is the block's modulation table (6 or 9, D)."""
        return map_distinct(partial(self._update, table), states)

    def _update(self, table: Tensor, state: StreamState) -> StreamState:
        shift, scale, gate = state.modulation(table, 3, 4, 5)
        x = state.normalise(self.eps, (self.up,), shift, scale)
        before = state.x

        def add(start: int, stop: int, change: Tensor, out: Tensor | None) -> Tensor:
            return gated_sum(before[:, start:stop], gate.within(start, stop), change, out)

        return state.with_tokens(self.transform(x, add))


class Stream(nn.Module):
    """The layers of a block that involve one stream alone; a layer that no pass needs is not called."""

    def __init__(self, stream: StreamConfig, config: TransformerConfig):
        super().__init__()
        self.self_attn = SelfAttention(stream, config)
        self.text_attn = TextAttention(stream, config)
        self.feed_forward = BlockFeedForward(stream.width, config.eps, stream.feed_forward_bias)
        self.modulation = nn.Parameter(torch.empty(config.modulation_rows, stream.width))
        # Scale and shift for audio-to-video, scale and shift for video-to-audio, and the gate of this stream.
        self.cross_modulation = nn.Parameter(torch.empty(5, stream.width))
        self.text_modulation = nn.Parameter(torch.empty(2, stream.context_width)) if config.text_modulation else None

    def attend_self(self, states: States, values_only: Sequence[bool]) -> States:
        """Apply self-attention in all passes; ``values_only`` says for each whether it is perturbed here."""
        return self.self_attn(states, self.modulation, values_only) if any(map(is_updated, states)) else states

    def attend_text(self, states: States) -> States:
        """Apply text attention in all passes."""
        if not any(map(is_updated, states)):
            return states
        return self.text_attn(states, self.modulation, self.text_modulation)

    def apply_feed_forward(self, states: States) -> States:
        """Apply the feed-forward network in all passes."""
        return self.feed_forward(states, self.modulation) if any(map(is_updated, states)) else states


class CrossStream(nn.Module):
    """Tokens of one stream attend to those of the other, with rotations by time alone.

    Args:
        query: The stream that is updated.
        key: The stream that is attended to.
        config: The transformer.
        rows: The rows of this direction's scale and shift in the cross modulation tables.
    """

    def __init__(self, query: StreamConfig, key: StreamConfig, config: TransformerConfig, rows: tuple[int, int]):
        super().__init__()
        heads, head_dim = config.audio.heads, config.audio.head_dim
        self.attn = Attention(query.width, heads, head_dim, key.width, gated=config.gated, eps=config.eps)
        self.rows = rows
        self.eps = config.eps

    def forward(
        self, states: States, sources: States, attends: Sequence[bool], table: Tensor, source_table: Tensor
    ) -> States:
        """Update the states of all passes.

        Args:
            states: The stream that is updated, in every pass; emptied on the way.
            sources: The stream that is attended to, in every pass.
            attends: For every pass, whether this direction takes part.
            table: Cross modulation of the updated stream (5, D).
            source_table: Cross modulation of the other stream (5, D').
        """
        return map_distinct(partial(self._update, table, source_table), states, sources, wanted=attends)

    def _update(self, table: Tensor, source_table: Tensor, state: StreamState, source: StreamState) -> StreamState:
        assert state.cross_gate is not None
        (gate,) = state.cross_gate(table[4:], 0)
        attn = self.attn
        query = attn.project_query(self._modulated(state, table, (attn.q, attn.gate)), state.cross_rotation)
        context = self._modulated(source, source_table, (attn.k, attn.v))
        key_value = attn.project_key_value(context, source.cross_rotation)
        del context
        heads = source.share.attend_to(attn.attend, query, key_value)
        return state.plus(attn.project_out(heads, query.gates), gate)

    def _modulated(self, state: StreamState, table: Tensor, readers: Readers) -> Tensor:
        assert state.cross_modulation is not None
        scale, shift = state.cross_modulation(table, *self.rows)
        return state.normalise(self.eps, readers, shift, scale)


class Block(nn.Module):
    """One layer: each stream attends to itself and its text, then to the other, then passes its feed-forward."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = Stream(config.video, config)
        self.audio = Stream(config.audio, config)
        self.audio_to_video = CrossStream(config.video, config.audio, config, rows=(0, 1))
        self.video_to_audio = CrossStream(config.audio, config.video, config, rows=(2, 3))

    @property
    def streamable_modules(self) -> list[nn.Module]:
        """Submodules that are called once for all passes and need their weights only then, in the order of use."""
        video, audio = self.video, self.audio
        return [
            video.self_attn, audio.self_attn, video.text_attn, audio.text_attn,
            self.video_to_audio, self.audio_to_video, video.feed_forward, audio.feed_forward,
        ]  # fmt: skip

    def forward(self, passes: list[StatePair], index: int, skips: Sequence[Perturbation]) -> list[StatePair]:
        """Take all passes of a step through this block.

        What passes have in common is computed once: everything up to where they diverge, and the keys and values of
        texts that they share.

        Args:
            passes: Video and audio of every pass; emptied, so that a state makes room as soon as nobody needs it.
            index: The number of this block.
            skips: The perturbation of every pass.
        """
        videos, audios = _unzip(passes)
        videos = self.video.attend_self(videos, [index in skip.video_values_only for skip in skips])
        audios = self.audio.attend_self(audios, [index in skip.audio_values_only for skip in skips])
        videos = self.video.attend_text(videos)
        audios = self.audio.attend_text(audios)
        # Both directions read the state from before either is written.
        before = audios.copy()
        video_table, audio_table = self.video.cross_modulation, self.audio.cross_modulation
        to_audio, to_video = [skip.video_to_audio for skip in skips], [skip.audio_to_video for skip in skips]
        audios = cross_attend(self.video_to_audio, audios, videos, to_audio, audio_table, video_table)
        videos = cross_attend(self.audio_to_video, videos, before, to_video, video_table, audio_table)
        return list(zip(self.video.apply_feed_forward(videos), self.audio.apply_feed_forward(audios)))


def cross_attend(
    layer: CrossStream, states: States, sources: States, wanted: Sequence[bool], table: Tensor, source_table: Tensor
) -> States:
    """Apply ``layer`` in the passes where it is ``wanted``, the state is updated and the other stream is there."""
    attends = [w and is_updated(state) and source is not None for w, state, source in zip(wanted, states, sources)]
    return layer(states, sources, attends, table, source_table) if any(attends) else states


def _unzip(passes: list[StatePair]) -> tuple[States, States]:
    """The states of either stream; empties ``passes``."""
    videos, audios = [video for video, _ in passes], [audio for _, audio in passes]
    passes.clear()
    return videos, audios


def guide_attention(heads: Tensor, negative: Tensor, nag: Nag) -> Tensor:
    """Lead attention to the text away from attention to the negative text (NAG, arXiv 2505.21179).

    The guided result may not grow beyond ``nag.limit`` times the L1 norm of the plain one, taken over all heads of a
    token, and ``nag.blend`` of it is mixed in.

    Args:
        heads: What the queries find in the text, (B, H, N, d).
        negative: What they find in the negative text, likewise.
        nag: The settings.
    """
    # Each product with the scale would be rounded by more than the difference, which is exact where both are alike.
    guided = torch.add(heads, heads - negative, alpha=nag.scale - 1)
    ratio = guided.abs().sum((1, 3), keepdim=True) / heads.abs().sum((1, 3), keepdim=True).clamp(min=1e-6)
    guided = guided * (nag.limit / ratio.clamp(min=nag.limit))
    return torch.lerp(heads, guided, nag.blend)
