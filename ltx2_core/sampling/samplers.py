"""Solvers of the probability-flow ODE, each in the form of its paper."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..latents import AVLatent

Denoise = Callable[[AVLatent, float], AVLatent]


@dataclass(frozen=True)
class Step:
    """Where the sampler stands after a step."""

    sigma: float  # of ``latent``
    latent: AVLatent
    x0: AVLatent


def euler(denoise: Denoise, latent: AVLatent, sigmas: list[float]) -> Iterator[Step]:
    """First-order steps along the probability-flow ODE (spec: sampling.md, section 4)."""
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        x0 = denoise(latent, sigma)
        velocity = (latent - x0) * (1 / sigma)
        latent = latent + velocity * (sigma_next - sigma)
        yield Step(sigma_next, latent, x0)


SAMPLERS: dict[str, Callable[[Denoise, AVLatent, list[float]], Iterator[Step]]] = {"euler": euler}
