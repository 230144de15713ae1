"""What does a running stage say of itself? Sentences that stay, what is done just now, and how long it will take."""

from collections.abc import Callable
from time import monotonic

# What a stage does, by its name; others say it by their name.
DOES = {
    "looking": "looking at the picture",
    "prompt": "encoding the prompt",
    "features": "projecting the prompt",
    "connectors": "reading the prompt",
    "pictures": "encoding the picture",
    "hearing": "encoding the sound",
    "frames": "decoding the picture",
    "mel": "decoding the sound",
    "sound": "making the waveform",
}
PARTS = {"sampling": "step", "refining": "step", "frames": "tile"}  # what its progress counts

# What is read before a stage begins, by the name of the network; others are read by their name.
READS = {"text_encoder": "Gemma", "vision_encoder": "Gemma's part for pictures"}

SEPARATOR = " \N{MIDDLE DOT} "


class Messages:
    """What one node says: sentences in the order in which they come, and below them what it does just now."""

    def __init__(self, show: Callable[[str], None]):
        """Begin with nothing said; ``show`` is called with all of it whenever it changes."""
        self._show = show
        self._sentences: list[str] = []
        self._status = ""

    def add(self, sentences: str) -> None:
        """Append what stays; what has been said already is not repeated."""
        if sentences not in self._sentences:
            self._sentences.append(sentences)
            self._show(self.text)

    def set_status(self, status: str) -> None:
        """Replace what is done just now; empty is nothing."""
        if status != self._status:
            self._status = status
            self._show(self.text)

    @property
    def text(self) -> str:
        """All of it, a line for each."""
        return "\n".join(filter(None, (*self._sentences, self._status)))


class StepTimer:
    """How long the steps of a stage take, measured from its making."""

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock, self._begun, self._counted = clock, clock(), 0

    def count(self, done: int, total: int) -> str:
        """Count one more step, the number ``done`` of ``total``, and tell the time of each and what is left."""
        self._counted += 1
        each = (self._clock() - self._begun) / self._counted
        words = f"{each:.2g} s per step" if each < 10 else f"{duration(each)} per step"
        return f"{words}{SEPARATOR}{duration(each * (total - done))} left" if done < total else words


def duration(seconds: float) -> str:
    """Return a time in words, such as "24 s", "5 min" or "1 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def reading(network: str) -> str:
    """Say that a network is read from its file."""
    return f"reading {READS.get(network, 'the ' + network.replace('_', ' '))}"


def working(stage: str, done: int | None = None, total: int | None = None) -> str:
    """Say what a stage does, and how far it is: "decoding the picture, tile 3 of 8"."""
    does = DOES.get(stage, stage)
    if done is None or stage not in PARTS:
        return does
    return f"{does}, {PARTS[stage]} {done} of {total}"
