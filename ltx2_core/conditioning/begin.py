"""What a clip is made from, instead of from nothing."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .masks import keep
from .state import State, tokens


@dataclass(frozen=True, eq=False)
class Begin:
    """A stream that begins as ``latent``; where that ends before the clip does, it is kept, and what follows is new.

    In a clip that has a content already, as in a second stage, it is only what is kept, wherever something is.
    """

    stream: str
    latent: Tensor  # (B or 1, C, F, H, W) or (B or 1, C, T, M)

    def __call__(self, state: State) -> State:
        """Raises ValueError for a latent of another size than the clip."""
        channels, length, *size = state.shape
        if [self.latent.shape[1], *self.latent.shape[3:]] != [channels, *size]:
            raise ValueError(
                f"The {self.stream} that the clip begins with has the latent {tuple(self.latent.shape[1:])}, the clip "
                f"{state.shape}: they must be of the same size."
            )
        given, own = tokens(self.latent[:, :, :length]).to(state.latent), state.own(state.latent).clone()
        own[:, : given.shape[1]] = given
        begun = replace(state, clean=state.with_own(state.clean, own))
        if not state.own(state.latent).any():
            begun = replace(begun, latent=state.with_own(state.latent, own))
        if given.shape[1] == own.shape[1]:
            return begun
        generated = torch.ones_like(own[..., :1])
        generated[:, : given.shape[1]] = 0
        return keep(begun, generated)
