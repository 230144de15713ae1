"""LoRAs on a network: fused into weights that are copied anyway, or computed beside the layers; files stay as they are.

A quantised weight is never rounded again: a small change would be lost in it (see README.md, "Quantised layers").
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from ..quantization import expand_weight, format_of, is_linear, matrix_shapes
from .parse import Delta, Lora
from .strengths import Strengths

Patch = Callable[[Tensor], None]  # changes a copy of a weight in place
WeightedDelta = tuple[Delta, float]  # and how strongly it acts


@dataclass(frozen=True)
class _Term:
    """One LoRA's share in what happens to one parameter."""

    delta: Delta
    constant: float
    strengths: Strengths

    @property
    def is_scheduled(self) -> bool:
        return self.strengths.schedule is not None

    def strength_at(self, sigma: float, step: int) -> float:
        return self.constant * self.strengths.factor_at(sigma, step)


class LoraAdapter:
    """Several LoRAs on one network.

    ``weight_patches`` are for whoever copies weights: by our name of a parameter, a function that changes its copy in
    place. All other layers, those that are quantised or whose strength changes during a run, compute the LoRA beside
    them while it is ``attached``. What does not fit the network is left out; a report tells. Nothing is read from the
    files yet.
    """

    def __init__(
        self,
        network: nn.Module,
        loras: Sequence[tuple[Lora, Strengths]],
        component: str = "transformer",
        *,
        fuse: bool = True,
        keep: int = 2**30,
    ):
        """Decide for each parameter how it is changed.

        Args:
            network: The network, with or without its weights.
            loras: The files, and how strongly each acts.
            component: Which component ``network`` is.
            fuse: Without it, linear layers are left to ``attached``, so that nothing is copied for another strength.
            keep: How many bytes of the files may stay on the device while attached; the rest goes there every time.

        Raises:
            SettingError: A LoRA with a schedule changes something other than the matrix of a linear layer.
        """
        self.weight_patches: dict[str, Patch] = {}
        self._moment = 0.0, 0
        self._attachable: dict[nn.Module, list[_Term]] = {}
        self._factors = _DeviceFactors(keep)
        modules = dict(network.named_modules())
        for name, terms in _terms_by_parameter(network, loras, component).items():
            owner, _, leaf = name.rpartition(".")
            module = modules[owner]
            is_matrix = leaf == "weight" and is_linear(module)
            scheduled = next((term.delta for term in terms if term.is_scheduled), None)
            quantized = is_matrix and format_of(module) is not None
            if is_matrix and (not fuse or scheduled is not None or quantized):
                self._attachable[module] = terms
            elif scheduled is not None:
                raise SettingError(
                    f"{scheduled.file.path.name} changes {scheduled.name}, which is not the matrix of a linear layer "
                    "and cannot follow a schedule; give this LoRA one strength for all steps."
                )
            else:
                self.weight_patches[name] = partial(_fuse, [(term.delta, term.constant) for term in terms])

    @property
    def card_bytes(self) -> int:
        """Bytes that stay on the device while attached, at most."""
        deltas = [term.delta for terms in self._attachable.values() for term in terms]
        return min(self._factors.limit, sum(delta.nbytes for delta in deltas if delta.is_low_rank))

    @property
    def resident_bytes(self) -> int:
        """Bytes of the files that are on the device now to stay there."""
        return self._factors.resident_bytes

    def set_moment(self, sigma: float, step: int = 0) -> None:
        """Set the sigma and step at which LoRA schedules are evaluated from now on."""
        self._moment = sigma, step

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the layers that ``weight_patches`` does not change compute with the LoRAs, within this context.

        Weights must be where they are used when the layers are called.
        """
        try:
            for linear, terms in self._attachable.items():
                layer = _AdaptedForward(linear, partial(self._active, terms), self._factors)
                vars(linear)["forward"], vars(linear)["expanded"] = layer.forward, layer.expanded
            yield
        finally:
            for linear in self._attachable:
                vars(linear).pop("forward", None)
                vars(linear).pop("expanded", None)
            self._factors.clear()

    def _active(self, terms: list[_Term]) -> list[WeightedDelta]:
        """The deltas that act at this moment, and how strongly."""
        return [(term.delta, strength) for term in terms if (strength := term.strength_at(*self._moment))]


def _terms_by_parameter(
    network: nn.Module, loras: Sequence[tuple[Lora, Strengths]], component: str
) -> dict[str, list[_Term]]:
    """All that happens to the parameters of ``network``, by our names."""
    shapes = matrix_shapes(network)
    terms: dict[str, list[_Term]] = defaultdict(list)
    for lora, strengths in loras:
        for name, delta in lora.deltas.get(component, {}).items():
            if shapes.get(name) == delta.shape and (constant := strengths.constant_for(component, name)):
                terms[name].append(_Term(delta, constant, strengths))
    return terms


def _fuse(deltas: list[WeightedDelta], weight: Tensor) -> None:
    """Change ``weight`` in place, computing in float32."""
    weight.copy_(_add_deltas(weight.to(torch.float32, copy=True), deltas))


def _add_deltas(weight: Tensor, deltas: list[WeightedDelta]) -> Tensor:
    """``weight`` (float32), changed in place: every change is that of the weight itself, whatever the others do."""
    full = [delta.compute(weight).mul_(strength) for delta, strength in deltas if not delta.is_low_rank]
    for change in full:
        weight.add_(change)
    for delta, strength in deltas:
        if delta.is_low_rank:
            up, down = delta.factor("up", weight.device), delta.factor("down", weight.device)
            weight.addmm_(up, down, alpha=strength * delta.scale)
    return weight


class _DeviceFactors:
    """Narrow matrices on the device; the first ``limit`` bytes stay there."""

    def __init__(self, limit: int):
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        self._resident: dict[tuple[Delta, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._room = self.limit

    @property
    def resident_bytes(self) -> int:
        return self.limit - self._room

    def pair(self, delta: Delta, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two matrices of ``delta``, down and up, on the device and in the dtype of ``x``."""
        key = delta, x.device, x.dtype
        if key in self._resident:
            return self._resident[key]
        pair = delta.factor("down", x.device, x.dtype), delta.factor("up", x.device, x.dtype)
        if delta.nbytes <= self._room:
            self._room -= delta.nbytes
            self._resident[key] = pair
        return pair


