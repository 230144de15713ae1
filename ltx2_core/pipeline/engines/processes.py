"""Several processes, as torchrun starts them, that compute each pass together (see README.md, "Several processes")."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import LostPeerError, SettingError, first_line, is_out_of_memory
from ...memory.machine import usable
from ...memory.ram import ram

PATIENCE = timedelta(minutes=5)  # until all are there; no signal ends a process that waits for the others
GONE = "Another process of this run is gone"  # so begins what those say that are left
_FAILED = "ltx2 failed"  # a key of the store that all processes see: which of them failed first


@dataclass(frozen=True)
class Launch:
    """What a process was started with, as torchrun says it in the environment; one alone is the first of one.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        local_rank: the number of this one on its machine.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> "Launch":
        """Read what torchrun says. Raises SettingError for what it never says."""
        if "RANK" not in os.environ or (size := _number("WORLD_SIZE", 1, least=1)) == 1:
            return cls()
        rank, local_size = _number("RANK", 0, most=size - 1), _number("LOCAL_WORLD_SIZE", size, 1, size)
        return cls(rank, size, _number("LOCAL_RANK", rank, most=local_size - 1), local_size)

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0


def _number(name: str, usual: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """What the environment says by this ``name``; ``usual`` where it says nothing."""
    said = os.environ.get(name, str(usual))
    if not (said.isdecimal() and len(said) < 20 and least <= int(said) <= most):  # int() refuses thousands of digits
        raise SettingError(
            f"{name} is {said[:50]!r} in the environment, where torchrun writes a number from {least} to {most:,}: "
            "start with torchrun, or unset RANK, which makes this one of several processes."
        )
    return int(said)


class Processes:
    """The processes of a run, which agree on how much memory each may take, so that all of them plan the same.

    Attributes:
        rank: the number of this one.
        size: how many there are.
        vram: bytes of a card that each may take; None where there are no cards.
        ram: bytes of RAM for each, all and available.
        exchanges: how often this one has sent to the others.
    """

    def __init__(self, launch: Launch, store: dist.Store):
        """Agree with the others, which do the same; the process group is there already."""
        self.rank, self.size, self._launch, self._store = launch.rank, launch.size, launch, store
        self.exchanges = 0
        free = usable(self.device("cuda")) if torch.cuda.is_available() else None
        total, available = (each // launch.local_size for each in ram())
        least = torch.tensor([-1 if free is None else free, total, available])
        dist.all_reduce(least, dist.ReduceOp.MIN)
        vram, total, available = least.tolist()
        self.vram: int | None = None if vram < 0 else vram
        self.ram: tuple[int, int] = total, available

    def device(self, kind: str) -> torch.device:
        """Return the device of this process, of those of a kind."""
        return torch.device(kind, self._launch.local_rank) if kind == "cuda" else torch.device(kind)

    def exchange(self, x: Tensor) -> Tensor:
        """Send ``x[i]`` to process i, and return what each sent to this one; see ``Peers``."""
        received = torch.empty_like(x)
        self.exchanges += 1
        with _peers_there():
            dist.all_to_all_single(received, x)
        return received

    def gather(self, x: Tensor) -> Tensor:
        """Return the ``x`` of every process; see ``Peers``."""
        everything = x.new_empty(self.size * len(x), *x.shape[1:])
        self.exchanges += 1
        with _peers_there():
            dist.all_gather_into_tensor(everything, x.contiguous())
        return everything.unflatten(0, (self.size, -1))

    def is_first_to_fail(self) -> bool:
        """Return whether no other process has asked this before; False if nobody can be asked any more."""
        try:
            return self._store.compare_set(_FAILED, "", str(self.rank)).decode() == str(self.rank)
        except RuntimeError:
            return False


_joined: Processes | None = None


def joined_processes() -> Processes | None:
    """Return the processes that compute each pass with this one; None if it works alone."""
    return _joined


@contextmanager
def joining(launch: Launch) -> Iterator[Processes]:
    """Join the other processes, which do the same, for as long as the context lasts.

    Raises:
        SettingError: there are fewer cards than processes, or the environment does not say where they meet.
        LostPeerError: another process does not come, or is gone.
    """
    global _joined
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < cards < launch.local_size:
        raise SettingError(
            f"{launch.local_size} processes were started on a machine with {cards} cards: start one for each card, "
            f"with --nproc-per-node {cards}, or set CUDA_VISIBLE_DEVICES to nothing to compute on the CPU."
        )
    if cards:
        torch.cuda.set_device(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if cards and dist.is_nccl_available() else "gloo"
    with _peers_there():
        try:
            store, rank, size = next(dist.rendezvous("env://", launch.rank, launch.size, timeout=PATIENCE))
        except ValueError as error:  # of a variable that is missing, or no number
            raise SettingError(
                f"The processes of this run cannot meet ({first_line(error)}): start all of them with torchrun, which "
                "says where."
            ) from error
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        _joined = Processes(launch, store)
    try:
        yield _joined
    finally:
        _joined = None
    dist.destroy_process_group()  # not after an error: others may be waiting, and would be waited for


@contextmanager
def _peers_there() -> Iterator[None]:
    """Say in a sentence that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise LostPeerError(
            f"{GONE}, and without it this one cannot go on ({first_line(error)}): what it said says why; start all of "
            "them again."
        ) from error
