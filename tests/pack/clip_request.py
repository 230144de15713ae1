"""A clip that uses every stage, as a request; for the core under whatever name it is imported."""

from collections.abc import Callable
from hashlib import sha256
from types import ModuleType
from typing import Any

import torch


def request_of(part: Callable[[str], ModuleType], upscaler: Any) -> Any:
    """Return the request: a picture, a voice, guidance, an upscaler and a second stage in tiles.

    Args:
        part: returns a module of the core by its name.
        upscaler: as the engine that makes the clip knows it.
    """
    conditions, pictures = part("conditioning.conditions"), part("conditioning.pictures")
    sources = part("conditioning.sources")
    sampling, settings = part("sampling"), part("settings")
    numbers = torch.Generator().manual_seed(3)
    given = [
        pictures.Picture(torch.rand(1, 64, 64, 3, generator=numbers)),
        conditions.ReferenceAudio(
            sources.AudioSource(torch.rand(1, 24_000, generator=numbers) - 0.5, sample_rate=48_000)
        ),
    ]
    tiles = sampling.Tiles((1, 1, 2), (1, 1, 1))
    return settings.Request.of(
        "a red ball",
        "blurry",
        video=sampling.Guidance(text_scale=2.0),
        audio=sampling.Guidance(),
        width=64,
        height=64,
        frames=9,
        steps=2,
        seed=5,
        cache=False,
        device="cpu",
        conditions=given,
        second=settings.SecondStage((upscaler,), tiles=tiles, sigmas=(0.5, 0.0)),
    )


def digest(clip: Any) -> dict[str, str]:
    """Return a hash of every tensor of a clip."""
    tensors = {**clip.latent.streams(), "frames": clip.frames, "waveform": clip.waveform}
    return {name: sha256(x.contiguous().numpy().tobytes()).hexdigest() for name, x in tensors.items()}
