"""Which tensor comes out of an operation on the meta device: its shape, strides and dtype.

PyTorch knows, but for many operations it asks its compiler: that takes a tenth of a millisecond each time, and over a
second the first time, to import it. So what most operations make is derived here, and all answers are remembered.
"""

from collections.abc import Callable, Hashable, Iterable
from functools import reduce
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten

_REMEMBERED = 10_000  # results

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# One number comes out for each that goes in. Of whole numbers, only the first make whole numbers.
_WHOLE = {
    aten.add, aten.sub, aten.rsub, aten.mul, aten.neg, aten.abs, aten.__and__, aten.__xor__, aten.bitwise_not,
    aten.__rshift__,
}  # fmt: skip
_FLOATS = {
    aten.div, aten.square, aten.rsqrt, aten.sqrt, aten.exp, aten.log, aten.sin, aten.cos, aten.tanh, aten.gelu,
    aten.leaky_relu, aten.hardtanh, aten.clamp, aten.erfinv, aten.masked_fill,
    aten.silu, aten.sigmoid, aten.addcmul, aten.lerp, aten.pow,
}  # fmt: skip
_COMPARISONS = {aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge}
_IN_PLACE = {
    aten.sin_, aten.cos_, aten.gelu_, aten.silu_, aten.clamp_, aten.masked_fill_, aten.add_, aten.sub_, aten.mul_,
    aten.div_, aten.addcmul_, aten.copy_, aten.relu_, aten.tanh_,
}  # fmt: skip


def derive(operation: OpOverload, args: tuple, kwargs: dict[str, Any]) -> Tensor | tuple[Tensor, Tensor] | None:
    """Return what ``operation`` makes of tensors on the meta device; None where nothing here knows it."""
    kind = operation.overloadpacket
    if rule := _RULES.get(kind):
        return rule(args, kwargs)
    if kind not in _POINTWISE:
        return None
    given = tensors_in(args)
    shape = _broadcast(given)
    if shape is None:
        return None
    if kind in _IN_PLACE or "out" in kwargs:
        target = args[0] if kind in _IN_PLACE else kwargs["out"]
        return target if target.shape == shape else None
    dtype = torch.bool if kind in _COMPARISONS else _common_dtype(args, kind in _WHOLE)
    return None if dtype is None else _empty_as(given, shape, dtype)


def _broadcast(given: list[Tensor]) -> tuple[int, ...] | None:
    """The shape that all tensors are expanded to; None if they do not fit."""
    sizes = [set(each) - {1} for each in zip_longest(*(reversed(tensor.shape) for tensor in given), fillvalue=1)]
    return tuple(max(each, default=1) for each in reversed(sizes)) if all(len(each) < 2 for each in sizes) else None


