"""Conditions as people have them: videos, sounds, time ranges and masks; pictures stand in ``pictures``.

A condition becomes latent conditions as soon as the size of the clip is known; every stage of a clip encodes its
conditions again at its own size. The formulas are in ``README.md`` of this folder.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Annotated, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import SettingError, short
from ..fields import Checked, Choice, Number, Switch, Whole
from ..geometry import SPACE_SCALE, ClipShape, floor_frames, nearest_size
from ..latents import STREAMS
from ..media.read import MOST_FRAMES
from .begin import Begin
from .fill import AUTO, EDGES, MIRRORED, OFF, PLACES, Placement, grow, paint
from .frozen import Frozen
from .masks import Inpaint, Retake, cells, feathered
from .pictures import GeneratedKeyframes, Picture
from .preprocess import fit
from .reference import ReferenceAudioTokens, ReferenceVideoTokens
from .sources import AudioSource, Encoders, VideoSource, check_length
from .state import LatentCondition
from .values import MASKS, WEIGHTS, check_values

# What may be made anew of a clip, and the streams that it stands for.
RETAKEN_STREAMS: dict[str, Collection[str]] = {
    "picture and sound": STREAMS,
    "picture": ("video",),
    "sound": ("audio",),
}

LONGEST_VOICE = 600  # seconds of a reference, of which a few are enough


@runtime_checkable
class Condition(Protocol):
    """A condition of a clip, before it is encoded."""

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the condition for a clip.

        Args:
            shape: The size of the clip.
            streams: The streams that the clip has.
            encoders: The VAE encoders.
        """


def encode_conditions(
    conditions: Iterable[Condition], shape: ClipShape, streams: Collection[str], encoders: Encoders
) -> list[LatentCondition]:
    """Encode all ``conditions`` for a clip of ``shape`` with these ``streams``, in their order.

    Where the clip begins as one without sound, nothing of its sound is kept: it is made as a whole.

    Raises SettingError for two pictures at one frame, and as each of them does.
    """
    conditions = list(conditions)
    check_frames(conditions, shape)
    is_silent = any(isinstance(each, InitClip) and each.audio is None for each in conditions)
    kept = [name for name in streams if name != "audio"] if is_silent else streams
    return [
        encoded
        for each in conditions
        for encoded in each.encode(shape, kept if isinstance(each, Change) else streams, encoders)
    ]


def check_frames(conditions: Iterable["Condition"], shape: ClipShape) -> None:
    """Raise SettingError if two pictures are given at one frame of a clip of ``shape``, put in or beside it."""
    seen = set[tuple[int, bool]]()
    for each in conditions:
        if isinstance(each, Picture):
            frame = each.place(shape.frames)
            if (frame, each.append) in seen:
                raise SettingError(
                    f"Two pictures are given at frame {frame}, where a clip shows one: leave one out, or choose "
                    "another frame for it."
                )
            seen.add((frame, each.append))


def of_second_stage(
    conditions: Iterable["Condition"], keep_references: bool, keep_keyframes: bool = False, keep_voices: bool = True
) -> tuple["Condition", ...]:
    """Return what is given in a second stage: reference videos, generated keyframes and voices only if they are kept.

    Source: the pipelines of ltx-pipelines, whose second stages have pictures only, but for those of DFR and Dub-It.
    """
    kept = {ReferenceVideo: keep_references, GeneratedKeyframes: keep_keyframes, ReferenceAudio: keep_voices}
    dropped = tuple(each for each, is_kept in kept.items() if not is_kept)
    return tuple(each for each in conditions if not isinstance(each, dropped))


def edits(conditions: Iterable["Condition"]) -> bool:
    """Return whether a reference is followed, or a part of a clip made anew.

    Source: ltx-pipelines 1.2.0 has pipelines of their own for that (IC-LoRA, Dub-It, retake).
    """
    return any(isinstance(each, ReferenceVideo | ReferenceAudio | Change) for each in conditions)


