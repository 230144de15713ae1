"""Faults of synchronisation, planted one at a time in ``ltx2_core/memory``: the detector of races must find each.

``python tests/planted.py [SEEDS]`` prints the table: what was planted where, who found it, and what it was called.
"""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "ltx2_core.memory"
SEEDS = 6  # of each story; all faults show within the first four


class Fault(NamedTuple):
    """A change of one file.

    Attributes:
        name: what is wrong afterwards.
        file: in which file of the room.
        old: the text that is replaced, once; with its indentation where that matters.
        new: the text in its place.
    """

    name: str
    file: str
    old: str
    new: str = ""


WITHOUT_SETTLING = "        self._readers.settle()\n        self._copies.synchronize()\n"
LEAVE_TASK = "            wait([slot.task])\n"
RECORDED = "            slot.ready = self._copies.record_event()\n"
COPIED = "            slot.buffer[start : start + len(piece)].copy_(piece, non_blocking=True)\n"
OVERWRITTEN = """        for other in [other for other, slot in self.slots.items() if slot.overlaps(start, stop)]:
            self._forget(other)
"""
CLEARED = """        self.link.settle()
        for unit in list(self.slots):
            self._forget(unit)
        self.memory, self._end = None, 0
"""
SETTLED = """                self.link.settle()
                self.link.rest(_company(brought))"""

