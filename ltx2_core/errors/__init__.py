"""Every failure that a person can meet, and what is found that stops nothing.

Each kind is also the built-in exception that callers expect, so ``except ValueError`` keeps working, and whoever shows
errors to a person catches ``LTX2Error`` alone and shows its sentence: what was found, what was expected, what to do.

Names of tensors and files, metadata, prompts and widgets come from other people, and messages quote them: whoever shows
a message to a person passes it through ``plain_text``, or through ``page_text`` if a web page shows it.
"""

import io
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from .stopping import stoppable as stoppable


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
    """The memory of a card ran out during the work, and nothing is left that could be given up."""


class OutOfRamError(LTX2Error, MemoryError):
    """The RAM ran out during the work; of another kind, because ComfyUI says of torch's that it was the GPU's."""


# How torch says, in a plain RuntimeError, that the RAM has ended; that a card has no memory left for a kernel, for
# pinned pages or for a library's workspace; and that a library found none when it was first used.
_NO_RAM = ("can't allocate memory", "not enough memory", "cannot allocate memory")
_NO_CARD_MEMORY = ("out of memory", "status_alloc_failed", "allocation_failed")
_NO_LIBRARY = ("cublas_status_not_initialized when calling `cublascreate", "cudnn_status_not_initialized")
_CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device has no memory left, by whichever part of torch or CUDA it is told."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    said = any(words in text for words in (*_NO_CARD_MEMORY, *_NO_LIBRARY))
    return said or getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY


def ran_out(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out: on a card, in torch on a CPU, or in Python."""
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_RAM)
    return said or isinstance(error, MemoryError) or is_out_of_memory(error)


def first_line(error: BaseException) -> str:
    """Return the first line of what a foreign ``error`` says, or else its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def one_line(error: BaseException, longest: int | None = None) -> str:
    """Return all that ``error`` says in one line, or its first ``longest`` letters; empty where it says nothing."""
    return " ".join(str(error).split())[:longest]


@contextmanager
def memory_told(where: str = "") -> Iterator[None]:
    """Turn whatever says that memory ran out within this context into an OutOfMemoryError or OutOfRamError, which is
    one sentence.

    Args:
        where: Ends that sentence, such as " while decoding the video"; may be empty.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, LTX2Error) or not ran_out(error):
            raise
        reason = one_line(error, 200).rstrip(". ") or "the RAM is full"
        kind = OutOfMemoryError if is_out_of_memory(error) else OutOfRamError
        raise kind(
            f"Memory ran out: {reason}. It happened{where or ' during the work'}; make the clip smaller or shorter, or "
            "close other programs."
        ) from error


class LostPeerError(LTX2Error, ConnectionError):
    """A process that works together with this one is gone."""


class NotANumberError(LTX2Error, FloatingPointError):
    """A network produced something that is not a number.

    Attributes:
        fact: what is not a number, and after which stage.
        in_file: whether a weight in a file is to blame, so that no other precision helps.
    """

    def __init__(self, fact: str, cause: str, *, in_file: bool = False):
        super().__init__(f"{fact}: {cause}")
        self.fact, self.in_file = fact, in_file


def holds_numbers(*tensors: torch.Tensor) -> bool:
    """Return whether all of some tensors is finite.

    What is not makes a sum that is not, which is found thirty times sooner, and waited for once where they lie on a
    card; a sum that only overflows decides nothing.
    """
    sums = [tensor.sum().isfinite() for tensor in tensors]
    return not sums or bool(torch.stack(sums).all()) or all(tensor.isfinite().all() for tensor in tensors)


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


LONGEST_NAME, LONGEST_LINE, MOST_LINES = 200, 2000, 500  # of a message: characters between blanks, characters, lines

UNSEEN = "\ufffd"  # stands for what has no picture: controls, surrogates, marks that turn the direction of writing
_JOINERS = "\u200c\u200d"  # have none either, but hold emoji and the letters of some scripts together

# What an HTML or Markdown page takes for more than a letter, and what is read alike but is only a letter.
_PAGE = (
    ("&", "\uff06"), ("<", "\u2039"), (">", "\u203a"), ('"', "\u201d"), ("://", ": //"), ("www.", "www ."),
    ("](", "] ("), ("]:", "] :"),
)  # fmt: skip


def counted(number: int, thing: str) -> str:
    """Return how many there are of a thing, whose plural ends in s, such as "1 picture" or "1,200 pictures"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """Return a number as a sentence shows it: whole ones with all digits up to 20, others with six."""
    if isinstance(number, int) and abs(number) < 10**20:
        return str(number)
    try:
        return f"{float(number):g}"  # of fractions, too
    except OverflowError:  # whole numbers have no largest one
        return "a number of more than 300 digits"


def plain_text(text: str) -> str:
    """Return ``text`` as it can be shown and sent anywhere: nothing invisible in it, and no name without an end."""
    lines = [_shortened(line, LONGEST_LINE) for line in text.split("\n", MOST_LINES)[:MOST_LINES]]
    shown = ("\n" if each == "\n" else _seen(each) for each in "\n".join(lines))
    return re.sub(r"\S+", lambda name: _shortened(name[0], LONGEST_NAME), "".join(shown))


def page_text(text: str) -> str:
    """Return ``plain_text`` that no page takes for its own language: no elements, links, pictures or scripts."""
    text = plain_text(text)
    for sign, letter in _PAGE:
        text = re.sub(re.escape(sign), letter, text, flags=re.IGNORECASE)
    return text


def plain_record(record: logging.LogRecord) -> bool:
    """Make the message of a log record ``plain_text``: a filter for loggers and handlers, which lets all pass."""
    record.msg, record.args = plain_text(record.getMessage()), ()
    return True


def write_all_letters() -> None:
    """Let the outputs of the process show what their encoding has no letter for by its number, instead of raising.

    ComfyUI opens them anew, and forgets that Python lets errors be written so: one in other letters than those of the
    log, as on Windows where that goes into a file, would end its queue.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def for_page(method: Callable[..., Any], check: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """Return a method of a node that says nothing but ``page_text``: in its results, its errors and their causes.

    That memory ran out is one sentence, wherever in its work that happens.

    Args:
        method: returns something whose ``args`` may be text, or anything else.
        check: is called with the arguments first; its errors are treated alike.
    """

    @wraps(method)
    def run(owner: type, **values: Any) -> Any:
        try:
            with memory_told():
                check(values)
                output = method(owner, **values)
        except Exception as error:
            _make_plain(error)
            raise
        if isinstance(getattr(output, "args", None), tuple):
            output.args = _texts_for_page(output.args)
        return output

    return run


def _texts_for_page(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(page_text(each) if isinstance(each, str) else each for each in values)


def _make_plain(error: BaseException | None) -> None:
    """Change the messages of an error and of what caused it, which a log shows as well."""
    for _ in range(100):
        if error is None:
            return
        error.args = _texts_for_page(error.args)
        if isinstance(error, OSError) and isinstance(error.filename, str):
            with suppress(AttributeError):  # PyAV's has no other name than the one in args
                error.filename = page_text(error.filename)
        error = error.__cause__ or error.__context__


def _seen(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS
    return UNSEEN if hidden and letter != "\t" else letter


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...{text[-most // 4 :]}"
