"""How do we get from noise to x0?"""

from .denoiser import Denoiser, Network
from .guidance import (
    NEUTRAL,
    PASSES,
    AnyGuidance,
    Guidance,
    GuidanceBySigma,
    StreamGuidance,
    passes_needed,
    perturbation_of,
)
from .recipes import Recipe, Refine, recipe_for
from .samplers import SAMPLERS, Step, euler
from .schedules import SCHEDULES, ltx2
from .tiles import TiledNetwork, Tiles, one_by_one, runs

__all__ = [
    "NEUTRAL",
    "PASSES",
    "SAMPLERS",
    "SCHEDULES",
    "AnyGuidance",
    "Denoiser",
    "Guidance",
    "GuidanceBySigma",
    "Network",
    "Recipe",
    "Refine",
    "Step",
    "StreamGuidance",
    "TiledNetwork",
    "Tiles",
    "euler",
    "ltx2",
    "one_by_one",
    "passes_needed",
    "perturbation_of",
    "recipe_for",
    "runs",
]
