"""LoRAs in a widened copy of quantised weights: more memory, and neither expanding nor anything beside the layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..quantization import expand_weight, format_of, is_linear, plain_dtype
from .adapter import FoldedLinear, WeightedTerm, add_terms, terms_by_parameter
from .parse import Lora
from .strengths import Strengths


def fold_loras(
    network: nn.Module, loras: Sequence[tuple[Lora, Strengths]], component: str = "transformer"
) -> list[str]:
    """Put a plain layer, whose weight holds what the LoRAs change, wherever they change a quantised one.

    Sums are those of float32, rounded once to the dtype of the plain weights. Layers that a scheduled LoRA changes stay
    as they are.

    Args:
        network: with its weights, or as shapes.
        loras: the files, and how strongly each acts.
        component: which component ``network`` is.

    Returns:
        Our names of the weights that are folded, in their order.
    """
    modules, dtype, folded = dict(network.named_modules()), plain_dtype(network), []
    for name, terms in terms_by_parameter(network, loras, component).items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        quantized = leaf == "weight" and is_linear(module) and format_of(module) is not None
        if quantized and not any(term.is_scheduled for term in terms):
            weight = _folded(module, [(term, term.constant) for term in terms], dtype)
            network.set_submodule(owner, FoldedLinear(weight, module.bias))  # type: ignore[arg-type]
            folded.append(name)
    return folded


def _folded(linear: nn.Module, terms: list[WeightedTerm], dtype: torch.dtype) -> Tensor:
    if linear.get_parameter("weight").is_meta:
        return expand_weight(linear, dtype)
    with torch.inference_mode():
        return add_terms(expand_weight(linear, torch.float32), terms).to(dtype)
