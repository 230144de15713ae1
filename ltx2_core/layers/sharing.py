"""What several layers read is made once, and rounded once for those that multiply in fewer bits.

What was rounded lies in the dict ``x.rounded`` of the tensor that layers are called with, under names that they give.
Layers that multiply in float8 say by ``float8_input`` how they take x: numbers in float8 (tokens, in) and a scale in
float32, one for each token (tokens, 1) or one for all (). Kernels that make x may round it, too; then nobody needs to
read it again. If all readers take it so, x has no numbers of its own: it is a stand-in of its shape and dtype, and
whoever reads it finds "not a number".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

Rounded = dict[str, tuple[Tensor, Tensor]]  # numbers in float8 and their scales, by the name of the rounding

_ASKED = "float8_input"  # of quantised layers; a class is asked first, since a module without it takes its time


@dataclass(frozen=True)
class Rounding:
    """How tokens are rounded to float8, in one way or in several.

    Attributes:
        scales: by the name under which layers look for the result, the scale of all tokens, (); None for one that makes
            the largest number of each token the largest float8.
        keeps: whether the tokens themselves are wanted, too.
    """

    scales: Mapping[str, Tensor | None] = field(default_factory=lambda: {"fp8": None})
    keeps: bool = False


@contextmanager
def shared_input(x: Tensor) -> Iterator[None]:
    """Let layers that are called with ``x`` itself share what they make of it: quantised ones round it once.

    Nobody may change ``x`` meanwhile. What they keep is gone afterwards; whoever shares ``x`` already, or has rounded
    it, keeps it longer.
    """
    if "rounded" in vars(x):
        yield
        return
    vars(x)["rounded"] = {}
    try:
        yield
    finally:
        del vars(x)["rounded"]


def find_rounding(
    find: Callable[[Tensor], Callable[..., Tensor] | None], x: Tensor, readers: Sequence[nn.Module | None]
) -> Callable[..., Tensor] | None:
    """Return the kernel that makes what ``readers`` read and rounds it, in every way that one of them takes it, without
    its last argument; None if there is none, or no reader takes float8.

    Args:
        find: finds the kernel for a tensor; the last argument of that is the ``Rounding``.
        x: what the kernel is called with.
        readers: all layers that will be called with what it makes; None stands for no layer.
    """
    layers = [layer for layer in readers if layer is not None]
    if not any(hasattr(type(layer), _ASKED) for layer in layers) or (kernel := find(x)) is None:
        return None
    asked = [getattr(layer, _ASKED)(x.dtype) if hasattr(type(layer), _ASKED) else None for layer in layers]
    if not (scales := dict(filter(None, asked))):
        return None
    rounding = Rounding(scales, keeps=None in asked or any(map(is_adapted, layers)))
    return lambda *arguments: kernel(*arguments, rounding)


def is_adapted(layer: nn.Module) -> bool:
    """Return whether something else is computed beside ``layer``, as a LoRA is, or a hook waits for it to be called."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    return bool(hooks) or not {"forward", "expanded"}.isdisjoint(vars(layer))


def with_rounded(x: Tensor, rounded: Rounded) -> Tensor:
    """Let ``x`` (..., in) have its tokens in float8; returns it."""
    vars(x)["rounded"] = rounded
    return x


def stand_in(like: Tensor) -> Tensor:
    """Return a tensor of the shape and dtype of ``like`` without numbers of its own, which takes no memory."""
    return _nothing(like.device, like.dtype).expand(like.shape)


@cache
def _nothing(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # since it outlives a run
        return torch.full((), torch.nan, device=device, dtype=dtype)


def expand_rounded(x: Tensor) -> Tensor:
    """Return the numbers of x (..., in) in float32: those that it was rounded to, or their mean, if it was."""
    ways = [(numbers.float() * scales).view(x.shape) for numbers, scales in vars(x).get("rounded", {}).values()]
    return torch.stack(ways).mean(0) if ways else x.float()


def merge_axes(x: Tensor) -> Tensor:
    """Return x (B, groups, n, D) as (B, groups * n, D), with what it was rounded to."""
    merged = x.flatten(1, 2)
    vars(merged).update(vars(x))
    return merged


def split_tokens(x: Tensor, pieces: int) -> list[Tensor]:
    """Divide the tokens of x (..., in) into ``pieces`` (n, in), each with what it was rounded to."""
    parts = x.flatten(0, -2).tensor_split(pieces)
    rounded: list[Rounded] = [{} for _ in parts]
    for name, (numbers, scales) in vars(x).get("rounded", {}).items():
        own = scales.tensor_split(pieces) if scales.ndim else [scales] * pieces
        for each, of_part in zip(rounded, zip(numbers.tensor_split(pieces), own)):
            each[name] = of_part
    return [with_rounded(part, each) if each else part for part, each in zip(parts, rounded)]
