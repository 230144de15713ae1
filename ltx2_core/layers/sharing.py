"""What several layers read is made once, and rounded once for those that multiply in fewer bits.

What was rounded lies in the dict ``x.rounded`` of the tensor that layers are called with. Its entry FLOAT8 is what
layers take whose ``takes_float8_tokens`` says so: numbers in float8 (tokens, in) and their scales in float32, one for
each token (tokens, 1). Kernels that make x may round it, too; then nobody needs to read it again. If all readers take
it so, x has no numbers of its own: it is a stand-in of its shape and dtype, and whoever reads it finds "not a number".
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

FLOAT8 = "fp8"
_ASKED = "takes_float8_tokens"  # of quantised layers; a class is asked first, since a module without it takes its time


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
    """Return the kernel that makes what ``readers`` read and rounds it, without its last argument; None if there is
    none, or no reader wants it rounded.

    Args:
        find: finds the kernel for a tensor; the last argument of that is whether the tensor itself is wanted, too.
        x: what the kernel is called with.
        readers: all layers that will be called with what it makes; None stands for no layer.
    """
    layers = [layer for layer in readers if layer is not None]
    may_round = any(hasattr(type(layer), _ASKED) for layer in layers)
    kernel = find(x) if may_round else None
    if kernel is None:
        return None
    rounding = [layer for layer in layers if hasattr(type(layer), _ASKED) and getattr(layer, _ASKED)(x.dtype)]
    if not rounding:
        return None
    is_wanted = any(layer not in rounding or is_adapted(layer) for layer in layers)
    return lambda *arguments: kernel(*arguments, is_wanted)


def is_adapted(layer: nn.Module) -> bool:
    """Return whether something else is computed beside ``layer``, as a LoRA is."""
    return not {"forward", "expanded"}.isdisjoint(vars(layer))


def with_rounded(x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
    """Let ``x`` (..., in) have its tokens in float8; returns it."""
    vars(x)["rounded"] = {FLOAT8: (numbers, scales)}
    return x


def stand_in(like: Tensor) -> Tensor:
    """Return a tensor of the shape and dtype of ``like`` without numbers of its own, which takes no memory."""
    return _nothing(like.device, like.dtype).expand(like.shape)


@cache
def _nothing(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # since it outlives a run
        return torch.full((), torch.nan, device=device, dtype=dtype)


def expand_rounded(x: Tensor) -> Tensor:
    """Return the numbers of x (..., in) in float32: those that it was rounded to, if it was."""
    if FLOAT8 not in vars(x).get("rounded", {}):
        return x.float()
    numbers, scales = vars(x)["rounded"][FLOAT8]
    return (numbers.float() * scales).view(x.shape)


def merge_axes(x: Tensor) -> Tensor:
    """Return x (B, groups, n, D) as (B, groups * n, D), with what it was rounded to."""
    merged = x.flatten(1, 2)
    vars(merged).update(vars(x))
    return merged


def split_tokens(x: Tensor, pieces: int) -> list[Tensor]:
    """Divide the tokens of x (..., in) into ``pieces`` (n, in), each with what it was rounded to."""
    parts = x.flatten(0, -2).tensor_split(pieces)
    if FLOAT8 in vars(x).get("rounded", {}):
        for part, numbers, scales in zip(parts, *(each.tensor_split(pieces) for each in vars(x)["rounded"][FLOAT8])):
            with_rounded(part, numbers, scales)
    return list(parts)
