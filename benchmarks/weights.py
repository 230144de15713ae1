"""Networks of ours with random weights, and the same weights under the names that official files have."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltx2_core.checkpoint.components import COMPONENTS

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"  # configurations of the released checkpoints

Config = dict[str, Any]
State = dict[str, Tensor]


def released(version: str) -> Config:
    """Return what the released checkpoint of ``version`` says of its networks."""
    config: Config = json.loads((GOLDEN / f"config_{version}.json").read_text())
    return config


def drawn(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Fill ``network`` at random, with numbers that neither grow nor vanish from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if not name.endswith((".up", ".down", ".blur")):  # filters are what they are
            draw = torch.randn(tensor.shape, generator=generator)
            scale = gain / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.1
            tensor.copy_(draw.mul_(scale).add_(1.0 if name.endswith(("std", "norm.weight")) or ".norm" in name else 0))
    return network.eval().requires_grad_(False)


def component(
    name: str, config: Config, gain: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, State]:
    """Return our network of a component at random, and its tensors by their names in an official file."""
    made = COMPONENTS[name]
    network = drawn(made.make(config, {}).to(dtype), gain)
    official = made.variant_for(config).keys.official
    return network, {official(ours): tensor for ours, tensor in network.state_dict().items()}


def loaded(network: nn.Module, state: State, *prefixes: str) -> nn.Module:
    """Let ``network`` of another library share what is in ``state``; without ``prefixes`` in front of names.

    What it does not find there it keeps: files hold what nobody reads, such as an inverse Fourier transform.
    """
    for prefix in prefixes:
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    network.load_state_dict(state, strict=False, assign=True)
    return network.eval().requires_grad_(False)
