"""The sampler asked with everything by name, for tests that have a network and a latent and no request."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch

from ltx2_core.conditioning import Inpaint
from ltx2_core.conditioning.conditions import LatentCondition
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline import sample as pipeline
from ltx2_core.sampling import StreamGuidance
from ltx2_core.sampling.guidance import Guidance
from ltx2_core.settings import SamplingSettings
from ltx2_core.text import Contexts

NEUTRAL = Guidance()


def sample(
    network: Callable,
    latent: AVLatent,
    *,
    fps: Fraction,
    sigmas: Sequence[float],
    contexts: Contexts,
    negative: Contexts | None = None,
    video=NEUTRAL,
    audio=NEUTRAL,
    mask: AVLatent | None = None,
    items: Sequence[LatentCondition] = (),
    last=None,
    tiles=None,
    together: bool = True,
    dtype: torch.dtype = torch.float32,
    on_step=None,
    check=None,
    at=None,
    **settings,
) -> AVLatent:
    """Denoise a latent; masks come before other conditions, and whatever else is named is a SamplingSettings."""
    masks = [] if mask is None else [Inpaint(stream, each) for stream, each in mask.streams().items()]
    inputs = pipeline.SampleInputs(latent, fps, contexts, negative, (*masks, *items), last)
    sampling = pipeline.Sampling(
        tuple(sigmas), StreamGuidance(video, audio), SamplingSettings(**settings), tiles, together
    )
    return pipeline.sample(network, inputs, sampling, dtype, pipeline.Hooks(on_step, check, at))
