"""Where random numbers of a clip start: one seed of the user, and every draw from it.

The same seed gives the same clip on every surface, because all of them take their numbers from here.
"""

from dataclasses import dataclass, replace

# The official loop draws the noise of stochastic samplers from a generator of its own, so far on from the seed of the
# first noise (ltx-pipelines, the denoising loop of ancestral Euler).
STEP_NOISE = 10_000
# res_2s draws the noise in the middle of a step from one more generator, so far on from that of its end
# (ltx-pipelines, the res_2s loop: noise_seed + 10000).
MIDDLE_NOISE = 10_000
# The fresh noise of each round that raises the frame rate has a seed so far on, that of each window one more
# (ltx-pipelines, the DFR pipeline).
ROUND_NOISE = 1000
# Ours: in ComfyUI's order appended sounds draw from a generator of their own, because ComfyUI draws nothing for them.
APPENDED_NOISE = 30_000


@dataclass(frozen=True)
class Seeds:
    """All random numbers of a stage of a clip.

    The first noise of every stage comes from one generator (ltx-pipelines: each pipeline makes one and hands it on), so
    a second stage goes on where the first one stopped.

    Attributes:
        first: the seed that the user gives.
        drawn: how many numbers each draw of earlier stages took, in their order.
        fixed: the seed of the fresh noise of a stochastic sampler where it does not follow ``first``.
    """

    first: int
    drawn: tuple[int, ...] = ()
    fixed: int | None = None

    def window(self, number: int) -> "Seeds":
        """Return those of window ``number``, counted from 0; the first has those of a clip that is made at once."""
        return replace(self, first=self.first + number, fixed=None if self.fixed is None else self.fixed + number)

    def tile(self, number: int) -> "Seeds":
        """Return those of a tile that is a clip by itself (ltx-pipelines 1.2.0, the HDR pipeline)."""
        return replace(self, first=self.first + number, drawn=())

    def step_noise(self, first_step: int = 0) -> int:
        """Return the seed of the fresh noise that stochastic samplers draw.

        A run that goes on at ``first_step`` draws other noise than the run before it.
        """
        return first_step + (self.first + STEP_NOISE if self.fixed is None else self.fixed)

    def round_noise(self, number: int, window: int) -> int:
        """Return the seed of the fresh noise of a window in a round; rounds count from 1, windows from 0."""
        return self.first + ROUND_NOISE * number + window
