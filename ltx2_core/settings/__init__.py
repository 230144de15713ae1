"""Every setting of a run, declared once: its limits, its text, and what a recipe fills in where it is not set.

Settings of a value that belongs to another room (guidance, schedule, tiles, windows, conditions, strengths of LoRAs)
are declared beside that value and collected here. Widgets of nodes, flags of the command line and tables of help pages
are all made from these fields (see ``fields.py``).
"""

from ..sampling import ScheduleSettings
from .clip import (
    AS_GIVEN,
    AS_PROMPT,
    AUTO,
    BY_HAND,
    STREAM_CHOICES,
    ClipSettings,
    Enhancing,
    ExtendSettings,
    KeyframeSettings,
    LongClip,
    OwnClipSettings,
    PromptSettings,
    given_negative,
)
from .request import CompleteRequest, Request, check_limits, scheduled
from .resources import PRECISIONS, Resources, dtype_of
from .sampling import GuidanceRange, RecipeSettings, SamplingSettings, StreamScales, check_stg_blocks, parse_stg_blocks
from .second_stage import SecondStage
from .variations import Variations, names_of, read_prompts, read_seeds

__all__ = [
    "AS_GIVEN",
    "AS_PROMPT",
    "AUTO",
    "BY_HAND",
    "PRECISIONS",
    "STREAM_CHOICES",
    "ClipSettings",
    "CompleteRequest",
    "Enhancing",
    "ExtendSettings",
    "GuidanceRange",
    "KeyframeSettings",
    "LongClip",
    "OwnClipSettings",
    "PromptSettings",
    "RecipeSettings",
    "Request",
    "Resources",
    "SamplingSettings",
    "ScheduleSettings",
    "SecondStage",
    "StreamScales",
    "Variations",
    "check_limits",
    "check_stg_blocks",
    "dtype_of",
    "given_negative",
    "names_of",
    "parse_stg_blocks",
    "read_prompts",
    "read_seeds",
    "scheduled",
]
