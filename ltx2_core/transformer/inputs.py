"""The inputs of one call of the transformer, and what is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..layers import TextSchedule, TokenLevels, Visibility
from .share import WHOLE, Whole
from .text_cache import TextCache


@dataclass(frozen=True, eq=False)
class StreamInput:
    """One stream of a batch of clips (see README.md, "Inputs"); compared by identity."""

    tokens: Tensor  # (B, N, C)
    sigma: Tensor  # (B,), float32: the noise level of the stream as a whole
    positions: Tensor  # (B, axes, N, 2), float32: where each token starts and ends, in seconds and pixels
    context: Tensor  # (B, L, D): the text context
    timesteps: Tensor | None = None  # (B, N), float32: the noise level of each token; None = sigma everywhere
    visibility: Visibility | None = None  # which tokens attend to which; None = all to all
    schedule: TextSchedule | None = None  # which of several texts in the context counts where; None = all alike
    nag: "Nag | None" = None
    keyframes: Tensor | None = None  # (B, N, 1): 1 on tokens of latents that stand for one frame; None = on none
    updated: bool = True  # False: the other stream may attend to this one, which itself stays as it is
    levels: TokenLevels | None = None  # what timesteps are made of, if all clips have one sigma; None = found anew
    share: Whole = WHOLE  # whether other processes have more tokens of this stream
    text_cache: TextCache | None = None  # of the context, where it is read again and again; None = made anew


@dataclass(frozen=True)
class Nag:
    """A negative prompt inside the text attention ("Normalized Attention Guidance", arXiv 2505.21179).

    It needs no pass of its own, so it also works on distilled models, whose text scale is 1.
    """

    context: Tensor  # (B, L, D) of the negative prompt
    scale: float  # 1 = neutral
    limit: float = 2.5  # how many times larger than without guidance a token's attention output may become
    blend: float = 0.25  # share of the guided output


@dataclass(frozen=True)
class Pass:
    """One evaluation of the network; a guided step needs several."""

    video: StreamInput | None
    audio: StreamInput | None
    perturbation: "Perturbation"


@dataclass(frozen=True)
class Perturbation:
    """The parts of the network that one pass leaves out, for guidance (see README.md, "Perturbations")."""

    video_values_only: frozenset[int] = frozenset()  # blocks whose video self-attention passes its values through
    audio_values_only: frozenset[int] = frozenset()
    audio_to_video: bool = True  # whether video attends to audio
    video_to_audio: bool = True


UNPERTURBED = Perturbation()

Velocities = tuple[Tensor | None, Tensor | None]  # (B, N, C) of video and audio; None for an absent stream


class Network(Protocol):
    """The transformer, or what answers for it."""

    def sweep(self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None) -> Sequence[Velocities]:
        """Compute the velocities of all passes of a step; ``between_blocks`` may raise to interrupt."""
