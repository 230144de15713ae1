"""What a computation costs: it runs on the meta device, where tensors have shapes and no content, and is counted."""

import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..layers.alike import Times, counting
from .outlines import result_of, signature, tensors_in

aten = torch.ops.aten

# Products of quantised matrices, by operation: the rate of a machine that they have. Formats add theirs.
SCALED_OPERATIONS: dict[Any, str] = {aten._scaled_mm: "products8"}


@dataclass(frozen=True)
class Cost:
    """What a computation takes; in a sum the work adds up, and the higher peak counts."""

    peak: int = 0  # bytes of all tensors that are alive at once, without inputs and weights
    products: float = 0  # floating point operations of matrix products
    products8: float = 0  # the same of float8 matrices
    convolutions: float = 0
    attention: float = 0
    moved: float = 0  # bytes that everything else reads and writes
    launches: float = 0  # operations, each of which the program starts

    def __add__(self, other: "Cost") -> "Cost":
        sums = (a + b for a, b in zip(self._work, other._work))
        return Cost(max(self.peak, other.peak), *sums)

    def __sub__(self, other: "Cost") -> "Cost":
        """Return the work without that of ``other``; the peak stays."""
        return self + other * -1

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.peak, *(each * times for each in self._work))

    @property
    def _work(self) -> tuple[float, ...]:
        return self.products, self.products8, self.convolutions, self.attention, self.moved, self.launches


def cost(run: Callable[[], Any]) -> Cost:
    """Run ``run`` and return what it costs; on the meta device that takes milliseconds, whatever the size.

    Of what ``layers.alike`` finds alike, one runs and counts for all. The workspace that a kernel takes for itself is
    not counted.
    """
    with torch.inference_mode(), counting() as times, _Counter(times) as counter:
        result = run()
        del result
    return Cost(counter.peak, launches=counter.launches, **counter.work)


class _Counter(TorchDispatchMode):
    def __init__(self, times: Times):
        super().__init__()
        self.times = times
        self.peak = self.live = 0
        self.work = dict.fromkeys(("products", "products8", "convolutions", "attention", "moved"), 0.0)
        self.launches = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # where memory lies that is alive

    def count(self, operation, types, args=(), kwargs=None):
        """Return what ``operation`` makes of its arguments, and count what that takes."""
        kwargs = kwargs or {}
        if operation.is_view:  # every second operation is one, which need not be described
            given, result = args[:1], operation(*args, **kwargs)
        else:
            key, given = signature(operation, args, kwargs)
            result = result_of(operation, args, kwargs, given, key)
        made = [result] if isinstance(result, Tensor) else tensors_in(result)
        is_new = self._keep_new(given, made)
        if operation.overloadpacket in _FREE or (operation.is_view and not is_new):  # ``to`` and ``flatten`` may copy
            return result
        if operation.is_view:
            key, _ = signature(operation, args, kwargs)
        if (known := _WORK.get(key)) is None:
            if len(_WORK) >= _REMEMBERED:
                _WORK.clear()
            known = _WORK[key] = _work_of(operation, args, kwargs, made)
        kind, amount = known
        self.launches += self.times.now
        self.work[kind] += amount * self.times.now
        return result

    def _keep_new(self, given: Sequence[Tensor], made: list[Tensor]) -> bool:
        """Count the memory of what was ``made`` if it is none of what was ``given``; return whether any is new."""
        is_new = False
        for tensor in made:
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place not in self._known and all(place != each.untyped_storage()._cdata for each in given):
                self._keep(place, storage)
                is_new = True
        return is_new

    def _keep(self, place: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._known[place]
            self.live -= size

        self._known[place] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


# Set here and not in the class, where PyTorch would wrap it in its compiler, whose import takes over a second.
_Counter.__torch_dispatch__ = _Counter.count  # type: ignore[method-assign, assignment]


# The kind and the amount of work of each operation, by all that they depend on: networks repeat themselves.
_WORK: dict[Hashable, tuple[str, float]] = {}
_REMEMBERED = 10_000


def _work_of(operation: Any, args: tuple, kwargs: dict[str, Any], made: list[Tensor]) -> tuple[str, float]:
    """The field of Cost that an operation counts for, and how much."""
    kind = operation.overloadpacket
    if kind is aten.scaled_dot_product_attention:
        return "attention", 4 * args[0].numel() * args[1].shape[-2]
    if rate := SCALED_OPERATIONS.get(kind):
        return rate, 2 * made[0].numel() * args[0].shape[-1]
    if kind in _PRODUCTS:
        return "products", 2 * _PRODUCTS[kind](args, made[0])
    if kind in _CONVOLUTIONS:
        return "convolutions", 2 * _CONVOLUTIONS[kind](args, made[0])
    if kind in _PICKED:
        return "moved", 2 * _PICKED[kind](args, made[0])
    written = made or _changed(operation, args)
    return "moved", sum(map(_bytes, (*_read(kind, args, kwargs), *written)))


def _read(kind: Any, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return what an operation reads: not what it only writes."""
    return tensors_in((args[1:] if kind is aten.copy_ else args, {k: v for k, v in kwargs.items() if k != "out"}))


def _changed(operation: Any, args: tuple) -> list[Tensor]:
    """Return what an operation without a result changes in place."""
    places = [place for place, each in enumerate(operation._schema.arguments) if each.alias_info is not None]
    return tensors_in([args[place] for place in places if place < len(args)])


def _bytes(tensor: Tensor) -> int:
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def _per_output(args: tuple, made: Tensor) -> int:
    """Of a convolution or linear layer: every output sums over all but the first axis of the weight."""
    return made.numel() * math.prod(args[1].shape[1:])


def _per_input(args: tuple, made: Tensor) -> int:
    """Of a transposed convolution."""
    return args[0].numel() * math.prod(args[1].shape[1:])


def _matrices(args: tuple, made: Tensor) -> int:
    return made.numel() * args[-2].shape[-1]


# What starts no kernel and touches no byte: memory is reserved, and dropout returns its input outside of training.
_FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.dropout}

# Multiplications of each operation, from its arguments and result.
_PRODUCTS: dict[Any, Callable[[tuple, Tensor], int]] = {
    aten.linear: _per_output,
    **dict.fromkeys((aten.matmul, aten.mm, aten.bmm), _matrices),
    aten._addmm_activation: _matrices,
}
_CONVOLUTIONS: dict[Any, Callable[[tuple, Tensor], int]] = {
    **dict.fromkeys((aten.conv1d, aten.conv2d, aten.conv3d), _per_output),
    **dict.fromkeys((aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d), _per_input),
}
# Bytes that are read and written where only some rows of a tensor are touched.
_PICKED: dict[Any, Callable[[tuple, Tensor], int]] = {
    aten.index_select: lambda args, made: made.nbytes,
    aten.index_copy_: lambda args, made: args[3].nbytes,
}
