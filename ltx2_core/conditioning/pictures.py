"""Pictures at frames of a clip, and keyframes that are generated beside it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..errors import SettingError, counted
from ..fields import Checked, Instead, Number, Switch, Whole, Words, plain_numbers, settings_of, zero
from ..geometry import ClipShape, floor_frames, frame_number, segment_length
from ..media import compress
from ..media.light import Space
from .frames import Keyframe, place_in
from .preprocess import fit, fit_light
from .slots import KeyframeSlots
from .sources import Encoders
from .state import LatentCondition
from .values import FRAMES, PIXELS, check_values


@dataclass(frozen=True, eq=False)
class Picture(Checked):
    """A picture, or several as a short video, that the clip shows at a frame.

    With a ``space`` its numbers are light, and it is never compressed.
    """

    image: Tensor  # (F, H, W, 3) in 0..1
    frame: Annotated[
        int,
        Whole(-10000, 10000),
        "Where the clip shows it: 0 is the first frame, -1 the last one. Frame 0 becomes the picture; others are drawn "
        "towards it, so that the clip moves through it.",
    ] = 0
    strength: Annotated[
        float,
        Number(0, 1, 0.01, digits=0),
        "How firmly the clip keeps to it: 1 shows the picture itself, lower leaves more freedom, 0 ignores it.",
    ] = 1.0
    compression: Annotated[
        int | None,
        Whole(-1, 51, shown=-1, advanced=True, instead=Instead(((-1, "as it was trained"), (0, "off")), usual=33)),
        "Compresses a picture as video frames are (H.264, CRF) before it is encoded, because pictures that are cleaner "
        "make clips that stand still. Higher brings more motion and less detail. -1 is what the model was trained with "
        "(33 for LTX-2.0 and 2.3), 0 is off.",
    ] = None
    append: Annotated[
        bool,
        Switch(advanced=True),
        "Only for frame 0: shows the picture to the model beside the clip, as it does with all other frames, instead "
        "of putting it in. Freer; the official keyframe pipeline does so.",
    ] = False
    space: Space | None = None

    def __post_init__(self) -> None:
        """Raise SettingError for numbers that are no picture."""
        super().__post_init__()
        check_values("The given picture", self.image, PIXELS if self.space is None else None, FRAMES)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[-2], self.image.shape[-3]

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the picture at the size of the clip; of several, those that fill latents and lie inside the clip."""
        images = self.image[: self.shown(shape.frames)]

        def read() -> list[Tensor]:
            if self.space is not None:
                return [fit_light(images, shape.width, shape.height, self.space)]
            return [fit(self._compressed(images, encoders.crf), shape.width, shape.height)]

        latent = encoders.video(read, (len(images), shape.height, shape.width))
        yield Keyframe(latent, self.frame, self.strength, self.append, encoded_alone=True)

    def place(self, frames: int) -> int:
        """Return where a clip of ``frames`` frames shows it, from 0 on; SettingError for a frame outside the clip."""
        return place_in(self.frame, frames)

    def shown(self, frames: int) -> int:
        """Return how many of its pictures a clip of ``frames`` frames shows."""
        return floor_frames(min(len(self.image), frames - self.place(frames)))

    def _compressed(self, images: Tensor, trained: int) -> Tensor:
        crf = trained if self.compression is None or self.compression < 0 else self.compression
        return compress(images, crf) if len(images) == 1 else images


def pair_keyframes(count: int, frames: str, strengths: str) -> list[tuple[int, float]]:
    """Return frame and strength of each of ``count`` pictures.

    Args:
        count: how many pictures there are.
        frames: a frame for each, such as "0, 60, -1".
        strengths: one number for all, or one for each.

    Raises:
        SettingError: if the counts do not agree, or a word is no number or outside the limits of a picture.
    """
    places, firm = read_frames(frames), read_strengths(strengths)
    if len(places) != count or len(firm) not in (1, count):
        raise SettingError(
            f"{counted(count, 'picture')} came with {counted(len(places), 'frame')} and "
            f"{counted(len(firm), 'strength')}: write one frame for each picture, "
            "and one strength for each or for all."
        )
    return list(zip(places, firm * count if len(firm) == 1 else firm))


def read_frames(text: str) -> list[int]:
    """Return frames from "0, 60, -1". Raises SettingError for other words, and outside the limits of a picture."""
    return [int(number) for number in _read_numbers("frames", text, int, "0, 60, -1")]


def read_strengths(text: str) -> list[float]:
    """Return strengths from "1, 0.7". Raises SettingError for other words, and outside the limits of a picture."""
    return _read_numbers("strengths", text, float, "1, 0.7")


def _read_numbers(name: str, text: str, kind: type[int] | type[float], example: str) -> list[float]:
    try:
        numbers: list[float] = [kind(word) for word in plain_numbers(text).replace(",", " ").replace(";", " ").split()]
    except ValueError:
        raise SettingError(f"{name} is {text!r}; write numbers with commas, for example {example}.") from None
    for number in numbers:
        settings_of(Picture)[name.removesuffix("s")].check(number)
    return numbers


@dataclass(frozen=True)
class GeneratedKeyframes(Checked):
    """Single frames that are generated beside the clip, and draw it towards them."""

    count: Annotated[
        int,
        Whole(0, 64, instead=zero("every 24 or 32 frames", usual=4)),
        "How many frames are generated one by one beside the clip, spread evenly over it: it gets sharper there and "
        "moves more exactly. Each costs as much as 8 frames. 0 takes one every 24 or 32 frames, as many as DFR needs. "
        "Needs a model that marks keyframes, such as LTX-2.5.",
    ] = 0
    frames: Annotated[
        str,
        Words(advanced=True, reads=read_frames),
        "Frames of your own choice, such as 24, 48, -1, in place of a count. Empty for none.",
    ] = ""

    def __post_init__(self) -> None:
        """Raise SettingError for frames that are no numbers."""
        super().__post_init__()
        read_frames(self.frames)

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Yield the room for these frames; nothing is encoded. Raises SettingError for a clip without picture."""
        if "video" not in streams:
            raise SettingError(
                "Keyframes are generated beside a picture, but this clip is sound alone: leave them out."
            )
        yield KeyframeSlots(self.places(shape.frames))

    def places(self, length: int) -> tuple[int, ...]:
        """Return the frames of a clip of ``length`` frames. Raises SettingError for more than there is room for."""
        if self.frames.strip():
            return tuple(sorted({frame_number(number, length) for number in read_frames(self.frames)}))
        if not self.count:
            return tuple(range(step := segment_length(length), length, step)) or (length - 1,)
        if length < self.count + 2:
            raise SettingError(
                f"There is no room for {counted(self.count, 'keyframe')} between the first and the last of "
                f"{counted(length, 'frame')}: generate at most "
                f"{max(0, length - 2)}, or make the clip longer."
            )
        return tuple(torch.linspace(0, length - 1, self.count + 2).round().long().tolist()[1:-1])  # as officially
