"""Several LoRAs at once, and how people write down what each shall do."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint.files import TensorFile
from .apply import Schedule, Strengths, keyframes
from .names import STREAMS
from .parse import Lora

Stack = tuple[tuple[Lora, Strengths], ...]

_WRITTEN = re.compile(r"(?P<path>.+?)(?::(?P<overall>[-+]?[\d.]+))?(?::(?P<streams>\w+=[^:]*))?")


def part(stack: Stack, component: str) -> Stack:
    """What of ``stack`` changes ``component``. Only the transformer runs step by step; other parts get no schedule."""
    return tuple(
        (lora, strengths if component == "transformer" else replace(strengths, schedule=None))
        for lora, strengths in stack
        if any(strengths.of(component, name) for name in lora.deltas.get(component, ()))
    )


def stack_identity(stack: Stack) -> list[tuple[TensorFile, Strengths]]:
    """What tells ``stack`` from another one."""
    return [(lora.file, strengths) for lora, strengths in stack]


def text_identity(stack: Stack, components: Sequence[str]) -> list[tuple[TensorFile, str]]:
    """The files that change these components of the text, and how much: what encoded prompts depend on."""
    return [
        (lora.file, f"{component} {strengths.overall * strengths.text}")
        for component in components
        for lora, strengths in part(stack, component)
    ]


def written(text: str) -> tuple[Path, Strengths]:
    """A file and its strengths from "style.safetensors", "style.safetensors:0.8" or "...:0.8:video=1,audio=0.5"."""
    found = _WRITTEN.fullmatch(text)
    assert found is not None, text
    strengths = Strengths(1.0 if found["overall"] is None else _number(found["overall"], text))
    for word in filter(None, (found["streams"] or "").split(",")):
        name, _, value = word.partition("=")
        if name.strip() not in STREAMS:
            raise ValueError(f"{text} names {name.strip()}; a LoRA has strengths for {', '.join(STREAMS)}.")
        changed: dict[str, Any] = {name.strip(): _number(value, text)}
        strengths = replace(strengths, **changed)
    return Path(found["path"]), strengths


def blocks(text: str, layers: int) -> frozenset[int] | None:
    """Numbers of blocks from "0-23, 40"; None for "all". ValueError for what a model of ``layers`` has not."""
    if text.strip() in ("", "all"):
        return None
    chosen = set[int]()
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", word)
        if found is None:
            raise ValueError(f"blocks is {text!r}; write numbers and ranges, such as 0-23, 40, or all.")
        chosen.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    if (highest := max(chosen, default=0)) >= layers:
        raise ValueError(f"blocks names {highest}; this model has {layers} blocks, counted from 0.")
    return frozenset(chosen)


def schedule(text: str) -> Schedule | None:
    """Strengths over a run from "1.0: 1, 0.5: 0.3", moments before strengths; None for "constant"."""
    if text.strip() in ("", "constant"):
        return None
    points = []
    for word in text.split(","):
        moment, colon, strength = word.partition(":")
        if not colon:
            raise ValueError(
                f"schedule is {text!r}; write moments and strengths, such as 1.0: 1, 0.5: 0.3, or constant."
            )
        points.append((_number(moment, text), _number(strength, text)))
    return keyframes(points)


def _number(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{text!r} has {word.strip()!r} where a number should be.") from None
