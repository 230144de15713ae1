"""Several devices of one machine that answer for one transformer: the passes, or the tiles, of a step are dealt out.

Every device has a network of the same weights and streams the same memory of the host. A thread for each device asks
its network; the answers come back to the first device and are added there in the order in which one device would do it.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import DoesNotFitError, first_line
from ...lora import Stack
from ...memory.arrival import arrival_on
from ...memory.placement import Placement, Rate, Room
from ...memory.store import Store
from ...memory.twin import twin_of
from ...transformer import Pass, Velocities
from ..engine import Engine
from ..plan import place_stage
from ..stage import TRANSFORMER, VIDEO_DECODER, VIDEO_ENCODER, NetworkKey, Networks, Stage
from .device_thread import concerns_all, why_left_out, working_on
from .prepare import Prepared, adapters_of, ready
from .shared_tiles import SharedDecoder, SharedTiles

_log = logging.getLogger(__name__)

Value = TypeVar("Value")
Check = Callable[[], None]

SHARED_TILES: dict[NetworkKey[Any], type[SharedTiles]] = {VIDEO_DECODER: SharedDecoder, VIDEO_ENCODER: SharedTiles}

_ALL_WAYS = 5000  # of dealing passes that are tried
_ASK_EVERY = 0.05  # seconds, while the threads work, between two questions whether to go on


@dataclass(eq=False)
class Worker:
    """A device with its network.

    Attributes:
        device: where it is.
        network: the network there, ready to run; to ask for passes, the transformer.
        rate: how fast it makes all passes of a step, as planned.
    """

    device: torch.device
    network: Any
    rate: Rate = Rate()

    def __post_init__(self) -> None:
        self._brought = WeakTensorKeyDictionary()

    def bring(self, passes: Sequence[Pass]) -> list[Pass]:
        """Return ``passes`` with tensors of this device's own; inputs that were shared still are.

        Threads share no tensor, not even on one device: layers note on it what they have in common
        (``layers.shared_input``).
        """
        memo: dict[int, Any] = {}
        return [self._bring(each, memo) for each in passes]

    def _bring(self, value: Any, memo: dict[int, Any]) -> Any:
        if isinstance(value, Tensor):
            if value not in self._brought:  # positions stay the same in all steps
                self._brought[value] = value.to(self.device).detach()
            return self._brought[value]
        if not is_dataclass(value) or isinstance(value, type):
            return value
        if id(value) not in memo:
            old = {field.name: getattr(value, field.name) for field in fields(value)}
            new = {name: self._bring(each, memo) for name, each in old.items()}
            changed = any(new[name] is not old[name] for name in old)
            memo[id(value)] = replace(value, **new) if changed else value
        return memo[id(value)]


class Devices:
    """A network that asks several devices, and gives the bits that one device gives (``README.md``, "Several devices").

    A device that fails is left out; what it was to do, the others do.

    Args:
        workers: the first is where tensors come from and go to.
        layers: how many blocks the network has.
    """

    def __init__(self, workers: Sequence[Worker], layers: int):
        self.workers, self._layers = list(workers), layers
        self._home = workers[0].device
        self._threads = ThreadPoolExecutor(len(workers), "devices")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def sweep(self, passes: Sequence[Pass], between_blocks: Check | None = None) -> list[Velocities]:
        """Compute the velocities (B, N, C) of all passes, dealt so that they end soonest.

        Raises:
            RuntimeError: what the last device failed with.
        """
        found: dict[int, Velocities] = {}
        while left := [number for number in range(len(passes)) if number not in found]:
            jobs = self._deal(passes, left)
            tasks = {worker: self._task(worker, [passes[each] for each in job]) for worker, job in jobs.items()}
            for worker, results in self._run(tasks, between_blocks).items():
                found.update(zip(jobs[worker], results))
        return [found[number] for number in range(len(passes))]

    def _deal(self, passes: Sequence[Pass], left: Sequence[int]) -> dict[Worker, list[int]]:
        """Deal the passes that are ``left``; who gets none is not there."""
        shares = deal([passes[number] for number in left], [each.rate for each in self.workers], self._layers)
        return {worker: [left[index] for index in share] for worker, share in zip(self.workers, shares) if share}

    def sweep_each(
        self, groups: Sequence[Sequence[Pass]], between_blocks: Check | None = None
    ) -> Iterator[list[Velocities]]:
        """Yield the velocities of each group of passes, such as those of a tile, in their order.

        A device that is done takes the next group, so a faster one does more of them.
        """
        found: dict[int, list[Velocities]] = {}
        lock = threading.Lock()
        left = list(range(len(groups)))

        def work(worker: Worker) -> Callable[[Check], list[Velocities]]:
            def run(check: Check) -> list[Velocities]:
                while True:
                    with lock:
                        if not left:
                            return []
                        number = left.pop(0)
                    try:
                        found[number] = self._task(worker, groups[number])(check)
                    except BaseException:
                        with lock:
                            left.append(number)
                        raise

            return run

        while len(found) < len(groups):
            self._run({worker: work(worker) for worker in self.workers}, between_blocks)
        for number in range(len(groups)):
            yield found.pop(number)

    def _task(self, worker: Worker, passes: Sequence[Pass]) -> Callable[[Check], list[Velocities]]:
        def run(check: Check) -> list[Velocities]:
            results = worker.network.sweep(worker.bring(passes), check)
            return [_at(self._home, each) for each in results]

        return run

    def _run(
        self, tasks: dict[Worker, Callable[[Check], list[Velocities]]], between_blocks: Check | None
    ) -> dict[Worker, list[Velocities]]:
        """Run a task on each device, and return what those made that did not fail."""
        stop = threading.Event()

        def check() -> None:
            if stop.is_set():
                raise _StoppedError

        futures = {worker: self._threads.submit(_on, worker.device, task, check) for worker, task in tasks.items()}
        try:
            _watch(futures.values(), stop, between_blocks)
        finally:
            stop.set()
            wait(futures.values())
        for future in filter(_is_for_all, futures.values()):
            future.result()
        for worker, future in futures.items():
            if (error := future.exception()) is not None:
                self._leave_out(worker, error)
        return {worker: future.result() for worker, future in futures.items() if future.exception() is None}

    def _leave_out(self, worker: Worker, error: BaseException) -> None:
        if len(self.workers) == 1:
            raise error
        self.workers.remove(worker)
        others = ", ".join(str(each.device) for each in self.workers)
        why = why_left_out(error)
        _log.warning("%s %s and is left out; the clip goes on with %s.", worker.device, why, others)


@dataclass(frozen=True, eq=False)
class Twin:
    """The shared network of a stage for another device than the first, with its weights at home.

    Attributes:
        key: names the network.
        device: where it is to run.
        prepared: the network, its store and its LoRAs.
        placement: of its weights there; None where they are used as they lie.
        rate: how fast it runs there.
    """

    key: NetworkKey[Any]
    device: torch.device
    prepared: Prepared
    placement: Placement | None
    rate: Rate

    @contextmanager
    def ready(self) -> Iterator[Worker]:
        """Yield the worker of the device, which it leaves afterwards, even if the device is broken by then."""
        with ExitStack() as stack:
            networks = stack.enter_context(ready({self.key: self.prepared}, self.placement))
            stack.callback(self.prepared.store.release)
            yield Worker(self.device, networks[self.key], self.rate)


def make_twins(stage: Stage, networks: Mapping[NetworkKey[Any], Prepared], engine: Engine, loras: Stack) -> list[Twin]:
    """Return the shared network of a stage for the other devices, each as it fits there; nobody runs yet.

    Networks that run elsewhere than the transformer are not shared.

    Args:
        stage: what runs.
        networks: of the stage, built for the first device.
        engine: owner of all devices.
        loras: those of the transformer.
    """
    key = stage.shared_network(engine.blueprint) if engine.other_devices else None
    if key is None or engine.device(key) != engine.device(TRANSFORMER):
        return []
    original, twins = networks[key], list[Twin]()
    original.store.release()  # twins share what is at home
    for device in engine.other_devices:
        try:
            room = engine.room_on(device)
            placement = place_stage(stage, engine.blueprint, room, engine.load)
        except DoesNotFitError as error:
            _log.warning("%s is left out, and the clip goes on without it: %s", device, error)
            continue
        (network,) = map(twin_of, original.modules)
        arrival = arrival_on(device, engine.dtype(key))
        store = Store(network, device, link=engine.link_to(device), arrival=arrival, original=original.store)
        prepared = Prepared((network,), store, adapters_of([network], key, loras, device))
        twins.append(Twin(key, device, prepared, placement, rate_of(placement, room)))
    return twins


def rate_of(placement: Placement | None, room: Room) -> Rate:
    """Return how fast a stage runs that is placed so; one that needs no placing as fast as any other."""
    return Rate() if placement is None else placement.rate(room.machine)


@contextmanager
def shared_by(
    twins: Sequence[Twin], networks: Networks, engine: Engine, placement: Placement | None
) -> Iterator[Networks]:
    """Yield ``networks`` with the shared one of all devices; as they are where there are no twins.

    A device that cannot begin is left out.

    Args:
        twins: for the other devices.
        networks: ready to run on the first one, that of ``engine``.
        engine: has brought them there.
        placement: of the stage there.
    """
    if not twins:
        yield networks
        return
    key = twins[0].key
    with ExitStack() as stack:
        first = Worker(engine.device(key), networks[key], rate_of(placement, engine.room(key)))
        helpers = [*_begun(twins, stack)]
        shared: Devices | SharedTiles
        if key in SHARED_TILES:
            others = [(each.device, each.network) for each in helpers]
            shared = SHARED_TILES[key](first.network, first.device, others)
        else:
            shared = Devices([first, *helpers], engine.blueprint.layers)
        stack.callback(shared.close)
        yield networks.replaced(key, shared)


def _begun(twins: Sequence[Twin], stack: ExitStack) -> Iterator[Worker]:
    """Yield the workers of the devices that can begin, which ``stack`` leaves."""
    for twin in twins:
        try:
            worker = stack.enter_context(_leaving_quietly(twin))
        except RuntimeError as error:
            _log.warning("%s is left out, and the clip goes on without it: %s", twin.device, first_line(error))
        else:
            yield worker


@contextmanager
def _leaving_quietly(twin: Twin) -> Iterator[Worker]:
    """Say what goes wrong when a device is left; the clip does not need it any more."""
    with ExitStack() as stack:
        worker = stack.enter_context(twin.ready())
        left = stack.pop_all()
    try:
        yield worker
    finally:
        try:
            left.close()
        except RuntimeError as error:
            _log.warning("%s could not be left as it was: %s", twin.device, first_line(error))


class _StoppedError(Exception):
    """The others were interrupted, or failed with what concerns all."""


def _watch(futures: Collection[Future], stop: threading.Event, between_blocks: Check | None) -> None:
    """Wait for all devices, and let them stop when one fails with what the others would fail with, too."""
    if between_blocks is not None:
        between_blocks()
    while wait(futures, _ASK_EVERY).not_done:
        if between_blocks is not None:
            between_blocks()
        if any(map(_is_for_all, futures)):
            stop.set()


def _is_for_all(future: Future) -> bool:
    """Whether a device failed with what every other one would fail with, too."""
    error = future.exception() if future.done() else None
    return error is not None and not isinstance(error, _StoppedError) and concerns_all(error)


def _on(device: torch.device, task: Callable[[Check], Value], check: Check) -> Value:
    """Call ``task`` in a thread of its own."""
    with working_on(device):
        return task(check)


def _at(device: torch.device, velocities: Velocities) -> Velocities:
    video, audio = (None if each is None else each.to(device) for each in velocities)
    return video, audio


def deal(passes: Sequence[Pass], rates: Sequence[Rate], layers: int) -> list[list[int]]:
    """Deal passes to devices so that the last one ends soonest; passes that share blocks are cheaper together.

    Where there are too many ways to try them all, each pass goes to the device that ends it first.

    Args:
        passes: of a step.
        rates: at which each device makes all of them.
        layers: how many blocks the network has.

    Returns:
        For each device the numbers of its passes, rising.
    """
    fastest = sorted(range(len(rates)), key=lambda device: (rates[device].seconds, rates[device].least))
    best, whole = sorted(fastest[: len(passes)]), blocks(passes, layers)

    @cache
    def ends(device: int, share: tuple[int, ...]) -> float:
        if not share:
            return 0.0
        part = blocks([passes[number] for number in share], layers) / whole
        return max(rates[device].least, rates[device].seconds * part)

    def split(owners: Sequence[int]) -> dict[int, tuple[int, ...]]:
        return {each: tuple(n for n, owner in enumerate(owners) if owner == each) for each in best}

    def times(owners: Sequence[int]) -> tuple[float, float]:
        each = [ends(device, share) for device, share in split(owners).items()]
        return max(each), sum(each)

    owners: tuple[int, ...] = ()
    if len(best) ** len(passes) <= _ALL_WAYS:
        owners = min(product(best, repeat=len(passes)), key=times)
    for _ in range(len(passes) - len(owners)):
        owners = min(((*owners, device) for device in best), key=times)
    shares = split(owners)
    return [list(shares.get(device, ())) for device in range(len(rates))]


def blocks(passes: Sequence[Pass], layers: int) -> int:
    """Count how many blocks these passes compute together: they are one until they part."""
    return sum(len({_state(each, index) for each in passes}) for index in range(layers))


def _state(each: Pass, index: int) -> tuple[object, ...]:
    """What distinguishes a pass behind block ``index``."""
    how = each.perturbation
    lists = how.video_values_only, how.audio_values_only
    skipped = (frozenset(block for block in which if block <= index) for which in lists)
    return id(each.video), id(each.audio), how.audio_to_video, how.video_to_audio, *skipped
