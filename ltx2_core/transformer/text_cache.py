"""What the network makes of a text at every noise level alike (see README.md, "Text cache")."""

from collections.abc import Callable, Hashable
from typing import TypeVar, cast

Made = TypeVar("Made")


class TextCache:
    """What layers made of one context (B, L, D), such as its keys and values, which stays from step to step.

    One cache serves one run: with other weights, as those of a LoRA whose strength changes, layers make something else.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, object] = {}

    def find(self, layer: Hashable, make: Callable[[], Made]) -> Made:
        """Return what ``layer`` made of the context before, else let it ``make`` that."""
        if layer not in self._made:
            self._made[layer] = make()
        return cast(Made, self._made[layer])
