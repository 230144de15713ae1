"""Which content is provided, and stays? A latent condition maps the state of a stream to another; they compose.

``conditions`` holds what people provide (pictures, videos, sounds, masks), the other files what becomes of it.
"""

from .begin import Begin
from .characters import Character
from .conditions import (
    Condition,
    InitClip,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
    RetakeRanges,
)
from .frames import Keyframe
from .frozen import Frozen
from .guides import GuidePlaces, Guides
from .masks import Inpaint, Retake, cells
from .pictures import GeneratedKeyframes, Picture
from .reference import ReferenceAudioTokens, ReferenceVideoTokens
from .slots import KeyframeSlots, seed_slots
from .sources import AudioSource, SoundPart, VideoSource
from .state import AVState, LatentCondition, State, apply_conditions
from .timeline import Timeline

__all__ = [
    "AVState",
    "AudioSource",
    "Begin",
    "Character",
    "Condition",
    "Frozen",
    "GeneratedKeyframes",
    "GuidePlaces",
    "Guides",
    "InitClip",
    "Inpaint",
    "InpaintMask",
    "KeepAudio",
    "KeepVideo",
    "Keyframe",
    "KeyframeSlots",
    "LatentCondition",
    "Picture",
    "ReferenceAudio",
    "ReferenceAudioTokens",
    "ReferenceVideo",
    "ReferenceVideoTokens",
    "Retake",
    "RetakeRange",
    "RetakeRanges",
    "SoundPart",
    "State",
    "Timeline",
    "VideoSource",
    "apply_conditions",
    "cells",
    "seed_slots",
]
