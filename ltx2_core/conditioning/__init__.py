"""What is given, and stays? Each item maps the state of a stream to another; they compose in any order."""

from .begin import Begin
from .frames import Keyframe
from .frozen import Frozen
from .masks import Inpaint, Retake, cells
from .reference import ReferenceAudio, ReferenceVideo
from .state import AVState, Item, State, prepare

__all__ = [
    "AVState",
    "Begin",
    "Frozen",
    "Inpaint",
    "Item",
    "Keyframe",
    "ReferenceAudio",
    "ReferenceVideo",
    "Retake",
    "State",
    "cells",
    "prepare",
]
