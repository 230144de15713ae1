"""Prompts to features, features to contexts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..layers import TextSchedule
from .connector import Connector
from .encoder import TextEncoder
from .features import Features, TextFeatures
from .tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class PromptWeight:
    """How much a prompt counts beside others, and where in the picture.

    Attributes:
        strength: Everywhere; for the sound it is all that counts.
        mask: Times this in the picture: (F, H, W) of any size, F is 1 for the same in all frames.
        area: Only there, with soft edges unless there is a mask: lengths, then starts, along (time,) height and width,
            as shares of the clip, or in cells of its latent if ``in_cells``.
        in_cells: What ``area`` is measured in.
    """

    strength: float = 1.0
    mask: Tensor | None = None
    area: tuple[float, ...] | None = None
    in_cells: bool = False

    @property
    def has_place(self) -> bool:
        """True if it is not the same in the whole picture."""
        return self.mask is not None or self.area is not None

    @property
    def changes(self) -> bool:
        """True if it is not the same in all frames."""
        return (self.mask is not None and len(self.mask) > 1) or (self.area is not None and len(self.area) > 4)


ALONE = PromptWeight()


@dataclass(frozen=True)
class Contexts:
    """The context of one or several prompts for each stream, as the transformer reads it; every row is valid."""

    video: Tensor  # (B, S, Dv)
    audio: Tensor  # (B, S, Da)

    @property
    def weights(self) -> "tuple[PromptWeight, ...]":
        """How much each prompt counts beside others: this one is alone."""
        return (ALONE,)

    def at(self, sigma: float) -> "Contexts":
        """Return what holds at a noise level: the same at all."""
        return self

    def parts_at(self, sigma: float) -> "tuple[tuple[Contexts, PromptWeight], ...]":
        """Return all prompts that hold at a noise level, with how much each counts there: this one alone."""
        return ((self, ALONE),)

    def schedule(self, stream: str, positions: Tensor) -> TextSchedule | None:
        """Return which rows count where in ``stream`` by the ``positions`` of its tokens: all alike."""
        return None


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states of a batch of prompts in the text encoder."""

    states: list[Tensor]  # the embeddings and one per layer, (B, L, D) each
    mask: Tensor  # (B, L), 0 on padding


@torch.no_grad()
def compute_hidden_states(encoder: TextEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> HiddenStates:
    """Run the text encoder on all prompts, positive and negative, in one batch.

    Raises CheckpointError if the tokenizer gives tokens that the encoder does not have.
    """
    device, rows = encoder.table.device, encoder.config.vocabulary
    ids, mask = tokenizer(prompts)
    if (highest := int(ids.max())) >= rows:
        raise CheckpointError(
            f"The tokenizer belongs to another text encoder: it gives the token {highest:,}, and the weights have "
            f"{rows:,} rows. Download both from one place."
        )
    ids, mask = ids.to(device), mask.to(device)
    return HiddenStates(encoder(ids, mask), mask)


@torch.no_grad()
def extract_features(projection: TextFeatures, hidden: HiddenStates) -> list[Features]:
    """Project the hidden states of each prompt to features; both must be on one device."""
    return [
        _extract(projection, [state[i : i + 1] for state in hidden.states], hidden.mask[i : i + 1])
        for i in range(len(hidden.mask))
    ]


def encode_prompts(
    encoder: TextEncoder, tokenizer: Tokenizer, projection: TextFeatures, prompts: Sequence[str]
) -> list[Features]:
    """Encode all prompts to features, with both networks on one device."""
    return extract_features(projection, compute_hidden_states(encoder, tokenizer, prompts))


@torch.no_grad()
def connect(features: Features, video_connector: Connector, audio_connector: Connector) -> Contexts:
    """Turn the features of one prompt into the context of each stream."""
    return Contexts(video_connector(features.video), audio_connector(features.audio))


def _extract(projection: TextFeatures, states: list[Tensor], mask: Tensor) -> Features:
    video, audio = projection(states, mask)
    valid = mask[0].bool()
    video_rows = video[:, valid]
    return Features(video_rows, video_rows if audio is video else audio[:, valid])
