"""Prompts to features, features to contexts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .connector import Connector
from .features import Features, TextFeatures
from .gemma import GemmaEncoder
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Contexts:
    """What the transformer reads of a prompt; every row is valid."""

    video: Tensor  # (B, S, Dv)
    audio: Tensor  # (B, S, Da)


@dataclass(frozen=True)
class Reading:
    """What the text encoder makes of some prompts."""

    states: list[Tensor]  # of every layer, (B, L, D)
    mask: Tensor  # (B, L)


@torch.no_grad()
def read_prompts(encoder: GemmaEncoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> Reading:
    """Read all prompts, positive and negative, in one batch."""
    device = encoder.model.embed_tokens.weight.device
    ids, mask = (tokens.to(device) for tokens in tokenizer(prompts))
    return Reading(encoder(ids, mask), mask)


@torch.no_grad()
def extract_features(features: TextFeatures, reading: Reading) -> list[Features]:
    """The features of each prompt; the network lies where the reading does."""
    each = range(len(reading.mask))
    return [_extract(features, [s[i : i + 1] for s in reading.states], reading.mask[i : i + 1]) for i in each]


def encode_prompts(
    encoder: GemmaEncoder, tokenizer: Tokenizer, features: TextFeatures, prompts: Sequence[str]
) -> list[Features]:
    """The features of all prompts, where both networks fit on one device."""
    return extract_features(features, read_prompts(encoder, tokenizer, prompts))


@torch.no_grad()
def connect(features: Features, video_connector: Connector, audio_connector: Connector) -> Contexts:
    """The contexts of one prompt."""
    return Contexts(video_connector(features.video), audio_connector(features.audio))


def _extract(features: TextFeatures, states: list[Tensor], mask: Tensor) -> Features:
    video, audio = features(states, mask)
    valid = mask[0].bool()
    cut = video[:, valid]
    return Features(cut, cut if audio is video else audio[:, valid])
