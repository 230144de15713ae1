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


@torch.no_grad()
def encode_prompts(
    encoder: GemmaEncoder, tokenizer: Tokenizer, features: TextFeatures, prompts: Sequence[str]
) -> list[Features]:
    """Read all prompts, positive and negative, in one batch; encoder and features lie on the same device."""
    device = encoder.model.embed_tokens.weight.device
    ids, mask = (tokens.to(device) for tokens in tokenizer(prompts))
    states = encoder(ids, mask)
    return [_extract(features, [state[i : i + 1] for state in states], mask[i : i + 1]) for i in range(len(prompts))]


@torch.no_grad()
def connect(features: Features, video_connector: Connector, audio_connector: Connector) -> Contexts:
    """The contexts of one prompt."""
    return Contexts(video_connector(features.video), audio_connector(features.audio))


def _extract(features: TextFeatures, states: list[Tensor], mask: Tensor) -> Features:
    video, audio = features(states, mask)
    valid = mask[0].bool()
    cut = video[:, valid]
    return Features(cut, cut if audio is video else audio[:, valid])
