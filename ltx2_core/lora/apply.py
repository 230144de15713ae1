"""LoRAs on a network: fused into weights that are copied anyway, or computed beside the layers; files stay as they are.

A quantised weight is never rounded again: a small change would be lost in it (spec: formats.md, section 11).
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantization import FORMATS, Fp8Linear
from ..quantization.fp8 import dequantise
from .names import block_of, stream_of
from .parse import Delta, Lora

Linear = nn.Linear | Fp8Linear
Change = Callable[[Tensor], None]
Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Strengths:
    """How strongly a LoRA acts; 0 is without it, negative strengths do the opposite.

    A layer gets ``overall`` times that of its stream. ``text`` is for the projection and the connectors of the text.
    With ``blocks``, all layers that are not in one of these blocks of the transformer get 0. A ``schedule`` gives a
    further factor for each moment of a run: for its sigma, or with ``by_step`` for the number of its step.
    """

    overall: float = 1.0
    video: float = 1.0
    audio: float = 1.0
    audio_to_video: float = 1.0
    video_to_audio: float = 1.0
    text: float = 1.0
    blocks: Container[int] | None = None
    schedule: Schedule | None = None
    by_step: bool = False

    def of(self, component: str, name: str) -> float:
        """Of our tensor ``name``, without the schedule."""
        if self.blocks is not None and block_of(component, name) not in self.blocks:
            return 0.0
        return self.overall * getattr(self, stream_of(component, name))


@dataclass(frozen=True)
class Keyframes:
    """A schedule through (moment, strength) points, in ascending order."""

    points: tuple[tuple[float, float], ...]

    def __call__(self, moment: float) -> float:
        if moment <= self.points[0][0]:
            return self.points[0][1]
        for (start, first), (stop, last) in zip(self.points, self.points[1:]):
            if moment <= stop:
                return first + (last - first) * (moment - start) / (stop - start)
        return self.points[-1][1]


def keyframes(points: Sequence[tuple[float, float]]) -> Keyframes:
    """The schedule through (moment, strength) points: straight between them, level before the first and after the last.

    Moments are steps or sigmas, in any order.
    """
    if not points or len(dict(points)) < len(points):
        raise ValueError(
            "A schedule needs points (moment, strength), each at another moment, as in [(0, 1.0), (4, 0.5)]; "
            f"it is {list(points)}."
        )
    return Keyframes(tuple(sorted(points)))


@dataclass(frozen=True)
class _Term:
    """One LoRA's part in what happens to one parameter."""

    delta: Delta
    constant: float
    schedule: Schedule | None
    by_step: bool

    def strength(self, sigma: float, step: int) -> float:
        if self.schedule is None:
            return self.constant
        return self.constant * self.schedule(step if self.by_step else sigma)


