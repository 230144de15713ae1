"""JSON that others wrote, read with checks: its size and depth, and every field by its kind and range.

Headers of weights, configs of networks, settings of LoRAs and what was kept on disk all come through here, so that a
damaged or hostile file is answered by one sentence: where, which field, what it holds, what was expected.
"""

import json
import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from . import CheckpointError, LTX2Error, one_line

LARGEST_JSON = 2**24  # bytes; a config has thousands
BACKSLASHES = "; JSON has each \\ of a path twice, or / in its place"
OTHER_FILE = "The file does not fit its own config, or is of another version; download the official file."
DEEPEST = 32  # objects and lists within each other; those of networks have six

_MOST = 2**31 - 1

Value = TypeVar("Value")


def parse_json(
    content: bytes | str, title: str, *, largest: int = LARGEST_JSON, unique: bool = False
) -> dict[str, Any]:
    """Return the object that ``content`` describes.

    Args:
        content: The JSON.
        title: Begins the sentence of an error, such as "The config in the header of x.safetensors".
        largest: The most bytes that are read.
        unique: Whether a name that comes twice in one object is refused; else the last one counts.

    Raises:
        CheckpointError: It is not valid, too long or too deep, or is something other than an object.
    """
    if len(content) > largest:
        raise CheckpointError(
            f"{title} has {len(content):,} bytes, at most {largest:,} were expected; download it again."
        )
    try:
        found = json.loads(content, object_pairs_hook=unique_names if unique else None)
    except RecursionError:
        raise _too_deep(title) from None
    except ValueError as error:
        raise CheckpointError(f"{title} is not valid JSON ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{title} is {kind_of(found)}, an object was expected; download it again.")
    _check_depth(found, title)
    return found


def json_fault(error: Exception) -> str:
    """Return what is wrong with JSON that a person wrote, by the error of reading it."""
    return f"{error}{BACKSLASHES}" if "escape" in str(error) else str(error)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these ``pairs``, as a hook of ``json``; ValueError for a name that comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} comes twice")
    return found


def foreign_call(call: Callable[[], Value], what: str) -> Value:
    """Return what ``call`` does, which goes to a library whose errors have no common type.

    Args:
        call: Reads something of a file.
        what: Begins the sentence of the error, such as "The tokenizer in x.safetensors cannot be read".

    Raises:
        CheckpointError: The library could not. Running out of memory stays what it is.
    """
    try:
        return call()
    except (LTX2Error, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        reason = one_line(error, 200) or type(error).__name__
        raise CheckpointError(f"{what} ({reason}); download it again.") from error


def kind_of(value: object) -> str:
    """Return what JSON calls the kind of ``value``, with its article."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return kinds.get(type(value), "nothing" if value is None else "a number")


def shown(value: object) -> str:
    """Return ``value`` in few characters."""
    return reprlib.repr(value)


@dataclass(frozen=True)
class Fields:
    """An object of foreign JSON, from which each field is read with its kind, its range and its default.

    null counts as absent. ``where`` begins the sentences of errors, such as "The config section vae".
    """

    content: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, content: object, where: str) -> "Fields":
        """Take ``content`` if it is an object, or already such fields; nothing at all counts as an empty one.

        Raises CheckpointError for anything else.
        """
        if isinstance(content, Fields):
            return content
        if content is None:
            return cls({}, where)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{where} is {kind_of(content)}, an object was expected; {_TAKE}")
        return cls(content, where)

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def section(self, name: str) -> "Fields":
        """Return the object ``name``; one without fields if it is absent."""
        return Fields.of(self.content.get(name), f"{self.where}.{name}")

    def whole(self, name: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        """Return a whole number; one that must be there if it has no ``default``."""
        return self._read(
            name, default, lambda value: _whole(value, least, most), _range("a whole number", least, most)
        )

    def number(self, name: str, default: float | None = None, least: float = 0.0, most: float = 1e9) -> float:
        """Return a finite number; one that must be there if it has no ``default``."""
        return self._read(name, default, lambda value: _number(value, least, most), _range("a number", least, most))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        return self._read(name, default, lambda value: value if isinstance(value, bool) else None, "true or false")

    def word(self, name: str, default: str | None = None, options: Collection[str] = ()) -> str:
        """Return a text, one of ``options`` if there are any."""
        expected = f"one of {', '.join(options)}" if options else "a text"
        return self._read(name, default, lambda value: _word(value, options), expected)

    def wholes(
        self, name: str, default: tuple[int, ...] | None = None, least: int = 1, most: int = _MOST, longest: int = 16
    ) -> tuple[int, ...]:
        """Return a list of 1 to ``longest`` whole numbers."""
        expected = f"a list of at most {longest}, each {_range('a whole number', least, most)}"
        return self._read(name, default, _all(lambda value: _whole(value, least, most), longest), expected)

    def numbers(self, name: str, default: tuple[float, ...] | None = None, least: float = 0.0) -> tuple[float, ...]:
        """Return a list of 1 to 16 finite numbers."""
        expected = f"a list of at most 16, each {_range('a number', least, 1e9)}"
        return self._read(name, default, _all(lambda value: _number(value, least, 1e9), 16), expected)

    def items(self, name: str, longest: int = 64) -> list[Any]:
        """Return a list of at most ``longest`` of whatever it holds; empty if it is absent."""
        value = self.content.get(name)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)) or len(value) > longest:
            raise self.refusal(name, f"a list of at most {longest}")
        return list(value)

    def refusal(self, name: str, expected: str) -> CheckpointError:
        """Return the error for a field that is not as ``expected``."""
        value = self.content.get(name)
        found = f"lacks {name}" if value is None else f"has {name} = {shown(value)}"
        return CheckpointError(f"{self.where} {found}; {expected} was expected. {_TAKE.capitalize()}")

    def _read(self, name: str, default: Value | None, read: Callable[[Any], Value | None], expected: str) -> Value:
        value = self.content.get(name)
        if value is None and default is not None:
            return default
        result = None if value is None else read(value)
        if result is None:
            raise self.refusal(name, expected)
        return result


_TAKE = "take the original file, or restore its config."


def _too_deep(title: str) -> CheckpointError:
    return CheckpointError(f"{title} is nested more than {DEEPEST} deep; download it again.")


def _check_depth(found: dict[str, Any], title: str) -> None:
    """Walk without recursion, level by level."""
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep(title)


def _range(kind: str, least: float, most: float) -> str:
    return f"{kind} from {least:,} to {most:,}" if most < _MOST else f"{kind} from {least:,} on"


def _number(value: Any, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Whole numbers may be too large for a float.
    return float(value) if least <= value <= most and math.isfinite(value) else None


def _whole(value: Any, least: int, most: int) -> int | None:
    number = _number(value, least, most)
    return int(number) if number is not None and number == int(number) else None


def _word(value: Any, options: Collection[str]) -> str | None:
    return value if isinstance(value, str) and (not options or value in options) else None


def _all(read: Callable[[Any], Value | None], longest: int) -> Callable[[Any], tuple[Value, ...] | None]:
    """Read every item of a list; None if it is none, is empty or too long, or if an item cannot be read."""

    def read_all(values: Any) -> tuple[Value, ...] | None:
        if not isinstance(values, (list, tuple)) or not 0 < len(values) <= longest:
            return None
        found = [read(value) for value in values]
        return None if any(each is None for each in found) else tuple(each for each in found if each is not None)

    return read_all
