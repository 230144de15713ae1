"""Weights of one byte: float8 times a float32 scale (spec: formats.md, section 3; checkpoints.md, sections 5 and 6)."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .products import multiplies, scaled_linear

# By the name that ComfyUI's marker gives them.
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}

_SCALES = ("weight_scale", "scale_weight")
_INPUT_SCALES = ("input_scale", "scale_input")
_MARKER = "comfy_quant"
_FOREIGN = {"weight_scale_2": "nvfp4"}

# What may stand next to ``<module>.weight`` in a quantised file, in all spellings.
SCALE_SUFFIXES = (*_SCALES, *_INPUT_SCALES, _MARKER, *_FOREIGN)


class Fp8Linear(nn.Module):
    """A linear layer stored in float8. It expands its weight at use and computes in the dtype of its input; or, after
    ``use_scaled_products``, it rounds the input to float8 too and multiplies float8 by float8.

    Move it with ``.to(device)``; ``.to(dtype)`` would expand the stored bytes.
    """

    scaled_on: Collection[str] = ()  # the types of device on which it multiplies float8 by float8, if they can

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, input_scale: Tensor | None = None
    ):
        """``weight`` float8 (out, in); ``weight_scale`` float32, () or (out, 1); ``input_scale`` float32, ()."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.input_scale = None if input_scale is None else nn.Parameter(input_scale, requires_grad=False)
        self.exact = False  # whether the file asks that inputs are never rounded

    def forward(self, x: Tensor) -> Tensor:
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """This layer for several calls with inputs of ``dtype``; it may hold the expanded weight, so drop it soon."""
        weight, scale, bias = self.weight, self.weight_scale, self.bias
        if weight.device.type in self.scaled_on and multiplies(weight, dtype):
            return partial(scaled_linear, weight=weight, weight_scale=scale, bias=bias, input_scale=self.input_scale)
        return partial(F.linear, weight=dequantise(weight, scale, dtype), bias=bias)


def use_scaled_products(network: nn.Module, devices: Collection[str] = ("cuda",)) -> None:
    """Let ``network`` multiply float8 by float8 on these types of device where they can; () is never.

    By default on cards alone, whose datasheets promise twice the rate of bfloat16, about a quarter of a step at 720p; a
    CPU would be slower. The price is that inputs are rounded as weights are: a layer errs by 3.7 % instead of 2.65 %.
    That suits a transformer, where what must be fine is not float8 anyway (KEPT). A network that runs once for a
    prompt, Gemma above all, gains no time worth it, so a new Fp8Linear is exact until this is called.
    """
    for module in network.modules():
        if isinstance(module, Fp8Linear) and not module.exact:
            module.scaled_on = devices


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 times scale, () or one for each row; multiplied in float32 and rounded once."""
    # Every float8 is a bfloat16 and a float16. A scale with axes makes the product, even in place, one of float32.
    return weight.to(dtype).mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)))


def adopt_fp8(network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Put an Fp8Linear wherever ``state`` holds a float8 weight for an nn.Linear; changes both arguments.

    ``state`` bears our names; scales and markers stand next to their weights as they do in the file; a missing scale is
    1. Everything else becomes ``dtype`` if one is given; other float8 tensors are expanded, to bfloat16 by default.
    Afterwards ``state`` is what ``network`` loads. Raises ValueError for any other quantised format.
    """
    beside, modules = _take_what_stands_beside(state), dict(network.named_modules())
    for name, value in list(state.items()):
        module, _, leaf = name.rpartition(".")
        told = beside[name]
        if value.dtype in FORMATS.values():
            scale, linear = _checked(told.scale, name, value), modules.get(module)
            if leaf == "weight" and isinstance(linear, nn.Linear):
                made = Fp8Linear(linear.weight.to(value.dtype), scale, linear.bias, told.input_scale)
                made.exact = told.exact
                network.set_submodule(module, made)
                state[f"{module}.weight_scale"] = scale
                if told.input_scale is not None:
                    state[f"{module}.input_scale"] = told.input_scale
            else:
                state[name] = dequantise(value, scale, dtype or torch.bfloat16)
        elif told.scale is not None or (leaf == "weight" and not value.is_floating_point()):
            raise _unreadable(name, _word(value.dtype) + " with a scale" * (told.scale is not None))
        elif dtype is not None:
            state[name] = value.to(dtype)


@dataclass
class _Beside:
    """What a file says about a weight."""

    scale: Tensor | None = None
    input_scale: Tensor | None = None
    exact: bool = False


def _take_what_stands_beside(state: dict[str, Tensor]) -> defaultdict[str, _Beside]:
    """Remove from ``state`` what stands beside weights; return it under the names of the weights."""
    beside = defaultdict[str, _Beside](_Beside)
    for name in list(state):
        module, _, part = name.rpartition(".")
        if part not in SCALE_SUFFIXES:
            continue
        value, weight = state.pop(name), f"{module}.weight"
        if part in _SCALES:
            beside[weight].scale = value
        elif part in _INPUT_SCALES:
            if value.numel() == 1 and value.item() != 1:  # 1 stands for "not measured"
                beside[weight].input_scale = value.float().reshape(())
        elif part in _FOREIGN:
            raise _unreadable(weight, _FOREIGN[part])
        elif part == _MARKER:
            marker = json.loads(value.numpy().tobytes())
            if (found := marker.get("format")) not in FORMATS:
                raise _unreadable(weight, found)
            options = marker | marker.get("params", {})
            beside[weight].exact = options.get("full_precision_matrix_mult", False)
    return beside


def _checked(scale: Tensor | None, name: str, weight: Tensor) -> Tensor:
    """The scale in float32, one number or one per row."""
    if scale is None:
        return torch.ones(())
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
