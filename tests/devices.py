"""Devices that are none, on which copies come as late as they may, and memory ends."""

import weakref
from contextlib import nullcontext

import torch

from ltx2_core.memory import PinnedMemory, Plain, Streamed, pinned
from ltx2_core.memory.link import Readers


def full_cards() -> list[RuntimeError]:
    """What a card says that has no memory left, apart from torch.OutOfMemoryError."""
    errors = [RuntimeError(text) for text in (
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 5.00 GB, other allocations: 1.00 GB, max allowed: 5.44 GB).",
    )]  # fmt: skip
    in_words_of_another_driver = RuntimeError("CUDA error: no more")
    in_words_of_another_driver.error_code = 2  # cudaErrorMemoryAllocation
    return [*errors, in_words_of_another_driver]


class Device(Plain):
    """A device that is not one: all units are copied, into memory that holds nan before, as late as possible."""

    def __init__(self, capacity=None):
        super().__init__("cpu")
        self.capacity, self.allocated, self.sent = capacity, weakref.WeakSet(), []

    @property
    def used(self):
        return sum(slot.nbytes for slot in self.allocated)

    def slot(self, nbytes):
        if self.capacity is not None and self.used + nbytes > self.capacity:
            raise torch.OutOfMemoryError("full")
        slot = super().slot(nbytes)
        slot.buffer.fill_(0xFF)
        self.allocated.add(slot)
        return slot

    def send(self, unit, slot):
        slot.buffer.fill_(0xFF)
        slot.task = unit
        self.sent.append(unit)

    def arrive(self, unit, slot):
        if slot.task is not None:
            super().send(slot.task, slot)
        slot.task = None
        super().arrive(unit, slot)


class Stream:
    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def wait_event(self, event):
        self.log.append((self.name, "waits for", event))

    def record_event(self):
        self.log.append((self.name, "reached", event := Event()))
        return event

    def synchronize(self): ...


class Event:
    def synchronize(self): ...


def on_stand_ins(monkeypatch):
    """CUDA's streams and events on a device where everything happens at once; what they were told is returned."""
    log = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("compute", log))
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(pinned, "ram", lambda: (2**40, 2**40))
    return log


def through(memory: PinnedMemory) -> Streamed:
    return Streamed("cpu", memory, Readers(700))


class Pins:
    """Counts what is pinned; refuses beyond ``most`` bytes."""

    def __init__(self, most=10**9):
        self.most, self.pinned = most, {}

    def pin(self, span):
        assert span.data_ptr() % 4096 == 0
        if sum(self.pinned.values()) + span.nbytes > self.most:
            return False
        self.pinned[span.data_ptr()] = span.nbytes
        return True

    def unpin(self, span):
        del self.pinned[span.data_ptr()]

    def memory(self, limit=None) -> PinnedMemory:
        return PinnedMemory(limit, self.pin, self.unpin)
