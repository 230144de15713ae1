"""Attention itself, softmax(q k^T) v: PyTorch's own, exact kernels that take its place, and inexact ones on request."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..autograd import needs_grad
from . import blocked
from .operation import Function, Kernel, Operation

# With fewer queries or keys there is little to gain, and the sound, and all that listens to it, stays exact.
LEAST_TOKENS = 2048
# Of so many keys in fewer bits than float32, a CPU reads those of a head sooner if they lie behind each other.
LEAST_KEYS = 1024
_INEXACT = 0.1  # an error of this share of the size is one of the kernel, not of its rounding

_HOPPER, _BLACKWELL = 9, (10, 12)  # first numbers of compute capabilities


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale q k^T) v of q (B, H, N, d), k and v (B, H, M, d); the scale is d^-1/2 if none is named."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _generation() -> int:
    return torch.cuda.get_device_capability()[0]


def _attend_with_cudnn() -> Function:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        with sdpa_kernel(order, set_priority=True):
            return attend_plainly(q, k, v, scale)

    return attend


def _attend_by_head() -> Function:
    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if k.shape[-2] >= LEAST_KEYS and k.dtype is not torch.float32:
            k, v = k.contiguous(), v.contiguous()
        return attend_plainly(q, k, v, scale)

    return attend


def _attend_with_flash(module: str) -> Function:
    flash = importlib.import_module(module).flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        found: Any = flash(*(each.transpose(1, 2) for each in (q, k, v)), softmax_scale=scale)
        output: Tensor = found[0] if isinstance(found, tuple) else found  # some versions add the sums
        return output.transpose(1, 2)

    return attend


def _attend_with_sage() -> Function:
    sage = importlib.import_module("sageattention").sageattn

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        output: Tensor = sage(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=scale)
        return output

    return attend


def _attend_in_int8() -> Function:
    library = importlib.import_module("comfy_kitchen")
    if not library.int8_attention_is_available():
        raise ImportError("comfy-kitchen has no int8 attention for this card")

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        output: Tensor = library.int8_attention(q, k, v, scale=scale)
        return output

    return attend


def _sample(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of odd number, as they lie in the memory of a block."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, 2, 128, generator=draw).to(device, dtype) for tokens in (577, 533, 533))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


EXACT = Operation(
    "Attention",
    attend_plainly,
    [
        Kernel(
            "FlashAttention 4",
            partial(_attend_with_flash, "flash_attn.cute"),
            is_fast=lambda: _generation() in (_HOPPER, _BLACKWELL[0]),
        ),
        Kernel(
            "FlashAttention 3",
            partial(_attend_with_flash, "flash_attn_interface"),
            is_fast=lambda: _generation() == _HOPPER,
        ),
        Kernel("cuDNN", _attend_with_cudnn, is_fast=lambda: _generation() in (_HOPPER, *_BLACKWELL)),
        Kernel("oneDNN, in blocks", lambda: blocked.load(_attend_by_head()), devices=("cpu",), is_fast=blocked.is_fast),
        Kernel("PyTorch, head by head", _attend_by_head, devices=("cpu",)),
    ],
    _sample,
)

INEXACT = {
    "sage": Operation(
        "Attention", attend_plainly, [Kernel("SageAttention", _attend_with_sage)], _sample, tolerance=_INEXACT
    ),
    "int8": Operation(
        "Attention", attend_plainly, [Kernel("comfy-kitchen", _attend_in_int8)], _sample, tolerance=_INEXACT
    ),
}

AUTO, PLAIN = "auto", "pytorch"
ATTENTIONS = (AUTO, PLAIN, *INEXACT)


class _Asked:
    """What is asked for now, in every thread: several devices work on one clip."""

    name = AUTO


@contextmanager
def attending_with(name: str) -> Iterator[None]:
    """Let attention within this context be done as ``name``, one of ATTENTIONS, says."""
    before, _Asked.name = _Asked.name, name
    try:
        yield
    finally:
        _Asked.name = before


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Do what ``attend_plainly`` does, with the fastest kernel that is right here; an inexact one only if asked for."""
    if q.is_meta or _Asked.name == PLAIN or needs_grad(q, k, v):
        return attend_plainly(q, k, v, scale)
    found: Callable[..., Tensor] | None = None
    if (inexact := INEXACT.get(_Asked.name)) is not None and min(q.shape[-2], k.shape[-2]) >= LEAST_TOKENS:
        found = inexact.find(q)
    found = found or EXACT.find(q) or attend_plainly
    return found(q, k, v, scale)
