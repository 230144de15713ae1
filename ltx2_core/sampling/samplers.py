"""Solvers of the probability-flow ODE and of its stochastic kin, each in the form of its paper.

A latent at noise level sigma is (1 - sigma) x0 + sigma noise, so its velocity dx/dsigma is (x - x0) / sigma
(``README.md``, "Samplers").
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import SettingError
from ..latents import AVLatent, Noise
from ..seeds import MIDDLE_NOISE

MOST_FRESH = 0.9999  # of the noise that res_2s exchanges (ltx-core, Res2sDiffusionStep)

_WITHOUT_FLOAT64 = ("mps", "xpu", "privateuseone")

Estimate = Callable[[AVLatent, float], AVLatent]


class Denoise(Protocol):
    """The model as a sampler sees it; most of them only call it."""

    def __call__(self, latent: AVLatent, sigma: float) -> AVLatent:
        """Estimate x0, guided, from ``latent`` at noise level ``sigma``."""

    def both(self, latent: AVLatent, sigma: float) -> tuple[AVLatent, AVLatent]:
        """Estimate x0, guided and by the negative pass alone."""

    def hold(self, latent: AVLatent) -> AVLatent:
        """Put the kept content back into ``latent``."""


@dataclass(frozen=True)
class Step:
    """A step that was taken: from ``start``, where ``x0`` was estimated, to ``latent``."""

    sigma: float  # of ``latent``
    latent: AVLatent
    x0: AVLatent
    start_sigma: float
    start: AVLatent

    @property
    def velocity(self) -> AVLatent:
        """The slope at ``start``."""
        return (self.start - self.x0) * (1 / self.start_sigma)

    def map(self, function: Callable[[AVLatent], AVLatent]) -> "Step":
        """Apply ``function`` to the latents of the step."""
        return Step(self.sigma, function(self.latent), function(self.x0), self.start_sigma, function(self.start))

    def to(self, *args: torch.device | torch.dtype | str) -> "Step":
        """Move or convert the latents of the step, as ``Tensor.to`` does."""
        return self.map(lambda latent: latent.to(*args))

    def fits(self, latent: AVLatent) -> bool:
        """Return whether ``latent`` has the streams and sizes of this step's."""
        own, other = ({name: x.shape for name, x in each.streams().items()} for each in (self.latent, latent))
        return own == other

    def led_to(self, latent: AVLatent, sigma: float) -> bool:
        """Return whether this step ended exactly with ``latent`` at noise level ``sigma``."""
        own, other = self.latent.streams(), latent.streams()
        return self.sigma == sigma and own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


@dataclass(frozen=True)
class Sampler:
    """A row of SAMPLERS: a solver, and what it needs."""

    solve: Callable[..., Iterator[Step]]
    calls: int = 1  # of the model in a step; the last step may differ by one
    stochastic: bool = False  # draws from ``noise``
    multistep: bool = False  # looks back at ``last``
    needs_negative: bool = False  # also where the text scale is 1
    noise_seed: int | None = None  # officially its fresh noise has this seed, whatever that of the clip is

    def with_eta(self, eta: float) -> "Sampler":
        """Return the solver with another share of fresh noise; the same where it draws none, and below 0."""
        return replace(self, solve=partial(self.solve, eta=eta)) if self.stochastic and eta >= 0 else self

    def __call__(
        self,
        denoise: Denoise,
        latent: AVLatent,
        sigmas: list[float],
        noise: Noise | None = None,
        last: Step | None = None,
    ) -> Iterator[Step]:
        """Step from ``latent`` at noise level sigmas[0] to sigmas[-1].

        Args:
            denoise: The model.
            latent: At noise level sigmas[0].
            sigmas: Falling noise levels.
            noise: The source of fresh noise, for stochastic samplers.
            last: The step with which an earlier call ended. A multistep sampler continues from it as if it had not been
                interrupted, if it led exactly here; otherwise it begins as at any first step.

        Yields:
            One Step for each pair of neighbouring sigmas.
        """
        extras: dict[str, Any] = {}
        if self.stochastic:
            extras["noise"] = noise
        if self.multistep and last is not None and last.led_to(latent, sigmas[0]):
            extras["last"] = last
        return self.solve(denoise, latent, sigmas, **extras)