class _AdaptedForward:
    """Stands in for the forward of a linear layer."""

    def __init__(self, linear: nn.Module, active: Callable[[], list[WeightedDelta]], factors: _DeviceFactors):
        self._linear: Any = linear  # plain, or of any format
        self._active, self._factors = active, factors
        if format_of(linear) is None:
            forward = linear.forward
            self._plain: Callable[[torch.dtype], Callable[[Tensor], Tensor]] = lambda dtype: forward
        else:
            self._plain = linear.expanded  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """This layer for several calls with inputs of ``dtype``, as of a quantised layer."""
        deltas = self._active()
        if all(delta.is_low_rank for delta, _ in deltas):
            return partial(self._add_low_rank, self._plain(dtype), deltas)
        weight = _add_deltas(expand_weight(self._linear, torch.float32), deltas).to(dtype)
        return partial(F.linear, weight=weight, bias=self._linear.bias)

    def _add_low_rank(self, linear: Callable[[Tensor], Tensor], deltas: list[WeightedDelta], x: Tensor) -> Tensor:
        """The layer's result and that of the narrow matrices, summed in place."""
        y = linear(x)
        for delta, strength in deltas:
            down, up = self._factors.pair(delta, x)
            narrow = F.linear(x, down).flatten(0, -2)
            y.view(-1, y.shape[-1]).addmm_(narrow, up.T, alpha=strength * delta.scale)
        return y
