"""Where random numbers of a clip start: one seed of the user, and every offset from it.

The same seed gives the same clip on every surface, because all of them take their offsets from here.
"""

from dataclasses import dataclass

# The official loop draws the noise of stochastic samplers from a generator of its own, so far on from the seed of the
# first noise (ltx-pipelines, the denoising loop of ancestral Euler).
STEP_NOISE = 10_000
# res_2s draws the noise in the middle of a step from one more generator, so far on from that of its end
# (ltx-pipelines, the res_2s loop: noise_seed + 10000).
MIDDLE_NOISE = 10_000
# Ours: the second stage of a clip must not begin with the noise of the first, of which its latent is made.
REFINE = 1


@dataclass(frozen=True)
class Seeds:
    """All seeds of a clip, from the one that the user gives."""

    first: int

    @property
    def refine(self) -> int:
        """The seed of the second stage."""
        return self.first + REFINE

    def window(self, number: int) -> int:
        """Return the seed of window ``number``, counted from 0; the first has that of a clip that is made at once."""
        return self.first + number

    def step_noise(self, first_step: int = 0) -> int:
        """Return the seed of the fresh noise that stochastic samplers draw.

        A run that goes on at ``first_step`` draws other noise than the run before it.
        """
        return self.first + STEP_NOISE + first_step

    def middle_noise(self, first_step: int = 0) -> int:
        """Return the seed of the noise in the middle of the steps of res_2s; samplers reach it by ``Noise.fork``."""
        return self.step_noise(first_step) + MIDDLE_NOISE
