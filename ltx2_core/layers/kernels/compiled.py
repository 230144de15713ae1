"""Light operations by ``torch.compile``, on request: forms of them that it turns into one kernel each."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import ran_out
from ..rope import Rotation

_log = logging.getLogger(__name__)

NAME = "torch.compile"

# What a CPU computes in that is worth it: in 16 bits a step alone costs two conversions; in float32 the plain way, in
# place, is as fast.
_ON_CPU = (torch.bfloat16, torch.float16)


class _Asked:
    """What is asked for now, in every thread: several devices work on one clip."""

    compiling = False
    failed = False  # then it is not tried again
    told: ClassVar[set[tuple[str, torch.dtype]]] = set()  # where nothing is gained


@contextmanager
def compiling(asked: bool) -> Iterator[None]:
    """Let light operations within this context be compiled, if ``asked`` for."""
    before, _Asked.compiling = _Asked.compiling, asked
    try:
        yield
    finally:
        _Asked.compiling = before


def compiling_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether light operations on ``device`` in ``dtype`` are worth compiling."""
    return device.type == "cuda" or (device.type == "cpu" and dtype in _ON_CPU)


def is_compiled(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether operations on ``device`` in ``dtype`` are to be compiled; says so once where nothing is gained."""
    if not _Asked.compiling or _Asked.failed:
        return False
    if not compiling_pays(device, dtype) and (device.type, dtype) not in _Asked.told:
        _Asked.told.add((device.type, dtype))
        _log.warning("Nothing is compiled in %s on %s, which would gain nothing.", str(dtype)[6:], device.type)
    return compiling_pays(device, dtype)


def load_compiled(name: str, form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``form``, compiled when it is called first, for any size; the log says how long that took.

    What differs by more than a number, such as one clip and several, is compiled once more.

    Args:
        name: of the operation, for the log.
        form: computes it without writing into its arguments.
    """
    compiled = torch.compile(form, dynamic=True)

    def run(*arguments: Any) -> Tensor:
        begin, before = time.perf_counter(), _graphs()
        try:
            # Sizes of parameters would be taken for constants.
            output: Tensor = compiled(*(each.data if isinstance(each, nn.Parameter) else each for each in arguments))
        except Exception as reason:
            _Asked.failed = not ran_out(reason)
            raise
        if _graphs() != before:
            _log.info("%s: compiled in %.1f s", name, time.perf_counter() - begin)
        return output

    return run


def _graphs() -> int:
    """How many graphs were compiled so far."""
    import torch._dynamo.utils as dynamo  # torch.compile imports it, which takes a second, and nothing else does

    return int(dynamo.counters["stats"]["unique_graphs"])


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return rms_norm(x) * (1 + scale) + shift of x (..., D), rounded in between as the plain way does."""
    return _norm(x, eps) * (1 + scale) + shift


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Rotation) -> Tensor:
    """Normalise x (B, N, H d) over all heads, scale it by ``weight``, and rotate each head; (B, H, N, d).

    Pairs of channels are (i, i + d/2).
    """
    first, second = (_norm(x, eps) * weight).unflatten(2, (rotation.heads, -1)).chunk(2, -1)
    cos, sin = rotation.cos.transpose(1, 2), rotation.sin.transpose(1, 2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype).transpose(1, 2)


def _norm(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
