"""Characters: who is seen and heard, kept once and placed into every clip and every window of a long one.

A character becomes conditions that stay the same wherever in a long clip a window lies: a reference that lasts as long
as the clip does, pictures before its beginning, a voice before its beginning.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, sqrt
from typing import Annotated, ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from ..fields import Checked, Choice, Number
from ..geometry import TIME_SCALE, ClipShape
from ..media.light import Space
from ..media.read import MOST_FRAMES
from .conditions import Condition, ReferenceAudio, ReferenceVideo
from .fill import Placement
from .frames import Keyframe
from .pictures import Picture
from .sources import AudioSource, Encoders, VideoSource
from .state import LatentCondition, State
from .values import FRAMES, PIXELS, check_values

AUTO, KEYFRAME, INGREDIENTS, VOICE_ONLY = "auto", "keyframe", "ingredients", "voice only"
GREY = 0.5  # where a sheet of several pictures is free
STILL_CHUNK = 8  # frames

Way = Annotated[
    str,
    Choice((AUTO, KEYFRAME, INGREDIENTS, VOICE_ONLY)),
    "How its pictures are given. keyframe puts them before the beginning of the clip, where it looks at them; "
    "ingredients shows them as one sheet as long as the clip lasts, for the IC-LoRA Ingredients; voice only leaves "
    "them out. auto takes ingredients where that LoRA is loaded and made for the model, else keyframe.",
]


@dataclass(frozen=True, eq=False)
class KeyframeBefore:
    """Append a picture at a frame before the clip, which the clip attends to and never passes through.

    Source: the long-term memory of ComfyUI-LTXVideo's looping sampler, guides at negative latent indices; index -n
    stands at frame -8 n.
    """

    latent: Tensor  # (B or 1, C, 1, H, W), of the clip's own H and W
    frame: int  # negative
    strength: float = 1.0
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Append it to ``state``, for one frame."""
        _, _, length, height, width = self.latent.shape
        positions = geometry.video_positions((length, height, width), Fraction(1))
        positions[:, 0] = (positions[:, 0] + self.frame) / float(state.fps)
        return state.append(self.latent, positions, self.strength)


@dataclass(frozen=True, eq=False)
class PictureBefore:
    """A picture that stands at a frame before the clip, and so before each window of a long one."""

    picture: Picture
    frame: int

    @property
    def space(self) -> Space | None:
        """What its numbers mean, where they are light."""
        return self.picture.space

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the picture at the size of the clip."""
        for keyframe in self.picture.encode(shape, streams, encoders):
            assert isinstance(keyframe, Keyframe)
            yield KeyframeBefore(keyframe.latent, self.frame, self.picture.strength)


@dataclass(frozen=True, eq=False)
class ReferenceSheet(ReferenceVideo):
    """A reference video that stands still on one picture as long as the clip lasts, seen whole, grey where it ends."""

    @property
    def remakes(self) -> bool:
        """Nothing of it is made anew."""
        return False

    def _pixels(self, fps: Fraction, frames: int, place: Placement) -> Iterator[Tensor]:
        for picture in replace(self.video, times=1).fitted(fps, 1, place.width, place.height):
            still = place.within(picture, 0.0)
            for first in range(0, frames, STILL_CHUNK):
                yield still.expand(-1, -1, min(STILL_CHUNK, frames - first), -1, -1)


@dataclass(frozen=True, eq=False)
class Character(Checked):
    """Who is seen and heard.

    Attributes:
        pictures: (F, H, W, 3) in 0..1; None for a character that is only heard.
        voice: a few seconds of it; None for one that is only seen.
        way: how the pictures are given.
        strength: of pictures and voice.
    """

    pictures: Tensor | None = None
    voice: AudioSource | None = None
    way: Way = AUTO
    strength: Annotated[
        float,
        Number(0, 1, 0.01, digits=0),
        "How firmly the clip keeps to pictures and voice; 1 is as the LoRAs were trained, lower leaves more freedom.",
    ] = 1.0

    def __post_init__(self) -> None:
        """Raise SettingError for numbers that are no picture, and for a way that there is nothing for."""
        super().__post_init__()
        if self.pictures is not None:
            check_values("The pictures of the character", self.pictures, PIXELS, FRAMES)
        if self.pictures is None and self.voice is None:
            raise SettingError("This character has neither a picture nor a voice: give one of them, or both.")
        if self.pictures is None and self.way in (KEYFRAME, INGREDIENTS):
            raise SettingError(f"way is {self.way}, but this character has no picture: give one, or choose voice only.")
        if self.voice is None and self.way == VOICE_ONLY:
            raise SettingError("way is voice only, but this character has no voice: give one, or choose another way.")

    def conditions(self, way: str, scale: tuple[int, int] = (1, 1)) -> tuple[Condition, ...]:
        """Return what is given for it, the same for every clip.

        Args:
            way: how its pictures are given, any but auto.
            scale: how many times smaller, and of how many frames one, the IC-LoRA wants a reference.
        """
        given: list[Condition] = []
        if self.pictures is not None and way == KEYFRAME:
            count = len(self.pictures)
            given += [
                PictureBefore(Picture(self.pictures[n : n + 1], strength=self.strength), TIME_SCALE * (n - count))
                for n in range(count)
            ]
        if self.pictures is not None and way == INGREDIENTS:
            still = VideoSource(sheet(self.pictures), times=MOST_FRAMES)
            given.append(ReferenceSheet(still, *scale, self.strength, outpaint="around"))
        if self.voice is not None:
            given.append(ReferenceAudio(self.voice, self.strength))
        return tuple(given)


def sheet(pictures: Tensor) -> Tensor:
    """Lay pictures (F, H, W, 3) in 0..1 out as one, (1, rows H, columns W, 3), in rows from the left."""
    columns = ceil(sqrt(len(pictures)))
    free = -len(pictures) % columns
    full = F.pad(pictures, (0, 0, 0, 0, 0, 0, 0, free), value=GREY)
    return rearrange(full, "(r c) h w rgb -> 1 (r h) (c w) rgb", c=columns)
