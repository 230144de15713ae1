"""How do we get from noise to x0?"""

from .denoiser import Denoiser, Network
from .guidance import NEUTRAL, AnyGuidance, Guidance, GuidanceBySigma, passes_needed
from .recipes import Recipe, recipe_for
from .samplers import SAMPLERS, Step, euler
from .schedules import SCHEDULES, ltx2

__all__ = [
    "NEUTRAL",
    "SAMPLERS",
    "SCHEDULES",
    "AnyGuidance",
    "Denoiser",
    "Guidance",
    "GuidanceBySigma",
    "Network",
    "Recipe",
    "Step",
    "euler",
    "ltx2",
    "passes_needed",
    "recipe_for",
]
