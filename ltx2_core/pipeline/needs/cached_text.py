"""When sampling keeps what the transformer makes of the prompts from step to step, and what that takes.

Where noise levels do not modulate the text (2.0), its keys and values are the same in every step. A context has more
rows than a small clip has tokens, so for such clips they are most of the work; for large ones they are little of it and
would take memory from the weights.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from ...lora import Stack
from ...memory.placement import gigabytes
from ...text.tokenizer import LENGTH
from ...transformer import Pass, StreamInput, TextCache, TransformerConfig
from ..stage import LatentSize
from .blueprint import Blueprint, empty_like

_log = logging.getLogger(__name__)
_SAID = "keys and values of the prompts stay from step to step"


def is_mostly_text(blueprint: Blueprint, size: LatentSize) -> bool:
    """Return whether a text is the same in all steps, has more rows than a stream has tokens, and one device reads it.

    Args:
        blueprint: of the model.
        size: of what is sampled at once.
    """
    modulated = TransformerConfig.from_json(blueprint.config["transformer"]).text_modulation
    most = max(each or 0 for each in size.tokens)
    alone = blueprint.processes == blueprint.devices == 1
    return not modulated and alone and most < LENGTH * size.texts


def keep_text(name: str, loras: Stack) -> bool:
    """Return whether what is made of a text may stay, since no LoRA changes from step to step; if so, log it."""
    stays = not any(strengths.schedule is not None for _, strengths in loras)
    if stays:
        _log.debug("%s: %s.", name, _SAID)
    return stays


def cached_text_bytes(blueprint: Blueprint, size: LatentSize, prompts: int) -> int:
    """Return the bytes of what stays of so many prompts: keys and values, and what 2.0 projects a context to."""
    network = blueprint.shortened_transformer(1)
    rows, streams = LENGTH * size.texts * size.batch, (network.config.video, network.config.audio)
    width = sum(stream.width for stream, tokens in zip(streams, size.tokens) if tokens is not None)
    made = 2 * blueprint.layers + (1 if network.config.caption_width else 0)
    return prompts * rows * made * width * empty_like(network, 0).itemsize


def with_text_caches(passes: Sequence[Pass]) -> list[Pass]:
    """Return ``passes`` whose texts are kept; those that share an input still do."""

    @cache
    def kept(stream: StreamInput | None) -> StreamInput | None:
        return None if stream is None else replace(stream, text_cache=TextCache())

    return [replace(one, video=kept(one.video), audio=kept(one.audio)) for one in passes]


def describe_cached_text(name: str, nbytes: int) -> str:
    """Say what the stage called ``name`` keeps."""
    return f"{name}: {_SAID}, in {gigabytes(nbytes)}."
