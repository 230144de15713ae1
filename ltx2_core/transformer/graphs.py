"""Steps as CUDA graphs: what starts their operations is recorded once and replayed (see README.md, "CUDA graphs")."""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import first_line
from ..layers import is_adapted
from ..layers.kernels import is_sparse, tolerance_in
from .inputs import Perturbation
from .modulation import Modulation
from .share import Shard
from .state import StatePair, StreamState
from .step_cache import StepCache

_log = logging.getLogger(__name__)

DEVICES = ("cuda",)  # that have graphs
MOST = 4  # kinds of step that are recorded, such as those with another guidance

Outputs = list[tuple[Tensor | None, Tensor | None]]  # the tokens of video and audio after the last block, of each pass
Walk = Callable[..., list[StatePair]]


class Contents:
    """What states hold, taken apart: tensors, and everything else as a key.

    Equal keys mean that blocks do the same with other numbers. What is no tensor, number or dataclass counts by its
    identity; so whoever keeps the key has to keep the states.

    Attributes:
        tensors: in the order of their first occurrence.
        key: of all else, of shapes and dtypes, of where which object stands again, and of runs of equal noise level.
    """

    def __init__(self, states: Sequence[StatePair]):
        self.tensors: list[Tensor] = []
        self._states = tuple(states)
        self._numbers: dict[int, int] = {}
        self.key: Hashable = self._describe(self._states)

    def over(self, tensors: Sequence[Tensor]) -> list[StatePair]:
        """Return the same states over other ``tensors``, as new objects that have computed nothing yet."""
        made: dict[int, Any] = {}

        def copy(value: Any) -> Any:
            if isinstance(value, Tensor):
                return tensors[self._numbers[id(value)]]
            if isinstance(value, tuple):
                return tuple(map(copy, value))
            if not is_dataclass(value):
                return value
            if id(value) not in made:
                made[id(value)] = other = object.__new__(type(value))
                vars(other).update({name: copy(getattr(value, name)) for name in _names_in(value)})
            return made[id(value)]

        return [copy(pair) for pair in self._states]

    def _describe(self, value: Any) -> Hashable:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple):
            return tuple(map(self._describe, value))
        if id(value) in self._numbers:
            return "again", type(value), self._numbers[id(value)]
        if isinstance(value, Tensor):
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
            return value.shape, value.dtype, value.device
        if not is_dataclass(value):
            return id(value)
        self._numbers[id(value)] = len(self._numbers)
        # Runs are found in the numbers of a tensor, and then are numbers of Python.
        runs = value.bounds if isinstance(value, Modulation) else ()
        return type(value), runs, *(self._describe(getattr(value, name)) for name in _names_in(value))


def _names_in(value: Any) -> tuple[str, ...]:
    kind: Any = type(value)
    return _names_of(kind)


