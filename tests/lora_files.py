"""LoRA files with singular values that are known, and what they add to weights."""

import torch
from safetensors.torch import save_file

from ltx2_core.lora import open_lora

BLOCK = "diffusion_model.transformer_blocks"
OUT, IN, RANK = 96, 64, 24


def factors(energies: list[float], seed: int = 0) -> dict[str, torch.Tensor]:
    """Matrices of RANK whose product has these singular values, mixed so that no factor shows them."""
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(side, RANK, generator=draw))[0] for side in (OUT, IN))
    values = torch.zeros(RANK)
    values[: len(energies)] = torch.tensor(energies)
    mix = torch.randn(RANK, RANK, generator=draw)
    return {"up": left * values @ mix, "down": torch.linalg.solve(mix, right.T)}


def written(path, layers: dict[str, dict[str, torch.Tensor]], names=("lora_B", "lora_A"), metadata=None, **more):
    state = {}
    for layer, made in layers.items():
        up, down = names
        state |= {f"{layer}.{up}.weight": made["up"].contiguous(), f"{layer}.{down}.weight": made["down"].contiguous()}
        state |= {f"{layer}.alpha": made["alpha"]} if "alpha" in made else {}
    save_file(state | more, path, metadata)
    return path


def changes(path) -> dict[str, torch.Tensor]:
    """What a file adds to weights, as a loader of it computes."""
    found = {}
    for _, name, delta in open_lora(path).layers:
        tensors = {part: delta.tensor(part) for part in delta.parts}
        found[name] = delta.compute(torch.zeros(delta.shape), tensors)
    return found


def off(found, wanted) -> float:
    return float((found - wanted).norm() / wanted.norm())
