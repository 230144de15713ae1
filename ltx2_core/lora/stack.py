"""Several LoRAs at once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.belonging import find_by_name
from ..checkpoint.files import TensorFile
from ..checkpoint.models import Models
from .parse import Lora
from .strengths import Strengths

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
    """Return how many times smaller LoRAs want a reference, and of how many frames one, whichever of them says which;
    1 and 1 where none says it."""
    return max([1, *(lora.downscale for lora, _ in stack)]), max([1, *(lora.temporal_downscale for lora, _ in stack)])


def text_identity(stack: Stack, components: Sequence[str]) -> list[tuple[TensorFile, str]]:
    """Return the files that change the text encoder or these components, and how much; encoded prompts depend on it."""
    return [
        (lora.file, f"{component} {strengths.strength * strengths.text}")
        for component in ("text_encoder", *components)
        for lora, strengths in for_component(stack, component)
    ]


def find_distilled_lora(models: Models, paths: Sequence[Path] | None = None) -> Path:
    """Find the distilled LoRA of a model by its official name.

    It is looked for among ``paths``, else beside the transformer or in a folder next to it.

    Raises:
        MissingFileError: There is none.
    """
    name = f"ltx-{models.version.removesuffix('.0')}-*distilled*-lora*.safetensors"
    missing = "the second stage of a dev model needs it: download it, or give its file with --distilled-lora"
    return find_by_name(name, models, ("../loras",), paths, missing)
