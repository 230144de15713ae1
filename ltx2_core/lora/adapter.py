"""LoRAs on a network: fused into weights that are copied anyway, or computed beside the layers; files stay as they are.

A quantised weight is never rounded again: a small change would be lost in it (see README.md, "Quantised layers").
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from ..quantization import expand_weight, format_of, is_linear, matrix_shapes
from .parse import Delta, Lora
from .strengths import Strengths

Patch = Callable[[Tensor], object]  # changes a copy of a weight in place

_CHUNK = 2**24  # numbers of a weight that are widened together


@dataclass(frozen=True, eq=False)
class _Term:
    """One LoRA's share in what happens to one parameter.

    Its tensors are those of the file, and never written; whoever moves weights moves them, too.
    """

    delta: Delta
    size: int  # how many numbers the parameter has
    constant: float
    strengths: Strengths

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their part in the form, wherever they are."""
        return {part: self.delta.tensor(part) for part in self.delta.parts}

    @property
    def is_scheduled(self) -> bool:
        return self.strengths.schedule is not None

    def strength_at(self, sigma: float, step: int) -> float:
        return self.constant * self.strengths.factor_at(sigma, step)

    def pair(self, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the narrow matrices, down (r, in) and up (out, r), on the device of ``like``."""
        down, up = (self.tensors[part].to(like.device).to(dtype) for part in ("down", "up"))
        return down, up


class FoldedLinear(nn.Linear):
    """A plain layer whose weight holds its LoRAs already (``fold.py``); an adapter leaves it alone."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None):
        """Take ``weight`` (out, in) and ``bias`` (out,) as they are."""
        with torch.device("meta"):
            super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), bias  # type: ignore[assignment]


WeightedTerm = tuple[_Term, float]  # and how strongly it acts