def _empty_as(given: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose axes lie in memory as those of ``given`` do, the first of which that has an order decides."""
    if all(tensor.shape == shape and tensor.is_contiguous() for tensor in given):
        return torch.empty(shape, dtype=dtype, device="meta")
    strides = [tensor.expand(shape).stride() for tensor in given]
    order = list(reversed(range(len(shape))))  # the axis that moves fastest first
    for last in range(1, len(order)):
        here = last
        for before in range(last - 1, -1, -1):
            faster = _compare(order[before], order[here], strides, shape)
            if faster < 0:
                break
            if faster:
                order[before], order[here], here = order[here], order[before], before
    stride, elements = [0] * len(shape), 1
    for axis in order:
        stride[axis], elements = elements, elements * shape[axis]
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def _compare(axis: int, other: int, strides: list[tuple[int, ...]], shape: tuple[int, ...]) -> int:
    """Whether ``other`` moves faster (1), slower (-1) or no tensor tells (0)."""
    for stride in strides:
        one, two = stride[axis], stride[other]
        if one and two and one != two:
            return 1 if one > two else -1
        if one and two and shape[axis] > shape[other]:
            return 1
    return 0


def _common_dtype(args: tuple, whole: bool) -> torch.dtype | None:
    """What the numbers of tensors, or of one tensor and another number, are promoted to; None if that is not plain."""
    given = tensors_in(args)
    if len(given) > 2:
        return reduce(torch.promote_types, [each.dtype for each in given]) if all(each.ndim for each in given) else None
    other = given[1] if len(given) == 2 else next((each for each in args if isinstance(each, (int, float))), given[0])
    dtype = torch.result_type(given[0], other)
    return dtype if dtype.is_floating_point or whole else None


def _linear(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    x, weight = args[:2]
    if x.dtype != weight.dtype or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return None
    return torch.empty(*x.shape[:-1], weight.shape[0], dtype=x.dtype, device="meta")


def _product(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """A product of two matrices."""
    a, b = args[:2]
    if a.dtype != b.dtype or a.ndim != 2 or b.ndim != 2 or a.shape[1] != len(b) or kwargs:
        return None
    return torch.empty(len(a), b.shape[1], dtype=a.dtype, device="meta")


def _scaled_product(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """A product of float8 matrices, whose dtype is named."""
    x, other, dtype = args[0], args[1], kwargs.get("out_dtype", args[6] if len(args) > 6 else None)
    if dtype is None or x.ndim != 2 or other.ndim != 2 or x.shape[1] != len(other):
        return None
    return torch.empty(len(x), other.shape[1], dtype=dtype, device="meta")


def _matmul(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """One matrix for all matrices of a batch, on either side."""
    one, many = args
    if many.ndim == 2 and one.ndim > 2 and one.dtype == many.dtype and one.shape[-1] == len(many):
        return torch.empty(*one.shape[:-1], many.shape[1], dtype=one.dtype, device="meta")
    if one.ndim != 2 or many.ndim != 3 or one.dtype != many.dtype or one.shape[1] != many.shape[1]:
        return None
    return torch.empty(len(many), len(one), many.shape[2], dtype=one.dtype, device="meta")


def _norm(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Norms over the last axes, with or without weights."""
    x, axes = args[0], tuple(args[1])
    plain = all(each.dtype == x.dtype for each in tensors_in(args)) and tuple(x.shape[-len(axes) :]) == axes
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if plain else None


def _where(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    given = tensors_in(args)
    if len(given) < 3 or (shape := _broadcast(given)) is None or given[1].dtype != given[2].dtype:
        return None
    return _empty_as(given, shape, given[1].dtype)


def _arange(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    if not all(isinstance(each, int) for each in (start, end, step)):
        return None
    dtype, device = kwargs.get("dtype") or torch.int64, kwargs.get("device")
    return torch.empty(len(range(start, end, step)), dtype=dtype, device="meta") if str(device) == "meta" else None


def _cat(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    tensors, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    alike = len({(each.dtype, each.ndim) for each in tensors}) == 1
    if not alike:
        return None
    sizes = [set(each) for each in zip(*(tensor.shape for tensor in tensors))]
    sizes[axis] = {sum(tensor.shape[axis] for tensor in tensors)}
    if max(map(len, sizes)) > 1:
        return None
    layout = _CHANNELS_LAST[tensors[0].ndim] if all(map(_has_channels_last, tensors)) else torch.contiguous_format
    return torch.empty([size for (size,) in sizes], dtype=tensors[0].dtype, device="meta", memory_format=layout)


def _has_channels_last(tensor: Tensor) -> bool:
    """Whether channels move faster in memory than the other axes, which are in their order, gaps or not."""
    if tensor.ndim not in _CHANNELS_LAST or 0 in tensor.stride():
        return False
    axes = [axis for axis in (0, *range(2, tensor.ndim), 1) if tensor.shape[axis] > 1]
    strides = [tensor.stride(axis) for axis in axes]
    return axes != sorted(axes) and strides == sorted(strides, reverse=True)


def _empty_like(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    if kwargs.keys() - {"dtype", "pin_memory"}:
        return None
    return _empty_as([args[0]], args[0].shape, kwargs.get("dtype") or args[0].dtype)


def _index(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Rows that are looked up, along the first axis."""
    x, indices = args[:2]
    if len(indices) != 1 or indices[0] is None or indices[0].dtype not in (torch.int32, torch.int64):
        return None
    return torch.empty(*indices[0].shape, *x.shape[1:], dtype=x.dtype, device="meta")


def _index_copy(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Rows along an axis that are written in place."""
    x, axis, index, rows = args
    sizes = [len(index) if each == axis % x.ndim else size for each, size in enumerate(x.shape)]
    return x if list(rows.shape) == sizes and rows.dtype == x.dtype else None


def _repeat(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    x, times = args
    sizes = (1,) * (len(times) - x.ndim) + tuple(x.shape)
    return torch.empty([size * each for size, each in zip(sizes, times)], dtype=x.dtype, device="meta")


def _stack(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    tensors, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first = tensors[0]
    if any((each.shape, each.dtype) != (first.shape, first.dtype) for each in tensors):
        return None
    axis %= first.ndim + 1
    sizes = (*first.shape[:axis], len(tensors), *first.shape[axis:])
    return torch.empty(sizes, dtype=first.dtype, device="meta")


def _convolution(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """A convolution with ``padding`` in numbers or words, which is laid out as what goes in."""
    named = dict(zip(("stride", "padding", "dilation", "groups"), args[3:])) | kwargs
    x, weight = args[:2]
    if x.ndim != weight.ndim or x.dtype != weight.dtype or x.shape[1] != weight.shape[1] * named.get("groups", 1):
        return None
    sizes = _convolved(x.shape[2:], weight.shape[2:], named)
    if min(sizes) < 1:
        return None
    order = _CHANNELS_LAST.get(x.ndim)
    if order is None or x.is_contiguous() or not x.is_contiguous(memory_format=order):
        order = torch.contiguous_format
    return torch.empty((x.shape[0], weight.shape[0], *sizes), dtype=x.dtype, device="meta", memory_format=order)


def _convolved(sizes: tuple[int, ...], kernel: tuple[int, ...], named: dict[str, Any]) -> list[int]:
    stride, padding, dilation = (_per_axis(named.get(name, usual), len(sizes)) for name, usual in _USUAL.items())
    reach = [step * (size - 1) for step, size in zip(dilation, kernel)]
    words = {"same": reach, "valid": [0] * len(sizes)}
    added = words[padding[0]] if isinstance(padding[0], str) else [2 * each for each in padding]
    return [(size + more - each - 1) // step + 1 for size, more, each, step in zip(sizes, added, reach, stride)]


def _transposed_convolution(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """One along one axis."""
    named = dict(zip(("stride", "padding", "output_padding", "groups", "dilation"), args[3:])) | kwargs
    x, weight = args[:2]
    if x.dtype != weight.dtype or x.shape[1] != weight.shape[0]:
        return None
    (step,), (less,), (apart,) = (_per_axis(named.get(name, usual), 1) for name, usual in _USUAL.items())
    (more,) = _per_axis(named.get("output_padding", 0), 1)
    size = (x.shape[2] - 1) * step - 2 * less + apart * (weight.shape[2] - 1) + more + 1
    return torch.empty(x.shape[0], weight.shape[1] * named.get("groups", 1), size, dtype=x.dtype, device="meta")


def _pad(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """More before and behind the last axes, in any mode."""
    x, added = args[0], list(args[1])
    if not x.is_contiguous() or min(added) < 0:
        return None
    more = [sum(added[n : n + 2]) for n in range(0, len(added), 2)]
    sizes = [size + each for size, each in zip_longest(reversed(x.shape), more, fillvalue=0)]
    return torch.empty(sizes[::-1], dtype=x.dtype, device="meta")


def _upsample(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Two axes that are stretched to the nearest sizes."""
    x, _, factors = args
    if not factors or not x.is_contiguous():
        return None
    sizes = (int(size * factor) for size, factor in zip(x.shape[2:], factors))
    return torch.empty(*x.shape[:2], *sizes, dtype=x.dtype, device="meta")


def _pixel_shuffle(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Channels that become cells."""
    x, up = args
    channels, height, width = x.shape[-3:]
    if channels % up**2 or not x.is_contiguous():
        return None
    return torch.empty(*x.shape[:-3], channels // up**2, height * up, width * up, dtype=x.dtype, device="meta")


_USUAL = {"stride": 1, "padding": 0, "dilation": 1}


def _per_axis(value: Any, axes: int) -> list[Any]:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * axes if len(values) == 1 else values


def _attention(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Of kernels for attention: heads lie side by side in memory for each token, whatever the query does."""
    query, key, value = args[:3]
    if query.ndim != 4 or query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]:
        return None
    batch, heads, tokens, _ = query.shape
    result = torch.empty(batch, tokens, heads, value.shape[-1], dtype=query.dtype, device="meta")
    return result.transpose(1, 2)


def _reduction(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """A sum, a mean, a vector norm, or the largest or smallest, over some axes."""
    x, axes = args[0], next((each for each in args[1:] if isinstance(each, (tuple, list))), kwargs.get("dim"))
    keeps = kwargs.get("keepdim", any(each is True for each in args[1:]))
    dtype = kwargs.get("dtype") or (x.dtype if x.dtype.is_floating_point else torch.int64)
    if not axes or dtype not in (x.dtype, torch.float32):
        return None
    return torch.empty(_reduced(x.shape, axes, keeps), dtype=dtype, device="meta")


def _moments(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """A variance, or a deviation, and the mean."""
    mean = _reduction(args, kwargs)
    return None if mean is None else (torch.empty(mean.shape, dtype=mean.dtype, device="meta"), mean)


def _reduced(shape: torch.Size, axes: Iterable[int], keeps: bool) -> list[int]:
    gone = {axis % len(shape) for axis in axes}
    return [1 if axis in gone else size for axis, size in enumerate(shape) if keeps or axis not in gone]


_RULES: dict[Any, Callable[[tuple, dict[str, Any]], Tensor | tuple[Tensor, Tensor] | None]] = {
    aten.arange: _arange,
    aten.cat: _cat,
    **dict.fromkeys((aten.clone, aten.empty_like, aten.zeros_like), _empty_like),
    aten.index: _index,
    aten.index_copy_: _index_copy,
    aten.conv_transpose1d: _transposed_convolution,
    aten.pad: _pad,
    aten.pixel_shuffle: _pixel_shuffle,
    aten.repeat: _repeat,
    aten.stack: _stack,
    aten.upsample_nearest2d: _upsample,
    **dict.fromkeys((aten.conv1d, aten.conv2d, aten.conv3d), _convolution),
    aten.where: _where,
    aten.linear: _linear,
    aten.matmul: _matmul,
    aten.mm: _product,
    aten._scaled_mm: _scaled_product,
    aten.rms_norm: _norm,
    aten.layer_norm: _norm,
    aten.scaled_dot_product_attention: _attention,
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.amin, aten.linalg_vector_norm), _reduction),
    **dict.fromkeys((aten.var_mean, aten.std_mean), _moments),
}
_POINTWISE = _WHOLE | _FLOATS | _COMPARISONS | _IN_PLACE


# What is known of a result: which of the arguments it is, or its shape, strides and dtype.
_KNOWN: dict[Hashable, int | tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}


def result_of(operation: OpOverload, args: tuple, kwargs: dict[str, Any], given: list[Tensor], key: Hashable) -> object:
    """Return what ``operation`` makes of these arguments; ``given`` are the tensors among them, and ``key`` tells all
    that the shape of a result can depend on (see ``signature``).

    On the meta device an operation on the same shapes runs only once: networks repeat themselves, from block to block
    and from pass to pass, and working out a shape takes PyTorch ten times as long as making a tensor of it. Only what
    returns one new tensor, or one that it was given, is remembered.
    """
    if operation.is_view or not all(tensor.is_meta for tensor in given):
        return operation(*args, **kwargs)
    if (known := _KNOWN.get(key)) is None:
        result = derive(operation, args, kwargs)
        result = operation(*args, **kwargs) if result is None else result
        if key == signature(operation, args, kwargs)[0]:  # none was resized
            _remember(key, given, result)
        return result
    if isinstance(known, int):
        return given[known]
    size, stride, dtype = known
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _remember(key: Hashable, given: list[Tensor], result: Any) -> None:
    if not isinstance(result, Tensor) or result.device.type != "meta":
        return
    if len(_KNOWN) >= _REMEMBERED:
        _KNOWN.clear()
    same = [number for number, tensor in enumerate(given) if tensor is result]
    if same:
        _KNOWN[key] = same[0]
        return
    storage = result.untyped_storage()
    is_new = all(storage._cdata != tensor.untyped_storage()._cdata for tensor in given)
    if is_new and result.storage_offset() == 0 and storage.nbytes() == result.nbytes:
        _KNOWN[key] = result.shape, result.stride(), result.dtype


def signature(operation: OpOverload, args: tuple, kwargs: dict[str, Any]) -> tuple[Hashable, list[Tensor]]:
    """Return all that the result and the work of an operation can depend on, and the tensors among its arguments."""
    given: list[Tensor] = []
    # Operations stay as long as PyTorch does; to hash one takes longer than to hash its number.
    return (id(operation), _describe(args, given), _describe(kwargs, given) if kwargs else ()), given


_PLAIN = {int, float, bool, type(None), str, torch.dtype, torch.device}


def _describe(tree: object, given: list[Tensor]) -> Hashable:
    """Describe arguments, and add the tensors among them to ``given``; 1, 1.0 and True are different."""
    kind = type(tree)
    if kind in _PLAIN:  # the quickest question first: networks are measured by thousands of operations
        return kind, tree
    if isinstance(tree, Tensor):
        given.append(tree)
        shape = tree.shape, tree.stride(), tree.dtype
        return shape if tree.is_contiguous() else (*shape, tree.untyped_storage().nbytes())  # which it may repeat
    if isinstance(tree, (tuple, list)):
        return tuple([_describe(branch, given) for branch in tree])
    if isinstance(tree, dict):
        return tuple([(name, _describe(branch, given)) for name, branch in tree.items()])
    return kind, tree


def tensors_in(tree: object) -> list[Tensor]:
    """Return all tensors in tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return []
    found: list[Tensor] = []
    for branch in tree:
        if isinstance(branch, Tensor):  # most are, or numbers: to ask for each by itself would take twice as long
            found.append(branch)
        elif isinstance(branch, (tuple, list, dict)):
            found += tensors_in(branch)
    return found