def euler(denoise: Estimate, latent: AVLatent, sigmas: list[float]) -> Iterator[Step]:
    """First-order steps along the probability-flow ODE."""
    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        velocity = (start - x0) * (1 / sigma)
        latent = start + velocity * (sigma_next - sigma)
        yield Step(sigma_next, latent, x0, sigma, start)


def heun(denoise: Estimate, latent: AVLatent, sigmas: list[float]) -> Iterator[Step]:
    """Second-order steps with the mean of both ends' slopes (Karras et al., arXiv:2206.00364); Euler to 0."""
    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        velocity = (start - x0) * (1 / sigma)
        latent = start + velocity * (sigma_next - sigma)
        if sigma_next > 0:
            arriving = (latent - denoise(latent, sigma_next)) * (1 / sigma_next)
            latent = start + (velocity + arriving) * ((sigma_next - sigma) / 2)
        yield Step(sigma_next, latent, x0, sigma, start)


def gradient_estimation(
    denoise: Estimate, latent: AVLatent, sigmas: list[float], last: Step | None = None, gamma: float = 2.0
) -> Iterator[Step]:
    """Euler along a slope that is led on by its own change (Permenter and Yuan, arXiv:2306.04848); Euler to 0."""
    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        velocity = (start - x0) * (1 / sigma)
        if last is not None and sigma_next > 0:
            velocity = last.velocity + (velocity - last.velocity) * gamma
        latent = start + velocity * (sigma_next - sigma)
        last = Step(sigma_next, latent, x0, sigma, start)
        yield last