class Adapted:
    """Some LoRAs on one network.

    ``changes`` are for who copies weights: by our name of a parameter, what to do to its copy, in place. The other
    layers, those that are quantised or whose strength changes during a run, are changed by ``use`` while they compute.
    What does not fit the network is left out; a report tells. Nothing is read from the files yet.
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
        """Without ``fuse``, linear layers are left to ``use``, so that nothing has to be copied for another strength.

        ``keep`` is how many bytes of the files may stay on the device during ``use``; the rest goes there every time.
        """
        self.changes: dict[str, Change] = {}
        self._moment = 0.0, 0
        self._beside: dict[Linear, list[_Term]] = {}
        self._copies = _Copies(keep)
        modules = dict(network.named_modules())
        for name, terms in _terms(network, loras, component).items():
            owner, _, leaf = name.rpartition(".")
            module = modules[owner]
            scheduled = next((term.delta for term in terms if term.schedule is not None), None)
            copied = fuse and scheduled is None and module.get_parameter(leaf).dtype not in FORMATS.values()
            if leaf == "weight" and isinstance(module, Linear) and not copied:
                self._beside[module] = terms
            elif scheduled is not None:
                raise ValueError(
                    f"{scheduled.file.path.name} changes {scheduled.name}, which is not the matrix of a linear layer "
                    "and cannot follow a schedule; give this LoRA one strength for all steps."
                )
            else:
                self.changes[name] = partial(_fuse, [(term.delta, term.constant) for term in terms])

    @property
    def card_bytes(self) -> int:
        """What stays on the device during ``use``, at most."""
        terms = chain(*self._beside.values())
        return min(self._copies.limit, sum(term.delta.nbytes for term in terms if term.delta.is_low_rank))

    def at(self, sigma: float, step: int = 0) -> None:
        """From now on schedules are at this moment of a run."""
        self._moment = sigma, step

    @contextmanager
    def use(self) -> Iterator[None]:
        """Change, for this time, how those layers compute that ``changes`` does not hold."""
        try:
            for linear, terms in self._beside.items():
                layer = _Layer(linear, partial(self._now, terms), self._copies)
                vars(linear)["forward"], vars(linear)["expanded"] = layer.forward, layer.expanded
            yield
        finally:
            for linear in self._beside:
                vars(linear).pop("forward", None)
                vars(linear).pop("expanded", None)
            self._copies.clear()

    def _now(self, terms: list[_Term]) -> list[tuple[Delta, float]]:
        """What acts at this moment, and how strongly."""
        return [(term.delta, strength) for term in terms if (strength := term.strength(*self._moment))]


def _terms(network: nn.Module, loras: Sequence[tuple[Lora, Strengths]], component: str) -> dict[str, list[_Term]]:
    """All that happens to the parameters of ``network``, by our names."""
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    found: dict[str, list[_Term]] = defaultdict(list)
    for lora, strengths in loras:
        for name, delta in lora.deltas.get(component, {}).items():
            if shapes.get(name) == delta.shape and (strength := strengths.of(component, name)):
                found[name].append(_Term(delta, strength, strengths.schedule, strengths.by_step))
    return found


def _fuse(deltas: list[tuple[Delta, float]], weight: Tensor) -> None:
    weight.copy_(_changed(weight.to(torch.float32, copy=True), deltas))


def _changed(weight: Tensor, deltas: list[tuple[Delta, float]]) -> Tensor:
    """``weight`` (float32), changed in place: every change is that of the weight itself, whatever the others do."""
    sums = [delta.of(weight).mul_(strength) for delta, strength in deltas if not delta.is_low_rank]
    for change in sums:
        weight.add_(change)
    for delta, strength in deltas:
        if delta.is_low_rank:
            up, down = delta.part("up", weight.device), delta.part("down", weight.device)
            weight.addmm_(up, down, alpha=strength * delta.scale)
    return weight


class _Copies:
    """Narrow matrices on the device; the first ``limit`` bytes stay there."""

    def __init__(self, limit: int):
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        self._kept: dict[tuple[Delta, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._room = self.limit

    def of(self, delta: Delta, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two matrices of ``delta``, down and up, where and in what ``x`` is."""
        key = delta, x.device, x.dtype
        if key in self._kept:
            return self._kept[key]
        pair = delta.part("down", x.device, x.dtype), delta.part("up", x.device, x.dtype)
        if delta.nbytes <= self._room:
            self._room -= delta.nbytes
            self._kept[key] = pair
        return pair


class _Layer:
    """Stands in for the forward of a linear layer."""

    def __init__(self, linear: Linear, now: Callable[[], list[tuple[Delta, float]]], copies: _Copies):
        self._linear, self._now, self._copies = linear, now, copies
        forward = linear.forward
        self._plain = linear.expanded if isinstance(linear, Fp8Linear) else lambda dtype: forward

    def forward(self, x: Tensor) -> Tensor:
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """This layer for several calls with inputs of ``dtype``, as of Fp8Linear."""
        deltas = self._now()
        if all(delta.is_low_rank for delta, _ in deltas):
            return partial(self._beside, self._plain(dtype), deltas)
        weight = _changed(_exact(self._linear), deltas).to(dtype)
        return partial(F.linear, weight=weight, bias=self._linear.bias)

    def _beside(self, linear: Callable[[Tensor], Tensor], deltas: list[tuple[Delta, float]], x: Tensor) -> Tensor:
        """What the layer gives, and beside it what goes through the narrow matrices, summed in place."""
        y = linear(x)
        for delta, strength in deltas:
            down, up = self._copies.of(delta, x)
            narrow = F.linear(x, down).flatten(0, -2)
            y.view(-1, y.shape[-1]).addmm_(narrow, up.T, alpha=strength * delta.scale)
        return y


def _exact(linear: Linear) -> Tensor:
    """A copy of the layer's weight in float32."""
    if isinstance(linear, Fp8Linear):
        return dequantise(linear.weight, linear.weight_scale, torch.float32)
    return linear.weight.to(torch.float32, copy=True)
