"""A CUDA device that is none: real numbers on the CPU, in tensors that say that they lie on a card.

What is on the card is a mark of the storage, which views share and results inherit. Below ``fake_card()`` functions
that name a device are answered by these marks, and every operation that a card would refuse because its tensors lie on
two devices raises ``MixedDevicesError`` where it is asked for. Threads of readers only copy bytes, and are not watched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from devices import Stream, on_stand_ins
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ltx2_core.memory import link, pinned
from ltx2_core.memory.machine import machine_named
from ltx2_core.pipeline.engines import hardware
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines import planned as engine

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 32 * 10**9

aten = torch.ops.aten
COPIES = {aten.copy_, aten.copy, aten._to_copy, aten._has_compatible_shallow_copy_type}  # between devices, and .data =
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # on a card by indices of either


def multiply_float8(x, weight, scale, weight_scale, bias=None, scale_result=None, out_dtype=None, fast=False):
    """What ``torch._scaled_mm`` returns, by a product in float32; a CPU's own takes a thousand times as long."""
    product = (x.float() @ weight.float()) * scale * weight_scale
    return (product if bias is None else product + bias).to(out_dtype)


ITS_OWN = {aten._scaled_mm: multiply_float8}


class MixedDevicesError(AssertionError):
    """An operation that a card refuses."""


class Marks:
    """Which storages are on the card: no other has the place of one that is known."""

    def __init__(self):
        self._storages: dict[int, StorageWeakRef] = {}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def put(self, made: object, device: torch.device) -> object:
        """Mark every tensor in ``made`` as lying on ``device``, and return it."""
        for tensor in tensors_in(made):
            storage = tensor.untyped_storage()
            if device.type == "cuda":
                self._storages[storage._cdata] = StorageWeakRef(storage)
            else:
                self._storages.pop(storage._cdata, None)
        return made