class LoraAdapter:
    """Several LoRAs on one network.

    ``weight_patches`` are for whoever copies weights. All other layers, those that are quantised or whose strength
    changes during a run, and tables that are quantised compute the LoRA beside them while it is ``attached``. What does
    not fit the network is left out; a report tells. Nothing is read from the files yet.
    """

    def __init__(
        self,
        network: nn.Module,
        loras: Sequence[tuple[Lora, Strengths]],
        component: str = "transformer",
        *,
        fuse: bool = True,
    ):
        """Decide for each parameter how it is changed.

        Args:
            network: The network, with or without its weights.
            loras: The files, and how strongly each acts.
            component: Which component ``network`` is.
            fuse: Without it, linear layers are left to ``attached``, so that nothing is copied for another strength.

        Raises:
            SettingError: A LoRA with a schedule changes something other than the matrix of a linear layer, or one that
                is no product of two matrices changes a table that is stored in fewer bits.
        """
        self._moment = 0.0, 0
        self._fused: dict[str, list[_Term]] = {}
        self._attachable: dict[str, tuple[nn.Module, list[_Term]]] = {}
        modules = dict(network.named_modules())
        for name, terms in terms_by_parameter(network, loras, component).items():
            owner, _, leaf = name.rpartition(".")
            module = modules[owner]
            is_matrix = leaf == "weight" and is_linear(module)
            scheduled = next((term.delta for term in terms if term.is_scheduled), None)
            quantized = format_of(module) is not None and leaf == "weight"
            if quantized or (is_matrix and (not fuse or scheduled is not None)):
                _check_table(module, terms)
                self._attachable[name] = module, terms
            elif scheduled is not None:
                raise SettingError(
                    f"{scheduled.file.path.name} changes {scheduled.name}, which is not the matrix of a linear layer "
                    "and cannot follow a schedule; give this LoRA one strength for all steps."
                )
            else:
                self._fused[name] = terms

    @cached_property
    def weight_patches(self) -> dict[str, Patch]:
        """By our name of a parameter, a function that changes a copy of it in place."""
        return {name: partial(_fuse, terms) for name, terms in self._fused.items()}

    @cached_property
    def read(self) -> dict[str, list[Tensor]]:
        """By the same names, the tensors that the function reads, which may be brought to where it changes copies."""
        return {name: _tensors_of(terms) for name, terms in self._fused.items()}

    @cached_property
    def operations(self) -> dict[str, float]:
        """By the same names, its floating point operations."""
        return {
            name: sum(2.0 * (term.delta.rank or 1) * term.size for term in terms) for name, terms in self._fused.items()
        }

    @cached_property
    def beside(self) -> dict[str, list[Tensor]]:
        """By our names of weights, the tensors that their layers read while ``attached``, which may be moved, too."""
        return {name: _tensors_of(terms) for name, (_, terms) in self._attachable.items()}

    def set_moment(self, sigma: float, step: int = 0) -> None:
        """Set the sigma and step at which LoRA schedules are evaluated from now on."""
        self._moment = sigma, step

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the layers that no patch changes compute with the LoRAs, within this context.

        Weights must be where they are used when the layers are called.
        """
        try:
            for module, terms in self._attachable.values():
                active = partial(self._active, terms)
                if is_linear(module):
                    layer = _AdaptedForward(module, active)
                    vars(module)["forward"], vars(module)["expanded"] = layer.forward, layer.expanded
                else:
                    vars(module)["forward"] = partial(_look_up, module.forward, active)
            yield
        finally:
            for module, _ in self._attachable.values():
                vars(module).pop("forward", None)
                vars(module).pop("expanded", None)

    def check_numbers(self) -> None:
        """Read all tensors of the LoRAs on this network.

        Raises:
            CheckpointError: One holds NaN or infinite numbers.
        """
        for terms in (*self._fused.values(), *(terms for _, terms in self._attachable.values())):
            for term in terms:
                term.delta.check_numbers()

    def _active(self, terms: list[_Term]) -> list[WeightedTerm]:
        """The terms that act at this moment, and how strongly."""
        return [(term, strength) for term in terms if (strength := term.strength_at(*self._moment))]


def _check_table(module: nn.Module, terms: list[_Term]) -> None:
    """SettingError if ``module`` is a table in fewer bits, and a change of it is no product of two matrices."""
    full = next((term.delta for term in terms if not term.delta.is_low_rank), None)
    if full is not None and not is_linear(module):
        raise SettingError(
            f"{full.file.path.name} changes the table of words, {full.name}, by more than a product of two matrices, "
            "and this text encoder stores that table in fewer bits; choose a text encoder in bf16 for this LoRA."
        )


def _tensors_of(terms: list[_Term]) -> list[Tensor]:
    return [tensor for term in terms for tensor in term.tensors.values()]


def terms_by_parameter(
    network: nn.Module, loras: Sequence[tuple[Lora, Strengths]], component: str
) -> dict[str, list[_Term]]:
    """Return all that happens to the parameters of ``network``, by our names; not what is folded into them already."""
    folded = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, FoldedLinear)}
    shapes = {name: shape for name, shape in matrix_shapes(network).items() if name not in folded}
    terms: dict[str, list[_Term]] = defaultdict(list)
    for lora, strengths in loras:
        for name, delta in lora.deltas.get(component, {}).items():
            shape, constant = shapes.get(name), strengths.constant_for(component, name)
            if constant and shape is not None and delta.fits(shape):
                terms[name].append(_Term(delta, math.prod(shape), constant, strengths))
    return terms


def _fuse(terms: list[_Term], weight: Tensor) -> None:
    """Change ``weight`` in place; sums are those of float32, and rounded once."""
    weighted = [(term, term.constant) for term in terms]
    if not all(term.delta.is_low_rank for term in terms):
        weight.copy_(add_terms(weight.to(torch.float32, copy=True), weighted))
    elif len(terms) == 1 and terms[0].tensors["up"].dtype == weight.dtype:
        _add_product(weight, *weighted[0], weight.dtype)
    else:  # a piece at a time, since it takes twice the bytes or more
        rows = max(1, _CHUNK // weight.shape[1])
        for first, piece in zip(range(0, len(weight), rows), weight.split(rows)):
            wide = piece.to(torch.float32, copy=True)
            for term, strength in weighted:
                _add_product(wide, term, strength, torch.float32, first)
            piece.copy_(wide)


def _add_product(weight: Tensor, term: _Term, strength: float, dtype: torch.dtype, first: int = 0) -> None:
    """Add the product of narrow matrices to the rows of a matrix from the row ``first`` on, which ``weight`` holds."""
    down, up = term.pair(weight, dtype)
    weight.addmm_(up[first : first + len(weight)], down, alpha=strength * term.delta.scale)


def add_terms(weight: Tensor, terms: list[WeightedTerm]) -> Tensor:
    """Return ``weight`` (float32), changed in place; each change is that of the weight itself, whatever others do."""
    full = [
        term.delta.compute(weight, term.tensors).mul_(strength)
        for term, strength in terms
        if not term.delta.is_low_rank
    ]
    for change in full:
        weight.add_(change)
    for term, strength in terms:
        if term.delta.is_low_rank:
            _add_product(weight, term, strength, torch.float32)
    return weight


class _AdaptedForward:
    """Stands in for the forward of a linear layer."""

    def __init__(self, linear: nn.Module, active: Callable[[], list[WeightedTerm]]):
        self._linear: Any = linear  # plain, or of any format
        self._active = active
        if format_of(linear) is None:
            forward = linear.forward
            self._plain: Callable[[torch.dtype], Callable[[Tensor], Tensor]] = lambda dtype: forward
        else:
            self._plain = linear.expanded  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """This layer for several calls with inputs of ``dtype``, as of a quantised layer."""
        terms = self._active()
        if all(term.delta.is_low_rank for term, _ in terms):
            return partial(_add_low_rank, self._plain(dtype), terms)
        weight = add_terms(expand_weight(self._linear, torch.float32), terms).to(dtype)
        return partial(F.linear, weight=weight, bias=self._linear.bias)


def _look_up(plain: Callable[[Tensor], Tensor], active: Callable[[], list[WeightedTerm]], ids: Tensor) -> Tensor:
    """Rows of a table in fewer bits, and those of the narrow matrices, summed in place."""
    rows = plain(ids)
    for term, strength in active():
        down, up = term.pair(rows, rows.dtype)
        rows.add_(up[ids] @ down, alpha=strength * term.delta.scale)
    return rows


def _add_low_rank(linear: Callable[[Tensor], Tensor], terms: list[WeightedTerm], x: Tensor) -> Tensor:
    """A layer's result and those of the narrow matrices, summed in place."""
    y = linear(x)
    for term, strength in terms:
        down, up = term.pair(x, x.dtype)
        narrow = F.linear(x, down).flatten(0, -2)
        y.view(-1, y.shape[-1]).addmm_(narrow, up.T, alpha=strength * term.delta.scale)
    return y
