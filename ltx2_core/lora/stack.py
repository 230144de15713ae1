"""Several LoRAs at once, and how people write down what each shall do."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.belonging import find_by_name
from ..checkpoint.files import TensorFile
from ..checkpoint.models import Models
from ..errors import SettingError
from ..fields import plain_numbers
from .parse import Lora
from .strengths import Strengths, StrengthSchedule

Stack = tuple[tuple[Lora, Strengths], ...]


def for_component(stack: Stack, component: str) -> Stack:
    """Return the subset of ``stack`` that applies to ``component``.

    Only the transformer runs step by step; for other components the schedules are dropped.
    """
    return tuple(
        (lora, strengths if component == "transformer" else replace(strengths, schedule=None))
        for lora, strengths in stack
        if any(strengths.constant_for(component, name) for name in lora.deltas.get(component, ()))
    )


def stack_identity(stack: Stack) -> list[tuple[TensorFile, Strengths]]:
    """Return what tells ``stack`` from another one, for a fingerprint: files and strengths."""
    return [(lora.file, strengths) for lora, strengths in stack]


def without_in_context(stack: Stack) -> Stack:
    """Return ``stack`` without LoRAs that follow a reference video; none are left where no file says which they are."""
    others = tuple((lora, strengths) for lora, strengths in stack if not lora.is_in_context)
    return () if len(others) == len(stack) else others


def reference_scale(stack: Stack) -> tuple[int, int]:
    """Return how many times smaller LoRAs want a reference, and of how many frames one; 1 and 1 where none says it."""
    return max(((lora.downscale, lora.temporal_downscale) for lora, _ in stack), default=(1, 1))


def text_identity(stack: Stack, components: Sequence[str]) -> list[tuple[TensorFile, str]]:
    """Return the files that change the text encoder or these components, and how much; encoded prompts depend on it."""
    return [
        (lora.file, f"{component} {strengths.strength * strengths.text}")
        for component in ("text_encoder", *components)
        for lora, strengths in for_component(stack, component)
    ]


def parse_blocks(text: str, layers: int) -> frozenset[int] | None:
    """Read numbers of blocks from "0-23, 40"; None stands for "all".

    Raises SettingError for other words, and for blocks that a model of ``layers`` does not have.
    """
    if text.strip() in ("", "all"):
        return None
    chosen = set[int]()
    for word in plain_numbers(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", word)
        if found is None:
            raise SettingError(f"blocks is {text!r}; write numbers and ranges, such as 0-23, 40, or all.")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise SettingError(f"blocks has the range {word.strip()}; write the smaller number first, such as 0-23.")
        if (highest := max(first, last)) >= layers:
            raise SettingError(f"blocks names {highest}; this model has {layers} blocks, counted from 0.")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)


def parse_schedule(text: str) -> StrengthSchedule | None:
    """Read strengths over a run from "1.0: 1, 0.5: 0.3", moments before strengths; None stands for "constant".

    Raises SettingError for other words.
    """
    if text.strip() in ("", "constant"):
        return None
    points = []
    for word in plain_numbers(text).split(","):
        moment, colon, strength = word.partition(":")
        if not colon:
            raise SettingError(
                f"schedule is {text!r}; write moments and strengths, such as 1.0: 1, 0.5: 0.3, or constant."
            )
        points.append((_parse_number(moment, text), _parse_number(strength, text)))
    if wrong := [point for point in points if not (abs(point[0]) <= 1000 and abs(point[1]) <= 10)]:
        raise SettingError(
            f"schedule has strength {wrong[0][1]:g} at {wrong[0][0]:g}; strengths are between -10 and 10, and moments "
            "sigmas from 1 to 0 or numbers of steps."
        )
    return StrengthSchedule.through(points)


def _parse_number(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise SettingError(f"{text!r} has {word.strip()!r} where a number should be.") from None


def find_distilled_lora(models: Models, paths: Sequence[Path] | None = None) -> Path:
    """Find the distilled LoRA of a model by its official name.

    It is looked for among ``paths``, else beside the transformer or in a folder next to it.

    Raises:
        MissingFileError: There is none.
    """
    name = f"ltx-{models.version.removesuffix('.0')}-*-distilled-lora-*.safetensors"
    missing = "the second stage of a dev model needs it: download it, or give its file with --distilled-lora"
    return find_by_name(name, models, ("../loras",), paths, missing)
