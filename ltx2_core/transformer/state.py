"""A stream on its way through the blocks, and the text that it reads."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..layers import Rotation, TextSchedule, Visibility
from .inputs import Nag
from .modulation import Modulation, Readers, Residual, TokenModulation, norm_modulate
from .share import WHOLE, Whole
from .text_cache import TextCache

# Tokens of a pass that is computed as one batch with others: with more, products are large enough by themselves, with
# fewer they may take another kernel and round otherwise.
LEAST_IN_BATCH, MOST_IN_BATCH = 32, 256


@dataclass(frozen=True, eq=False)
class TextInput:
    """The text that a stream attends to; passes with the same text share one of these."""

    context: Tensor  # (B, L, D)
    schedule: TextSchedule | None  # which of several texts in the context counts where
    modulation: Modulation | None
    nag: Nag | None = None  # normalised attention guidance by ``negative``
    negative: "TextInput | None" = None  # the context of ``nag`` as the network reads it
    cache: TextCache | None = None  # where keys and values stay; only of a text without modulation


@dataclass(frozen=True, eq=False)
class StreamState:
    """One stream on its way through the blocks; only ``x`` changes from block to block.

    States compare by identity: passes that are still equal hold the same object.
    """

    x: Tensor  # (B, N, D)
    texts: tuple[TextInput, ...]  # that it reads: one, or one for each pass in a batch of passes
    visibility: Visibility | None
    rotation: Rotation
    cross_rotation: Rotation | None  # time only; None without the other stream
    modulation: Modulation
    cross_modulation: Modulation | None
    cross_gate: Modulation | None
    embedded: Modulation  # one row: the noise level, for the output head
    updated: bool
    share: Whole = WHOLE  # whether other processes have tokens of this stream
    residual: Residual | None = None  # what still has to be added to x; never between blocks

    @cached_property
    def kind(self) -> Hashable:
        """What passes have in common that may be computed as one batch; None for one that may not."""
        few = LEAST_IN_BATCH <= self.x.shape[1] <= MOST_IN_BATCH
        if not few or len(self.x) > 1 or any(text.nag is not None for text in self.texts):
            return None
        same = self.visibility, self.rotation, self.cross_rotation, self.modulation, self.cross_modulation
        return self.x.shape, *map(id, (*same, self.cross_gate, self.share))

    @staticmethod
    def batch(states: "Sequence[StreamState]") -> "StreamState":
        """Return the tokens of several states of one kind as a batch, (P, N, D)."""
        batch = states[0].with_tokens(torch.cat([state.x for state in states]))
        vars(batch).update(texts=tuple(text for state in states for text in state.texts))
        return batch

    def plus(self, change: Tensor, gate: TokenModulation | None) -> "StreamState":
        """Return the state with x + gate * change, written into ``change``: other passes may share this state.

        It is added when the state is normalised next, if a kernel does both at once.
        """
        residual = Residual(change, gate)
        if residual.can_wait(self.x):
            return self.with_tokens(self.x, residual)
        return self.with_tokens(residual.add_to(self.x))

    def with_tokens(self, x: Tensor, residual: Residual | None = None) -> "StreamState":
        """Return the same with other tokens; ``dataclasses.replace`` takes several times as long."""
        other = object.__new__(StreamState)
        vars(other).update(vars(self), x=x, residual=residual)
        return other

    def normalise(
        self, eps: float, readers: Readers, shift: TokenModulation | None = None, scale: TokenModulation | None = None
    ) -> Tensor:
        """Return rms_norm(x) * (1 + scale) + shift for ``readers``, with the sum that was left for now in x itself."""
        if self.residual is None:
            return norm_modulate(self.x, eps, readers, shift, scale)
        x, normal = self.residual.norm_modulate(self.x, eps, readers, shift, scale)
        vars(self).update(x=x, residual=None)
        return normal

    def add_up(self) -> None:
        """Add what is left to be added, so that the state holds its tokens once."""
        if self.residual is not None:
            vars(self).update(x=self.residual.add_to(self.x), residual=None)


States = list[StreamState | None]  # of one stream in every pass
StatePair = tuple[StreamState | None, StreamState | None]  # video and audio of one pass


def is_updated(state: StreamState | None) -> bool:
    """Return whether blocks change this state: it is there, and not frozen."""
    return state is not None and state.updated
