"""The forms in which trainers store what they changed, each as the equation that defines it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from .rotations import (
    Facts,
    Parts,
    Shape,
    Shapes,
    WeightShape,
    inputs_shape,
    outputs_shape,
    rotate_inputs,
    rotate_inputs_in_stages,
    rotate_outputs,
    rotate_outputs_in_stages,
    staged_inputs_shape,
)

Change = Callable[[Tensor, Parts, Facts], Tensor]

_HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_GENERAL = ("a1", "a2", "b1", "b2")
_KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")

# The end of a tensor's name, and which part of a form it is. PEFT puts the name of the adapter in between, and
# old diffusers "linear_layer"; some writers leave "weight" away. ``w_norm`` and ``b_norm`` are of LyCORIS.
_FACTOR, _NAMED = r"[._]lora[._](?:linear_layer[._])?", r"(?:\.[^.]+)?"
PARTS = {
    "down": rf"{_FACTOR}(?:A|down)(?:{_NAMED}\.weight)?",
    "up": rf"{_FACTOR}(?:B|up)(?:{_NAMED}\.weight)?",
    "alpha": r"\.alpha",
    "magnitude": rf"\.dora_scale|\.lora_magnitude_vector{_NAMED}(?:\.weight)?",
    "difference": r"\.diff|\.w_norm",
    "bias": r"\.diff_b|\.b_norm",
    "up_bias": rf"{_FACTOR}(?:B|up){_NAMED}\.bias",
    "rotation": rf"\.oft_R{_NAMED}\.weight",
    "scaled": rf"\.oft_R{_NAMED}\.scaled_oft",
    "variant": r"\.oft_R\.(?:clipped_oft|cans_oft)|\.dora_log_multiplier",  # which mean another rotation
    **{part: rf"\.{part}\.weight" for part in _GENERAL},
    **{part: rf"\.{part}" for part in ("oft_blocks", "rescale")},
    **{part: rf"\.{part}{_NAMED}" for part in (*_HADAMARD, *_KRONECKER, "boft_R", "boft_s")},
}

_SHORTEST = 1e-12  # length of what has a direction


@dataclass(frozen=True)
class Form:
    """A way to write down the change of a weight."""

    name: str
    parts: tuple[str, ...]  # that it may have
    fits: Callable[[Shapes], bool]  # whether those that are there are enough
    shape: Callable[[Shapes], WeightShape]  # of the weight; () if they do not go together
    rank: Callable[[Shapes], int | None]  # None if nothing is factored
    change: Change  # of a weight, before the scale alpha / r
    scaled: bool = True  # whether there is such a scale


def _product(up: Shape, down: Shape) -> Shape:
    """Of up @ down; nothing has the shape () that is given where there is no such product."""
    return (up[0], down[1]) if len(up) == len(down) == 2 and up[1] == down[0] else ()


def _rows(shapes: Shapes, *parts: str) -> int | None:
    """The first axis of the first of these parts that is there, which is the rank of what is factored."""
    return next((shapes[part][0] for part in parts if shapes.get(part)), None)


def _factor_shape(shapes: Shapes, name: str) -> Shape:
    return shapes[name] if name in shapes else _product(shapes[f"{name}_a"], shapes[f"{name}_b"])


def _factor(parts: Parts, name: str) -> Tensor:
    return parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]


def _has_factors(parts: Collection[str]) -> bool:
    return all(name in parts or {f"{name}_a", f"{name}_b"} <= set(parts) for name in ("lokr_w1", "lokr_w2"))


def _kronecker_shape(shapes: Shapes) -> Shape:
    return tuple(a * b for a, b in zip(_factor_shape(shapes, "lokr_w1"), _factor_shape(shapes, "lokr_w2")))


def _general_factors(shapes: Shapes) -> tuple[str, ...]:
    """The parts of GLoRA's two products, in their order; old files have the names of each pair the other way round."""
    return ("a2", "a1", "b2", "b1") if shapes["a1"][0] < shapes["a1"][1] else _GENERAL


def _general_shape(shapes: Shapes) -> Shape:
    if any(len(shapes[part]) != 2 for part in _GENERAL):
        return ()
    right, other = (shapes[part] for part in _general_factors(shapes)[:2]), _general_factors(shapes)[2:]
    shape = _product(*(shapes[part] for part in other))
    return shape if shape and _product(*right) == (shape[1], shape[1]) else ()


