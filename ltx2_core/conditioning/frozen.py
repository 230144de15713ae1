"""A stream that is kept as a whole, for the other one to follow (``README.md``, "Frozen streams")."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SettingError
from .state import State, tokens


@dataclass(frozen=True, eq=False)
class Frozen:
    """Keep a whole stream: a sound for which a picture is made, or a picture for which sound is made.

    With ``noise`` the model sees the stream at that noise level, because clean speech can make stills; the stream
    itself stays clean. A latent may be longer than the clip, as that of a sound often is by one.
    """

    stream: str
    latent: Tensor | None = None  # None: what the clip begins with
    noise: float = 0.0

    def __call__(self, state: State) -> State:
        """Apply it to ``state``. Raises SettingError if the latent is shorter than the clip, or of another size."""
        if not 0 <= self.noise <= 1:
            raise SettingError(f"The noise on the given {self.stream} is {self.noise:g}; it must lie between 0 and 1.")
        clean = state.own(state.clean)
        if self.latent is not None:
            latent = self.latent[:, :, : state.shape[1]]
            if latent.shape[1:] != state.shape:
                raise SettingError(
                    f"The given {self.stream} has the latent {tuple(self.latent.shape[1:])}, the clip {state.shape}: "
                    "it must be of the same size, and at least as long."
                )
            clean = tokens(latent)
        return replace(
            state,
            clean=state.with_own(state.clean, clean),
            mask=state.with_own(state.mask, torch.zeros_like(state.own(state.mask))),
            shown_noise=self.noise,
            is_covered=False,
        )
