"""Which content is provided, and stays? A latent condition maps the state of a stream to another; they compose.

``conditions`` holds what people provide (pictures, videos, sounds, masks), the other files what becomes of it.
"""

from .begin import Begin
from .frames import Keyframe
from .frozen import Frozen
from .masks import Inpaint, Retake, cells
from .reference import ReferenceAudioTokens, ReferenceVideoTokens
from .state import AVState, LatentCondition, State, apply_conditions

__all__ = [
    "AVState",
    "Begin",
    "Frozen",
    "Inpaint",
    "Keyframe",
    "LatentCondition",
    "ReferenceAudioTokens",
    "ReferenceVideoTokens",
    "Retake",
    "State",
    "apply_conditions",
    "cells",
]
