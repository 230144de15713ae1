"""Work on frames that a thread does while the next ones are made."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

MOST_WAITING = 8  # frames that are made and not yet worked on; more would only take memory


def do_behind(work: Callable[[int, Tensor], object], frames: Iterable[Tensor], first: int = 0) -> None:
    """Call ``work`` with the number of each frame and itself, one after the other, in one thread beside this one.

    Decoding waits for the card, and encoders compute without Python, so the two hardly disturb each other. What either
    of them raises is raised here, and what waits is left.

    Args:
        work: what is done, such as encoding.
        frames: (H, W, 3) each, made as they are asked for, in this thread.
        first: the number of the first frame.
    """
    thread, waiting = ThreadPoolExecutor(1, "frames"), deque[Future[object]]()
    try:
        for number, frame in enumerate(frames, first):
            waiting.append(thread.submit(work, number, frame))
            if len(waiting) > MOST_WAITING:
                waiting.popleft().result()
        for each in waiting:
            each.result()
    finally:
        thread.shutdown(cancel_futures=True)
