"""Every failure that a person can meet, and what is found that stops nothing.

Each kind is also the built-in exception that callers expect, so ``except ValueError`` keeps working, and whoever shows
errors to a person catches ``LTX2Error`` alone and shows its sentence: what was found, what was expected, what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


class LTX2Error(Exception):
    """Root of all errors that this package raises on purpose."""


class SettingError(LTX2Error, ValueError):
    """A setting, or a combination of them, cannot be."""


class CheckpointError(LTX2Error, ValueError):
    """A file is not what it has to be."""


class MediaError(LTX2Error, ValueError):
    """A picture, a video or a sound is not what it has to be."""


class MissingFileError(LTX2Error, FileNotFoundError):
    """A file that is needed is not there."""


class UnreadableFileError(LTX2Error, OSError):
    """A file is there, but cannot be read or written."""


class TargetExistsError(LTX2Error, FileExistsError):
    """Something would be overwritten that a person may want to keep."""


class DoesNotFitError(LTX2Error, ValueError):
    """A stage needs more memory than there is, found before anything is loaded."""


class OutOfMemoryError(LTX2Error, torch.OutOfMemoryError):
    """Memory ran out during the work, and nothing is left that could be given up."""


# How torch says, in a plain RuntimeError, that the RAM has ended.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory")


def ran_out(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out: on a card, in torch on a CPU, or in Python."""
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    return said or isinstance(error, (MemoryError, torch.OutOfMemoryError))


@contextmanager
def memory_told(where: str = "") -> Iterator[None]:
    """Turn whatever says that memory ran out within this context into an OutOfMemoryError, which is one sentence.

    Args:
        where: Ends that sentence, such as " while decoding the video"; may be empty.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, LTX2Error) or not ran_out(error):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(". ") or "the RAM is full"
        raise OutOfMemoryError(
            f"Memory ran out: {reason}. It happened{where or ' during the work'}; make the clip smaller or shorter, or "
            "close other programs."
        ) from error


class NotANumberError(LTX2Error, FloatingPointError):
    """A network produced something that is not a number.

    Attributes:
        fact: what is not a number, and after which stage.
    """

    def __init__(self, fact: str, cause: str):
        super().__init__(f"{fact}: {cause}")
        self.fact = fact


@dataclass(frozen=True)
class Finding:
    """A fault of a result that a person would notice, which stops nothing; ``str`` makes a sentence or two of it.

    Attributes:
        stage: after which it shows, such as "decoding the video".
        what: is wrong, such as "the picture stands still".
        cause: why it likely is so, and what to try.
    """

    stage: str
    what: str
    cause: str

    def __str__(self) -> str:
        return f"After {self.stage}, {self.what}: {self.cause}"
