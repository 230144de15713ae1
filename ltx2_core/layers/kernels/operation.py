"""An operation with several implementations: the plain one decides what is right, the others are tried against it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import first_line, ran_out
from .compiled import NAME, is_compiled, load_compiled

_log = logging.getLogger(__name__)

Function = Callable[..., Tensor]
Sample = Callable[[torch.device, torch.dtype], tuple[Any, ...]]

# The largest difference to the plain way, as a share of its size; half of it is the plain way's own rounding.
TOLERANCES = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
_TOLERANCE = 1e-4


def tolerance_in(dtype: torch.dtype) -> float:
    """Return how far, as a share of the size, a result in ``dtype`` may be from that of the plain way."""
    return TOLERANCES.get(dtype, _TOLERANCE)


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Kernel:
    """One fast implementation.

    Attributes:
        name: of it, or of the library that it comes from.
        load: imports it and returns the function; it may raise whatever a library raises that is not for this machine.
        devices: types of device that it is for.
        is_fast: whether a library that can be imported has more than a plain way of its own.
        asked: whether it is only taken where somebody asked for it, who is warned if it cannot be.
    """

    name: str
    load: Callable[[], Function]
    devices: tuple[str, ...] = ("cuda",)
    is_fast: Callable[[], bool] = _always
    asked: bool = False


class Operation:
    """One operation, done by the first of its kernels that gives the numbers of the plain way, or by that.

    Kernels are tried once for each device and dtype, with a small sample: what is right depends on the card, its
    driver, torch and the library, and no list of them would stay true. One that fails later is not asked again.

    Args:
        name: of the operation, for the log.
        plain: the reference.
        kernels: faster ones, the best first.
        sample: makes arguments for a trial, on a device and in a dtype.
        tolerance: the largest error that is let pass, as a share of the size; None for what rounding allows.
        read: returns the numbers of a result in float32, if it has them in another way.
        form: what ``torch.compile`` makes a kernel of, which comes first where it is asked for; None for nothing.
    """

    def __init__(
        self,
        name: str,
        plain: Function,
        kernels: Sequence[Kernel],
        sample: Sample,
        tolerance: float | None = None,
        read: Function = Tensor.float,
        form: Function | None = None,
    ):
        self.name, self.plain, self.kernels, self.sample = name, plain, tuple(kernels), sample
        self.tolerance, self.read, self.form = tolerance, read, form
        self._chosen: dict[_Key, tuple[str, Function] | None] = {}
        self._obstacles: dict[tuple[torch.device, torch.dtype], str] = {}  # of what was asked for

    def find(self, x: Tensor) -> Function | None:
        """Return the kernel for tensors like ``x``; None where the plain way is taken.

        On the meta device, where only shapes are computed, it is what the card of this machine would take, or what
        ``count_with`` says.
        """
        if x.is_meta and _COUNTED is not None:
            named = (each.load() for each in self.kernels if each.name in _COUNTED)
            return next(named, None)
        if x.is_meta and not torch.cuda.is_available():
            return None
        device = torch.device("cuda", torch.cuda.current_device()) if x.is_meta else x.device
        key = device, x.dtype, self.form is not None and not x.is_meta and is_compiled(device, x.dtype)
        if key not in self._chosen:
            self._chosen[key] = self._choose(*key)
        found = self._chosen[key]
        return None if found is None else partial(self._run, key, *found)

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return why the plain way is taken for tensors of this kind, though a kernel was asked for; empty if not."""
        like = torch.empty(0, device=device, dtype=dtype)
        return "" if self.find(like) is not None else self._obstacles.get((like.device, dtype), "")

    def _run(self, key: "_Key", name: str, kernel: Function, *args: Any) -> Tensor:
        try:
            return kernel(*args)
        except Exception as reason:  # of kernels that take no tensor of this size
            if ran_out(reason):
                raise
            self._chosen[key] = None
            _log.warning("%s takes the plain way: %s failed: %s", self.name, name, first_line(reason))
            return self.plain(*args)

    def _choose(self, device: torch.device, dtype: torch.dtype, compiled: bool) -> tuple[str, Function] | None:
        kernels = self.kernels
        if compiled and self.form is not None:
            kernels = (Kernel(NAME, partial(load_compiled, self.name, self.form), _COMPILING, asked=True), *kernels)
        for kernel in kernels:
            if device.type in kernel.devices and (function := self._tried(kernel, device, dtype)) is not None:
                return kernel.name, function
            if device.type not in kernel.devices and kernel.asked:
                _log.warning("%s takes the plain way: %s is not for %s.", self.name, kernel.name, device.type)
                self._obstacles[device, dtype] = f"{kernel.name} is not for {device.type}"
        return None

    def _tried(self, kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Function | None:
        """The function of ``kernel`` if it is there and right; says in the log what was found."""
        try:
            function = kernel.load()
            if not kernel.is_fast():
                return None
            found = self.read(function(*self.sample(device, dtype)))
            expected = self.read(self.plain(*self.sample(device, dtype)))
            error = ((found - expected).norm() / expected.norm()).item()
        except Exception as reason:  # of a library that may lack a build for this machine in ways of its own
            if ran_out(reason):
                raise
            told = logging.WARNING if kernel.asked else logging.INFO
            _log.log(told, "%s has no %s on %s: %s", self.name, kernel.name, device, first_line(reason))
            self._obstacles[device, dtype] = f"{kernel.name} cannot be used here: {first_line(reason)}"
            return None
        if not error <= (self.tolerance or tolerance_in(dtype)):
            _log.warning("%s leaves %s aside on %s, which is off by %.1e.", self.name, kernel.name, device, error)
            self._obstacles[device, dtype] = f"{kernel.name} is off by {error:.1e} on {device}"
            return None
        _log.info("%s is done by %s on %s, within %.1e of the plain way.", self.name, kernel.name, device, error)
        return function


_Key = tuple[torch.device, torch.dtype, bool]  # where, in what, and whether it is to be compiled

_COMPILING = ("cuda", "cpu")

_COUNTED: frozenset[str] | None = None


@contextmanager
def count_with(*names: str) -> Iterator[None]:
    """Count, on the meta device and within this context, as if the kernels with these names were right."""
    global _COUNTED
    before, _COUNTED = _COUNTED, frozenset(names)
    try:
        yield
    finally:
        _COUNTED = before
