"""Which weights of a transformer become smaller when the user asks for it (see README.md, "Casting")."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from ..errors import SettingError, is_out_of_memory
from .formats import CASTS, SCALE_SUFFIXES
from .kept import kept_names
from .stored import Format, Shape

_PLAIN_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def check_format(format: str | None) -> None:
    """Raise SettingError unless ``format`` is a row of CASTS, or None."""
    if format is not None and format not in CASTS:
        raise SettingError(
            f"There is no format {format}; choose {', '.join(CASTS)}, or none to keep weights as stored."
        )


def cast(state: dict[str, Tensor], format: str, device: torch.device | None = None) -> None:
    """Put the ``castable`` weights of a transformer into ``format``, one after the other; changes ``state``.

    The result is what a file in that format would hold, for ``install_quantized_layers`` to read; on the meta device it
    is the same without numbers.

    Args:
        state: by our names.
        format: a row of CASTS.
        device: where numbers are rounded, which is much faster on a card; None is where they lie. The result lies
            where they do.

    Raises:
        SettingError: there is no such row.
    """
    check_format(format)
    for name in castable(state):
        module = name.removesuffix(".weight")
        row, weight = CASTS[format], state[name]
        made = _quantized(weight, row) if device is None else _quantize_on(device, row, weight)
        state |= {f"{module}.{suffix}": tensor for suffix, tensor in made.items()}


def outline_of(format: Format, shape: Shape) -> dict[str, Tensor]:
    """Return what a matrix of ``shape`` becomes in ``format``, by suffix, on the meta device; found once for a shape,
    of which a model has thousands."""
    return {suffix: made.clone() for suffix, made in _outline(format, shape).items()}


@cache
def _outline(format: Format, shape: Shape) -> dict[str, Tensor]:
    return format.outline(shape)


def _quantized(weight: Tensor, format: Format) -> dict[str, Tensor]:
    return outline_of(format, tuple(weight.shape)) if weight.is_meta else format.quantize(weight)


def _quantize_on(device: torch.device, format: Format, weight: Tensor) -> dict[str, Tensor]:
    """A matrix in ``format``, rounded on ``device`` if that has room for it."""
    try:
        return {suffix: made.to(weight.device) for suffix, made in format.quantize(weight.to(device)).items()}
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return format.quantize(weight)


def castable(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the matrices in a transformer's ``state`` that a cast changes: those that are not quantised
    yet, and that do not stay as ``kept_names`` says."""
    is_kept = kept_names(state)

    def is_plain_matrix(name: str, value: Tensor) -> bool:
        module, _, leaf = name.rpartition(".")
        scaled = any(f"{module}.{suffix}" in state for suffix in SCALE_SUFFIXES)
        return leaf == "weight" and value.ndim == 2 and value.dtype in _PLAIN_DTYPES and not scaled

    return [name for name, value in state.items() if is_plain_matrix(name, value) and not is_kept(name)]