def remakes_sound(conditions: Iterable["Condition"]) -> bool:
    """Return whether the pipeline that these conditions belong to ships the sound of its second stage.

    Source: in ltx-pipelines, those of IC-LoRAs (a reference video) and of keyframe interpolation (all pictures beside
    the clip, the first frame, too).
    """
    return any(isinstance(each, ReferenceVideo) or (isinstance(each, Picture) and each.append) for each in conditions)


@dataclass(frozen=True, eq=False)
class ReferenceVideo(Checked):
    """A video that an IC-LoRA follows, as far as it lasts.

    ``mask`` (1 or F, H, W) in 0..1, of the reference's own frames or at the rate of the clip, multiplies ``attention``.
    What ``fill`` covers, such a mask at the rate of the clip, is painted green, and so is what lies around it by
    ``outpaint``: in- and outpainting IC-LoRAs make it anew.
    """

    video: VideoSource
    downscale: Annotated[
        int,
        Whole(1, 8),
        "How many times smaller than the clip the IC-LoRA wants it; LTX-2 Load IC-LoRA says it. The reference is "
        "resized so: width and height of the clip must be multiples of 32 times this number.",
    ] = 1
    temporal_scale: Annotated[
        int, Whole(1, 16), "Of how many frames the IC-LoRA wants one. LTX-2 Load IC-LoRA says it."
    ] = 1
    strength: Annotated[
        float,
        Number(0, 1, 0.01, digits=0),
        "How much of the reference is shown; 1 is as the LoRAs were trained.",
    ] = 1.0
    attention: Annotated[
        float,
        Number(0, 1, 0.01, digits=0, advanced=True),
        "How strongly clip and reference see each other: lower follows it more loosely.",
    ] = 1.0
    mask: Tensor | None = None
    fill: Tensor | None = None
    grow: Annotated[
        int,
        Whole(0, 300, advanced=True),
        "Makes what is filled larger by so many pixels of the reference, to a hard edge. More where green is left at "
        "the edges, or a shadow belongs to what goes; 5 to 32 are usual.",
    ] = 0
    grow_frames: Annotated[
        int,
        Whole(0, 10, advanced=True),
        "Fills so many frames more before and after. More where a mask trembles or misses frames.",
    ] = 0
    twice: Annotated[
        bool,
        Switch(advanced=True, flag="high_quality"),
        "Shows each of its frames twice, for a clip of 2 n - 1 frames of which every second one is kept: how the HDR "
        "IC-LoRA flickers least, at twice the time.",
    ] = False
    outpaint: Annotated[
        str,
        Choice(tuple(PLACES), advanced=True),
        "Shows the whole reference inside of the clip, and lets the in- and outpainting IC-LoRA paint what is free: "
        "around it, or only on one side. off crops it to the shape of the clip.",
    ] = OFF
    margin: Annotated[
        float,
        Number(0, 0.9, 0.01, advanced=True),
        "For outpaint: how much of the width and of the height of the clip is free at least. 0.2 around it is as if "
        "the camera had stood farther off.",
    ] = 0.0
    edges: Annotated[
        str,
        Choice(EDGES, advanced=True),
        "How a reference of another shape than the clip is shown: cut to that shape, or whole, with its mirror image "
        "where the clip goes on to the right and below, as the official HDR pipeline shows it. auto mirrors where the "
        "clip or the reference is HDR.",
    ] = AUTO

    def __post_init__(self) -> None:
        """Raise SettingError for numbers that are no mask, and for a part of light that is to be filled."""
        super().__post_init__()
        for mask in (self.mask, self.fill):
            if mask is not None:
                check_values("The mask of the reference", mask, WEIGHTS, MASKS)
        if self.remakes and self.video.space is not None:
            raise SettingError(
                "This reference is light (HDR), which has no green to be filled with: give ordinary pictures."
            )

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the reference. Raises SettingError where the clip cannot be divided by ``downscale``."""
        if self.twice:
            yield from self._doubled.encode(shape, streams, encoders)
            return
        width, height = shape.width // self.downscale, shape.height // self.downscale
        if shape.width % (SPACE_SCALE * self.downscale) or shape.height % (SPACE_SCALE * self.downscale):
            raise SettingError(
                f"This reference is {self.downscale} times smaller than the clip, so width and height of the clip must "
                f"be multiples of {SPACE_SCALE * self.downscale}; it has {shape.width} x {shape.height}."
            )
        available = min(self.video.count(shape.fps), shape.frames)
        frames = floor_frames(ceil((available - 1) / self.temporal_scale) + 1)

        whole, place = (frames - 1) * self.temporal_scale + 1, self.place(width, height)
        shown = min(whole, available)  # the last one that is taken may not be the last of its kind
        hole = self._hole(shown, place)

        def read() -> Iterator[Tensor]:
            pixels = self._pixels(shape.fps, shown, place)
            return _every(pixels if hole is None else paint(pixels, hole), self.temporal_scale)

        latent = encoders.video(read, (frames, height, width))
        attention: float | Tensor = self.attention
        if self.mask is not None:
            masks = self.mask[:shown]
            if len(masks) == shown:
                masks = torch.cat((masks, masks[-1:].expand(whole - shown, -1, -1)))
            weights = _fitted_mask(masks * self.attention, place.width, place.height)
            size = latent.shape[2], latent.shape[3], latent.shape[4]
            attention = cells(place.within(weights, self.attention), size, self.temporal_scale)
        yield ReferenceVideoTokens(latent, self.downscale, self.temporal_scale, self.strength, attention)

    @property
    def _doubled(self) -> "ReferenceVideo":
        """The reference that shows each of its frames twice by itself, its masks, too."""
        video = replace(self.video, times=2 * self.video.times)
        return replace(self, video=video, mask=_doubled(self.mask), fill=_doubled(self.fill), twice=False)

    @property
    def mirrors(self) -> bool:
        """Whether it is shown whole, with its mirror image beside it."""
        is_light = self.edges == AUTO and self.video.space is not None
        return self.outpaint == OFF and (is_light or self.edges == MIRRORED)

    @property
    def remakes(self) -> bool:
        """Whether a part of it is made anew."""
        return self.fill is not None or self.outpaint != OFF

    def shown(self, fps: Fraction, frames: int, width: int, height: int) -> tuple[Iterator[Tensor], Tensor | None]:
        """Return its frames at a size, and what of them is made anew.

        Args:
            fps: frames per second at which it is read.
            frames: how many of them.
            width: in pixels.
            height: in pixels.

        Returns:
            Chunks (1, 3, F, height, width) in -1..1, grey where it does not reach, and a mask (1 or F, height, width)
            in 0..1; None if all of it is followed.

        Raises:
            SettingError: for too few masks.
        """
        place = self.place(width, height)
        return self._pixels(fps, frames, place), self._hole(frames, place)

    def _pixels(self, fps: Fraction, frames: int, place: Placement) -> Iterator[Tensor]:
        frames_seen = self.video.fitted(fps, frames, place.width, place.height, crop=not place.mirrors)
        return (place.within(each, 0.0) for each in frames_seen)

    def place(self, width: int, height: int) -> Placement:
        """Return where it lies in a picture of this size."""
        if self.mirrors:
            return Placement.mirrored(self.video.size(), (width, height))
        if self.outpaint == OFF:
            return Placement(width, height)
        return Placement.of(self.video.size(), (width, height), self.outpaint, self.margin)

    def _hole(self, frames: int, place: Placement) -> Tensor | None:
        """What is filled of the frames that are shown (1 or F, H, W). Raises SettingError for too few masks."""
        if not self.remakes:
            return None
        fill = torch.zeros(1, 1, 1) if self.fill is None else self.fill[:frames]
        if 1 < len(fill) < frames:
            raise SettingError(
                f"What is filled of the reference has {len(fill)} masks, and {frames} frames are shown: give one "
                "for all, or one for each."
            )
        inner = _fitted_mask(fill, place.width, place.height)
        return grow(place.within(inner, 1.0), self.grow, self.grow_frames)


@dataclass(frozen=True, eq=False)
class ReferenceAudio(Checked):
    """A sound from before the clip, whose voice a LoRA takes over."""

    audio: AudioSource
    strength: Annotated[
        float,
        Number(0, 1, 0.01, digits=0),
        "How much of it is heard; 1 is as the LoRAs were trained.",
    ] = 1.0

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the sound at its own length. Raises SettingError for one that is far longer than a voice needs."""
        if self.audio.seconds > LONGEST_VOICE:
            raise SettingError(
                f"This voice lasts {self.audio.seconds:.0f} s, at most {LONGEST_VOICE} s are heard: take a few seconds."
            )
        yield ReferenceAudioTokens(encoders.audio(self.audio.waveform, self.audio.sample_rate), self.strength)


