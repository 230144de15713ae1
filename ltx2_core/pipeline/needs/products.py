"""Which products does a transformer make, and what does it cost where weights are expanded for each of them?"""

from collections.abc import Iterable

from ...memory.machine import Machine
from ...memory.placement import StageNeed
from ...memory.trace import Cost, cost
from ...quantization import QuantizedLinear, plain_dtype
from ...transformer import TextAttention, Transformer
from .blueprint import Blueprint

_WORTH_SAYING = 1.005  # times


def describe_products(
    blueprint: Blueprint, need: StageNeed, passes: float, machine: Machine, keeps_text: bool = False
) -> tuple[str, ...]:
    """Say in which formats a stage multiplies, and what it costs to expand others; nothing of a plain transformer.

    Args:
        blueprint: of the model.
        need: of the stage; its cost is that of one run.
        passes: how often each block is walked in a run, on average.
        machine: whose rates are taken.
        keeps_text: whether keys and values of the prompts stay from step to step, and their weights are not asked.
    """
    key = ("products", keeps_text)
    multiplied, expanded, once = blueprint.remember(key, lambda: _find_products(blueprint, keeps_text))
    said = []
    if multiplied:
        said.append(f"{need.name}: {_listed(multiplied)} products; inputs are rounded as weights are.")
    if expanded:
        spent = once * (passes * blueprint.layers)
        slower = machine.seconds(need.cost) / machine.seconds(need.cost - spent)
        much = f", about {slower:.2f} x slower than plain weights" if slower > _WORTH_SAYING else ""
        said.append(f"{need.name}: {_listed(expanded)} expanded for each product{much}.")
    return tuple(said)


def _find_products(blueprint: Blueprint, keeps_text: bool) -> tuple[list[str], list[str], Cost]:
    """The formats in which a block multiplies, those that it expands, and what expanding costs once."""
    network = blueprint.shortened_transformer(1)
    dtype = plain_dtype(network)
    layers = _asked_layers(network, keeps_text)
    expanded = [layer for layer in layers if layer.find_product(dtype) is None]
    work = sum((cost(lambda layer=layer: layer.widened(dtype)) for layer in expanded), Cost())  # type: ignore[misc]
    return _names(layer for layer in layers if layer not in expanded), _names(expanded), work


def _asked_layers(network: Transformer, keeps_text: bool) -> list[QuantizedLinear]:
    modules = [*network.blocks.modules()]
    texts = [module for module in modules if keeps_text and isinstance(module, TextAttention)]
    unasked = {layer for text in texts for layer in (text.k, text.v)}
    return [module for module in modules if isinstance(module, QuantizedLinear) and module not in unasked]


def _names(layers: Iterable[QuantizedLinear]) -> list[str]:
    return sorted({layer.format.name for layer in layers})


def _listed(names: list[str]) -> str:
    return " and ".join(names)
