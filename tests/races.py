"""A card that is none, on which every copy, use, refill and free must be ordered by streams, events and waits.

``Card`` stands in for ``torch.cuda`` while the real code of ``ltx2_core.memory`` runs. Bytes move at once; what is
recorded is what a program may rely on. Streams and threads are actors with a vector clock each (Lamport 1978, Mattern
1989): an actor does its own things in order, and learns what another one has done from an event, a wait or a result.
Two accesses to the same bytes of which one writes must be ordered by these clocks, or a real card may do them in any
order: that is a race. Threads that read take their turns by dice, in any order in which two threads could have.
"""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Actor:
    """A stream or a thread: how much it has done, and how much it knows that others have done."""

    def __init__(self, name: str):
        self.name, self.time, self.known = name, 0, {}

    def act(self) -> int:
        self.time += 1
        self.known[self] = self.time
        return self.time

    def learn(self, known: dict["Actor", int]) -> None:
        for actor, time in known.items():
            self.known[actor] = max(time, self.known.get(actor, 0))


@dataclass
class Access:
    what: str
    writes: bool
    start: int
    stop: int
    actor: Actor
    time: int
    thread: Actor  # that asked for it
    asked: int


@dataclass(eq=False)
class Memory:
    """Bytes on the card, or pinned bytes of the host, and who has used them."""

    name: str
    start: int  # address
    nbytes: int
    storage: StorageWeakRef | None = None  # of what is freed when nobody refers to it
    accesses: list[Access] = field(default_factory=list)


class Event:
    def __init__(self, card: "Card", known: dict[Actor, int]):
        self.card, self.known = card, known

    def synchronize(self) -> None:
        self.card.pause()
        self.card.thread.learn(self.known)


class Stream(Actor):
    def __init__(self, card: "Card", name: str):
        super().__init__(name)
        self.card = card

    def record_event(self) -> Event:
        self.card.pause()
        self.learn(self.card.thread.known)
        return Event(self.card, dict(self.known))

    def wait_event(self, event: Event) -> None:
        self.card.pause()
        self.learn(event.known)

    def synchronize(self) -> None:
        self.card.pause()
        self.card.thread.learn(self.known)


class Task:
    """What a thread does later, and its future; only one of all threads runs at a time."""

    def __init__(self, card: "Card", call: Callable[[], object]):
        self.card, self.call = card, call
        self.known = dict(card.thread.known)  # when it is submitted, later when it is over
        self.error, self.over = None, False
        self._go, self._halt = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        """Do all of it, on its thread."""
        self._go.acquire()
        thread = self.card.thread
        thread.learn(self.known)
        try:
            self.call()
        except BaseException as error:
            self.error = type(error), error.args  # an error holds on to memory
        self.call = None
        self.card.look()
        thread.act()
        self.known, self.over = dict(thread.known), True
        self._halt.release()

    def go_on(self) -> None:
        """Let it run, to its end or until it yields."""
        self._go.release()
        self._halt.acquire()

    def give_way(self) -> None:
        """Let the program run."""
        self._halt.release()
        self._go.acquire()

    def done(self) -> bool:
        self.card.pause()
        if self.over:
            self.card.thread.learn(self.known)
        return self.over

    def result(self) -> None:
        self.card.finish(self)
        if self.error is not None:
            kind, arguments = self.error
            raise kind(*arguments)