@dataclass(frozen=True, eq=False)
class KeepAudio(Checked):
    """The sound of the clip, for which a picture is made; the finished clip carries it as it is."""

    audio: AudioSource
    noise: Annotated[
        float,
        Number(0, 1, 0.01, digits=0, advanced=True),
        "Shows the model a noisier sound than it is. Try 0.1 to 0.3 where clean speech makes a picture that stands "
        "still. The sound of the clip stays clean.",
    ] = 0.0

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the sound at the length of the clip."""
        yield Frozen("audio", self.audio.encoded(shape, encoders), self.noise)


@dataclass(frozen=True, eq=False)
class KeepVideo:
    """The picture of the clip, for which sound is made; the finished clip carries these frames as they are."""

    video: VideoSource

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Encode the frames, the last one to the end of the clip. Raises SettingError if eight or more are missing."""
        check_length(self.video, shape)
        read = partial(self.video.fitted, shape.fps, shape.frames, shape.width, shape.height)
        yield Frozen("video", encoders.video(read, (shape.frames, shape.height, shape.width)))


@dataclass(frozen=True, eq=False)
class InitClip:
    """A clip to begin with instead of nothing: to be changed in places, or to be continued.

    Where the new clip is longer, this one is kept, and what follows is new.
    """

    video: VideoSource
    audio: AudioSource | None = None

    def shape(self, fps: Fraction, width: int = 0, height: int = 0, frames: int = 0) -> ClipShape:
        """Return the clip that is taken of it at ``fps``; 0 takes its own size and length, or the nearest possible.

        Raises SettingError if it has fewer frames than are asked for.
        """
        available, size = self.video.count(fps), self.video.size()
        if frames > available:
            raise SettingError(
                f"frames is {frames}, but the clip has {available} at {float(fps):g} fps: ask for fewer."
            )
        if (frames or available) > MOST_FRAMES:
            raise SettingError(f"The clip has {available:,} frames; at most {MOST_FRAMES:,} are taken: set frames.")
        length = floor_frames(frames or available)
        return ClipShape(width or nearest_size(size[0]), height or nearest_size(size[1]), length, fps)

    def frames_in(self, shape: ClipShape) -> int:
        """Return with how many frames a clip of ``shape`` begins as this one."""
        return floor_frames(min(self.video.count(shape.fps), shape.frames))

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> "Iterator[Begin]":
        """Encode the clip as far as it lasts, its sound only where the new clip has sound."""
        frames = self.frames_in(shape)
        own = ClipShape(shape.width, shape.height, frames, shape.fps)
        read = partial(self.video.fitted, own.fps, frames, own.width, own.height)
        yield Begin("video", encoders.video(read, (frames, own.height, own.width)))
        if self.audio is not None and "audio" in streams:
            yield Begin("audio", self.audio.encoded(own, encoders)[:, :, : own.audio_latents])


