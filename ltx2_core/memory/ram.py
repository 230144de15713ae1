"""How much RAM there is, how much of it this program may have (a container may get less), and how much it takes."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import DoesNotFitError

_ROOT = Path("/")


def ram(root: Path = _ROOT) -> tuple[int, int]:
    """Return the bytes of RAM that this program may have in all, and those still available; zeros where nobody tells.

    Args:
        root: where the files of Linux lie that tell.
    """
    if sys.platform == "linux":
        lines = (line.split() for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines())
        kilobytes = {name: int(value) for name, value, *_ in lines}
        total, available = kilobytes["MemTotal:"] * 1024, kilobytes["MemAvailable:"] * 1024
        for limit, used in _limits(root):
            total, available = min(total, limit), min(available, max(0, limit - used))
        return total, available
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: two 32-bit numbers, then seven of 64 bits
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        _, total, available, _, promised, *_ = status
        return total, min(available, promised)  # what is free is refused, too, where page files cannot stand for it
    return _by_pages()


def most_ram() -> int:
    """Return the most bytes of RAM that this process has had at once."""
    if sys.platform == "win32":
        counters = (ctypes.c_uint64 * 9)(72)  # PROCESS_MEMORY_COUNTERS: two 32-bit numbers, then eight of 64 bits
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), ctypes.byref(counters), 72)
        return counters[1]
    import resource  # which Windows has not

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_ram(nbytes: int, whose: str, advice: str) -> None:
    """Raise DoesNotFitError if ``nbytes`` are more than is available, before the system ends the program."""
    total, available = ram()
    if total and nbytes > available:
        raise DoesNotFitError(lacking_ram(nbytes, available, whose, advice))


def lacking_ram(nbytes: int, free: int, whose: str, advice: str) -> str:
    """Say that ``nbytes`` are more than the bytes that are ``free``, and what to do."""
    needed, left = (f"{each / 1e9:.1f} GB" for each in (nbytes, free))
    return f"{whose} needs about {needed} of RAM at once, and {left} are free: {advice}."


def _by_pages() -> tuple[int, int]:
    """What other systems tell; where that is the whole alone, half of it counts as available."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0, 0
    left = _pages_left() if sys.platform == "darwin" else None
    return pages * size, (pages // 2 if left is None else left) * size


def _pages_left() -> int | None:
    """The pages of macOS that are free or were not used lately (those are of files, or of idle programs, which it
    compresses); None if it does not tell. They count as available in psutil, too, by which ComfyUI goes."""
    system = ctypes.CDLL(None)
    numbers = (ctypes.c_uint32 * 38)()  # vm_statistics64: free, active, inactive and wired pages, and more
    count = ctypes.c_uint32(len(numbers))
    refused = system.host_statistics64(system.mach_host_self(), 4, numbers, ctypes.byref(count))  # HOST_VM_INFO64
    return None if refused else numbers[0] + numbers[2]


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that this program is in, and what is used of it, but for pages of files
    that are given back at will: of version 2 (one line "0::path"), and of version 1 (its line names "memory")."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = "memory.max", "memory.current", "inactive_file"
            yield from _limits_above(root / "sys/fs/cgroup", path, names)
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _limits_above(root / "sys/fs/cgroup/memory", path, names)


def _limits_above(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    """Yield the limits of a group and of those that it is in; inside a container its own may be the mount itself."""
    group = mount / path.strip("/")
    for folder in (group, *group.parents):
        limit, used = (_number(folder / name) for name in names[:2])
        if limit is not None:
            yield limit, (used or 0) - _given_back(folder / "memory.stat", names[2])
        if folder == mount:
            return


def _given_back(file: Path, name: str) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
    except OSError:
        return 0


def _number(file: Path) -> int | None:
    """What a file of a control group says; None if it is not there, or says "max"."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def kept_free(total: int) -> int:
    """Return the bytes of the RAM that stay free whatever is pinned: a tenth, at least 2 GB."""
    return max(total // 10, 2**31)


def pin_limit(total: int) -> int:
    """Return how many bytes of the RAM may be pinned at most: half; 40 % on Windows, which refuses half."""
    return total * 2 // 5 if sys.platform == "win32" else total // 2


def pinnable(total: int, available: int) -> int:
    """Return how many bytes of the RAM may be pinned: as many as ``pin_limit``, and a tenth stays free, at least 2 GB.

    What is pinned already by those who ask is theirs: they add it to ``available``.
    """
    return max(0, min(pin_limit(total), available - kept_free(total)))


def free_ram(total: int, available: int) -> int:
    """Return how many bytes of the RAM a CPU may compute in: what is available, but for the part that stays free."""
    return max(0, available - kept_free(total))
