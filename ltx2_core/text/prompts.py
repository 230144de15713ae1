"""Prompts as a host joins them: which of them holds at which noise level, and what is written beside them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import SettingError
from .encode import ALONE, Contexts, PromptWeight

UNPROCESSED = "unprocessed_ltxav_embeds"  # the host's mark of a prompt that has not met the connectors
MADE_BY = "ltx2av_made_by"  # our mark of the generation of the model that a prompt or a latent is of

# What may stand beside a prompt and is understood, or says nothing to LTX-2; all else is refused. "cross_attn" is the
# prompt once more, which with its "uuid" the host's guiders keep, and packs hand out.
UNDERSTOOD = {
    "start_percent", "end_percent", "frame_rate", UNPROCESSED, "pooled_output", "attention_mask",
    "prompt_type", "uuid", "keyframe_idxs", "guide_attention_entries", "ref_audio", "strength", "mask", "mask_strength",
    "set_area_to_bounds", "area", "cross_attn", MADE_BY,
}  # fmt: skip

NEUTRAL: dict[str, Any] = {"default": False, "model_conds": {}}  # with these values they say nothing

# What is not understood, in the words of the node that wrote it.
FOREIGN = {
    "default": "a prompt for the rest (Cond Set Default Combine)",
    "generated_keyframes": "keyframes to be generated (of LTX-2.5)",
    "control": "a ControlNet (ControlNetApply)",
    "gligen": "boxes with texts (GLIGENTextBoxApply)",
    "hooks": "hooks (Cond Set Props)",
    "guidance": "a guidance scale (FluxGuidance)",
    "reference_latents": "reference pictures (ReferenceLatent)",
    "concat_latent_image": "a picture to go on from (InpaintModelConditioning)",
}

_AREA_CELL = 4  # cells of 8 pixels, in which ComfyUI measures areas, in a cell of LTX-2
_SHIFT = 2.37  # by which ComfyUI turns the percents of a run into noise levels for LTX
_TOLERANCE = 1e-3  # percent of a run over 100


# What other programs read in a prompt, and what serves here: weights such as (word:1.4), and the names of LoRAs.
_WEIGHT = re.compile(r"\([^()]*[^\W\d]\s*:\s*\d*\.\d+\s*\)")
_LORA = re.compile(r"<(?:lora|lyco):[^<>]*>", re.IGNORECASE)


def foreign_syntax(prompt: str) -> list[str]:
    """Return a sentence for each kind of syntax of other programs in ``prompt``, which is read as text."""
    found = []
    if weight := _WEIGHT.search(prompt):
        found.append(
            f"The prompt says {weight[0][:60]}: LTX-2 has no weights of words, and reads brackets and number as text; "
            "take them out, and say it in more words where it is to count more."
        )
    if lora := _LORA.search(prompt):
        found.append(
            f"The prompt says {lora[0][:60]}: it is read as text, and no LoRA is taken; take it out, and give the LoRA "
            "with --lora, or with LTX-2 Load LoRA."
        )
    return found


def describe_prompts(prompts: Sequence[str], negative: str) -> list[str]:
    """Return a sentence for each of the ``prompts`` of a clip that is empty, and those on the syntax of all of them."""
    names = (
        [f"Prompt {number} of {len(prompts)}" for number in range(1, len(prompts) + 1)]
        if prompts[1:]
        else ["The prompt"]
    )
    empty = [
        f"{name} is empty, so that the clip shows anything: write who moves, and how, and what is heard."
        for name, prompt in zip(names, prompts)
        if not prompt.strip()
    ]
    return [*empty, *(sentence for prompt in (*prompts, negative) for sentence in foreign_syntax(prompt))]


class Extent(NamedTuple):
    """From which to which part of the run a prompt holds, 0 to 1, and how much it counts beside others."""

    start: float = 0.0
    end: float = 1.0
    weight: PromptWeight = ALONE


def read_extras(extras: Mapping[str, Any]) -> Extent:
    """Return when, where and how much a prompt counts.

    Args:
        extras: What a host's nodes wrote beside the prompt.

    Raises:
        SettingError: There is something that LTX-2 cannot obey; it names the node to take out.
    """
    for key, value in extras.items():
        neutral = value is None or (key in NEUTRAL and value == NEUTRAL[key])
        if key not in UNDERSTOOD and not neutral:
            meaning = FOREIGN.get(key, f"{key}, of another node")
            raise SettingError(
                f"This CONDITIONING holds {meaning}, which our nodes cannot use: take that node out from between the "
                "prompt and the sampler."
            )
    return Extent(_number(extras, "start_percent", 0.0), _number(extras, "end_percent", 1.0), _read_weight(extras))


def _read_weight(extras: Mapping[str, Any]) -> PromptWeight:
    """What ConditioningSetMask, ConditioningSetArea and ConditioningSetAreaStrength say."""
    area, mask, strength = extras.get("area"), _read_mask(extras), _number(extras, "strength", 1.0)
    if area is None:
        return PromptWeight(strength, mask)
    values = tuple(area) if isinstance(area, Sequence) else ()
    shares = values[:1] == ("percentage",)
    numbers = values[1:] if shares else values
    if len(numbers) not in ((4, 6) if shares else (4,)) or not all(map(_is_positive, numbers)):
        raise SettingError("This CONDITIONING holds an area of an unknown form: set it with ConditioningSetArea.")
    if shares:
        return PromptWeight(strength, mask, numbers)
    return PromptWeight(strength, mask, tuple(each / _AREA_CELL for each in numbers), in_cells=True)


def _read_mask(extras: Mapping[str, Any]) -> Tensor | None:
    mask = extras.get("mask")
    if mask is None:
        return None
    usable = isinstance(mask, Tensor) and mask.ndim in (2, 3) and mask.numel() and not mask.is_meta
    if not usable or not mask.float().isfinite().all():
        raise SettingError(
            "This CONDITIONING holds a mask that is not one picture, or one for each frame: set it with "
            "ConditioningSetMask."
        )
    return mask.reshape(-1, *mask.shape[-2:]).float() * _number(extras, "mask_strength", 1.0)


def _number(extras: Mapping[str, Any], key: str, usual: float) -> float:
    """The number ``key``, ``usual`` where there is none; SettingError for what is no number of 0 or more."""
    value = extras.get(key)
    if value is None:
        return usual
    if not _is_positive(value):
        raise SettingError(
            f"This CONDITIONING says {str(value)[:40]!r} for {key}, where a number of 0 or more is meant: set it with "
            "ComfyUI's own node for it."
        )
    return float(value)


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(float(value)) and float(value) >= 0


def sigma_of(percent: float) -> float:
    """Return the noise level that ComfyUI means by a part of a run of LTX-2, from 0 (sigma 1) to 1 (sigma 0)."""
    if not 0 < percent < 1:
        return 1.0 if percent <= 0 else 0.0
    return math.exp(_SHIFT) / (math.exp(_SHIFT) + percent / (1 - percent))


@dataclass(frozen=True)
class Prompt:
    """One of several prompts: it holds at and below the sigma ``start``, and above ``end``."""

    start: float
    end: float
    contexts: Contexts
    weight: PromptWeight


@dataclass(frozen=True)
class JoinedContexts(Contexts):
    """Several prompts, of which some hold at each noise level; as a context of its own it is the first.

    Attributes:
        prompts: In the order in which they begin.
    """

    prompts: tuple[Prompt, ...] = ()

    @property
    def weights(self) -> tuple[PromptWeight, ...]:
        """How much each prompt counts beside others."""
        return tuple(each.weight for each in self.prompts)

    def at(self, sigma: float) -> Contexts:
        """Return the first prompt that holds at ``sigma``."""
        return self.parts_at(sigma)[0][0]

    def parts_at(self, sigma: float) -> tuple[tuple[Contexts, PromptWeight], ...]:
        """Return all prompts that hold at ``sigma``, with how much each counts there."""
        begun = [each for each in self.prompts if sigma <= each.start] or list(self.prompts[:1])
        held = [each for each in begun if sigma > each.end] or begun[-1:]
        return tuple((each.contexts, each.weight) for each in held)


def check_ranges(extents: Sequence[Extent]) -> list[int]:
    """Return in which order prompts begin that each have a part of a run.

    Raises:
        SettingError: At some time none of them holds.
    """
    order = sorted(range(len(extents)), key=lambda number: extents[number][:2])
    reached = 0.0
    for number in order:
        start, end, _ = extents[number]
        if start > reached + _TOLERANCE:
            raise _nothing(reached, start)
        reached = max(reached, end)
    if reached < 1 - _TOLERANCE:
        raise _nothing(reached, 1.0)
    return order


def _nothing(start: float, end: float) -> SettingError:
    return SettingError(
        f"This CONDITIONING has no prompt from {start:.0%} to {end:.0%} of the run: take ConditioningSetTimestepRange "
        "out, or combine it with another prompt for that part."
    )


def join_prompts(contexts: Sequence[Contexts], extents: Sequence[Extent]) -> Contexts:
    """Return several prompts as one; where several hold at a time, what the network makes of them is averaged.

    Raises:
        SettingError: At some time none of them holds.
    """
    order = check_ranges(extents)
    first = contexts[order[0]]
    if len(order) == 1:
        return first
    prompts = []
    for number in order:
        start, end, weight = extents[number]
        last = -1.0 if end >= 1 else sigma_of(end)
        prompts.append(Prompt(sigma_of(start), last, contexts[number], weight))
    return JoinedContexts(first.video, first.audio, tuple(prompts))
