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
from .tokenizer import LENGTH, Tokenizer


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

    states: list[Tensor]  # the embeddings and one per layer, (B, L, D) each; L is the longest prompt's
    lengths: tuple[int, ...]  # tokens of each prompt, which are the last of its L

    @property
    def mask(self) -> Tensor:
        """0 on padding, (B, L)."""
        rows = torch.arange(self.states[0].shape[1], 0, -1)
        return (rows <= torch.tensor(self.lengths)[:, None]).long().to(self.states[0].device)


@torch.no_grad()
def compute_hidden_states(encoder: TextEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> HiddenStates:
    """Run the text encoder on all prompts, positive and negative, in one pass through its layers.

    They stand where they would stand in 1024 rows, as officially: positions are the same, and what nothing attends to
    is not computed. What is read of a prompt does not depend on the others, bit for bit.

    Raises CheckpointError if the tokenizer gives tokens that the encoder does not have.
    """
    device, rows = encoder.table.device, encoder.config.vocabulary
    ids, mask = tokenizer(prompts)
    if (highest := int(ids.max())) >= rows:
        raise CheckpointError(
            f"The tokenizer belongs to another text encoder: it gives the token {highest:,}, and the weights have "
            f"{rows:,} rows. Download both from one place."
        )
    lengths = tuple(mask.sum(dim=1).tolist())
    ids, mask = (each[:, -max(lengths) :] for each in (ids, mask))
    return HiddenStates(encoder(ids.to(device), mask, first=LENGTH - max(lengths)), lengths)


@torch.no_grad()
def extract_features(projection: TextFeatures, hidden: HiddenStates) -> list[Features]:
    """Project the hidden states of each prompt's own tokens to features; both must be on one device."""
    return [
        _extract(projection, [state[i : i + 1, -length:] for state in hidden.states])
        for i, length in enumerate(hidden.lengths)
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


def _extract(projection: TextFeatures, states: list[Tensor]) -> Features:
    every_row = torch.ones(states[0].shape[:2], dtype=torch.int64, device=states[0].device)
    return Features(*projection(states, every_row))