def dpmpp_2m(denoise: Estimate, latent: AVLatent, sigmas: list[float], last: Step | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M) with alpha = 1 - sigma (Lu et al., arXiv:2211.01095, algorithm 2); Euler to 0.

    The two last estimates are led on, as a line in log-SNR, to the middle of the step.
    """
    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        target = x0
        if last is not None and sigma_next > 0:
            ahead = _log_snr(sigma_next) - _log_snr(sigma)
            behind = _log_snr(sigma) - _log_snr(last.start_sigma)  # infinite if that was 1, and so without effect
            target = x0 + (x0 - last.x0) * (ahead / behind / 2)
        latent = target + (start - target) * (sigma_next / sigma)
        last = Step(sigma_next, latent, x0, sigma, start)
        yield last


def euler_ancestral(
    denoise: Denoise, latent: AVLatent, sigmas: list[float], noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """Euler below the next level, and back up with fresh noise (rectified flow; ``README.md``, "Samplers").

    ``eta`` is how far below: 0 is plain Euler.
    """
    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        old = (start - x0 * (1 - sigma)) * (1 / sigma)
        down = 1 + (sigma_next / sigma - 1) * eta
        share = down * (1 - sigma_next) / (1 - down * sigma_next)
        latent = _noised(denoise, x0, old, share, sigma_next, noise)
        yield Step(sigma_next, latent, x0, sigma, start)


def euler_cfg_pp(
    denoise: Denoise, latent: AVLatent, sigmas: list[float], noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Step]:
    """Euler to the guided x0, but from the noise that the negative pass sees (CFG++, Chung et al., arXiv:2406.08070).

    With ``eta`` a part of that noise is exchanged for fresh noise, as much as DDPM would at 1.
    """
    for sigma, sigma_next in pairwise(sigmas):
        start, (x0, unguided) = latent, denoise.both(latent, sigma)
        old = (start - unguided * (1 - sigma)) * (1 / sigma)
        fall = sigma_next / (1 - sigma_next) * (1 - sigma) / sigma  # of the noise-to-signal ratio
        share = math.sqrt(max(0.0, 1 - eta**2 * (1 - fall**2)))
        latent = _noised(denoise, x0, old, share, sigma_next, noise)
        yield Step(sigma_next, latent, x0, sigma, start)


def res_2s(
    denoise: Denoise,
    latent: AVLatent,
    sigmas: list[float],
    noise: Noise | None = None,
    eta: float = 0.5,
    middle_eta: float = 0.5,
) -> Iterator[Step]:
    """Second-order exponential integrator in ln sigma with fresh noise in the middle and at the end of each step
    (RES, Zhang et al., arXiv:2308.02157; ``README.md``, "Samplers").

    Computes in float64. Noise of the middle comes from another seed than that of the end (``seeds.MIDDLE_NOISE``), both
    with mean 0 and deviation 1 in each sample. 0 is reached by one more estimate at 0.0011. ``eta`` is how much of the
    noise is fresh at the end of a step, ``middle_eta`` in its middle; at 0 there is none.
    """
    middle_noise, end_noise = (None, None) if noise is None else (_standard(noise.fork(MIDDLE_NOISE)), _standard(noise))

    def noised(
        a: AVLatent,
        sigma_a: float,
        b: AVLatent,
        sigma_b: float,
        eta: float,
        noise: Callable[[AVLatent], AVLatent] | None,
    ) -> AVLatent:
        """``b``, to which ``a`` has led, with fresh noise; kept content is put back with and without (officially)."""
        share = math.sqrt(1 - min(eta, MOST_FRESH) ** 2)
        latent = _noised(denoise, *_line(a, sigma_a, b, sigma_b), share, sigma_b, noise)
        return latent if share < 1 else denoise.hold(latent)

    for sigma, sigma_next in pairwise(sigmas):
        start, x0 = latent, denoise(latent, sigma)
        end = sigma_next or min(0.0011, sigma / 2)
        middle, h = math.sqrt(sigma * end), math.log(sigma / end)
        x, first = _precise(start), _precise(x0)

        half = first + (x - first) * (middle / sigma)
        half = noised(x, sigma, half, middle, middle_eta, middle_noise)
        if h < 0.5 and sigma > 0.03:
            x = first + (half - first) * (sigma / middle)  # whence the noisy half would have come without noise
        second = _precise(denoise(_like(start, half), middle))
        whole = first + (x - first) * (end / sigma) + (second - first) * (2 + 2 * math.expm1(-h) / h)
        latent = _like(start, noised(x, sigma, whole, end, eta, end_noise))

        if sigma_next == 0:
            latent = denoise(latent, end)
        yield Step(sigma_next, latent, x0, sigma, start)


SAMPLERS = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral, stochastic=True),
    "euler_cfg_pp": Sampler(euler_cfg_pp, needs_negative=True),
    "euler_ancestral_cfg_pp": Sampler(partial(euler_cfg_pp, eta=1.0), stochastic=True, needs_negative=True),
    "gradient_estimation": Sampler(gradient_estimation, multistep=True),
    "heun": Sampler(heun, calls=2),
    "dpmpp_2m": Sampler(dpmpp_2m, multistep=True),
    "res_2s": Sampler(res_2s, calls=2, stochastic=True, noise_seed=-1),  # ltx-pipelines: the HQ pipeline sets no other
}


def _noised(
    denoise: Denoise,
    x0: AVLatent,
    old: AVLatent,
    share: float,
    sigma: float,
    noise: Callable[[AVLatent], AVLatent] | None,
) -> AVLatent:
    """``x0`` at level ``sigma``: ``share`` (0..1) of the noise is ``old``, and fresh noise makes up the variance."""
    latent = x0 * (1 - sigma) + old * (sigma * share)
    fresh = sigma * math.sqrt(max(0.0, 1 - share**2))
    if fresh == 0:
        return latent
    if noise is None:
        raise SettingError("This sampler draws fresh noise at every step; give it a source, such as Noise(seed).")
    return denoise.hold(latent + noise(latent) * fresh)


def _line(a: AVLatent, sigma_a: float, b: AVLatent, sigma_b: float) -> tuple[AVLatent, AVLatent]:
    """x0 and noise, the ends of the line through ``a`` and ``b``."""
    velocity = (a - b) * (1 / (sigma_a - sigma_b))
    x0 = a - velocity * sigma_a
    return x0, x0 + velocity


def _log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _standard(noise: Noise) -> Callable[[AVLatent], AVLatent]:
    return lambda latent: noise(latent).map(_standardised)


def _standardised(x: Tensor) -> Tensor:
    each = tuple(range(1, x.ndim))
    return (x - x.mean(each, keepdim=True)) / x.std(each, keepdim=True)


def _precise(latent: AVLatent) -> AVLatent:
    """Convert to float64, but where it may not exist: on the GPUs of Apple and Intel, and those of DirectML."""
    return latent.map(lambda x: x.to(torch.float32 if x.device.type in _WITHOUT_FLOAT64 else torch.float64))


def _like(reference: AVLatent, latent: AVLatent) -> AVLatent:
    return reference.map(lambda old, new: new.to(old), latent)