FAULTS = [
    # Streams and events
    Fault("a copy does not wait for the work before it", "link", "            self._copies.wait_event(slot.free)\n"),
    Fault("the event is recorded before its copy", "link", COPIED + RECORDED, RECORDED + COPIED),
    Fault("the event of the first piece stands for all", "link", "slot.ready = self._copies.record_event()",
          "slot.ready = slot.ready or self._copies.record_event()"),
    Fault("the event before the copy stands for that after it", "link", "slot.ready = self._copies.record_event()",
          "slot.ready = slot.free"),
    Fault("copies are put on the stream of the work", "link",
          "with torch.cuda.stream(self._copies):\n            self._copies.wait_event(slot.free)",
          "if True:\n            self._copies.wait_event(slot.free)"),
    Fault("the work does not wait for a copy", "link",
          "        torch.cuda.current_stream(self.device).wait_event(slot.ready)\n"),
    Fault("copies wait for themselves, not the work for them", "link",
          "torch.cuda.current_stream(self.device).wait_event(slot.ready)",
          "self._copies.wait_event(slot.ready)"),
    Fault("a copy waits for copies, not for the work", "link",
          "        slot.free = torch.cuda.current_stream(self.device).record_event()\n        if (span",
          "        slot.free = slot.free or self._copies.record_event()\n        if (span"),
    Fault("the event of a copy is waited for before its reader", "link",
          "        if slot.task is not None:\n            slot.task.result()\n            slot.task = None\n"
          "        torch.cuda.current_stream(self.device).wait_event(slot.ready)\n",
          "        torch.cuda.current_stream(self.device).wait_event(slot.ready or slot.free)\n"
          "        if slot.task is not None:\n            slot.task.result()\n            slot.task = None\n"),
    # Threads and their buffers
    Fault("nobody waits for the reader of what is needed", "link", "            slot.task.result()\n"),
    Fault("a wrong guess is left while it is read", "link", LEAVE_TASK),
    Fault("settling waits for no reader", "link", WITHOUT_SETTLING, "        self._copies.synchronize()\n"),
    Fault("settling waits for no copy", "link", WITHOUT_SETTLING, "        self._readers.settle()\n"),
    Fault("settling waits for copies first, then for readers", "link", WITHOUT_SETTLING,
          "        self._copies.synchronize()\n        self._readers.settle()\n"),
    Fault("settling waits for nothing", "link", WITHOUT_SETTLING, "        pass\n"),
    Fault("settling knows only the last task", "link",
          "self._tasks = [*(each for each in self._tasks if not each.done()), future]", "self._tasks = [future]"),
    Fault("settling does not know the readers", "link", "        wait(self._tasks)\n", "        pass\n"),
    Fault("a task is submitted that settling does not know", "link",
          "slot.task = self._readers.submit(self._fetch, unit, slot)",
          "slot.task = self._readers._threads.submit(self._fetch, unit, slot)"),
    Fault("a buffer is refilled while it is copied from", "link", "            buffer.wait()\n"),
    Fault("a buffer waits for what came before its copy", "link",
          "lambda piece, start: self._copy(piece, slot, start).synchronize",
          "lambda piece, start: (self._copy(piece, slot, start), slot.free)[1].synchronize"),
    Fault("a buffer does not remember its copy", "link", "buffer.wait = deliver(piece, start)",
          "deliver(piece, start)"),
    Fault("the threads share their buffers", "link", "self._own = threading.local()", "self._own = self"),
    Fault("slots are inference tensors", "link", "with torch.inference_mode(False):", "if True:"),
    # The ring
    Fault("the memory of the ring is given back while copies write it", "ring", CLEARED,
          CLEARED.replace("        self.link.settle()\n", "")),
    Fault("the ring settles after it has given its memory back", "ring", CLEARED,
          "\n".join([*CLEARED.splitlines()[1:], CLEARED.splitlines()[0], ""])),
    Fault("what is overwritten counts as there", "ring", OVERWRITTEN),
    Fault("what is needed earlier is overwritten", "ring",
          "gaps = _gaps(nearer, memory.nbytes, nbytes)", "gaps = _gaps([], memory.nbytes, nbytes)"),
    Fault("a unit goes without leaving its slot", "ring",
          "        if unit.place is None:\n            leave(unit, slot, self.link)\n"),
    Fault("a failed change leaves the unit on the device", "ring", "        leave(unit, slot, link)\n        raise",
          "        raise"),
    Fault("a unit whose change failed is found in the ring", "ring", "slot = self.slots.pop(unit)  # nobody",
          "slot = self.slots[unit]  # nobody"),
    Fault("a use does not install what was sent ahead", "ring", "            install(unit, slot, self.link)\n"),
    # The store
    Fault("what was brought rests while it is copied from", "store", SETTLED,
          SETTLED.replace("                self.link.settle()\n", "")),
    Fault("what fails to come leaves copies on their way", "store",
          "            finally:  # whatever failed",
          "            except LookupError:\n                raise\n            else:  # whatever failed"),
    Fault("what runs is given back", "store", "unit is self._ring.running or (unit is", "(unit is"),
    Fault("what stands beside the blocks is given back in use", "store",
          "(unit is self.partition.rest and self._users > 0)", "False"),
    Fault("the ring does not stop", "store", "        self._ring.stop()\n"),
    Fault("what is given back does not go home", "store", "            leave(unit, unit.place, self.link)\n"),
    # What comes with a unit
    Fault("what comes with a unit is not waited for", "ring",
          "        for each, piece in zip(unit.company, slot.pieces):\n            link.arrive(each, piece)\n",
          "        link.arrive(unit, slot.pieces[0])\n"),
    Fault("what comes with a unit does not go home", "ring",
          "    for each, piece in zip(unit.company, slot.pieces):\n        link.leave(each, piece)\n",
          "    link.leave(unit, slot.pieces[0])\n"),
    Fault("what comes with a unit is sent over it", "unit", "itertools.accumulate(sizes, initial=0)",
          "[0] * len(sizes)"),
    Fault("what patches read goes before they are made", "store",
          "            install(unit, slot, self.link)\n            if unit.passing is not None:\n"
          "                self.link.leave(unit.passing, slot.parts.pop())\n",
          "            if unit.passing is not None:\n"
          "                self.link.leave(unit.passing, slot.parts.pop())\n"
          "            install(unit, slot, self.link)\n"),
    Fault("the ring has no room for what comes with a unit", "ring", "max((unit.sent_bytes", "max((unit.nbytes"),
    # Pinned memory
    Fault("what is sent may be given to others", "link", "        self._pinned.hold(unit)\n"),
    Fault("what is sent rests all the same", "pinned",
          '''which is about to be copied, until it rests."""
        with self._lock:
            original = unit.source
            self._holders.setdefault(original, weakref.WeakSet()).add(unit)
            self._resting.pop(original, None)''',
          '''which is about to be copied, until it rests."""
        with self._lock:
            original = unit.source
            self._holders.setdefault(original, weakref.WeakSet()).add(unit)
            self._resting.get(original)'''),
    Fault("what is sent rests when others come", "pinned",
          "    def _give_up(self, unit: Unit) -> None:\n        del self._resting[unit]",
          "    def _give_up(self, unit: Unit) -> None:\n        unit = next(iter(self._granted))\n"
          "        self._resting.pop(unit, None)"),
    Fault("memory that was given up is copied from", "pinned", "        unit.span = None\n"),
    Fault("memory that was given up stays pinned", "pinned",
          "        if finalizer is not None:\n            finalizer()\n"),
    Fault("memory is copied from that is not pinned", "pinned", "if not self._pin(span):", "if False:"),
    Fault("memory is copied from before it is read", "pinned", "            unit.read(span)\n",
          "            unit.span = span\n            unit.read(span)\n"),
    Fault("memory whose read failed stays pinned", "pinned", "            finalizer()\n            raise\n",
          "            raise\n"),
    # Units
    Fault("units never go home", "unit", "        for tensor, home in zip(self.tensors, self.homes):\n"
          "            tensor.data = home\n", "        pass\n"),
    Fault("slots overlap without noticing", "unit", "start < self.stop and self.start < stop",
          "start < self.stop - 512 and self.start < stop"),
    Fault("pieces of a slot all begin at its start", "unit", "return Slot(nbytes, buffer, start)",
          "return Slot(nbytes, buffer)"),
    Fault("changes are made again in the same copy", "unit", "            slot.patched = True\n", "            pass\n"),
]  # fmt: skip


