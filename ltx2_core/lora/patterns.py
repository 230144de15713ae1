"""Names of layers as PEFT writes them in ``alpha_pattern``: regular expressions, matched in bounded time.

They come out of a file, which anybody may have written, and Python's own ``re`` may take for ever over a bad one. So
they are read here: letters, ``.``, ``\\d`` ``\\w`` ``\\s`` and their opposites, ``[sets]``, ``(groups)``, ``|``, ``^``,
``$``, and the repeats ``*``, ``+``, ``?`` and ``{1,2}``. All places at which a part of a pattern can end are followed
at once, so nothing is tried twice, and the work of a file has a limit.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial, reduce

from ..errors import CheckpointError

LONGEST = 500  # letters of a pattern
MOST = 10_000  # patterns of a file
MOST_EXPRESSIONS = 200  # of them that are not just names
WORK = 5_000_000  # places that are followed for all layers of a file

Places = frozenset[int]
Part = Callable[[str, Places], Places]  # from where it begins in a name to where it ends
Test = Callable[[str], bool]  # of one letter

_CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "w": lambda letter: letter.isalnum() or letter == "_",
    "s": str.isspace,
}
_SPECIAL = set("^$*+?{}[]()|\\")


class LayerPatterns:
    """What a file says about layers by patterns of their names: the first pattern that fits counts, as in PEFT."""

    def __init__(self, values: Mapping[str, float], source: str):
        """Read the patterns.

        Args:
            values: for each pattern what it stands for.
            source: names the setting and its file in errors.

        Raises:
            CheckpointError: a pattern is not understood, or there are too many.
        """
        if len(values) > MOST:
            raise CheckpointError(f"{source} has {len(values):,} patterns; at most {MOST:,} are read.")
        self._source, self._values, self._work = source, list(values.values()), 0
        self._plain: dict[str, int] = {}  # whole ends of names, which are most: the number of each
        self._others: list[tuple[int, Part]] = []
        for number, pattern in enumerate(values):
            name = pattern.replace("\\.", ".")
            if _SPECIAL.isdisjoint(name):
                self._plain.setdefault(name, number)
            else:
                self._others.append((number, _Reader(pattern, source, self._count).read()))
            if len(self._others) > MOST_EXPRESSIONS:
                raise CheckpointError(f"{source} has more than {MOST_EXPRESSIONS} patterns that are not just names.")

    def find(self, name: str, otherwise: float | None) -> float | None:
        """Return what the first pattern that is the end of ``name``, from a dot or its beginning on, stands for.

        Raises CheckpointError if that takes too long.
        """
        starts = frozenset([0, *(place + 1 for place, letter in enumerate(name) if letter == ".")])
        found = [self._plain[name[start:]] for start in starts if name[start:] in self._plain]
        found += [number for number, part in self._others if len(name) in part(name, starts)]
        return self._values[min(found)] if found else otherwise

    def _count(self, places: Places) -> None:
        self._work += 1 + len(places)
        if self._work > WORK:
            raise CheckpointError(
                f"{self._source} takes too long to compare with the layers: write the names of layers in it."
            )


class _Reader:
    """Reads one pattern from left to right."""

    def __init__(self, pattern: str, source: str, count: Callable[[Places], None]):
        self._rest, self._pattern, self._source, self._count = list(reversed(pattern)), pattern, source, count

    def read(self) -> Part:
        if len(self._pattern) > LONGEST:
            raise self._wrong()
        part = self._choice(depth=0)
        if self._rest:
            raise self._wrong()
        return part

    def _wrong(self) -> CheckpointError:
        return CheckpointError(
            f"{self._source} names layers by {self._pattern!r}, which is not understood: write names of layers, or "
            "simple patterns such as blocks\\.\\d+\\.attn1."
        )

    def _take(self) -> str:
        if not self._rest:
            raise self._wrong()
        return self._rest.pop()

    def _takes(self, letters: str) -> str:
        """The next letter if it is one of these."""
        return self._rest.pop() if self._rest and self._rest[-1] in letters else ""

    def _choice(self, depth: int) -> Part:
        branches = [self._sequence(depth)]
        while self._takes("|"):
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else partial(_any_of, branches)

    def _sequence(self, depth: int) -> Part:
        parts = []
        while self._rest and self._rest[-1] not in "|)":
            part = self._atom(depth)
            if repeat := self._takes("*+?{"):
                part = (
                    self._counted(part) if repeat == "{" else partial(_repeated, part, repeat in "*?", repeat in "*+")
                )
                self._takes("?")  # as few as possible is the same question here
            parts.append(part)
        return partial(_one_after_the_other, parts, self._count)

    def _counted(self, part: Part) -> Part:
        """``part`` as often as {2}, {1,3}, {,3} or {1,} says."""
        written = ""
        while (letter := self._take()) != "}":
            written += letter
        found = re.fullmatch(r"(\d{1,2})|(\d{0,2}),(\d{0,2})", written)  # our expression, of one short word
        if found is None or written == ",":
            raise self._wrong()
        first, last = int(found[1] or found[2] or 0), int(found[1] or found[3] or 0)
        is_open = found[3] == ""
        optional = 1 if is_open else max(0, last - first)
        more: list[Part] = [partial(_repeated, part, True, is_open)] * optional
        return partial(_one_after_the_other, [part] * first + more, self._count)

    def _atom(self, depth: int) -> Part:
        letter = self._take()
        if letter == "(" and depth < 10:
            if self._takes("?") and not self._takes(":"):
                raise self._wrong()
            part = self._choice(depth + 1)
            if not self._takes(")"):
                raise self._wrong()
            return part
        if letter in "^$":
            return partial(_at_start if letter == "^" else _at_end, self._count)
        if letter in "()*+?{}]":
            raise self._wrong()
        return partial(_letter, self._test(letter), self._count)

    def _test(self, letter: str) -> Test:
        if letter == ".":
            return lambda other: True
        if letter == "[":
            return self._set()
        return self._escaped() if letter == "\\" else letter.__eq__

    def _escaped(self) -> Test:
        letter = self._take()
        if test := _CLASSES.get(letter.lower()):
            return test if letter.islower() else lambda other: not test(other)
        if letter.isalnum():
            raise self._wrong()
        return letter.__eq__

    def _set(self) -> Test:
        negated, tests, letter = bool(self._takes("^")), list[Test](), self._take()
        while True:
            if letter == "\\":
                tests.append(self._escaped())
            elif self._rest[-1:] == ["-"] and self._rest[-2:-1] != ["]"]:
                self._take()
                tests.append(partial(_between, letter, self._take()))
            else:
                tests.append(letter.__eq__)
            if (letter := self._take()) == "]":
                return lambda other: any(test(other) for test in tests) != negated


def _between(first: str, last: str, letter: str) -> bool:
    return first <= letter <= last


def _letter(test: Test, count: Callable[[Places], None], name: str, places: Places) -> Places:
    count(places)
    return frozenset(place + 1 for place in places if place < len(name) and test(name[place]))


def _any_of(branches: list[Part], name: str, places: Places) -> Places:
    return frozenset().union(*(branch(name, places) for branch in branches))


def _one_after_the_other(parts: list[Part], count: Callable[[Places], None], name: str, places: Places) -> Places:
    count(places)
    return reduce(lambda reached, part: part(name, reached), parts, places)


def _repeated(part: Part, may_lack: bool, often: bool, name: str, places: Places) -> Places:
    new = part(name, places)
    reached = places | new if may_lack else new
    while often and new:
        new = part(name, new) - reached
        reached |= new
    return reached


def _at_start(count: Callable[[Places], None], name: str, places: Places) -> Places:
    count(places)
    return places & {0}


def _at_end(count: Callable[[Places], None], name: str, places: Places) -> Places:
    count(places)
    return places & {len(name)}
