"""Prompts as a host joins them: which of them holds at which noise level, and what is written beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError
from .encode import Contexts

UNPROCESSED = "unprocessed_ltxav_embeds"  # the host's mark of a prompt that has not met the connectors

# What may stand beside a prompt and is understood, or says nothing to LTX-2; all else is refused.
UNDERSTOOD = {
    "start_percent", "end_percent", "frame_rate", UNPROCESSED, "pooled_output", "attention_mask",
    "prompt_type", "uuid", "keyframe_idxs", "guide_attention_entries", "ref_audio",
}  # fmt: skip

# Values of others that change nothing.
_NEUTRAL = {"strength": 1.0, "mask_strength": 1.0, "set_area_to_bounds": False, "default": False}

# What is not understood, in the words of the node that wrote it.
FOREIGN = {
    "generated_keyframes": "keyframes to be generated (of LTX-2.5)",
    "mask": "a mask (ConditioningSetMask)",
    "area": "an area (ConditioningSetArea)",
    "strength": "a strength (ConditioningSetAreaStrength)",
    "control": "a ControlNet (ControlNetApply)",
    "gligen": "boxes with texts (GLIGENTextBoxApply)",
    "hooks": "hooks (Cond Set Props)",
    "guidance": "a guidance scale (FluxGuidance)",
    "reference_latents": "reference pictures (ReferenceLatent)",
    "concat_latent_image": "a picture to go on from (InpaintModelConditioning)",
}

_SHIFT = 2.37  # by which ComfyUI turns the percents of a run into noise levels for LTX
_TOLERANCE = 1e-3  # percent of a run over 100


def read_extras(extras: Mapping[str, Any]) -> tuple[float, float]:
    """Return from which to which part of the run a prompt holds, 0 to 1.

    Args:
        extras: What a host's nodes wrote beside the prompt.

    Raises:
        SettingError: There is something that LTX-2 cannot obey; it names the node to take out.
    """
    for key, value in extras.items():
        neutral = value is None or (key in _NEUTRAL and value == _NEUTRAL[key])
        if key not in UNDERSTOOD and not neutral:
            meaning = FOREIGN.get(key, f"{key}, of another node")
            raise SettingError(
                f"This CONDITIONING holds {meaning}, which our nodes cannot use: take that node out from between the "
                "prompt and the sampler."
            )
    return float(extras.get("start_percent") or 0.0), float(1.0 if (end := extras.get("end_percent")) is None else end)


def sigma_of(percent: float) -> float:
    """Return the noise level that ComfyUI means by a part of a run of LTX-2, from 0 (sigma 1) to 1 (sigma 0)."""
    if not 0 < percent < 1:
        return 1.0 if percent <= 0 else 0.0
    return math.exp(_SHIFT) / (math.exp(_SHIFT) + percent / (1 - percent))


@dataclass(frozen=True)
class ContextsOverSigma(Contexts):
    """Several prompts over the noise levels: the first holds from sigma 1 on, until another one does.

    Attributes:
        later: The sigmas at and below which other prompts hold, in falling order.
    """

    later: tuple[tuple[float, Contexts], ...] = ()

    def at(self, sigma: float) -> Contexts:
        """Return the prompt that holds at ``sigma``."""
        held = [contexts for start, contexts in self.later if sigma <= start]
        return held[-1] if held else self


def check_ranges(ranges: Sequence[tuple[float, float]]) -> list[int]:
    """Return in which order prompts hold that each have a part of a run.

    Raises:
        SettingError: Several of them hold at one time, or none does.
    """
    order = sorted(range(len(ranges)), key=lambda number: ranges[number])
    reached = 0.0
    for number in order:
        start, end = ranges[number]
        if start < reached - _TOLERANCE:
            raise SettingError(
                f"This CONDITIONING joins {len(ranges)} prompts, and two of them hold from {start:.0%} of the run on; "
                "LTX-2 reads one at a time: take ConditioningCombine out, or give each prompt its own range with "
                "ConditioningSetTimestepRange."
            )
        if start > reached + _TOLERANCE:
            raise _nothing(reached, start)
        reached = end
    if reached < 1 - _TOLERANCE:
        raise _nothing(reached, 1.0)
    return order


def _nothing(start: float, end: float) -> SettingError:
    return SettingError(
        f"This CONDITIONING has no prompt from {start:.0%} to {end:.0%} of the run: take ConditioningSetTimestepRange "
        "out, or combine it with another prompt for that part."
    )


def over_sigma(contexts: Sequence[Contexts], ranges: Sequence[tuple[float, float]]) -> Contexts:
    """Return several prompts as one, of which each holds in its part of the run; ``ranges`` as ``check_ranges``."""
    first, *others = check_ranges(ranges)
    if not others:
        return contexts[first]
    later = tuple((sigma_of(ranges[number][0]), contexts[number]) for number in others)
    return ContextsOverSigma(contexts[first].video, contexts[first].audio, later)