@contextmanager
def planted(fault: Fault) -> Iterator[ModuleType]:
    """Yield the memory of ltx2_core with one fault in it, which nobody else sees."""
    import ltx2_core.memory

    kept = {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{PACKAGE}.")}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(Path(ltx2_core.memory.__file__).parent, Path(folder) / "memory"))
        path = copy / f"{fault.file}.py"
        text = path.read_text()
        assert text.count(fault.old) == 1, f"{fault.name}: its text is {text.count(fault.old)} times in {path.name}"
        path.write_text(text.replace(fault.old, fault.new))
        for name in kept:
            del sys.modules[name]
        try:
            spec = importlib.util.spec_from_file_location(
                PACKAGE, copy / "__init__.py", submodule_search_locations=[str(copy)]
            )
            package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(package)
            yield package
        finally:
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{PACKAGE}.")]:
                del sys.modules[name]
            sys.modules.update(kept)
            ltx2_core.memory = kept[PACKAGE]


def found(fault: Fault, seeds: int = SEEDS) -> tuple[str, int, list[str]] | None:
    """Return the first story that goes wrong with a fault, its seed and what is said; None if all go well."""
    from scenarios import SCENARIOS, complaints

    with planted(fault) as package:
        for seed in range(seeds):
            for name, story in SCENARIOS.items():
                if said := complaints(story, seed, package):
                    return name, seed, said
    return None


def main(seeds: int) -> None:
    rows = [(fault, found(fault, seeds)) for fault in FAULTS]
    for fault, result in rows:
        name, seed, said = result or ("NOBODY", "", ["it survives"])
        print(f"{fault.file:6} | {fault.name:64} | {name:13} | {seed!s:>2} | {' '.join(said[0].split())[:100]}")
    print(f"{sum(result is not None for _, result in rows)} of {len(rows)} faults are found")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    main(int(sys.argv[1]) if sys.argv[1:] else SEEDS)
