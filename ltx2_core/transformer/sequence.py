"""One pass over several processes: each has some of the picture's tokens (see README.md, "Several processes")."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import SettingError
from ..layers import TokenLevels
from .config import TransformerConfig
from .inputs import Network, Pass, StreamInput, Velocities
from .share import Peers, Shard


class SequenceParallel:
    """A transformer whose passes several processes compute together, each a share of the picture's tokens.

    Every process asks the same and gets the same answer. The sound and the texts are computed by all.

    Args:
        network: the transformer of this process.
        config: its numbers.
        peers: the processes.

    Raises:
        SettingError: the heads of an attention cannot be dealt out evenly.
    """

    def __init__(self, network: Network, config: TransformerConfig, peers: Peers):
        check_heads(config, peers.size)
        self.network, self.peers = network, peers
        # What stays the same in all steps, and so does what is made of it.
        self._positions = WeakTensorKeyDictionary()
        self._levels: WeakKeyDictionary[TokenLevels, TokenLevels] = WeakKeyDictionary()

    def sweep(self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None) -> list[Velocities]:
        """Compute the velocities (B, N, C) of all passes of a step; arguments as for ``Transformer.sweep``."""
        select = cache(self._select)  # passes that share a tensor still do
        share = cache(lambda stream: self._share(stream, select))
        shared = [each if each.video is None else replace(each, video=share(each.video)) for each in passes]
        velocities = self.network.sweep(shared, between_blocks)
        return [self._joined(each.video, *found) for each, found in zip(passes, velocities, strict=True)]

    def _share(self, stream: StreamInput, select: Callable[[Tensor], Tensor]) -> StreamInput:
        """The tokens of this process, and all that belongs to them; who sees whom is asked of all tokens."""
        shard = self._shard_of(stream)
        if stream.positions not in self._positions:
            self._positions[stream.positions] = self._select(stream.positions.transpose(1, 2)).transpose(1, 2)
        return replace(
            stream,
            tokens=select(stream.tokens),
            positions=self._positions[stream.positions],
            timesteps=None if stream.timesteps is None else select(stream.timesteps),
            levels=None if stream.levels is None else self._own_levels(stream.levels, shard),
            keyframes=None if stream.keyframes is None else select(stream.keyframes),
            schedule=None if stream.schedule is None else stream.schedule.select(shard.own(stream.tokens.device)),
            share=shard,
        )

    def _own_levels(self, levels: TokenLevels, shard: Shard) -> TokenLevels:
        if levels not in self._levels:
            self._levels[levels] = levels.select(shard.own(levels.index.device))
        return self._levels[levels]

    def _shard_of(self, stream: StreamInput) -> Shard:
        return Shard(self.peers, stream.tokens.shape[1])

    def _select(self, x: Tensor) -> Tensor:
        """The tokens of this process, of x (B, N, ...)."""
        return x.index_select(1, Shard(self.peers, x.shape[1]).own(x.device))

    def _joined(self, stream: StreamInput | None, video: Tensor | None, audio: Tensor | None) -> Velocities:
        """All tokens; of the sound, which all computed, what the first process found, so that all go on alike."""
        if stream is None:
            return video, audio
        return (
            None if video is None else self._shard_of(stream).joined(video),
            None if audio is None else self.peers.gather(audio)[0],
        )


def check_heads(config: TransformerConfig, processes: int) -> None:
    """Raise SettingError where the heads of an attention cannot be dealt out evenly."""
    heads = math.gcd(config.video.heads, config.audio.heads)
    if heads % processes:
        possible = [str(count) for count in range(2, heads + 1) if heads % count == 0]
        raise SettingError(
            f"{processes} processes cannot share the {config.video.heads} heads of the picture and the "
            f"{config.audio.heads} of the sound evenly: start {', '.join(possible) or 'one'}."
        )
