"""A stream that is ready to be sampled, and what is given in it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .. import geometry
from ..latents import AVLatent, per_stream
from ..layers import Visibility


@dataclass(frozen=True, eq=False)
class State:
    """The tokens of one stream: those of the clip itself, then appended ones that it only looks at.

    A token at noise level sigma is a mix of ``latent`` and noise; where ``mask`` is 0 it is ``clean`` instead
    (spec: conditioning.md). Positions are those in the whole clip.
    """

    shape: tuple[int, ...]  # of the clip's own latent: (C, F, H, W) or (C, T, M)
    fps: Fraction
    latent: Tensor  # (B, N, C), float32
    clean: Tensor  # (B, N, C), float32
    mask: Tensor  # (B, N, 1), float32: 1 = generate, 0 = keep
    positions: Tensor  # (B, axes, N, 2), float32: start and end, in seconds and pixels
    visibility: Visibility | None = None  # None: every token sees every other one
    shown_noise: float = 0.0  # the noise level at which the model is shown a frozen stream

    @classmethod
    def of(cls, latent: Tensor, fps: Fraction) -> "State":
        """A stream that begins as ``latent`` (B, C, F, H, W) or (B, C, T, M), and of which everything is generated."""
        shape, x = tuple(latent.shape[1:]), tokens(latent).float()
        if latent.ndim == 5:
            positions = geometry.video_positions((shape[1], shape[2], shape[3]), fps, latent.device)
        else:
            positions = geometry.audio_positions(shape[1], latent.device)
        return cls(shape, fps, x, x, torch.ones_like(x[..., :1]), positions.expand(len(x), -1, -1, -1))

    @cached_property
    def count(self) -> int:
        """How many tokens are the clip's own; they come first."""
        return math.prod(self.shape) // self.latent.shape[2]

    @cached_property
    def is_free(self) -> bool:
        """Whether everything is generated."""
        return bool((self.mask == 1).all())

    @cached_property
    def is_frozen(self) -> bool:
        """Whether nothing is generated."""
        return not self.mask.any()

    def own(self, x: Tensor) -> Tensor:
        """Of something that has a row for each token (B, N, ...), the rows of the clip's own tokens."""
        return x[:, : self.count]

    def with_own(self, x: Tensor, own: Tensor) -> Tensor:
        """``x`` (B, N, ...) with other rows for the clip's own tokens."""
        return torch.cat((own.to(x).expand(len(x), -1, -1), x[:, self.count :]), dim=1)

    def append(self, latent: Tensor, positions: Tensor, strength: float, weight: Tensor | None = None) -> "State":
        """With the tokens of ``latent`` at ``positions`` (1, axes, M, 2), given with ``strength`` (0..1).

        ``weight`` (M,) is how strongly they and the clip's own tokens see each other, None for fully. Groups of tokens
        that were appended one after the other see each other until one of them has a weight.
        """
        new = tokens(latent).to(self.latent).expand(len(self.latent), -1, -1)
        visibility, count = self.visibility, new.shape[1]
        if visibility is None and weight is not None:
            group = torch.arange(self.latent.shape[1], device=new.device) >= self.count
            visibility = Visibility(group.long(), torch.ones_like(self.mask[0, :, 0]))
        if visibility is not None:
            weight = torch.ones(count) if weight is None else weight
            visibility = Visibility(
                torch.cat((visibility.group, (visibility.group.max() + 1).expand(count))),
                torch.cat((visibility.weight, weight.to(visibility.weight))),
            )
        return replace(
            self,
            latent=torch.cat((self.latent, torch.zeros_like(new)), dim=1),
            clean=torch.cat((self.clean, new), dim=1),
            mask=torch.cat((self.mask, torch.full_like(new[..., :1], 1 - strength)), dim=1),
            positions=torch.cat((self.positions, positions.to(self.positions).expand(len(new), -1, -1, -1)), dim=2),
            visibility=visibility,
        )

    def noised(self, noise: Tensor, sigma: float) -> Tensor:
        """The tokens at noise level ``sigma``."""
        noisy = torch.lerp(self.latent, noise.to(self.latent), sigma)
        return noisy if self.is_free else torch.lerp(self.clean, noisy, self.mask)

    def hold(self, x0: Tensor) -> Tensor:
        """``x0`` with what is given put back."""
        return x0 if self.is_free else x0 * self.mask + self.clean.to(x0) * (1 - self.mask)

    def packed(self, latent: Tensor, start: Tensor) -> Tensor:
        """The tokens of the own ``latent`` but for what is kept, and behind them the appended ones of ``start``."""
        x = self.with_own(start, tokens(latent))
        return x if self.is_free else torch.where(self.mask == 0, self.clean, x)

    def unpacked(self, x: Tensor) -> Tensor:
        """The clip's own part of tokens (B, N, C), as a latent again."""
        if len(self.shape) == 4:
            return geometry.video_latent(self.own(x), (self.shape[1], self.shape[2], self.shape[3]))
        return geometry.audio_latent(self.own(x), self.shape[2])

    def select(self, which: Tensor, shape: tuple[int, ...]) -> "State":
        """Only some tokens, by number in rising order; the clip's own among them are a latent of ``shape``."""
        return replace(
            self,
            shape=shape,
            latent=self.latent[:, which],
            clean=self.clean[:, which],
            mask=self.mask[:, which],
            positions=self.positions[:, :, which],
            visibility=None if self.visibility is None else self.visibility.select(which),
        )


@dataclass(frozen=True, eq=False)
class AVState:
    """Both streams of one sample; either may be absent."""

    video: State | None
    audio: State | None

    @property
    def streams(self) -> "dict[str, State]":
        """The streams that are present, by name."""
        return {name: state for name, state in (("video", self.video), ("audio", self.audio)) if state is not None}

    @property
    def free(self) -> list[str]:
        """The streams of which anything is generated."""
        return [name for name, state in self.streams.items() if not state.is_frozen]

    @property
    def appended(self) -> tuple[int, int]:
        """How many tokens are given beside those of the clip, video and audio."""
        video, audio = (0 if each is None else each.latent.shape[1] - each.count for each in (self.video, self.audio))
        return video, audio

    def map(self, function: Callable[..., Tensor], *others: AVLatent) -> AVLatent:
        """``function`` of the state of each stream that is present, and of what ``others`` hold for that stream."""
        return per_stream(function, self, *others)


class Item(Protocol):
    """Something that is given: maps the state of a stream to another."""

    @property
    def stream(self) -> str:
        """ "video" or "audio"."""

    def __call__(self, state: State) -> State: ...


def prepare(latent: AVLatent, fps: Fraction, items: Iterable[Item] = ()) -> AVState:
    """The states that ``latent`` and what is given in it begin with; items are applied in their order."""
    states = {name: State.of(x, fps) for name, x in latent.streams().items()}
    for item in items:
        if item.stream not in states:
            raise ValueError(
                f"{type(item).__name__} is about {item.stream}, but this latent has none; use one with both streams."
            )
        states[item.stream] = item(states[item.stream])
    return AVState(states.get("video"), states.get("audio"))


def tokens(latent: Tensor) -> Tensor:
    """(B, C, F, H, W) or (B, C, T, M) to (B, N, C)."""
    return (geometry.video_tokens(latent) if latent.ndim == 5 else geometry.audio_tokens(latent)).contiguous()
