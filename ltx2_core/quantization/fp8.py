"""Weights of one byte: float8 times a float32 scale (spec: formats.md, section 3; checkpoints.md, sections 5 and 6)."""

import json
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By the name that ComfyUI's marker gives them.
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}

_SCALES = ("weight_scale", "scale_weight")
_MARKER = "comfy_quant"
_FOREIGN = {"weight_scale_2": "nvfp4"}

# What may stand next to ``<module>.weight`` in a quantised file, in all spellings. Scales of the input serve only
# products of two float8 matrices, which we do not compute.
SCALE_SUFFIXES = (*_SCALES, "input_scale", "scale_input", _MARKER, *_FOREIGN)


class Fp8Linear(nn.Module):
    """A linear layer stored in float8, computed in the dtype of its input: the weight is expanded at use.

    Products of float8 matrices would be faster on recent cards, but round the input too.

    Move it with ``.to(device)``; ``.to(dtype)`` would expand the stored bytes.
    """

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None):
        """``weight`` float8 (out, in); ``weight_scale`` float32, () or (out, 1)."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """This layer for several calls with inputs of ``dtype``; it holds the expanded weight, so drop it soon."""
        return partial(F.linear, weight=dequantise(self.weight, self.weight_scale, dtype), bias=self.bias)


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 times scale, multiplied in float32 and rounded once."""
    return weight.float().mul_(scale).to(dtype)


def adopt_fp8(network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Put an Fp8Linear wherever ``state`` holds a float8 weight for an nn.Linear; changes both arguments.

    ``state`` bears our names; scales and markers stand next to their weights as they do in the file; a missing scale is
    1. Everything else becomes ``dtype`` if one is given; other float8 tensors are expanded, to bfloat16 by default.
    Afterwards ``state`` is what ``network`` loads. Raises ValueError for any other quantised format.
    """
    scales, modules = _take_scales(state), dict(network.named_modules())
    for name, value in list(state.items()):
        module, _, leaf = name.rpartition(".")
        if value.dtype in FORMATS.values():
            scale, linear = _checked(scales.get(name, torch.ones(())), name, value), modules.get(module)
            if leaf == "weight" and isinstance(linear, nn.Linear):
                network.set_submodule(module, Fp8Linear(linear.weight.to(value.dtype), scale, linear.bias))
                state[f"{module}.weight_scale"] = scale
            else:
                state[name] = dequantise(value, scale, dtype or torch.bfloat16)
        elif name in scales or (leaf == "weight" and not value.is_floating_point()):
            raise _unreadable(name, _word(value.dtype) + " with a scale" * (name in scales))
        elif dtype is not None:
            state[name] = value.to(dtype)


def _take_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove from ``state`` what stands beside weights; return the scales under the names of their weights."""
    scales = {}
    for name in list(state):
        module, _, part = name.rpartition(".")
        if part not in SCALE_SUFFIXES:
            continue
        value, weight = state.pop(name), f"{module}.weight"
        if part in _SCALES:
            scales[weight] = value
        elif part in _FOREIGN:
            raise _unreadable(weight, _FOREIGN[part])
        elif part == _MARKER and (found := json.loads(value.numpy().tobytes()).get("format")) not in FORMATS:
            raise _unreadable(weight, found)
    return scales


def _checked(scale: Tensor, name: str, weight: Tensor) -> Tensor:
    """The scale in float32, one number or one per row."""
    if not scale.is_floating_point() or scale.numel() not in (1, len(weight)):
        raise _unreadable(name, f"{_word(weight.dtype)} with {_word(scale.dtype)} scales of shape {tuple(scale.shape)}")
    return scale.float().reshape(() if scale.numel() == 1 else (-1, 1))


def _unreadable(name: str, found: str) -> ValueError:
    return ValueError(
        f"{name} is stored as {found}; this version of the pack reads bf16, fp16, fp32 and fp8 with one scale per "
        "tensor or row. Choose the bf16 or fp8 file."
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
