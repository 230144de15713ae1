"""Attention itself, softmax(q k^T) v: PyTorch's own, exact kernels that take its place, and inexact ones on request."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

from ..autograd import needs_grad
from . import blocked
from .operation import Function, Kernel, Operation

# With fewer queries or keys there is little to gain, and the sound, and all that listens to it, stays exact.
LEAST_TOKENS = 2048
# Of so many keys in fewer bits than float32, a CPU reads those of a head sooner if they lie behind each other.
LEAST_KEYS = 1024
# With fewer tokens an exact kernel is as fast as one that leaves most pairs of blocks out.
LEAST_SPARSE = 8192
HIGH_NOISE = 0.9  # from here on tokens look everywhere, and what is to be seen is decided
TAU, ALL_BLOCKS = 1.0, -10.0  # a block counts whole if its mean score is that many deviations above those of all
_INEXACT = 0.1  # an error of this share of the size is one of the kernel, not of its rounding

_HOPPER, _BLACKWELL = 9, (10, 12)  # first numbers of compute capabilities


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale q k^T) v of q (B, H, N, d), k and v (B, H, M, d); the scale is d^-1/2 if none is named."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _generation() -> int:
    """The first number of an NVIDIA card's compute capability; 0 of AMD's, which number theirs in the same way."""
    return torch.cuda.get_device_capability()[0] if torch.version.hip is None else 0


def _attend_with_cudnn() -> Function:
    # ``sdpa_kernel`` would set what all threads see, in which other cards attend, and may leave it set.
    ask: Any = torch.ops.aten._scaled_dot_product_cudnn_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if not can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, False, False)):
            return attend_plainly(q, k, v, scale)
        output: Tensor = ask(q, k, v, None, False, scale=scale)[0]
        return output

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


def _attend_sparsely() -> Function:
    library = importlib.import_module("comfy_kitchen")
    if not getattr(library, "sol_attn_is_available", bool)():
        raise ImportError("this comfy-kitchen has no sparse attention for this card (0.2.40 has, from RTX 30 on)")

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, tau: float = TAU) -> Tensor:
        output: Tensor = library.sol_attn(*(each.transpose(1, 2) for each in (q, k, v)), tau=tau, scale=scale)
        return output.transpose(1, 2)

    return attend


def _attend_to_all_blocks(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, tau: float = ALL_BLOCKS
) -> Tensor:
    return attend_plainly(q, k, v, scale)


def _sample(
    device: torch.device, dtype: torch.dtype, tokens: tuple[int, int, int] = (577, 533, 533)
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of odd number, as they lie in the memory of a block."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, each, 2, 128, generator=draw).to(device, dtype) for each in tokens)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _sample_of_all_blocks(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    """For a kernel that leaves blocks out, which it is tried without."""
    return *_sample(device, dtype, (577, 577, 577)), None, ALL_BLOCKS


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

SPARSE = "sparse"
INEXACT = {
    "sage": Operation(
        "Attention",
        attend_plainly,
        [Kernel("SageAttention", _attend_with_sage, asked=True)],
        _sample,
        tolerance=_INEXACT,
    ),
    "int8": Operation(
        "Attention", attend_plainly, [Kernel("comfy-kitchen", _attend_in_int8, asked=True)], _sample, tolerance=_INEXACT
    ),
    SPARSE: Operation(
        "Sparse attention",
        _attend_to_all_blocks,
        [Kernel("comfy-kitchen", _attend_sparsely, asked=True)],
        _sample_of_all_blocks,
        tolerance=_INEXACT,
    ),
}

AUTO, PLAIN = "auto", "pytorch"
ATTENTIONS = (AUTO, PLAIN, *INEXACT)


class _Asked:
    """What is asked for now, in every thread: several devices work on one clip."""

    name = AUTO
    late = False  # whether this step is one in which attention may be sparse


@contextmanager
def attending_with(name: str) -> Iterator[None]:
    """Let attention within this context be done as ``name``, one of ATTENTIONS, says."""
    before = _Asked.name, _Asked.late
    _Asked.name, _Asked.late = name, False
    try:
        yield
    finally:
        _Asked.name, _Asked.late = before


def describe_missing(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Say why the kernel that ``name``, one of ATTENTIONS, asks for is not taken on a device; empty if it is."""
    obstacle = INEXACT[name].obstacle(device, dtype) if name in INEXACT else ""
    return obstacle and f"attention is {name}, and an exact kernel attends in its place: {obstacle.removesuffix('.')}."


def note_step(sigma: float, step: int) -> None:
    """Say at which noise level and step attention is asked for from now on; without that it is never sparse."""
    _Asked.late = step > 0 and sigma < HIGH_NOISE


def is_sparse() -> bool:
    """Return whether attention of a stream to itself, of enough tokens, is sparse now."""
    return _Asked.name == SPARSE and _Asked.late


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, may_be_sparse: bool = False) -> Tensor:
    """Do what ``attend_plainly`` does, with the fastest kernel that is right here; an inexact one only if asked for.

    Sparse is only what may be, in late steps: blocks of 64 tokens that matter little to 64 others count by their mean
    (Sol-Attn, arXiv 2607.24027).
    """
    if q.is_meta or _Asked.name == PLAIN or needs_grad(q, k, v):
        return attend_plainly(q, k, v, scale)
    found: Callable[..., Tensor] | None = None
    if (inexact := INEXACT.get(_Asked.name)) is not None and _pays(q, k, may_be_sparse):
        found = inexact.find(q)
    found = found or EXACT.find(q) or attend_plainly
    return found(q, k, v, scale)


def _pays(q: Tensor, k: Tensor, may_be_sparse: bool) -> bool:
    """Whether the inexact kernel that is asked for may be taken, and gains something."""
    if _Asked.name == SPARSE:
        return may_be_sparse and is_sparse() and q.shape[-2] >= LEAST_SPARSE
    return min(q.shape[-2], k.shape[-2]) >= LEAST_TOKENS
