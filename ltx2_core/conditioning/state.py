"""The state of a stream that is ready to be sampled: its tokens, and which of them are kept."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from ..geometry import Keyframes
from ..latents import AVLatent, per_stream
from ..layers import TokenLevels, Visibility

PURE_NOISE = 0.9999  # above this noise level, rounding is all that is left of the content


@dataclass(frozen=True, eq=False)
class State:
    """The tokens of one stream: the clip's own, then appended ones that it only attends to.

    A token at noise level sigma is a mix of ``latent`` and noise; where ``mask`` is 0 it is ``clean`` instead
    (``README.md``, "The state of a stream"). Positions are those in the whole clip.
    """

    shape: tuple[int, ...]  # of the clip's own latent: (C, F, H, W) or (C, T, M)
    fps: Fraction
    latent: Tensor  # (B, N, C), float32
    clean: Tensor  # (B, N, C), float32
    mask: Tensor  # (B, N, 1), float32: 1 = generate, 0 = keep
    positions: Tensor  # (B, axes, N, 2), float32: start and end, in seconds and pixels
    keyframes: Tensor | None = None  # (B, N, 1): 1 on tokens of latents that stand for one frame; None: on none
    visibility: Visibility | None = None  # None: every token sees every other one
    shown_noise: float = 0.0  # the noise level at which the model is shown a frozen stream
    is_covered: bool = False  # whether pictures leave nothing to generate, which does not freeze the stream
    slots: Tensor | None = None  # (N,): the frame of the clip that an appended token is generated for, -1 for others

    @classmethod
    def of(cls, latent: Tensor, fps: Fraction) -> "State":
        """Begin a stream as ``latent`` (B, C, F, H, W) or (B, C, T, M), with everything to be generated."""
        shape, x = tuple(latent.shape[1:]), tokens(latent).float()
        if latent.ndim == 5:
            positions = geometry.video_positions((shape[1], shape[2], shape[3]), fps, latent.device)
            keyframes = torch.zeros_like(x[..., :1])
            keyframes[:, : shape[2] * shape[3]] = 1  # the first latent
        else:
            positions, keyframes = geometry.audio_positions(shape[1], latent.device), None
        return cls(shape, fps, x, x, torch.ones_like(x[..., :1]), positions.expand(len(x), -1, -1, -1), keyframes)

    @cached_property
    def count(self) -> int:
        """The number of the clip's own tokens, which come first."""
        return math.prod(self.shape) // self.latent.shape[2]

    @cached_property
    def is_free(self) -> bool:
        """True if everything is generated."""
        return bool((self.mask == 1).all())

    @cached_property
    def generates(self) -> Tensor:
        """Whether anything is generated, of each clip (B,)."""
        return self.mask.flatten(1).any(1)

    @cached_property
    def is_given(self) -> bool:
        """True if nothing is generated."""
        return not self.generates.any()

    @property
    def is_frozen(self) -> bool:
        """True if nothing is generated, and the noise level of the steps is not that of the stream either."""
        return self.is_given and not self.is_covered

    @cached_property
    def is_mixed(self) -> bool:
        """True if some clips generate nothing, and others do."""
        return not self.is_given and not self.generates.all()

    @cached_property
    def levels(self) -> TokenLevels:
        """Which tokens share a noise level, by the mask: the same in all steps."""
        return TokenLevels.of(self.mask[..., 0])

    @cached_property
    def without_appended(self) -> "State":
        """The same without appended tokens; those of the clip itself all see each other."""
        own = torch.arange(self.count, device=self.latent.device)
        return replace(self.select(own, self.shape), visibility=None)

    def own(self, x: Tensor) -> Tensor:
        """Return the rows of the clip's own tokens in ``x`` (B, N, ...), which has one row for each token."""
        return x[:, : self.count]

    def with_own(self, x: Tensor, own: Tensor) -> Tensor:
        """Replace the rows of the clip's own tokens in ``x`` (B, N, ...) by ``own``."""
        return torch.cat((own.to(x).expand(len(x), -1, -1), x[:, self.count :]), dim=1)

    def with_slots(self, x: Tensor, slots: Tensor) -> Tensor:
        """Replace the rows of generated keyframes in ``x`` (B, N, ...) by those of ``slots``, of the same shape."""
        return x if self.slots is None else torch.where((self.slots >= 0)[:, None], slots.to(x), x)

    def append(
        self, latent: Tensor, positions: Tensor, strength: float | Tensor, weight: Tensor | None = None
    ) -> "State":
        """Append the tokens of a latent.

        Groups of tokens that were appended one after the other attend to each other until one of them has a weight.

        Args:
            latent: (B or 1, C, ...) of M tokens.
            positions: (B or 1, axes, M, 2), start and end of each token in seconds and pixels.
            strength: 0..1, or such numbers (B or 1, M, 1); 1 keeps the tokens as they are.
            weight: (M,), how strongly they and the clip's own tokens attend to each other; None for fully.
        """
        new = tokens(latent).to(self.latent).expand(len(self.latent), -1, -1)
        visibility, count = self.visibility, new.shape[1]
        if visibility is None and weight is not None:
            group = torch.arange(self.latent.shape[1], device=new.device) >= self.count
            ones, before = torch.ones_like(self.mask[0, :, 0]), self.latent.shape[1] > self.count
            visibility = Visibility(group.long(), ones, groups=int(before))
        if visibility is not None:
            weight = torch.ones(count) if weight is None else weight
            visibility = Visibility(
                torch.cat((visibility.group, visibility.group.new_full((count,), visibility.groups + 1))),
                torch.cat((visibility.weight, weight.to(visibility.weight))),
                visibility.groups + 1,
            )
        return replace(
            self,
            latent=torch.cat((self.latent, torch.zeros_like(new)), dim=1),
            clean=torch.cat((self.clean, new), dim=1),
            mask=torch.cat((self.mask, (1 - strength) * torch.ones_like(new[..., :1])), dim=1),
            positions=torch.cat((self.positions, positions.to(self.positions).expand(len(new), -1, -1, -1)), dim=2),
            keyframes=None if self.keyframes is None else F.pad(self.keyframes, (0, 0, 0, count)),
            slots=None if self.slots is None else F.pad(self.slots, (0, count), value=-1),
            visibility=visibility,
        )

    def noised(self, noise: Tensor, sigma: float) -> Tensor:
        """Mix the tokens with ``noise`` to noise level ``sigma``; kept ones stay clean."""
        noisy = torch.lerp(self.latent, noise.to(self.latent), sigma)
        return noisy if self.is_free else torch.lerp(self.clean, noisy, self.mask)

    def hold(self, x0: Tensor) -> Tensor:
        """Put the kept content back into ``x0`` (B, N, C)."""
        return x0 if self.is_free else x0 * self.mask + self.clean.to(x0) * (1 - self.mask)

    def packed(self, latent: Tensor, start: Tensor) -> Tensor:
        """Turn a latent into tokens: kept ones are clean, appended ones are those of ``start`` (B, N, C)."""
        x = self.with_own(start, tokens(latent))
        return x if self.is_free else torch.where(self.mask == 0, self.clean, x)

    def hand_out(self, x: Tensor, sigma: float) -> Tensor:
        """Divide what is generated in ``x`` (B, N, C) by 1 - ``sigma``.

        So ComfyUI's samplers hand out a latent that is still at noise level ``sigma``: its content has full size, and
        they multiply it again when they go on. Pure noise has no content, and stays as it is.
        """
        return x if sigma == 0 or sigma > PURE_NOISE else torch.where(self.mask == 0, x, x / (1 - sigma))

    def take_up(self, x: Tensor, sigma: float) -> Tensor:
        """Undo ``hand_out``."""
        return x if sigma == 0 or sigma > PURE_NOISE else torch.where(self.mask == 0, x, x * (1 - sigma))

    def unpacked(self, x: Tensor) -> Tensor:
        """Turn the clip's own part of tokens (B, N, C) back into a latent."""
        if len(self.shape) == 4:
            return geometry.video_latent(self.own(x), (self.shape[1], self.shape[2], self.shape[3]))
        return geometry.audio_latent(self.own(x), self.shape[2])

    def select(self, which: Tensor, shape: tuple[int, ...]) -> "State":
        """Select tokens by number, in rising order; the clip's own among them are a latent of ``shape``."""
        return replace(
            self,
            shape=shape,
            latent=self.latent[:, which],
            clean=self.clean[:, which],
            mask=self.mask[:, which],
            positions=self.positions[:, :, which],
            keyframes=None if self.keyframes is None else self.keyframes[:, which],
            visibility=None if self.visibility is None else self.visibility.select(which),
            slots=None if self.slots is None else self.slots[which],
        )

    def generated(self, x: Tensor) -> Keyframes | None:
        """Return the keyframes that tokens (B, N, C) hold beside the clip; None if none are generated."""
        if self.slots is None or not self.generated_frames:
            return None
        size = len(self.generated_frames), self.shape[2], self.shape[3]
        return Keyframes(geometry.video_latent(x[:, self.slots >= 0], size).contiguous(), self.generated_frames)

    @cached_property
    def generated_frames(self) -> tuple[int, ...]:
        """The frames of the clip that are generated beside it, rising."""
        return () if self.slots is None else tuple(self.slots[self.slots >= 0].unique(sorted=True).tolist())


