"""How strongly a LoRA acts, where, and when; and how people write that down."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from ..errors import SettingError
from ..fields import Checked, Choice, Number, Words, plain_numbers
from .names import block_of, stream_of

StrengthFunction = Callable[[float], float]  # a factor for a moment of a run: a sigma, or the number of a step

_LOOK = Number(-10, 10, 0.05, 0.001)


def _read_blocks(text: str) -> list[tuple[int, int]] | None:
    """The first and the last block of each range; None for "all"."""
    if text.strip() in ("", "all"):
        return None
    ranges = []
    for word in plain_numbers(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", word)
        if found is None:
            raise SettingError(f"blocks is {text!r}; write numbers and ranges, such as 0-23, 40, or all.")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise SettingError(f"blocks has the range {word.strip()}; write the smaller number first, such as 0-23.")
        ranges.append((first, last))
    return ranges


def parse_blocks(text: str, layers: int) -> frozenset[int] | None:
    """Read numbers of blocks from "0-23, 40"; None stands for "all".

    Raises SettingError for other words, and for blocks that a model of ``layers`` does not have.
    """
    if (ranges := _read_blocks(text)) is None:
        return None
    if (highest := max(last for _, last in ranges)) >= layers:
        raise SettingError(f"blocks names {highest}; this model has {layers} blocks, counted from 0.")
    return frozenset(block for first, last in ranges for block in range(first, last + 1))


def parse_schedule(text: str) -> "StrengthSchedule | None":
    """Read strengths over a run from "1.0: 1, 0.5: 0.3", moments before strengths; None stands for "constant".

    Raises SettingError for other words.
    """
    if text.strip() in ("", "constant"):
        return None
    pairs = (word.partition(":") for word in plain_numbers(text).split(","))
    try:
        points = [(float(moment), float(strength)) for moment, _, strength in pairs]
    except ValueError:
        raise SettingError(
            f"schedule is {text!r}; write moments and strengths, such as 1.0: 1, 0.5: 0.3, or constant."
        ) from None
    if wrong := [point for point in points if not (abs(point[0]) <= 1000 and abs(point[1]) <= 10)]:
        raise SettingError(
            f"schedule has strength {wrong[0][1]:g} at {wrong[0][0]:g}; strengths are between -10 and 10, and moments "
            "sigmas from 1 to 0 or numbers of steps."
        )
    return StrengthSchedule.through(points)


@dataclass(frozen=True)
class Strengths(Checked):
    """How strongly a LoRA acts; 0 is without it, negative strengths do the opposite.

    A layer gets ``strength`` times that of its stream. ``text`` is for the projection and the connectors of the text.
    With ``blocks``, all layers that are not in one of these blocks of the transformer get 0. A ``schedule`` gives a
    further factor for each moment of a run: for its sigma, or where ``schedule_over`` is "steps" for the number of its
    step.
    """

    strength: Annotated[
        float,
        _LOOK,
        "1 is as trained, 0 is without it, negative does the opposite. Multiplies the strengths of single streams.",
    ] = 1.0
    video: Annotated[float, _LOOK, "For the layers that paint the picture."] = 1.0
    audio: Annotated[float, _LOOK, "For the layers that make the sound. 0 keeps speech and noises as they are."] = 1.0
    audio_to_video: Annotated[
        float, _LOOK, "For the layers through which the sound moves the picture: lips, impacts."
    ] = 1.0
    video_to_audio: Annotated[float, _LOOK, "For the layers through which the picture makes itself heard."] = 1.0
    text: Annotated[
        float,
        _LOOK,
        "For the text projection and the connectors, which few LoRAs change. It acts where the prompt is encoded, so "
        "connect this model there, too.",
    ] = 1.0
    blocks: Annotated[
        Collection[int] | None,
        Words(shown="all", reads=_read_blocks),
        "Which of the transformer's blocks (48 in the released models, counted from 0) it changes, such as 0-23, 40. "
        "All other layers get none of it. Early blocks lay out, late ones add detail.",
    ] = None
    schedule: Annotated[
        StrengthFunction | None,
        Words(shown="constant", reads=parse_schedule),
        "A further factor over the run: moments and strengths, such as 1.0: 1, 0.5: 0.3, straight between them, level "
        "before and after. High noise levels decide the composition, low ones detail. Costs a little time.",
    ] = None
    schedule_over: Annotated[
        str,
        Choice(("sigmas", "steps")),
        "What the moments are: noise levels from 1 to 0, or numbers of steps, counted from 0.",
    ] = "sigmas"

    def __post_init__(self) -> None:
        """Keep ``blocks`` as a set that cannot change, whatever collection they came in.

        Raises SettingError for what is no number of a block.
        """
        super().__post_init__()
        if self.blocks is not None:
            if odd := [each for each in self.blocks if each < 0]:
                raise SettingError(f"blocks hold {odd[0]}; give numbers of blocks from 0 on, such as range(24).")
            object.__setattr__(self, "blocks", frozenset(self.blocks))

    def check_blocks(self, layers: int) -> None:
        """Raise SettingError if a model of ``layers`` has none of ``blocks``, so that nothing would be changed."""
        if self.blocks and (lowest := min(self.blocks)) >= layers:
            raise SettingError(
                f"blocks begin at {lowest}; this model has {layers}, counted from 0: name some of these."
            )

    def constant_for(self, component: str, name: str) -> float:
        """Return the strength for our tensor ``name`` of ``component``, without the schedule."""
        if self.blocks is not None and block_of(component, name) not in self.blocks:
            return 0.0
        return self.strength * getattr(self, stream_of(component, name))

    def factor_at(self, sigma: float, step: int) -> float:
        """Return the schedule's factor at this moment of a run; 1 without a schedule.

        Raises SettingError if the schedule gives no number: some products take such a factor for 1.
        """
        if self.schedule is None:
            return 1.0
        factor = self.schedule(moment := step if self.schedule_over == "steps" else sigma)
        if not math.isfinite(factor):
            raise SettingError(f"The schedule of a LoRA gives {factor} at {moment:g}; give it a number everywhere.")
        return factor


@dataclass(frozen=True)
class StrengthSchedule:
    """A strength that changes over a run: straight between points, level before the first and after the last."""

    points: tuple[tuple[float, float], ...]  # (moment, strength), in ascending order

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "StrengthSchedule":
        """Return the schedule through (moment, strength) points in any order; moments are sigmas or numbers of steps.

        Raises SettingError if there are none, two at one moment, or some that are no numbers.
        """
        numbers = all(math.isfinite(number) for point in points for number in point)
        if not points or not numbers or len(dict(points)) < len(points):
            raise SettingError(
                "A schedule needs points (moment, strength), each at another moment, as in [(0, 1.0), (4, 0.5)]; "
                f"it is {list(points)}."
            )
        return cls(tuple(sorted(points)))

    def __call__(self, moment: float) -> float:
        """Return the strength at ``moment``."""
        if moment <= self.points[0][0]:
            return self.points[0][1]
        for (start, first), (stop, last) in zip(self.points, self.points[1:]):
            if moment <= stop:
                return first + (last - first) * (moment - start) / (stop - start)
        return self.points[-1][1]