class Card:
    """Streams, threads and memory of one run.

    Attributes:
        races: what was not ordered, each in a sentence.
    """

    def __init__(self, seed: int, memory, pinnable: int = 10**9):
        """Stand in for a card below ``memory``, the package; the host pins at most ``pinnable`` bytes."""
        self.dice = random.Random(seed)
        self.eager = self.dice.choice([0.0, 0.1, 0.5])  # how often a thread goes on when it need not
        self.races: list[str] = []
        self.memories: list[Memory] = []
        self.work, self.copies = Stream(self, "work"), []
        self._package, self._pinnable = memory, pinnable
        self._here = threading.local()
        self._actors: dict[int, Actor] = {}
        self._limit = 0
        self._threads: list[ThreadPoolExecutor] = []
        self._pending: list[Task] = []
        self._running: dict[ThreadPoolExecutor, Task] = {}
        self._main = threading.get_ident()

    # What ltx2_core.memory asks of torch and of the system

    @contextmanager
    def installed(self) -> Iterator[None]:
        package, card = self._package, self
        empty, copy, read, slot = torch.empty, torch.Tensor.copy_, package.unit.Unit.read, package.link.Plain.slot

        def stream_of(device):
            card.copies.append(Stream(card, "copies"))
            return card.copies[-1]

        def pinned_too(*shape, pin_memory=False, **kwargs):
            made = empty(*shape, **kwargs)
            if pin_memory:
                card.memories.append(Memory("a buffer", made.data_ptr(), made.nbytes))
            return made

        def reading(unit, into, start=0):
            card.touch("a read into", into, card.thread, writes=True)
            read(unit, into, start)

        def allocated(link, nbytes):
            made = slot(link, nbytes)
            if made.buffer.is_inference():
                card.races.append("a slot that no other thread may write into")
            storage = StorageWeakRef(made.buffer.untyped_storage())
            card.memories.append(Memory("card memory", made.buffer.data_ptr(), nbytes, storage))
            return made

        def copying(into, source, non_blocking=False):
            if getattr(card.memory_of(into), "storage", None) is not None:
                card.copy(into, source, non_blocking)
            return copy(into, source)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "Stream", stream_of)
            patch.setattr(torch.cuda, "current_stream", lambda device=None: card.stream)
            patch.setattr(torch.cuda, "stream", card.on)
            patch.setattr(torch.cuda, "empty_cache", lambda: None)
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch, "empty", pinned_too)
            patch.setattr(torch.Tensor, "copy_", copying)
            patch.setattr(package.unit.Unit, "read", reading)
            patch.setattr(package.link.Plain, "slot", allocated)
            patch.setattr(package.link, "ThreadPoolExecutor", card.threads)
            patch.setattr(package.link, "wait", lambda tasks: [card.finish(each) for each in tasks])
            patch.setattr(package.pinned, "ram", lambda: (2**40, 2**40))
            try:
                yield
                while self._pending or self._running:  # whom nobody waited for
                    self._run_one()
                self.look()
            finally:
                for each in self._threads:
                    each.shutdown()

    def host(self, limit: int):
        """Return pinned memory of the package of which at most ``limit`` bytes are pinned."""
        self._limit = max(self._limit, limit)
        return self._package.pinned.PinnedMemory(limit, self._pin, self._unpin)

    def _pin(self, span: torch.Tensor) -> bool:
        pinned = sum(each.nbytes for each in self.memories if each.name == "pinned memory") + span.nbytes
        if pinned > self._pinnable:
            return False
        if pinned > self._limit:
            self.races.append("more is pinned than may be")
        self.memories.append(Memory("pinned memory", span.data_ptr(), span.nbytes))
        return True

    def _unpin(self, span: torch.Tensor) -> None:
        memory = self.memory_of(span)
        if memory is None:
            self.races.append("memory that is not pinned is unpinned")
        else:
            self._end(memory, "unpinning", self.thread.known)

    # Threads, which read when the dice say so

    @property
    def thread(self) -> Actor:
        """The thread that runs now."""
        number = threading.get_ident()
        return self._actors.setdefault(number, Actor("the program" if number == self._main else "a reader"))

    def threads(self, count: int, name: str) -> "Card":
        self._threads = [ThreadPoolExecutor(1) for _ in range(count)]
        return self

    def submit(self, call: Callable[..., object], *arguments: object) -> Task:
        self.thread.act()
        self._pending.append(task := Task(self, lambda: call(*arguments)))
        self.pause()
        return task

    def pause(self) -> None:
        """See what was freed, and let another thread go on, or not."""
        self.look()
        if self.dice.random() >= self.eager:
            return
        if threading.get_ident() != self._main:
            self._here.task.give_way()
        elif self._pending or self._running:
            self._run_one()

    def finish(self, task: Task) -> None:
        """Let the running thread wait until ``task`` is over."""
        self.look()
        while not task.over:
            self._run_one()
        self.thread.learn(task.known)

    def _run_one(self) -> None:
        """Let one of the threads go on with its task, or begin the next one."""
        thread = self.dice.choice(self._threads if self._pending else list(self._running))
        if thread not in self._running:
            task = self._running[thread] = self._pending.pop(0)
            thread.submit(setattr, self._here, "task", task)
            thread.submit(task.run)
        self._running[thread].go_on()
        if self._running[thread].over:
            del self._running[thread]

    # Streams and memory

    @property
    def stream(self) -> Stream:
        return getattr(self._here, "stream", self.work)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self._here.stream = self.stream, stream
        try:
            yield
        finally:
            self._here.stream = before

    def memory_of(self, tensor: torch.Tensor) -> Memory | None:
        """Return what holds the first byte of ``tensor``; None if it is neither on the card nor pinned."""
        address = tensor.data_ptr()
        return next((each for each in self.memories if each.start <= address < each.start + each.nbytes), None)

    def copy(self, into: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> None:
        self.pause()
        stream = self.stream
        stream.learn(self.thread.known)
        if non_blocking and self.memory_of(source) is None:
            self.races.append("a copy from memory that is not pinned")
        if stream is self.work:
            self.races.append("a copy on the stream of the work")
        self.touch("a copy from", source, stream, writes=False)
        self.touch("a copy into", into, stream, writes=True)
        if not non_blocking:
            self.thread.learn(stream.known)

    def use(self, tensor: torch.Tensor, *, changes: bool = False) -> None:
        """Let the work read a weight, or change it."""
        self.pause()
        self.work.learn(self.thread.known)
        if self.memory_of(tensor) is None:
            self.races.append("a weight that is used where it lies on the host")
        self.touch("a use of", tensor, self.work, writes=changes)

    def touch(self, what: str, tensor: torch.Tensor, actor: Actor, *, writes: bool) -> None:
        """Note an access, and compare it with all earlier ones to the same bytes."""
        memory = self.memory_of(tensor)
        if memory is None:
            return
        start = tensor.data_ptr() - memory.start
        asked = self.thread.act()
        now = Access(what, writes, start, start + tensor.nbytes, actor, actor.act(), self.thread, asked)
        for other in memory.accesses:
            if other.start < now.stop and now.start < other.stop and (writes or other.writes):
                # Who puts things on one stream from two threads must order the threads.
                unordered = actor is other.actor and self.thread.known.get(other.thread, 0) < other.asked
                if unordered or actor.known.get(other.actor, 0) < other.time:
                    self._tell(memory, what, other)
        memory.accesses.append(now)

    def look(self) -> None:
        """Free what nobody refers to: the work may get that memory at once, and so may a stream that waits for it."""
        for memory in [each for each in self.memories if each.storage is not None and each.storage.expired()]:
            known = Actor("whoever gets it")
            known.learn(self.work.known)
            known.learn(self.thread.known)
            self._end(memory, "freeing", known.known)

    def _end(self, memory: Memory, what: str, known: dict[Actor, int]) -> None:
        self.memories.remove(memory)
        for other in memory.accesses:
            if known.get(other.actor, 0) < other.time:
                self._tell(memory, what, other)

    def _tell(self, memory: Memory, what: str, other: Access) -> None:
        self.races.append(f"{what} {memory.name} is not ordered after {other.what} it by {other.actor.name}")
