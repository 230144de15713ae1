"""Which ways to keep a character do the loaded model and its LoRAs allow?"""

import re
from collections.abc import Callable
from pathlib import Path

from ..conditioning.characters import AUTO, INGREDIENTS, KEYFRAME, VOICE_ONLY, Character
from ..conditioning.conditions import Condition
from ..conditioning.timeline import Timeline
from ..errors import SettingError
from ..lora import Lora, Stack
from ..lora.report import made_for
from ..lora.stack import reference_scale

# What LoRAs are called that were trained to follow a sheet of pictures, or a voice.
_SHEETS = re.compile(r"ingredients")
_VOICES = re.compile(r"(?<![a-z])id[-_ ]?lora|dub[-_ ]?it")
_TITLE = re.compile(r"(^|[._])(title|output_name|lora_name)$")  # fields of headers in which trainers write the name


def place_character(character: Character, loras: Stack, version: str) -> tuple[tuple[Condition, ...], str]:
    """Return what is given for ``character``, and what to say of it.

    Args:
        character: whose way may be auto.
        loras: those that the model is loaded with.
        version: of the model, such as "2.3".

    Returns:
        The conditions, and one sentence or a few: the way that was taken and why, and what else is possible.

    Raises:
        SettingError: for ingredients without any LoRA.
    """
    sheets = [lora for lora, _ in loras if _is_called(lora, _SHEETS)]
    fitting = [lora for lora in sheets if _fits(lora, version)]
    way, why = _way(character, sheets, fitting, version)
    if way == INGREDIENTS and not loras:
        raise SettingError(
            "way is ingredients, but the model has no LoRA: load the IC-LoRA Ingredients with LTX-2 Load IC-LoRA "
            "(--lora), or choose keyframe."
        )
    said = [f"way: {way} ({why})" if why else f"way: {way}"]
    if way == INGREDIENTS and not fitting:
        said.append(f"no loaded LoRA says that it is Ingredients for LTX-{version}, so the sheet may be ignored")
    said += _about_voice(character, loras)
    said.append(f"possible here: {', '.join(_possible(character, loras))}")
    return character.conditions(way, reference_scale(loras)), "; ".join(said) + "."


def place_timeline(
    strip: Timeline, find: Callable[[str], Path], loras: Stack, version: str
) -> tuple[tuple[Condition, ...], list[str]]:
    """Return all that lies on a timeline but what is made anew, and what to say of each character.

    Args:
        strip: the timeline.
        find: returns where a file of this name lies.
        loras: those that the model is loaded with.
        version: of the model, such as "2.3".

    Raises:
        LTX2Error: a file that is missing or cannot be read, or a way that is not possible.
    """
    given, told = [*strip.conditions(find, reference_scale(loras))], []
    for entry, character in zip(strip.characters, strip.cast(find)):
        placed, said = place_character(character, loras, version)
        given += placed
        told.append(f"{entry.file}: {said}")
    return tuple(given), told


def _way(character: Character, sheets: list[Lora], fitting: list[Lora], version: str) -> tuple[str, str]:
    """The way that is taken, and why."""
    if character.way != AUTO:
        return character.way, ""
    if character.pictures is None:
        return VOICE_ONLY, "there is no picture"
    if fitting:
        return INGREDIENTS, f"by {fitting[0].path.name}"
    if sheets:
        made = " or ".join(made_for(sheets[0]))
        return KEYFRAME, f"{sheets[0].path.name} is made for {made}, and this model is LTX-{version}"
    return KEYFRAME, "the IC-LoRA Ingredients is not loaded"


def _about_voice(character: Character, loras: Stack) -> list[str]:
    if character.voice is None:
        return []
    voices = [lora.path.name for lora, _ in loras if _is_called(lora, _VOICES)]
    if voices:
        return [f"voice: by {voices[0]}"]
    return ["voice: no loaded LoRA is called ID-LoRA or Dub-It, and without one it may be ignored"]


def _possible(character: Character, loras: Stack) -> list[str]:
    seen = [] if character.pictures is None else [KEYFRAME, *([INGREDIENTS] if loras else [])]
    return seen if character.voice is None else [*seen, VOICE_ONLY]


def _is_called(lora: Lora, name: re.Pattern[str]) -> bool:
    """Whether the file, or what its header calls it, has this name."""
    titles = [value for key, value in lora.file.metadata.items() if _TITLE.search(key)]
    return any(name.search(text.lower()) for text in (lora.path.name, *titles))


def _fits(lora: Lora, version: str) -> bool:
    """Whether it is made for this version, as far as anybody can say."""
    return version in (made_for(lora) or (version,))
