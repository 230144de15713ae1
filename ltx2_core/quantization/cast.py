"""Which weights of a transformer become smaller when the user asks for it (see README.md, "Casting")."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import SettingError
from .formats import CASTS, SCALE_SUFFIXES

_PLAIN_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def check_format(format: str | None) -> None:
    """Raise SettingError unless ``format`` is a row of CASTS, or None."""
    if format is not None and format not in CASTS:
        raise SettingError(
            f"There is no format {format}; choose {', '.join(CASTS)}, or none to keep weights as stored."
        )


def cast(state: dict[str, Tensor], format: str) -> None:
    """Put the ``castable`` weights of a transformer into ``format``, one after the other; changes ``state``.

    The result is what a file in that format would hold, for ``install_quantized_layers`` to read; on the meta device it
    is the same without numbers. Raises SettingError unless ``format`` is a row of CASTS.
    """
    check_format(format)
    for name in castable(state, format):
        module = name.removesuffix(".weight")
        state |= {f"{module}.{suffix}": tensor for suffix, tensor in CASTS[format].quantize(state[name]).items()}


def castable(state: Mapping[str, Tensor], format: str) -> list[str]:
    """Return the names of the matrices in a transformer's ``state`` that a cast to ``format`` changes: those that are
    not quantised yet, and that the format does not keep."""
    last = max((int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))), default=0)
    kept = re.compile("|".join(CASTS[format].kept or {}).format(last=last))

    def is_plain_matrix(name: str, value: Tensor) -> bool:
        module, _, leaf = name.rpartition(".")
        scaled = any(f"{module}.{suffix}" in state for suffix in SCALE_SUFFIXES)
        return leaf == "weight" and value.ndim == 2 and value.dtype in _PLAIN_DTYPES and not scaled

    return [name for name, value in state.items() if is_plain_matrix(name, value) and not kept.match(name)]
