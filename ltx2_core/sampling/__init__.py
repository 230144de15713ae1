"""How do we get from noise to x0?"""

from .denoiser import Denoiser
from .guidance import NEUTRAL, Guidance
from .recipes import Recipe, recipe_for
from .samplers import SAMPLERS, Step, euler
from .schedules import SCHEDULES, ltx2

__all__ = ["NEUTRAL", "SAMPLERS", "SCHEDULES", "Denoiser", "Guidance", "Recipe", "Step", "euler", "ltx2", "recipe_for"]
