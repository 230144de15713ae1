"""One stage of training: its networks, how long it still has, and its state on the disk."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import Layer

SAVED_EVERY = 60.0  # seconds
LOG_VARIANCE = -6.0  # that encoders state of every latent; inference makes no use of it


class Stage:
    """Networks that are trained for some minutes; the learning rate follows the clock.

    What is in ``path`` from an earlier run is continued. Networks without gradients are only kept.
    """

    def __init__(self, path: Path, minutes: float, rate: float, networks: dict[str, nn.Module]):
        self.path, self.minutes, self.rate, self.networks = path, minutes, rate, networks
        trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.trained, self.step, self.begun = trained, 0, time.monotonic()
        self.saved, self.shown, self.means = self.begun, self.begun, dict[str, float]()
        if path.exists():
            state = torch.load(path, weights_only=True, map_location="cpu")
            for name in networks.keys() & state.keys():  # of a finished checkpoint, only what is kept is known
                networks[name].load_state_dict(state[name])
            self.step = state["step"]
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])

    def restart(self) -> None:
        """Let the time begin now, when what the networks learn from is ready."""
        self.begun = self.saved = self.shown = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        """Number of every step until the time is over."""
        first = self.step
        while (progress := (time.monotonic() - self.begun) / 60 / self.minutes) < 1:
            warm = min(1.0, (self.step - first + 1) / 50)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
            yield self.step
            if time.monotonic() - self.saved > SAVED_EVERY:
                self.save()
        self.save()

    def descend(self, loss: Tensor, **numbers: Tensor) -> None:
        """Take one step down ``loss``; print it and ``numbers`` now and then as running means."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.step += 1
        for name, value in {"loss": loss.detach(), **numbers}.items():
            self.means[name] = value.item() + 0.98 * (self.means.get(name, value.item()) - value.item())
        if time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            figures = " ".join(f"{name} {value:.4g}" for name, value in self.means.items())
            print(f"{self.path.stem} {self.step} {self.shown - self.begun:.0f}s {figures}", flush=True)

    def save(self) -> None:
        """Keep the state of now."""
        state: dict[str, Any] = {name: network.state_dict() for name, network in self.networks.items()}
        state |= {"optimizer": self.optimizer.state_dict(), "step": self.step}
        keep(state, self.path)
        self.saved = time.monotonic()


def keep(content: dict[str, Any], path: Path) -> None:
    """Write a file whole or not at all: a run that is interrupted here leaves what was there before."""
    temporary = path.with_suffix(".partial")
    torch.save(content, temporary)
    temporary.replace(path)


def start_linear(convolution: Layer, open: bool) -> None:
    """Weights before training: what goes in comes out as large, so that small things stay visible through many layers.

    Those that are not ``open``, the last of residual layers, give nothing at first.
    """
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    nn.init.zeros_(convolution.bias)
    if not open:
        nn.init.zeros_(convolution.weight)


def rounded(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``network`` as it will be in the checkpoint, so that others learn from what is there."""
    return {name: value.bfloat16().float() for name, value in network.state_dict().items()}
