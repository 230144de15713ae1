"""Is a run as fast as planned? A driver may move what finds no room into RAM without a word, as it does on Windows."""

import time
from collections.abc import Callable

from ...errors import Finding

MUCH_SLOWER = 1.5  # than planned
SETTLING = 2  # evaluations at the start, in which weights come for the first time and kernels are chosen
AT_LEAST = 3  # evaluations behind them; fewer say little


class Pace:
    """The moments at which the network of a stage was asked.

    Args:
        stage: its name.
        planned: seconds from one to the next.
        clock: tells the time, in seconds.
    """

    def __init__(self, stage: str, planned: float, clock: Callable[[], float] = time.perf_counter):
        self._stage, self._planned, self._clock = stage, planned, clock
        self._moments: list[float] = []

    def note(self) -> None:
        """Note that the network is asked now."""
        self._moments.append(self._clock())

    def finding(self) -> Finding | None:
        """Return what to say of a run that was much slower than planned; None if it was not."""
        counted = self._moments[SETTLING:]
        if len(counted) <= AT_LEAST:
            return None
        seconds = (counted[-1] - counted[0]) / (len(counted) - 1)
        if seconds < MUCH_SLOWER * self._planned:
            return None
        return Finding(
            self._stage,
            f"a step had taken {seconds:.2f} s where {self._planned:.2f} s were planned",
            "the card and its link are measured again for the next plan. If it stays so, other programs use the card, "
            "or its driver keeps in RAM what found no room on the card, without saying so (NVIDIA's on Windows: turn "
            "off CUDA - Sysmem Fallback Policy): plan with less of the card, or close these programs.",
        )
