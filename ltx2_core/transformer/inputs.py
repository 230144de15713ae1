"""What goes into one call of the transformer."""

from dataclasses import dataclass

from torch import Tensor

from ..layers import Visibility


@dataclass(frozen=True, eq=False)
class StreamInput:
    """One stream of a batch of clips (spec: transformer.md, section 3); compared by identity."""

    tokens: Tensor  # (B, N, C)
    sigma: Tensor  # (B,), float32: the noise level of the stream as a whole
    positions: Tensor  # (B, axes, N, 2), float32: where each token starts and ends, in seconds and pixels
    context: Tensor  # (B, L, D): the text context
    timesteps: Tensor | None = None  # (B, N), float32: the noise level of each token; None = sigma everywhere
    context_mask: Tensor | None = None  # (B, L): 0 hides a token of the context
    visibility: Visibility | None = None  # which tokens see which; None = each sees all
    nag: "Nag | None" = None
    updated: bool = True  # False: the other stream may look at this one, which itself stays as it is


@dataclass(frozen=True)
class Nag:
    """A negative prompt inside the text attention ("Normalized Attention Guidance", Chen et al., 2025).

    It steers without a pass of its own, so it also works on distilled models, whose text scale is 1.
    """

    context: Tensor  # (B, L, D) of the negative prompt
    scale: float  # 1 = neutral
    limit: float = 2.5  # how many times larger than before what a token finds may become
    blend: float = 0.25  # share of the guided result


@dataclass(frozen=True)
class Pass:
    """One of the questions that are asked in a step."""

    video: StreamInput | None
    audio: StreamInput | None
    perturbation: "Perturbation"


@dataclass(frozen=True)
class Perturbation:
    """What one pass leaves out, for guidance (spec: transformer.md, section 9)."""

    video_values_only: frozenset[int] = frozenset()  # blocks whose video self-attention passes its values through
    audio_values_only: frozenset[int] = frozenset()
    audio_to_video: bool = True  # whether video attends to audio
    video_to_audio: bool = True


UNPERTURBED = Perturbation()
