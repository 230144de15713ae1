"""How do we get from noise to x0? Equations and their sources are in ``README.md``."""

from ..transformer import ATTENTIONS
from .blend import check_prompts
from .denoiser import Denoiser
from .guidance import (
    PASSES,
    AnyGuidance,
    Guidance,
    GuidanceBySigma,
    StreamGuidance,
    in_walks,
    passes_needed,
)
from .recipes import Recipe, Refine, recipe_for
from .samplers import SAMPLERS, Step, euler
from .schedules import SCHEDULES, ScheduleSettings, ltx2
from .tiles import TiledNetwork, Tiles, TileSettings, count_runs, one_by_one

__all__ = [
    "ATTENTIONS",
    "PASSES",
    "SAMPLERS",
    "SCHEDULES",
    "AnyGuidance",
    "Denoiser",
    "Guidance",
    "GuidanceBySigma",
    "Recipe",
    "Refine",
    "ScheduleSettings",
    "Step",
    "StreamGuidance",
    "TileSettings",
    "TiledNetwork",
    "Tiles",
    "check_prompts",
    "count_runs",
    "euler",
    "in_walks",
    "ltx2",
    "one_by_one",
    "passes_needed",
    "recipe_for",
]
