"""CUDA graphs on a machine without a card: operations are recorded, and computed again in the very same memory.

While a graph records, what a card could not do raises: the host must not look at numbers, draw random ones, or copy
numbers of its own. A replay runs the recorded operations over the recorded memory: numbers of Python stay as they were,
memory is read as it is now, and results go where the first ones were. As on a card, nothing has been computed until the
first replay, and memory that a record gave back belongs to others: both are filled with NaN.
"""

import weakref
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ltx2_core.transformer import graphs

aten = torch.ops.aten

REFUSED = {
    # the host waits for numbers
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_numpy,
    aten.masked_select, aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive,
    # random numbers
    aten.normal_, aten.uniform_, aten.bernoulli_, aten.randn, aten.randn_like, aten.rand, aten.rand_like, aten.randint,
    # from pageable memory
    aten.lift_fresh, aten.lift_fresh_copy, aten.scalar_tensor,
}  # fmt: skip


class RefusedError(RuntimeError):
    """What no card does while it records."""


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    def __init__(self):
        self.calls, self.replays = [], 0
        self.own: dict[int, tuple[Tensor, list[weakref.ref]]] = {}  # memory that was taken, and who looks at it

    def replay(self):
        self.replays += 1
        for operation, args, kwargs, results in self.calls:
            given = set(map(_place, _tensors((args, kwargs))))
            for old, new in zip(results, _tensors(operation(*args, **kwargs)), strict=True):
                if _place(new) not in given:
                    old.copy_(new)
        self.spoil(all=False)

    def spoil(self, all: bool):
        """Fill with NaN what was taken, or only what was given back."""
        for memory, users in self.own.values():
            if memory.is_floating_point() and (all or not any(user() is not None for user in users)):
                memory.fill_(torch.nan)


class Recorder(TorchDispatchMode):
    """Notes every operation with the memory that it reads and writes, which it keeps."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph = graph

    def note(self, operation, types, args=(), kwargs=None):
        """Return what ``operation`` makes of its arguments, and note it."""
        if operation.overloadpacket in REFUSED:
            raise RefusedError(f"operation not permitted when stream is capturing: {operation}")
        args, kwargs = _detached((args, kwargs or {}))
        result = operation(*args, **kwargs)
        given = {_place(tensor) for tensor in _tensors((args, kwargs))}
        made = _tensors(result)
        for tensor in made:
            if _place(tensor) not in given:
                self.graph.own[_place(tensor)] = tensor.detach(), []
            if _place(tensor) in self.graph.own:
                self.graph.own[_place(tensor)][1].append(weakref.ref(tensor))
        self.graph.calls.append((operation, args, kwargs, [tensor.detach() for tensor in made]))
        return result


# Set here and not in the class, where PyTorch would wrap it in its compiler, whose import takes seconds.
Recorder.__torch_dispatch__ = Recorder.note


# PyTorch's own walks through what an operation is given take longer than the operation.


def _tensors(tree) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = [*tree.values()]
    return [tensor for each in tree for tensor in _tensors(each)] if isinstance(tree, (tuple, list)) else []


def _detached(tree):
    """The same with other tensors over the same memory."""
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, dict):
        return {key: _detached(each) for key, each in tree.items()}
    return type(tree)(map(_detached, tree)) if isinstance(tree, (tuple, list)) else tree


class Card:
    """What PyTorch knows of the card: its current stream, and for which pools of memory its allocator records."""

    def __init__(self):
        self.stream, self.pools = "default", set()

    @contextmanager
    def streaming(self, stream):
        """Stands in for ``torch.cuda.stream``."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def recording(self, graph, pool=None, stream=None, capture_error_mode="global"):
        """Stands in for ``torch.cuda.graph``, which stays at it where it fails."""
        before, self.stream = self.stream, stream
        self.pools.add(pool)
        with Recorder(graph):
            yield
        self.stop(0, pool)
        self.stream = before
        graph.spoil(all=True)

    def stop(self, device, pool):
        if pool not in self.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools.remove(pool)

    @property
    def is_as_before(self) -> bool:
        return self.stream == "default" and not self.pools


class Made(list[Graph]):
    """The graphs that are made, and the card that has them."""

    card: Card


def install(monkeypatch) -> Made:
    """Let the CPU have graphs; returns the list of those that are made."""
    made = Made()
    made.card = Card()

    def make() -> Graph:
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", made.card.recording)
    monkeypatch.setattr(torch.cuda, "stream", made.card.streaming)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"that records on {device}")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", made.card.stop, raising=False)
    monkeypatch.setattr(graphs, "DEVICES", ("cpu",))
    return made