@cache
def _names_of(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@dataclass(eq=False)
class _Graph:
    """A walk over the blocks that was recorded.

    Attributes:
        graph: the record, whose memory is in the pool that all graphs of a network share.
        inputs: what it reads.
        states: over the inputs; they keep what else it reads, such as keys and values of texts.
        outputs: what it writes, until a graph is replayed again.
        tried: whether a replay was compared with the plain way.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    states: list[StatePair]
    outputs: Outputs
    tried: bool = False

    def replay(self, tensors: list[Tensor]) -> None:
        """Compute with ``tensors`` in place of those that it was recorded with."""
        torch._foreach_copy_(self.inputs, tensors)
        self.graph.replay()


class SweepGraphs:
    """The walk over all blocks of a network, as CUDA graphs from the third step of a kind on.

    The first step of a kind is computed the plain way, then recorded; in the second one the replay is compared with
    the plain way, at another noise level. If it fails or differs, all steps are computed the plain way.
    """

    def __init__(self, blocks: nn.ModuleList, walk: Walk):
        """Record nothing yet.

        Args:
            blocks: whose weights stay where they are.
            walk: takes states through them, ``walk(states, skips, between_blocks, step_cache)``.
        """
        self.replays = 0  # that took the place of the plain way
        self._walk = walk
        self._weights = [*blocks.parameters(), *blocks.buffers()]
        self._modules = [*blocks.modules()]
        self._layers = [module for module in self._modules if not module._modules]
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None  # on which all of them are recorded, as they share their memory
        self._places: list[int] = []  # of the weights when the graphs were recorded
        self._failed = False
        self._told: set[str] = set()

    def walk(
        self,
        states: list[StatePair],
        skips: Sequence[Perturbation],
        between_blocks: Callable[[], None] | None,
        step_cache: StepCache | None,
    ) -> list[StatePair]:
        """Take the ``states`` of all passes through the blocks; arguments are those of ``Transformer.sweep``."""
        if self._failed or self.find_obstacle(states, step_cache):
            self._drop()
            return self._walk(states, skips, between_blocks, step_cache)
        if (places := self._find_places()) != self._places:
            self._drop()
            self._places = places
        contents = Contents(states)
        key = contents.key, tuple(skips), is_sparse()
        if (graph := self._graphs.get(key)) is None:
            if len(self._graphs) < MOST:
                return self._record(key, contents, skips, between_blocks)
            self._tell(f"there are {MOST} kinds of steps already")
            del contents  # which would keep what blocks give up
            return self._walk(states, skips, between_blocks, None)
        if between_blocks is not None:
            between_blocks()
        graph.replay(contents.tensors)
        del contents
        if not graph.tried:
            expected = self._walk(list(states), skips, between_blocks, None)
            self._compare(graph, expected)
            return expected
        self.replays += 1
        return [
            (_with_tokens(video, x), _with_tokens(audio, y)) for (video, audio), (x, y) in zip(states, graph.outputs)
        ]

    def find_obstacle(self, states: Sequence[StatePair], step_cache: StepCache | None) -> str:
        """Return why a step must not be recorded, told in the log once; empty if it may be."""
        streams = [stream for pair in states for stream in pair if stream is not None]
        device = streams[0].x.device
        if device.type not in DEVICES:
            reason = f"{device.type} has none"
        elif device.index is not None and device.index != torch.cuda.current_device():
            reason = f"{device} is not the current card"
        elif torch.is_grad_enabled():
            reason = "autograd records what is computed"
        elif step_cache is not None:
            reason = "the step cache looks at numbers to decide what is computed"
        elif any(isinstance(stream.share, Shard) for stream in streams):
            reason = "other processes have a share in each step"
        else:
            reason = self._lasting_obstacle(device)
        if reason:
            self._tell(reason)
        return reason

    def _lasting_obstacle(self, device: torch.device) -> str:
        if reason := find_obstacle_of_allocator():
            return reason
        if any(weight.device != device for weight in self._weights):
            return "some blocks are streamed, and lie elsewhere in each step"
        if any(map(is_adapted, self._layers)):
            return "LoRAs act beside layers, and may change from step to step"
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)
        return "hooks are called in each step" if hooked else ""

    def _record(
        self,
        key: Hashable,
        contents: Contents,
        skips: Sequence[Perturbation],
        between_blocks: Callable[[], None] | None,
    ) -> list[StatePair]:
        """Compute the first step of a kind, then record it."""
        inputs = [torch.empty_like(tensor) for tensor in contents.tensors]
        torch._foreach_copy_(inputs, contents.tensors)
        # Kernels are tried, texts are kept and runs are found here, for which the host waits.
        expected = self._walk(contents.over(inputs), skips, between_blocks, None)
        states = contents.over(inputs)
        try:
            graph = torch.cuda.CUDAGraph()
            with self._recording(graph, inputs[0].device):
                made = self._walk(list(states), skips, None, None)
            if self._find_places() != self._places:
                raise RuntimeError("weights have moved meanwhile")
            self._graphs[key] = _Graph(graph, inputs, states, _tokens(made))
        except Exception as reason:
            self._give_up(f"recording failed: {first_line(reason)}")
        return expected

    @contextmanager
    def _recording(self, graph: torch.cuda.CUDAGraph, device: torch.device) -> Iterator[None]:
        """Record what ``device`` is asked for in this context, on a stream of its own.

        PyTorch's usual stream for that lies on the card that recorded first in this process. Where recording fails the
        stream remains the current one, and before PyTorch 2.12 the allocator remains at it (pytorch#180395), so that it
        would give back nothing any more: both are set right here.
        """
        self._stream = self._stream or torch.cuda.Stream(device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads, which read files and copy, may do what a thread that records may not.
        recorder = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(self._stream), recorder:
                yield
        except BaseException:
            private: Any = torch._C
            names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")  # the second before 2.8
            stop = next(getattr(private, name) for name in names if hasattr(private, name))
            with suppress(RuntimeError):  # it is not at it
                stop(device.index, self._pool)
            raise

    def _compare(self, graph: _Graph, expected: list[StatePair]) -> None:
        """Give up if a replay differs from the plain way by more than rounding."""
        error, dtype, tokens = 0.0, torch.float32, 0
        for found, own in zip(graph.outputs, _tokens(expected)):
            for x, y in zip(found, own):
                if x is not None and y is not None:
                    dtype, tokens = x.dtype, tokens + x.shape[1]
                    difference = 0.0 if torch.equal(x, y) else ((x - y).float().norm() / y.float().norm()).item()
                    error = error if difference <= error else difference
        if not error <= tolerance_in(dtype):
            self._give_up(f"a replay is off by {error:.1e}")
            return
        graph.tried = True
        _log.info("Steps of %d tokens are replayed as CUDA graphs, within %.1e of the plain way.", tokens, error)

    def _find_places(self) -> list[int]:
        return [weight.data_ptr() for weight in self._weights]

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self._drop()
        _log.warning("Steps take the plain way, not CUDA graphs: %s.", reason)

    def _drop(self) -> None:
        self._graphs.clear()
        self._pool = None

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            _log.info("Steps take the plain way, not CUDA graphs: %s.", reason)


def find_obstacle_of_allocator() -> str:
    """Return why what PyTorch allocates by now must not be recorded; empty if it may be."""
    if not torch.cuda.is_available() or torch.cuda.get_allocator_backend() != "cudaMallocAsync":
        return ""
    # What was recorded and never replayed cannot be given back: CUDA refuses, and PyTorch ends the program.
    return "PyTorch allocates by cudaMallocAsync, which ComfyUI leaves out if it is started with --disable-cuda-malloc"


def _with_tokens(state: StreamState | None, x: Tensor | None) -> StreamState | None:
    return None if state is None or x is None else state.with_tokens(x)


def _tokens(states: Sequence[StatePair]) -> Outputs:
    return [(None if video is None else video.x, None if audio is None else audio.x) for video, audio in states]
