"""Which weights of a transformer become smaller when the user asks for it, and how (spec: formats.md, section 9)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .fp8 import SCALE_SUFFIXES
from .products import row_scales

# Matrices whose names begin so stay as they are stored, and why.
KEPT = {
    r"(?!blocks\.)": "the ends of both streams, AdaLN and captions: few bytes, on which every token of a step depends",
    r"blocks\.(0|{last})\.": "the first and the last block: what they get wrong all others inherit, or none can mend",
    r"blocks\.\d+\.audio\.": "the sound: it turns metallic or choppy long before a picture turns soft",
    r"blocks\.\d+\.(audio_to_video|video_to_audio)\.": "where picture and sound meet: lips and impacts stay on time",
    r"blocks\.\d+\.video\.\w+\.gate\.": "one number per head: nothing to save",
}

_PLAIN = (torch.bfloat16, torch.float16, torch.float32)


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn, and the float32 scale (out, 1) that makes the largest number of each row the largest float8.

    With one scale per tensor the error is 2.65 % of a Gaussian matrix either way, but 4.8 % instead of 2.9 % of the
    worst row of a heavy-tailed one (Student's t with 3 degrees of freedom), at the price of 4 bytes a row.
    """
    scale = row_scales(weight)
    return (weight / scale).to(torch.float8_e4m3fn), scale


CASTS = {"fp8": to_fp8}


def check_format(format: str | None) -> None:
    """ValueError unless ``format`` is a row of CASTS, or None."""
    if format is not None and format not in CASTS:
        raise ValueError(f"There is no format {format}; choose {', '.join(CASTS)}, or none to keep weights as stored.")


def cast(state: dict[str, Tensor], format: str) -> None:
    """Put the ``castable`` weights of a transformer into ``format``, one after the other; changes ``state``.

    ``format`` is a row of CASTS. The result is what a file in that format would hold, for ``adopt_fp8`` to read.
    """
    check_format(format)
    for name in castable(state):
        state[name], state[f"{name}_scale"] = CASTS[format](state[name])


def castable(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the matrices in a transformer's ``state`` that KEPT does not keep and that are not quantised yet."""
    last = max((int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))), default=0)
    kept = re.compile("|".join(KEPT).format(last=last))

    def is_plain_matrix(name: str, value: Tensor) -> bool:
        module, _, leaf = name.rpartition(".")
        scaled = any(f"{module}.{suffix}" in state for suffix in SCALE_SUFFIXES)
        return leaf == "weight" and value.ndim == 2 and value.dtype in _PLAIN and not scaled

    return [name for name, value in state.items() if is_plain_matrix(name, value) and not kept.match(name)]
