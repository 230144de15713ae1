"""Motion tracks: where points of a picture go, drawn as the video that an IC-LoRA for motion follows.

Tracks are JSON, as spline editors of ComfyUI write it and anybody may; a list of tracks, or the points of one::

    [[{"x": 100, "y": 200}, {"x": 140, "y": 200}], [{"x": 300, "y": 80}, {"x": 300, "y": 160}]]

The formulas are in ``README.md`` of this folder.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from ..errors.foreign import unique_names
from ..fields import Checked, Whole, Words, check_number, check_settings

LONGEST = 1_000_000  # letters of tracks
FARTHEST = 100_000  # pixels from the corner of the picture
SHORT_SIDE = 1080  # pixels that the shorter side is drawn with
TRAIL = 50  # frames for which a point is still shown
THIN, WIDER = 2, 6  # radius of the oldest point in pixels, and by how much that of the newest is larger
NARROWEST = 8  # times that one side may be as long as the other

EXAMPLE = '[[{"x": 150, "y": 250}, {"x": 380, "y": 150}, {"x": 600, "y": 250}]]'

Track = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class MotionTracks(Checked):
    """The frames that show ``tracks``, each of points (x, y) in pixels of a picture of ``width`` x ``height``.

    They are JSON, in the form that the head of this file shows. A track with fewer points than ``frames`` is a curve
    through them, one with more is cut. Without any track there is one black frame.

    Raises:
        SettingError: what is not of this form, and a size or a length that cannot be; it says what would be right.
    """

    tracks: Annotated[
        str,
        Words(lines=True, shown=EXAMPLE),
        "Where points go, as JSON: a list of tracks, each a list of points with x and y in pixels of the picture, from "
        "its upper left corner. The points of a spline editor can be connected here.",
    ]
    width: Annotated[
        int,
        Whole(32, 4096, unit="pixels"),
        "Width of the picture on which the points were set, which is also that of the frames; best is that of the "
        "clip.",
    ] = 768
    height: Annotated[int, Whole(32, 4096, unit="pixels"), "Height of that picture."] = 512
    frames: Annotated[
        int,
        Whole(1, 2881, unit="frames"),
        "Length of the clip. A track with fewer points becomes a smooth curve through them that lasts so long, with "
        "one point for each frame; one with more points is cut.",
    ] = 121
    paths: tuple[Track, ...] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)
        short, long = sorted(self.size)
        if long > NARROWEST * short:
            raise SettingError(
                f"The tracks are for a picture of {self.width} x {self.height}; one side may be {NARROWEST} times as "
                "long as the other: give the size of the clip."
            )
        object.__setattr__(self, "paths", self._read())

    def _read(self) -> tuple[Track, ...]:
        if len(self.tracks) > LONGEST:
            raise SettingError(f"These tracks have {len(self.tracks):,} letters; at most {LONGEST:,} are read.")
        try:
            content = json.loads(self.tracks, object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise SettingError(
                f'The tracks are no JSON ({error}): write a list of points for each, [[{{"x": 100, "y": 200}}, ...]].'
            ) from None
        if not isinstance(content, list):
            raise SettingError(f"The tracks are {_kind(content)}; they must be a list of tracks, or of points.")
        single = any(isinstance(each, dict) for each in content)
        tracks = (_track(number, each) for number, each in enumerate([content] if single else content, 1))
        return tuple(each for each in tracks if each)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.width, self.height

    def __len__(self) -> int:
        """How many frames there are."""
        return self.frames if self.paths else 1

    def read(self, numbers: Iterable[int]) -> Iterator[Tensor]:
        """Yield the frames (1, height, width, 3) of these numbers in 0..1, one after the other."""
        short = min(self.size)
        drawn = SHORT_SIDE * self.height // short, SHORT_SIDE * self.width // short
        for number in numbers:
            canvas = torch.zeros(*drawn, 3)
            for age in range(min(number, TRAIL), -1, -1) if self.paths else ():  # newer ones cover older ones
                _draw(canvas, self._points[:, number - age], 1 - age / TRAIL)
            resized = F.interpolate(canvas.movedim(-1, 0)[None], self.size[::-1], mode="bilinear", align_corners=False)
            yield resized.flip(1).movedim(1, -1).contiguous()  # BGR, as the LoRA was trained

    @cached_property
    def _points(self) -> Tensor:
        """Where each track is at each frame, in whole pixels of what is drawn: (tracks, frames, 2)."""
        places = torch.stack([curve(torch.tensor(each, dtype=torch.float64), self.frames) for each in self.paths])
        return (places * (SHORT_SIDE / min(self.size))).round().long()


def curve(points: Tensor, frames: int) -> Tensor:
    """Return one point for each frame, (frames, 2), on the Catmull-Rom spline through ``points`` (N, 2).

    Its ends count twice; two points are joined by a straight line. If there are as many points as frames, or more, they
    are taken as they are.
    """
    count = len(points)
    if count >= frames:
        return points[:frames]
    if count == 1:
        return points.expand(frames, 2)
    along = torch.linspace(0, count - 1, frames, dtype=torch.float64)
    first = along.long().clamp(max=count - 2)
    part = (along - first)[:, None]
    if count == 2:
        return (points[0] + (points[1] - points[0]) * part).round()
    ends = torch.cat((points[:1], points, points[-1:]))
    a, b, c, d = (ends[first + step] for step in range(4))
    cubic = 2 * b + (c - a) * part + (2 * a - 5 * b + 4 * c - d) * part**2 + (3 * b - a - 3 * c + d) * part**3
    return (cubic / 2).round()


def _draw(canvas: Tensor, points: Tensor, freshness: float) -> None:
    """Fill a disc around each of ``points`` (N, 2), as large and in the colour that ``freshness`` in 0..1 has."""
    radius = THIN + WIDER * freshness
    steps = torch.arange(-int(radius), int(radius) + 1)
    disc = torch.cartesian_prod(steps, steps)
    disc = disc[disc.square().sum(1) <= radius**2]
    columns, rows = (points[:, None] + disc).flatten(0, 1).unbind(1)
    inside = (columns >= 0) & (columns < canvas.shape[1]) & (rows >= 0) & (rows < canvas.shape[0])
    canvas[rows[inside], columns[inside]] = torch.tensor(_colour(freshness))


def _colour(freshness: float) -> tuple[float, float, float]:
    """Red, green and blue: from blue over green and yellow to red."""
    third = 3 * freshness
    if third <= 1:
        return 0.0, third, 1 - third
    return (third - 1, 1.0, 0.0) if third <= 2 else (1.0, 3 - third, 0.0)


def _track(number: int, content: Any) -> Track:
    if not isinstance(content, list):
        raise SettingError(f"Track {number} is {_kind(content)}; it must be a list of points with x and y.")
    return tuple(_point(f"point {place} of track {number}", each) for place, each in enumerate(content, 1))


def _point(name: str, content: Any) -> tuple[float, float]:
    if not isinstance(content, dict) or not {"x", "y"} <= content.keys():
        raise SettingError(f'What stands at {name} is no point; write {{"x": 100, "y": 200}}, in pixels.')
    for axis in ("x", "y"):
        if isinstance(content[axis], bool):
            raise SettingError(f"{axis} of {name} is {content[axis]}; it must be a number.")
        check_number(f"{axis} of {name}", content[axis], -FARTHEST, FARTHEST)
    return float(content["x"]), float(content["y"])


def _kind(content: Any) -> str:
    """What JSON calls a value of this kind."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(content), "a number")