@dataclass(frozen=True, eq=False)
class AVState:
    """Both streams of one sample; either may be absent."""

    video: State | None
    audio: State | None

    def streams(self) -> dict[str, State]:
        """Return the streams that are present, by name."""
        return {name: state for name, state in (("video", self.video), ("audio", self.audio)) if state is not None}

    @property
    def is_given(self) -> bool:
        """True if nothing is generated in either stream."""
        return all(state.is_given for state in self.streams().values())

    @property
    def free(self) -> list[str]:
        """The streams that are not frozen."""
        return [name for name, state in self.streams().items() if not state.is_frozen]

    @property
    def draws(self) -> tuple[int, ...]:
        """How many random numbers the first noise of each stream takes, in the order in which they are drawn."""
        return tuple(state.latent.numel() for state in self.streams().values())

    @property
    def appended(self) -> tuple[int, int]:
        """The number of appended tokens, of video and of audio."""
        video, audio = (0 if each is None else each.latent.shape[1] - each.count for each in (self.video, self.audio))
        return video, audio

    @property
    def groups(self) -> tuple[int, int]:
        """The number of groups of tokens that are seen in part, of video and of audio."""
        video, audio = (
            0 if each is None or each.visibility is None else each.visibility.groups
            for each in (self.video, self.audio)
        )
        return video, audio

    def finished(self, x: AVLatent) -> AVLatent:
        """Turn the tokens of both streams back into latents, with the keyframes that are generated beside the clip."""
        keyframes = None if self.video is None or x.video is None else self.video.generated(x.video)
        return replace(self.map(State.unpacked, x).map(Tensor.contiguous), keyframes=keyframes)

    def map(self, function: Callable[..., Tensor], *others: AVLatent) -> AVLatent:
        """Apply ``function`` to the state of each stream that is present and to that stream of ``others``."""
        return per_stream(function, self, *others)