def _general_change(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    names = _general_factors({name: tuple(part.shape) for name, part in parts.items()})
    first, second, up, down = (parts[name] for name in names)
    return weight @ first @ second + up @ down


# LoRA: Hu et al. 2021. LoHa: FedPara, Hyeon-Woo et al. 2021. LoKr: Yeh et al. 2023 (LyCORIS). GLoRA: Chavan et al.
# 2023. OFT: Qiu et al. 2023. BOFT: Liu et al. 2024.
LORA = Form(
    "LoRA",
    ("up", "down"),
    {"up", "down"}.issubset,
    lambda shapes: _product(shapes["up"], shapes["down"]),
    lambda shapes: _rows(shapes, "down"),
    lambda weight, parts, facts: parts["up"] @ parts["down"],
)
LOHA = Form(
    "LoHa",
    _HADAMARD,
    set(_HADAMARD).issubset,
    lambda shapes: _product(shapes["hada_w1_a"], shapes["hada_w1_b"]),
    lambda shapes: _rows(shapes, "hada_w1_b"),
    lambda weight, parts, facts: (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"]),
)
LOKR = Form(
    "LoKr",
    _KRONECKER,
    _has_factors,
    _kronecker_shape,
    lambda shapes: _rows(shapes, "lokr_w2_b", "lokr_w1_b"),
    lambda weight, parts, facts: torch.kron(_factor(parts, "lokr_w1"), _factor(parts, "lokr_w2")),
)
GLORA = Form(
    "GLoRA",
    _GENERAL,
    set(_GENERAL).issubset,
    _general_shape,
    lambda shapes: min(shapes["a1"]),
    _general_change,
)
DIFFERENCE = Form(
    "difference",
    ("difference",),
    {"difference"}.issubset,
    lambda shapes: shapes["difference"],
    lambda shapes: None,
    lambda weight, parts, facts: parts["difference"],
    scaled=False,
)

# What turns a weight has no rank, and nothing scales its numbers.
OFT = Form(
    "OFT",
    ("oft_blocks", "rescale"),
    lambda shapes: len(shapes.get("oft_blocks", ())) == 3,
    outputs_shape,
    lambda shapes: None,
    rotate_outputs,
    scaled=False,
)
BOFT = replace(OFT, name="BOFT", fits={"oft_blocks"}.issubset, change=rotate_outputs_in_stages)
PEFT_OFT = replace(
    OFT,
    parts=("rotation", "scaled"),
    fits=lambda shapes: "rotation" in shapes and "variant" not in shapes,
    shape=inputs_shape,
    change=rotate_inputs,
)
PEFT_BOFT = replace(
    BOFT,
    parts=("boft_R", "boft_s"),
    fits={"boft_R", "boft_s"}.issubset,
    shape=staged_inputs_shape,
    change=rotate_inputs_in_stages,
)

# PEFT's lora_bias: "up" has a bias of its own, which changes that of the layer at the scale of the product.
BIAS = Form(
    "LoRA",
    ("up_bias", "down"),
    {"up_bias", "down"}.issubset,
    lambda shapes: shapes["up_bias"],
    lambda shapes: _rows(shapes, "down"),
    lambda weight, parts, facts: parts["up_bias"],
)

FORMS = (LORA, LOHA, LOKR, GLORA, OFT, BOFT, PEFT_OFT, PEFT_BOFT, DIFFERENCE)


@lru_cache(10_000)
def changes(form: Form, parts: tuple[tuple[str, Shape], ...], shape: Shape) -> bool:
    """Return whether parts of these shapes make a change of a weight of this shape."""
    tensors = {part: torch.empty(each, device="meta") for part, each in parts}
    weight = torch.empty(shape, device="meta")
    try:
        change = form.change(weight, tensors, {"limit": 0.0, "for_each": False, "scaled": False})
        return with_magnitude(weight, change, tensors.get("magnitude")).shape == shape
    except (RuntimeError, IndexError):
        return False


def with_magnitude(weight: Tensor, change: Tensor, magnitude: Tensor | None) -> Tensor:
    """Return the change of ``weight`` when its direction is that of weight + change, and its length ``magnitude``.

    DoRA (Liu et al. 2024): one length per output, (out,) or (out, 1), or one per input, (1, in); None leaves it as it
    comes. What has no direction, because all of it is zero, stays zero.
    """
    if magnitude is None:
        return change
    changed = weight + change
    if magnitude.shape == (1, weight.shape[1]):
        lengths = torch.linalg.vector_norm(changed, dim=0, keepdim=True)
    else:
        lengths, magnitude = torch.linalg.vector_norm(changed, dim=1, keepdim=True), magnitude.reshape(-1, 1)
    return changed * (magnitude / lengths.clamp(min=_SHORTEST)) - weight