def tensors_in(value: object) -> list[torch.Tensor]:
    """The tensors with bytes in what an operation is given or makes."""
    if isinstance(value, torch.Tensor):
        return [] if _is_meta(value) else [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    found = []
    for each in value:
        if isinstance(each, torch.Tensor):
            if not _is_meta(each):
                found.append(each)
        elif isinstance(each, (tuple, list, dict)):
            found += tensors_in(each)
    return found


def _is_real(value: object) -> bool:
    """Whether ``value`` is a tensor with bytes, not one of shapes."""
    return isinstance(value, torch.Tensor) and not _is_meta(value)


_is_meta, _device = torch.Tensor.is_meta.__get__, torch.Tensor.device.__get__


class Functions(TorchFunctionMode):
    """Answers where a tensor is, and makes and moves tensors, on the card as on the host."""

    def __init__(self, marks: Marks):
        super().__init__()
        self.marks = marks
        self._answers = {
            torch.Tensor.device.__get__: lambda x: CARD if x in marks else _device(x),
            torch.Tensor.is_cuda.__get__: lambda x: x in marks,
            torch.Tensor.is_cpu.__get__: lambda x: x not in marks,
            torch.Tensor.cpu: lambda x: self._move(x, HOST),
            torch.Tensor.cuda: lambda x: self._move(x, CARD),
            torch.Tensor.to: self._to,
            torch.Tensor.numpy: lambda x: self._read(x).numpy(),
            torch.Tensor.__array__: lambda x, *how: self._read(x).__array__(*how),
        }

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (answer := self._answers.get(function)) and _is_real(args[0]):
            return answer(*args, **kwargs)
        device = kwargs.get("device")
        if device is None or (asked := torch.device(device)).type not in ("cuda", "cpu"):
            return function(*args, **kwargs)
        made = function(*args, **kwargs | {"device": HOST})
        if isinstance(made, torch.Tensor) and any(made is each or _same(made, each) for each in args):
            made = made.clone()  # of as_tensor: on another device it is a copy
        return self.marks.put(made, asked)

    def _to(self, x, *args, device=None, dtype=None, copy=False, non_blocking=False, memory_format=None):
        for value in args:
            if isinstance(value, torch.Tensor):
                device, dtype = CARD if value in self.marks else _device(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, (str, torch.device)):
                device = value
        how = {} if memory_format is None else {"memory_format": memory_format}
        if device is not None and torch.device(device).type == "meta":
            return x.to("meta", dtype, **how)
        there = CARD if x in self.marks else HOST
        if device is None or torch.device(device).type == there.type:
            return x.to(dtype or x.dtype, copy=copy, **how)
        return self._move(x.to(dtype or x.dtype, **how), torch.device(device), **how)

    def _read(self, x):
        if x in self.marks:
            raise MixedDevicesError("NumPy cannot read what is on a card")
        return x

    def _move(self, x, device, **how):
        if (x in self.marks) == (device.type == "cuda"):
            return x
        return self.marks.put(x.clone(**how), device)


def _same(one: torch.Tensor, other: object) -> bool:
    return _is_real(other) and _is_real(one) and one.untyped_storage()._cdata == other.untyped_storage()._cdata


class Operations(TorchDispatchMode):
    """Refuses operations on two devices; what comes out of those on the card is on the card."""

    def __init__(self, marks: Marks):
        super().__init__()
        self.marks = marks

    def run(self, operation, types, args=(), kwargs=None):
        """Return what ``operation`` makes of its arguments."""
        given = tensors_in((args, kwargs))
        on_card = [each for each in given if each in self.marks]
        if on_card and operation.overloadpacket not in COPIES:
            self._check(operation, args, [each for each in given if each not in self.marks])
        found = ITS_OWN.get(operation.overloadpacket, operation) if on_card else operation
        made = found(*args, **kwargs or {})
        if on_card:
            known = {each.untyped_storage()._cdata for each in given}
            new = [each for each in tensors_in(made) if each.untyped_storage()._cdata not in known]
            self.marks.put(new, CARD)
        return made

    def _check(self, operation, args, on_host: list[torch.Tensor]) -> None:
        written = operation._schema.arguments[0].alias_info is not None and operation._schema.is_mutable
        if operation.overloadpacket in INDEXED:
            on_host = [args[0]] if args[0] not in self.marks else []
        elif not (written and _is_real(args[0]) and args[0] not in self.marks):
            on_host = [each for each in on_host if each.ndim]  # numbers may come from anywhere
        if on_host:
            shapes = [tuple(each.shape) for each in on_host]
            raise MixedDevicesError(f"{operation} on a card gets tensors of the host, of shapes {shapes}")


# Set here and not in the class, where PyTorch would wrap it in its compiler.
Operations.__torch_dispatch__ = Operations.run


class CopyStream(Stream):
    def __init__(self, device=None):
        super().__init__("copies", [])


@contextmanager
def fake_card() -> Iterator[Marks]:
    """Let ``device="cuda"`` be such a card, with streams where everything happens at once."""
    marks = Marks()
    with pytest.MonkeyPatch.context() as patch:
        on_stand_ins(patch)
        patch.setattr(torch.cuda, "Stream", CopyStream)
        answers = {
            "_lazy_init": lambda: None,
            "mem_get_info": lambda device=None: (MEMORY, MEMORY),
            "get_device_properties": lambda device=None: SimpleNamespace(total_memory=MEMORY, is_integrated=0),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "synchronize": lambda device=None: None,
        }
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(hardware, "_device_counts", lambda: {"cuda": 1, "cpu": 1})
        patch.setattr(local_engine, "current_machine", lambda *_: machine_named("RTX 5090"))
        patch.setattr(engine, "forget_machine", lambda device, folder: None)  # whose rates nobody measured
        patch.setattr(link, "_passes_trial", lambda device: True)
        patch.setattr(pinned, "_register", lambda span: True)
        patch.setattr(pinned, "_unregister", lambda span: None)
        with Functions(marks), Operations(marks):
            yield marks