class LatentCondition(Protocol):
    """An encoded condition: maps the state of a stream to another."""

    @property
    def stream(self) -> str:
        """ "video" or "audio"."""

    def __call__(self, state: State) -> State:
        """Apply the condition to ``state``."""


WORDS = {"video": "picture", "audio": "sound"}  # for streams


def apply_conditions(latent: AVLatent, fps: Fraction, conditions: Iterable[LatentCondition] = ()) -> AVState:
    """Build the states of both streams from ``latent`` and apply ``conditions`` in their order.

    Args:
        latent: The start of each stream: zeros, or content.
        fps: Frames per second of the clip.
        conditions: Encoded conditions.

    Raises:
        SettingError: For a condition of a stream that ``latent`` does not have.
    """
    states = {name: State.of(x, fps) for name, x in latent.streams().items()}
    for condition in conditions:
        if condition.stream not in states:
            raise SettingError(
                f"The {WORDS[condition.stream]} of the clip is given or kept, but this latent has none: make one with "
                "both, or take that condition out."
            )
        states[condition.stream] = condition(states[condition.stream])
    return AVState(states.get("video"), states.get("audio"))


def tokens(latent: Tensor) -> Tensor:
    """Turn a latent (B, C, F, H, W) or (B, C, T, M) into tokens (B, N, C)."""
    return (geometry.video_tokens(latent) if latent.ndim == 5 else geometry.audio_tokens(latent)).contiguous()
