"""Products of comfy-kitchen in the format of a weight, where they are right and pay (see README.md, "Products").

The library is optional: without it, weights are expanded. Every ComfyUI brings it.
"""

import importlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import first_line, ran_out
from .stored import Format, QuantizedLinear, Shape, StoredWeight, round_once

_log = logging.getLogger(__name__)

_LEAST_GAIN = 1.2  # a product that is hardly faster is not worth its rounding of inputs
_ROUNDS = 7  # in which a product and its expansion are timed by turns
_LEAST_SIDE = 512  # of a matrix that a CPU multiplies so; with smaller ones, starting operations takes longer
_TRIED = {"cpu": (256, 1024)}  # tokens and sides of the matrix that is timed; on cards:
_TRIED_ON_CARDS = 1024, 2048


class KitchenFormat(Format):
    """What formats share that comfy-kitchen multiplies in.

    Attributes:
        tolerance: the largest error of a product whose inputs are rounded, as a share of its size.
        rounds_apart: whether inputs are rounded before the product, so that layers may share that.
        gelu_on: the types of device where the product can make the GELU of its input as it rounds it.
    """

    tolerance: ClassVar[float]
    rounds_apart: ClassVar[bool] = True
    gelu_on: ClassVar[Collection[str]] = ()

    def rounding(self, stored: StoredWeight) -> str:
        """Name how inputs of a weight are rounded: layers that share an input and this round it once."""
        return self.name

    def round_input(self, library: ModuleType, x: Tensor, stored: StoredWeight) -> tuple[Tensor, ...]:
        """Return what products take of x (tokens, in), which depends on x and ``rounding`` alone."""
        return (x,)

    def count_rounding(self, x: Tensor) -> Tensor:
        """Stand in for ``round_input`` on the meta device, where x (tokens, in) is read and its bytes are written."""
        return x.to(torch.float8_e4m3fn)

    def multiply(
        self, library: ModuleType, rounded: tuple[Tensor, ...], stored: StoredWeight, bias: Tensor | None, like: Tensor
    ) -> Tensor:
        """Multiply what ``round_input`` returned by a weight with what ``library`` has; (tokens, out) as ``like``."""
        raise NotImplementedError

    def multiply_gelu(self, library: ModuleType, x: Tensor, stored: StoredWeight, bias: Tensor | None) -> Tensor:
        """Multiply the GELU, in its tanh form, of x (tokens, in) by a weight; asked only of devices in ``gelu_on``."""
        raise NotImplementedError

    def make_sample(self, shape: Shape) -> StoredWeight:
        """Return a weight of ``shape``, (out, in), that a device is tried with."""
        raise NotImplementedError

    def can_multiply(self, stored: StoredWeight, shape: Shape) -> bool:
        """Return whether a weight lies as products want it: without padding, and with nothing that they know not."""
        return self.matrix_shape(stored) == shape

    def is_large_enough(self, shape: Shape, device: torch.device) -> bool:
        """Return whether a matrix of ``shape`` is worth a product of its own on ``device``."""
        return device.type != "cpu" or min(shape) >= _LEAST_SIDE

    def multiplies(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Return whether ``device`` multiplies inputs of ``dtype`` in this format, right and faster than it expands."""
        return device.type == "meta" or _is_worth_it(self, device, dtype)

    def find_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product of a layer in this format, for inputs of ``dtype``; None if its weight is expanded."""
        return self._find_product(layer, dtype)

    def find_gelu_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product with the GELU of inputs of ``dtype``; None where that has to be made before."""
        return self._find_product(layer, dtype, gelu=True) if layer.weight.device.type in self.gelu_on else None

    def _find_product(
        self, layer: QuantizedLinear, dtype: torch.dtype, gelu: bool = False
    ) -> Callable[[Tensor], Tensor] | None:
        stored, device = layer.stored, layer.weight.device
        wanted = self.is_large_enough(layer.shape, device) and self.can_multiply(stored, layer.shape)
        if not wanted or (self, device, dtype, layer.shape, gelu) in _REFUSED or not self.multiplies(device, dtype):
            return None
        if gelu and not _makes_gelu(self, device, dtype):
            return None
        bias = None if layer.bias is None else layer.bias.data
        return partial(_multiply, self, _without_parameters(stored), bias, gelu=gelu)

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return a product of a square matrix with one of the same size in this format; None if its device has none."""
        if not self.multiplies(matrix.device, matrix.dtype):
            return None
        return partial(_multiply, self, _moved(self.make_sample(tuple(matrix.shape)), matrix.device), None, matrix)


@cache
def find_library() -> ModuleType | None:
    """Return comfy-kitchen, None if it cannot be imported; asked once."""
    try:
        return importlib.import_module("comfy_kitchen")
    except Exception as reason:  # of a library that may lack a build for this machine in ways of its own
        _log.info("There is no comfy-kitchen: %s", first_line(reason))
        return None


def library_version() -> str:
    """Return the version of comfy-kitchen that is installed; "none" without one."""
    try:
        return version("comfy-kitchen")
    except PackageNotFoundError:
        return "none"


def _multiply(
    format: KitchenFormat, stored: StoredWeight, bias: Tensor | None, x: Tensor, gelu: bool = False
) -> Tensor:
    """Map x (..., in), or its GELU, to (..., out)."""
    if x.is_meta:  # a GELU that is made on the way reads and writes nothing
        return _count(format, x, stored.weight, bias).unflatten(0, x.shape[:-1])
    library = find_library()
    assert library is not None
    try:
        return _multiply_by(library, format, stored, bias, x, gelu).unflatten(0, x.shape[:-1])
    except Exception as reason:  # of kernels that take no matrix of this size
        if ran_out(reason):
            raise
        shape = format.matrix_shape(stored)
        _REFUSED.add((format, x.device, x.dtype, shape, gelu))
        _log.warning("%s of %s is expanded on %s: %s", format.name, shape, x.device, first_line(reason))
        return F.linear(_gelu(x) if gelu else x, format.dequantize(stored, shape, x.dtype), bias)


# What was tried and found right, but failed with a matrix of this size, of inputs or of their GELU.
_REFUSED: set[tuple[Format, torch.device, torch.dtype, Shape, bool]] = set()

_gelu = partial(F.gelu, approximate="tanh")


def _multiply_by(
    library: ModuleType, format: KitchenFormat, stored: StoredWeight, bias: Tensor | None, x: Tensor, gelu: bool = False
) -> Tensor:
    """Map x (..., in), or its GELU, to (tokens, out)."""
    if gelu:
        return format.multiply_gelu(library, x.flatten(0, -2), stored, bias)
    rounded = round_once(x, format.rounding(stored), lambda: format.round_input(library, x.flatten(0, -2), stored))
    return format.multiply(library, rounded, stored, bias, x)


def _count(format: KitchenFormat, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Stand in for a product on the meta device. Of two numbers that share a byte the pair counts as one, since such
    products are twice as fast again."""

    def round_input() -> Tensor:
        return format.count_rounding(x.flatten(0, -2))

    rounded = round_once(x, format.name, round_input) if format.rounds_apart else round_input()
    one = x.new_empty((), dtype=torch.float32)
    return torch._scaled_mm(rounded, weight.view(torch.float8_e4m3fn).t(), one, one, bias, out_dtype=x.dtype)


FindChoice = Callable[[torch.device, str], bool | None]
KeepChoice = Callable[[torch.device, str, bool], None]


def remember_choices(find: FindChoice, keep: KeepChoice) -> None:
    """Let what is timed be remembered, so that another run chooses the same.

    Args:
        find: returns what was chosen for a question on a device; None if nothing was.
        keep: remembers it.
    """
    _memory[:] = [(find, keep)]


_memory: list[tuple[FindChoice, KeepChoice]] = []


@cache
def _is_worth_it(format: KitchenFormat, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``device`` has this product, right and faster than expanding.

    Tried once: it depends on the card, its driver, torch and the library, and no list of them would stay true. What
    fails for lack of memory says nothing about the device, and is not remembered.
    """
    if (library := find_library()) is None:
        return False
    what = f"{format.name} on {device} in {str(dtype).removeprefix('torch.')}"
    question = f"{what}, comfy-kitchen {library_version()}"
    try:
        error = _find_error(format, library, device, dtype)
        known = next((find(device, question) for find, _ in _memory), None)
        gain = _find_gain(format, library, device, dtype) if known is None else 0.0
    except Exception as reason:
        if ran_out(reason):
            raise
        _log.info("%s is expanded: %s", what, first_line(reason))
        return False
    if not error <= format.tolerance:
        _log.warning("%s is expanded: products of comfy-kitchen are off by %.1e.", what, error)
        return False
    if known is not None:
        how = "multiplied by comfy-kitchen" if known else "expanded"
        _log.info("%s is %s, as it was when that was timed.", what, how)
        return known
    for _, keep in _memory:
        keep(device, question, gain >= _LEAST_GAIN)
    if gain < _LEAST_GAIN:
        _log.info("%s is expanded: products of comfy-kitchen are %.2f times as fast.", what, gain)
        return False
    _log.info("%s is multiplied by comfy-kitchen, %.1f times as fast as expanded.", what, gain)
    return True


@cache
def _makes_gelu(format: KitchenFormat, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the product of this library makes the GELU of its input, and right; older ones have no word for it."""
    if (library := find_library()) is None or device.type == "meta":
        return library is not None
    try:
        error = _find_error(format, library, device, dtype, gelu=True)
    except Exception as reason:
        if ran_out(reason):
            raise
        _log.info("The GELU before %s on %s is made apart: %s", format.name, device, first_line(reason))
        return False
    if not error <= format.tolerance:
        _log.warning(
            "The GELU before %s on %s is made apart: that of comfy-kitchen is off by %.1e.", format.name, device, error
        )
        return False
    return True


def _find_error(
    format: KitchenFormat, library: ModuleType, device: torch.device, dtype: torch.dtype, gelu: bool = False
) -> float:
    """How far a small product is from that of the expanded weight, as a share of its size; tokens of odd number."""
    shape = 64, 512
    stored = _moved(format.make_sample(shape), device)
    draw = torch.Generator().manual_seed(0)
    x, bias = (torch.randn(size, generator=draw).to(device, dtype) for size in ((37, shape[1]), (shape[0],)))
    weight = format.dequantize(stored, shape, torch.float32)
    expected = F.linear(_gelu(x.float()) if gelu else x.float(), weight, bias.float())
    return ((_multiply_by(library, format, stored, bias, x, gelu).float() - expected).norm() / expected.norm()).item()


def _find_gain(format: KitchenFormat, library: ModuleType, device: torch.device, dtype: torch.dtype) -> float:
    """How many times as fast a product is as expanding and multiplying."""
    tokens, side = _TRIED.get(device.type, _TRIED_ON_CARDS)
    stored = _moved(format.make_sample((side, side)), device)
    x = torch.ones(tokens, side, device=device, dtype=dtype)

    def expand() -> Tensor:
        return F.linear(x, format.dequantize(stored, (side, side), dtype))

    return _times_as_fast(lambda: _multiply_by(library, format, stored, None, x), expand, device)


def _times_as_fast(run: Callable[[], Tensor], other: Callable[[], Tensor], device: torch.device) -> float:
    """How many times as fast ``run`` is as ``other``, by the shortest of a few runs of each.

    They take turns, so that what else the machine does meanwhile slows both, and neither wins by its hour.
    """
    _seconds(run, device), _seconds(other, device)  # the first runs load kernels
    rounds = [(_seconds(run, device), _seconds(other, device)) for _ in range(_ROUNDS)]
    own, others = map(min, zip(*rounds))
    return others / own


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _without_parameters(stored: StoredWeight) -> StoredWeight:
    """The same tensors as no part of a module, which kernels may not know how to take."""
    companions = {suffix: each.data for suffix, each in stored.companions.items()}
    return replace(stored, weight=stored.weight.data, companions=companions)


def _moved(stored: StoredWeight, device: torch.device) -> StoredWeight:
    companions = {suffix: each.to(device) for suffix, each in stored.companions.items()}
    return replace(stored, weight=stored.weight.to(device), companions=companions)
