"""Several prompts of one clip, of which each holds in its part of the time: their contexts lie one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from ..layers import TextSchedule
from .encode import ALONE, Contexts


@dataclass(frozen=True)
class RelayedContexts(Contexts):
    """The contexts of P prompts side by side, and when each begins.

    Attributes:
        lengths: rows of each prompt, in video and audio.
        starts: when each begins, in seconds, rising; the first holds before all others.
        transition: seconds over which one prompt fades to the next, half of them before its start.
    """

    lengths: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    starts: tuple[float, ...] = ()
    transition: float = 1.0

    def schedule(self, stream: str, positions: Tensor) -> TextSchedule:
        """Return how much each prompt counts for each token of ``stream``, by the middle of its time.

        Args:
            stream: video or audio.
            positions: (B, axes, N, 2), the first axis in seconds; the same for all clips of a batch.
        """
        times = positions[0, 0].float().mean(-1)
        return TextSchedule(weights_at(times, self.starts, self.transition), self.lengths[stream == "audio"])


def weights_at(times: Tensor, starts: Sequence[float], transition: float) -> Tensor:
    """Return the weights (N, P) at ``times`` (N,) of prompts that begin at ``starts``, in seconds; rows sum to 1."""
    begins = torch.tensor(starts[1:], device=times.device)
    begun = ((times[:, None] - begins) / transition + 0.5).clamp(0, 1)
    whole = torch.ones_like(begun[:, :1])
    ended = torch.cat((1 - begun, whole), dim=1)
    # A prompt counts as far as it has begun, and none of those behind it has.
    return torch.cat((whole, begun), dim=1) * ended.flip(1).cumprod(1).flip(1)


def relay_prompts(contexts: Sequence[Contexts], starts: Sequence[float], transition: float) -> Contexts:
    """Return prompts that follow each other in time as one; a single prompt as it is.

    Args:
        contexts: of each prompt.
        starts: when each begins, in seconds of the clip or window, rising.
        transition: seconds over which one fades to the next, more than 0.

    Raises:
        SettingError: for a prompt that is itself several.
    """
    if len(contexts) == 1:
        return contexts[0]
    if any(each.weights != (ALONE,) or len(each.parts_at(1.0)) > 1 for each in contexts):
        raise SettingError(
            "Prompts that fade over in time must each be one prompt, without masks, areas, strengths or parts of the "
            "run: take these out, or set the transition of LTX-2 Long Video to 0."
        )
    batch = max(len(each.video) for each in contexts)

    def joined(parts: list[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
        return torch.cat([x.expand(batch, -1, -1) for x in parts], dim=1), tuple(x.shape[1] for x in parts)

    video, rows = joined([each.video for each in contexts])
    audio, sounds = joined([each.audio for each in contexts])
    return RelayedContexts(video, audio, (rows, sounds), tuple(map(float, starts)), transition)
