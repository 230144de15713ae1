"""The forms in which trainers store what they changed, each as the equation that defines it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Shape = tuple[int, ...]

_HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")

# The end of a tensor's name, and which part of a form it is. PEFT puts the name of the adapter in between, and
# old diffusers "linear_layer"; some writers leave "weight" away. ``w_norm`` and ``b_norm`` are of LyCORIS.
_FACTOR, _NAMED = r"[._]lora[._](?:linear_layer[._])?", r"(?:\.[\w-]+)?"
PARTS = {
    "down": rf"{_FACTOR}(?:A|down)(?:{_NAMED}\.weight)?",
    "up": rf"{_FACTOR}(?:B|up)(?:{_NAMED}\.weight)?",
    "alpha": r"\.alpha",
    "magnitude": rf"\.dora_scale|\.lora_magnitude_vector{_NAMED}(?:\.weight)?",
    "difference": r"\.diff|\.w_norm",
    "bias": r"\.diff_b|\.b_norm",
    "up_bias": rf"{_FACTOR}(?:B|up){_NAMED}\.bias",
    **{part: rf"\.{part}{_NAMED}" for part in (*_HADAMARD, *_KRONECKER)},
}

_SHORTEST = 1e-12  # length of what has a direction


@dataclass(frozen=True)
class Form:
    """A way to write down the change of a weight."""

    name: str
    parts: tuple[str, ...]  # that it may have
    fits: Callable[[Collection[str]], bool]  # whether those that are there are enough
    shape: Callable[[Shapes], Shape]  # of the weight
    rank: Callable[[Shapes], int | None]  # None if nothing is factored
    change: Callable[[Parts], Tensor]  # before the scale alpha / r, which is 1 without a rank


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


# LoRA: Hu et al. 2021. LoHa: FedPara, Hyeon-Woo et al. 2021. LoKr: Yeh et al. 2023 (LyCORIS).
LORA = Form(
    "LoRA",
    ("up", "down"),
    {"up", "down"}.issubset,
    lambda shapes: _product(shapes["up"], shapes["down"]),
    lambda shapes: _rows(shapes, "down"),
    lambda parts: parts["up"] @ parts["down"],
)
LOHA = Form(
    "LoHa",
    _HADAMARD,
    set(_HADAMARD).issubset,
    lambda shapes: _product(shapes["hada_w1_a"], shapes["hada_w1_b"]),
    lambda shapes: _rows(shapes, "hada_w1_b"),
    lambda parts: (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"]),
)
LOKR = Form(
    "LoKr",
    _KRONECKER,
    _has_factors,
    _kronecker_shape,
    lambda shapes: _rows(shapes, "lokr_w2_b", "lokr_w1_b"),
    lambda parts: torch.kron(_factor(parts, "lokr_w1"), _factor(parts, "lokr_w2")),
)
DIFFERENCE = Form(
    "difference",
    ("difference",),
    {"difference"}.issubset,
    lambda shapes: shapes["difference"],
    lambda shapes: None,
    lambda parts: parts["difference"],
)

# PEFT's lora_bias: "up" has a bias of its own, which changes that of the layer at the scale of the product.
BIAS = Form(
    "LoRA",
    ("up_bias", "down"),
    {"up_bias", "down"}.issubset,
    lambda shapes: shapes["up_bias"],
    lambda shapes: _rows(shapes, "down"),
    lambda parts: parts["up_bias"],
)

FORMS = (LORA, LOHA, LOKR, DIFFERENCE)


def with_magnitude(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """Return the change of ``weight`` when its direction is that of weight + change, and its length ``magnitude``.

    DoRA (Liu et al. 2024): one length per output, (out,) or (out, 1), or one per input, (1, in). What has no direction,
    because all of it is zero, stays zero.
    """
    changed = weight + change
    if magnitude.shape == (1, weight.shape[1]):
        lengths = torch.linalg.vector_norm(changed, dim=0, keepdim=True)
    else:
        lengths, magnitude = torch.linalg.vector_norm(changed, dim=1, keepdim=True), magnitude.reshape(-1, 1)
    return changed * (magnitude / lengths.clamp(min=_SHORTEST)) - weight
