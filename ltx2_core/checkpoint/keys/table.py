"""Two columns: the name of a tensor in a file, and its name in our modules; the inverse is derived."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ...quantization import join_companion, split_companion

IN_MODEL = "model.diffusion_model."  # begins the names of all that belongs to the transformer


class Keys:
    """The names of one component's tensors.

    ``rows`` maps a file's name (without prefix) to ours; ``{}`` stands for a layer number and appears equally often,
    in the same order, on both sides. ``None`` on our side says "known, not wanted". ``prefixes`` are what may stand in
    front of a name in a file: the first is that of the official single files, the others are those of split files.
    Names that begin with one of ``unwanted`` are known and not wanted, whatever follows.
    """

    def __init__(
        self, rows: Mapping[str, str | None], prefixes: tuple[str, ...] = ("",), unwanted: tuple[str, ...] = ()
    ):
        """Index ``rows`` in both directions; names without numbers are the same on both sides of a look-up."""
        self.rows = dict(rows)
        self.prefixes = prefixes
        self.unwanted = unwanted
        self._first_words = {_shape_of(name).partition(".")[0].partition("{}")[0] for name in self.rows}
        self._to_ours: dict[str, list[tuple[list[str], str | None]]] = {}
        self._to_file: dict[str, list[tuple[list[str], str]]] = {}
        for file_name, our_name in self.rows.items():
            self._to_ours.setdefault(_shape_of(file_name), []).append((_numbers_in(file_name), our_name))
            if our_name is not None:
                self._to_file.setdefault(_shape_of(our_name), []).append((_numbers_in(our_name), file_name))

    def knows(self, key: str, prefix: str) -> bool:
        """Return whether this table has a row for ``key``, wanted or not."""
        return self._find(key, prefix) is not None

    def ours(self, key: str, prefix: str) -> str | None:
        """Return our name of a file's ``key``; None if it is unknown, or not wanted."""
        found = self._find(key, prefix)
        return None if found is None else found[0]

    def possible(self, keys: Iterable[str], prefix: str) -> list[str]:
        """Return those of a file's ``keys`` that begin as wanted names do: most files hold few components, and whoever
        looks for all of them need not take every name apart for each."""
        beginnings = tuple(f"{prefix}{word}" for word in self._first_words)
        return [key for key in keys if key.startswith(beginnings)]

    def _find(self, key: str, prefix: str) -> tuple[str | None] | None:
        """Our name of ``key``, as the one member of a tuple; None if it is unknown."""
        if not key.startswith(prefix):
            return None
        name = key[len(prefix) :]
        return (None,) if name.startswith(self.unwanted) else _translate(name, self._to_ours)

    def official(self, name: str) -> str:
        """Return the name that the official single file gives to our ``name``, of what stands beside a weight, too."""
        weight, suffix = split_companion(name)
        if (found := _translate(weight, self._to_file)) is None:
            raise KeyError(name)
        return join_companion(f"{self.prefixes[0]}{found[0]}", suffix)


def prefix_before(name: str, keys: Iterable[str]) -> str | None:
    """Return what stands before ``name``, a whole one, in the shortest of ``keys`` that end with it; None if none
    does."""
    found = (key.removesuffix(name) for key in keys if key.endswith(name))
    return min((prefix for prefix in found if not prefix or prefix.endswith(".")), key=len, default=None)


def under(file_module: str, our_module: str, rows: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the rows of a module that is a part of another one; an empty name puts them at the top."""

    def join(module: str, name: str) -> str:
        return f"{module}.{name}" if module else name

    return {join(file_module, f): None if o is None else join(our_module, o) for f, o in rows.items()}


def same(names: Iterable[str]) -> dict[str, str | None]:
    """Return rows of names that are equal on both sides."""
    return {name: name for name in names}


WEIGHTS = same(["weight", "bias"])  # of most layers


_UNKNOWN = ""  # instead of a name
_NUMBER = re.compile(r"(?<=\.)(?:\d+|\{\})(?=\.)")


@lru_cache(2**15)  # every component is asked for every name of a file
def _pieces(name: str) -> tuple[str, list[str]]:
    """A name with a hole for each number, and these."""
    name = f".{name}."
    return _NUMBER.sub("{}", name)[1:-1], _NUMBER.findall(name)


def _shape_of(name: str) -> str:
    return _pieces(name)[0]


def _numbers_in(name: str) -> list[str]:
    return _pieces(name)[1]


def _translate(name: str, index: dict[str, list[tuple[list[str], str]]] | dict) -> tuple[str | None] | None:
    """What an index has for ``name``, as the one member of a tuple; None if it has nothing."""
    shape, numbers = _pieces(name)
    for pattern, target in index.get(shape, ()):
        if all(wanted in ("{}", number) for wanted, number in zip(pattern, numbers)):
            free = [number for wanted, number in zip(pattern, numbers) if wanted == "{}"]
            return (target and target.format(*free),)
    return None