@dataclass(frozen=True)
class RetakeRange(Checked):
    """Make a time range anew in some of the streams; the others stay as they are."""

    start: Annotated[
        float,
        Number(0, 3600, 0.01, digits=0.001, unit="s", shown=0.0),
        "From here on it is made anew, in seconds. Every latent that touches the range changes: up to 8 frames more on "
        "both sides.",
    ]
    end: Annotated[float, Number(0, 3600, 0.01, digits=0.001, unit="s", shown=1.0), "Until here, in seconds."]
    streams: Annotated[
        str,
        Choice(tuple(RETAKEN_STREAMS)),
        "What is made anew; the other one stays as it is, and is followed.",
    ] = "picture and sound"

    def __post_init__(self) -> None:
        """Raise SettingError for a range that does not end after its beginning."""
        super().__post_init__()
        if not self.start < self.end:
            raise SettingError(
                f"The range to retake goes from {short(self.start)} s to {short(self.end)} s; it must end after its "
                "beginning."
            )

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Yield a retake or a frozen stream for each of the clip's ``streams``; nothing is encoded."""
        yield from RetakeRanges((self,)).encode(shape, streams, encoders)


@dataclass(frozen=True)
class RetakeRanges:
    """Make several time ranges anew, each in streams of its own; what lies in none of them stays."""

    ranges: tuple[RetakeRange, ...]

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Yield a retake or a frozen stream for each of the clip's ``streams``; nothing is encoded."""
        for stream in streams:
            own = [each for each in self.ranges if stream in RETAKEN_STREAMS[each.streams]]
            spans = [(each.start, each.end) for each in own]
            yield Retake(stream, *spans[0], tuple(spans[1:])) if spans else Frozen(stream)


