"""The golden vectors: weights and inputs are formulas; outputs of the VAEs and vocoders are given as samples."""

from collections.abc import Callable, Iterable
from math import prod

import torch
from torch import Tensor, nn


def fill(module: nn.Module, bare: Callable[[str], str], unwanted: Iterable[str] = (), gain: float = 1.5) -> None:
    """Give ``module`` the weights that ``_about`` in test_vectors_vae_audio.json describes.

    ``bare`` turns our name of a tensor into the official module's; ``unwanted`` are names that we have no place for.
    """
    tensors = {bare(name): tensor for name, tensor in module.state_dict().items()}
    for k, name in enumerate(sorted([*tensors, *unwanted])):
        if name in tensors and not name.endswith((".filter", "blur_down.kernel")):
            tensors[name].copy_(_weight(name, k, tensors[name].shape, gain))


def _weight(name: str, k: int, shape: tuple[int, ...], gain: float) -> Tensor:
    s = torch.sin(0.7 * torch.arange(prod(shape), dtype=torch.float64) + 1.3 * k).reshape(shape)
    if name.endswith("std-of-means"):
        return 1 + 0.25 * s
    if len(shape) >= 2:
        return s * gain / (s.numel() / shape[0]) ** 0.5
    return 1 + 0.1 * s if "norm" in name and name.endswith("weight") else 0.1 * s


def waves(module: nn.Module, bare: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the weights by our names that test_vectors_transformer_text.json describes; ``bare`` as for ``fill``."""
    tensors = module.state_dict()
    state = {}
    for k, (name, ours) in enumerate(sorted((bare(ours), ours) for ours in tensors)):
        i = torch.arange(tensors[ours].numel(), dtype=torch.float64)
        w = 0.2 * torch.sin(0.7 * (k + 1) + 1.3 * (i + 1))
        state[ours] = (1 + 0.5 * w if name.endswith("norm.weight") else w).float().reshape(tensors[ours].shape)
    return state


def signal(*shape: int) -> Tensor:
    """The input of every vector."""
    i = torch.arange(prod(shape), dtype=torch.float64)
    return (0.8 * torch.sin(0.37 * i) + 0.2 * torch.cos((0.011 * i * i) % 6.283)).float().reshape(shape)


def check(found: Tensor, expected: dict) -> None:
    """Compare shape, statistics and samples, which the file gives to six digits."""
    tolerance = 1e-6 + 1e-5 * expected["absmax"]
    samples = {index: found.flatten()[int(index)].item() for index in expected["samples"]}
    for name, value in {"mean": found.mean(), "std": found.std(), "absmax": found.abs().max()}.items():
        assert abs(value.item() - expected[name]) < tolerance, name
    assert list(found.shape) == expected["shape"]
    assert all(abs(samples[index] - value) < tolerance for index, value in expected["samples"].items()), samples
