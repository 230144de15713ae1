"""A clip that begins with content instead of nothing (``README.md``, "Init clip and retake")."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import latents
from ..errors import SettingError
from ..geometry import ClipShape
from ..latents import AVLatent
from .masks import keep
from .state import State, apply_conditions, tokens


@dataclass(frozen=True, eq=False)
class Begin:
    """Begin a stream as ``latent``; where that ends before the clip does, keep it and generate what follows.

    A stream that has content already, as in a second stage, keeps it as its start; ``latent`` then only becomes the
    clean content.
    """

    stream: str
    latent: Tensor  # (B or 1, C, F, H, W) or (B or 1, C, T, M)

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError for a latent of another size than the clip."""
        channels, length, *size = state.shape
        if [self.latent.shape[1], *self.latent.shape[3:]] != [channels, *size]:
            raise SettingError(
                f"The {self.stream} that the clip begins with has the latent {tuple(self.latent.shape[1:])}, the clip "
                f"{state.shape}: they must be of the same size."
            )
        content, own = tokens(self.latent[:, :, :length]).to(state.latent), state.own(state.latent).clone()
        own[:, : content.shape[1]] = content
        begun = replace(state, clean=state.with_own(state.clean, own))
        if not state.own(state.latent).any():
            begun = replace(begun, latent=state.with_own(state.latent, own))
        if content.shape[1] == own.shape[1]:
            return begun
        generated = torch.ones_like(own[..., :1])
        generated[:, : content.shape[1]] = 0
        return keep(begun, generated)


def extended(content: AVLatent, longer: ClipShape) -> tuple[AVLatent, AVLatent]:
    """Return a latent of the size of ``longer`` that begins with ``content``, and the mask of what is new in it."""
    streams = content.streams()
    begin = latents.empty(longer, max(map(len, streams.values()))).select(streams)
    state = apply_conditions(begin, longer.fps, [Begin(name, x) for name, x in streams.items()])
    whole = state.map(lambda each: each.unpacked(each.latent))
    return whole, state.map(lambda each: each.unpacked(each.mask.expand_as(each.latent))[:, :1])