@dataclass(frozen=True, eq=False)
class InpaintMask(Checked):
    """Make anew what a mask (1 or F, H, W) in 0..1 covers, and the sound only if asked to.

    The mask is resized and cropped as pictures are.
    """

    mask: Tensor
    feather: Annotated[
        int,
        Whole(0, 16),
        "Over how many cells of 32 pixels around the mask the change fades out. 0 is a hard edge.",
    ] = 1
    sound: Annotated[bool, Switch(), "Makes the sound anew, too; otherwise it stays, and is followed."] = False

    def __post_init__(self) -> None:
        """Raise SettingError for numbers that are no mask."""
        super().__post_init__()
        check_values("The mask", self.mask, WEIGHTS, MASKS)

    def encode(self, shape: ClipShape, streams: Collection[str], encoders: Encoders) -> Iterator[LatentCondition]:
        """Reduce the mask to cells of the latent.

        Raises SettingError for a mask of another number of frames, and for an empty one.
        """
        mask = cells(_fitted_mask(self.mask, shape.width, shape.height), shape.video_latent)
        if not mask.any():
            raise SettingError("The mask is empty, so there is nothing to make anew: paint white what shall change.")
        yield Inpaint("video", feathered(mask, self.feather, (1, 3, 3))[None, None])
        if "audio" in streams and not self.sound:
            yield Frozen("audio")


Change = RetakeRange | RetakeRanges | InpaintMask  # of a clip that there is


def _every(chunks: Iterable[Tensor], step: int) -> Iterator[Tensor]:
    """The first frame of ``chunks`` (B, 3, F, H, W), and from the second on every ``step``-th."""
    number = 0
    for chunk in chunks:
        frames = range(number, number + chunk.shape[2])
        number = frames.stop
        if wanted := [index for index, frame in enumerate(frames) if frame == 0 or (frame - 1) % step == 0]:
            yield chunk[:, :, wanted]


def _doubled(mask: Tensor | None) -> Tensor | None:
    """A mask of all frames, or masks (F, H, W) that show each twice but the last."""
    return mask if mask is None or len(mask) == 1 else mask.repeat_interleave(2, dim=0)[:-1]


def _fitted_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """Resize and crop a mask (F, H, W) as pictures are."""
    return (fit(mask[..., None], width, height)[0, 0] + 1) / 2
