"""What node graphs pass from stage to stage: a latent with all that is known of it, and prompts with their extents.

A LATENT is a mapping with ``samples``: a tensor, a nested one, or a tuple of the streams, which is what these functions
return. A CONDITIONING is a sequence of pairs, a tensor and a mapping.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import Models
from ...checkpoint.belonging import check_latent
from ...conditioning import GuidePlaces, Inpaint, LatentCondition
from ...conditioning.guides import check_same_guides, read_sound
from ...conditioning.masks import fit_audio_mask, fit_video_mask
from ...errors import SettingError
from ...geometry import ClipShape, Keyframes, exact_fps
from ...health import Seams
from ...latents import AVLatent, from_parts
from ...sampling import Step, Tiles
from ...sampling.windows import Windowing
from ...text import Contexts, join_prompts, read_extras
from ...text.prompts import MADE_BY, UNPROCESSED, check_ranges
from ..encode_text import read_joined
from ..engine import Engine
from ..long import Script
from ..takes import Take

Latent = Mapping[str, Any]
Conditioning = Sequence[Sequence[Any]]

_log = logging.getLogger(__name__)

DEFAULT_FPS = Fraction(24)
SEAMS = "ltx2av_seams"  # in a LATENT: its size, and where its tiles meet, in frames and pixels
DRAWN = "ltx2av_drawn"  # in a LATENT: how many random numbers each draw of the stages before took
TIMES = "ltx2av_times"  # in a LATENT: how many times the rate it has that frames of conditions are counted at
KEYFRAMES = "ltx2av_keyframes"  # in a LATENT: single frames that were generated beside the clip
SHOWN = "ltx2av_shown"  # in a LATENT: its rows and columns, and the width and height in pixels that its frames keep
LAST_STEP = "ltx2av_last_step"  # in a LATENT of a sampler that stopped before the end: what the next one goes on from

NO_PICTURE = "This LATENT has no picture, only sound: connect the latent of both, or that of the picture."
NO_SOUND = "This LATENT has no sound, only a picture: connect the latent of both, or that of the sound."


@dataclass(frozen=True)
class LongClipPlan:
    """LTX2AV_WINDOWS: how a long clip is cut, and which prompt begins when, beside the sampler's own from 0 s on."""

    windowing: Windowing
    resume: bool
    segments: tuple[tuple[float, Conditioning], ...] = ()


class GraphLatent:
    """A LATENT, read once: its two streams, its frame rate, and what it says beside them.

    The guide frames that the host's nodes append to the video, and of which its prompt says where they are, are no part
    of ``content``; what comes out has them again.
    """

    def __init__(self, latent: Latent, fps: float = 0.0, prompt: "GraphPrompt | None" = None):
        """Read ``latent``; ``fps`` is the user's choice, 0 for none; ``prompt`` may name a rate, guides and a sound."""
        self.extras: Mapping[str, Any] = latent
        self.content, self.prompt = from_parts(_streams(latent["samples"])), prompt
        self._whole, self._guides = self.content, None
        if prompt is not None and prompt.guides is not None:
            self.content, self._guides = prompt.guides.split(self.content, self._given_masks[0])
        self.content = replace(self.content, keyframes=self._keyframes)
        self.fps = _fps(latent, fps, None if prompt is None else prompt.frame_rate)
        self.made_by: str | None = latent.get(MADE_BY)

    def read_by(self, models: Models) -> "GraphLatent":
        """Check that ``models`` read such a latent, and return this, whose maker they are from now on.

        Raises SettingError for one that models of other latents have made.
        """
        check_latent(self.made_by, models)
        self.made_by = models.generation
        return self

    @property
    def has_picture(self) -> bool:
        """Whether there is a video stream."""
        return self.content.video is not None

    @property
    def video(self) -> Tensor:
        """The video stream (B, C, F, H, W); raises SettingError without one."""
        if self.content.video is None:
            raise SettingError(NO_PICTURE)
        return self.content.video

    @property
    def audio(self) -> Tensor:
        """The audio stream (B, C, T, M); raises SettingError without one."""
        if self.content.audio is None:
            raise SettingError(NO_SOUND)
        return self.content.audio

    @property
    def video_tokens(self) -> int | None:
        """The tokens of the picture; None without one."""
        return None if self.content.video is None else self.content.video[0, 0].numel()

    @property
    def batch(self) -> int:
        """How many clips there are."""
        return len(next(iter(self.content.streams().values())))

    @cached_property
    def shape(self) -> ClipShape:
        """The clip; of a sound alone, one whose picture would be as small as can be."""
        return self.content.shape(self.fps)

    @property
    def own_shape(self) -> ClipShape:
        """The clip at the rate that the LATENT says of itself, if it says one: so long are sounds and videos for it.

        Another rate, chosen for a sampler, is how fast things move in it (``SamplingSettings.motion_speed``).
        """
        return self.content.shape(_fps(self.extras, 0.0, self.fps))

    @property
    def clip(self) -> ClipShape | None:
        """The clip that this will be; None without a picture."""
        return self.shape if self.has_picture else None

    @property
    def planned_clip(self) -> ClipShape:
        """The clip; raises SettingError without a picture."""
        if not self.has_picture:
            raise SettingError("This LATENT has no picture: connect LTX-2 Empty AV Latent to plan for its size.")
        return self.shape

    @property
    def last_step(self) -> Step | None:
        """The last step of the sampler that stopped here before its end, unless another node has cut it since."""
        last = self.extras.get(LAST_STEP)
        return last if last is not None and last.fits(self.content) else None

    @property
    def times(self) -> int:
        """How many times the frame rate of the first stage it has, of which frames of conditions are counted."""
        return self.extras.get(TIMES, 1)

    @property
    def drawn(self) -> tuple[int, ...]:
        """Sizes of the draws of random numbers in the stages before; none where it does not say."""
        return tuple(self.extras.get(DRAWN, ()))

    @property
    def drawn_by_first(self) -> tuple[int, ...]:
        """The same before a second stage: where it does not say, those of a first stage of this size."""
        return self.drawn or tuple(x.numel() for x in self.content.streams().values())

    @property
    def seams(self) -> Seams:
        """Watches frames for lines where the latent's tiles meet, if it was refined in tiles."""
        size, lines = self.extras.get(SEAMS, (None, None))
        if self.content.video is None or lines is None or tuple(self.content.video.shape[2:]) != size:
            return Seams()  # it may have been cropped since
        return Seams(*lines)

    @property
    def shown(self) -> tuple[int, int] | None:
        """Width and height in pixels of what is kept of its frames, unless another node has cut it since."""
        size, shown = self.extras.get(SHOWN, (None, None))
        return shown if self.content.video is not None and tuple(self.content.video.shape[3:]) == size else None

    @property
    def _keyframes(self) -> Keyframes | None:
        """Those that were generated beside the clip, unless another node has cut it since."""
        own, video = self.extras.get(KEYFRAMES), self.content.video
        return own if own is not None and video is not None and own.belongs_to(video) else None

    @property
    def unequal_lengths(self) -> str:
        """What to say if picture and sound will not end together; the host's own rounding makes no difference."""
        return self.content.unequal_lengths(self.fps)

    def given(self) -> list[LatentCondition]:
        """Return what the noise mask keeps, guide frames, and the reference sound of the prompt."""
        masks = {} if self.mask is None else self.mask.streams()
        given: list[LatentCondition] = [Inpaint(stream, each) for stream, each in masks.items()]
        if self._guides is not None:
            given.append(self._guides)
        if self.prompt is not None and self.prompt.sound is not None:
            given.append(self.prompt.sound)
        return given

    @property
    def mask(self) -> AVLatent | None:
        """The noise mask, (B, 1, F, H, W) and (B, 1, T, 1), 1 = generate; None if everything is generated."""
        if self.extras.get("noise_mask") is None:
            return None
        video, audio = self._given_masks
        whole = None if self._whole.video is None else fit_video_mask(video, self._whole.video)
        fitted = AVLatent(
            None if whole is None else whole[:, :, : self.video.shape[2]],
            None if self.content.audio is None else fit_audio_mask(audio, self.content.audio),
        )
        return fitted.map(lambda weights: weights.clamp(0, 1))  # what resizing left beyond would scale the noise

    def check_no_guides(self) -> None:
        """Raise SettingError for guide frames, which are encoded for one size."""
        if self._guides is not None:
            raise SettingError(
                "This LATENT holds guide frames, which cannot be enlarged: crop them with LTXVCropGuides after the "
                "first stage, and give the pictures for the second one anew if you wish."
            )

    @property
    def _given_masks(self) -> tuple[Tensor | None, Tensor | None]:
        """The noise masks of both streams as they came, guide frames included."""
        mask = self.extras.get("noise_mask")
        first, *others = (None,) if mask is None else _streams(mask)
        if others:
            return first, others[0]
        return (first, None) if self.has_picture else (None, first)

    def with_content(
        self, content: AVLatent, drop: Collection[str] = (), extras: Latent = MappingProxyType({})
    ) -> Latent:
        """Return the LATENT with other content, without extras in ``drop`` and with further ``extras``."""
        kept = {key: value for key, value in self.extras.items() if key not in (*drop, KEYFRAMES)}
        if content.keyframes is not None:
            kept[KEYFRAMES] = content.keyframes
        if self._guides is not None and content.video is not None:
            frames = self._guides.latent.to(content.video)
            content = replace(content, video=torch.cat((content.video, frames), dim=2))
        return latent_of(content, {**kept, "fps": self.fps, MADE_BY: self.made_by, **extras})

    def as_take(self, tags: Mapping[str, str]) -> Take:
        """Return what a file keeps of this; what other packs wrote into the LATENT is no part of it."""
        fps = self.fps if self.extras.get("fps") else None
        own, seams = self._given_masks, self.extras.get(SEAMS)
        state = (self.last_step, self.drawn, self.times, seams)
        return Take(self.content, fps, own, *state, tags, self.made_by, self.shown)

    def finished(self, content: AVLatent, last: Step | None, drawn: tuple[int, ...]) -> Latent:
        """Return what a sampler made of this; ``last`` is its last step if it stopped before the end."""
        extras = {LAST_STEP: None if last is None else last.to("cpu"), DRAWN: (*self.drawn, *drawn)}
        return self.with_content(content, extras=extras)

    def upscaled(self, content: AVLatent, fps: Fraction) -> Latent:
        """Return the enlarged latent; masks and steps of the small one do not hold for it."""
        times = self.times * round(fps / self.fps)
        extras = {"fps": fps, TIMES: times, DRAWN: self.drawn_by_first}
        return self.with_content(content, ("noise_mask", LAST_STEP, SEAMS), extras)

    def raised(self, content: AVLatent, draws: Sequence[tuple[int, ...]]) -> Latent:
        """Return what a round of windows, which drew so many numbers each, made of this."""
        return self.with_content(content, extras={DRAWN: sum(draws, self.drawn_by_first)})

    def refined(self, content: AVLatent, tiles: Tiles, drawn: tuple[int, ...]) -> Latent:
        """Return the refined latent, which says where its tiles meet."""
        size = self.shape.video_latent
        extras = {SEAMS: (size, tiles.seams(size)), DRAWN: (*self.drawn_by_first, *drawn)}
        return self.with_content(content, (LAST_STEP,), extras)


def tokens_of(latent: Latent | None) -> int | None:
    """Return the tokens of the picture; None without a latent or a picture."""
    return None if latent is None else GraphLatent(latent).video_tokens


class GraphPrompt:
    """A CONDITIONING, read once: what the transformer reads, whether or not it has met the connectors."""

    def __init__(self, conditioning: Conditioning):
        """Read ``conditioning``; SettingError for what other nodes have written into it and ours cannot obey."""
        self.prompts = conditioning
        self.extras = [extras for _, extras in conditioning]
        self.extents = [read_extras(extras) for extras in self.extras]
        check_ranges(self.extents)
        self.guides, self.sound = GuidePlaces.read(self.extras), read_sound(self.extras)

    @property
    def frame_rate(self) -> float | None:
        """What the host's LTXVConditioning says about the frame rate."""
        return self.prompts[0][1].get("frame_rate")

    def contexts(self, engine: Engine) -> Contexts:
        """Return the contexts, each prompt where and when it holds; features go through the connectors first."""
        return join_prompts([read_joined(engine, *each) for each in self.prompts], self.extents)

    def connected(self, engine: Engine) -> list[tuple[Tensor, dict[str, Any]]]:
        """Return the CONDITIONING with the contexts of both streams side by side."""
        joined = []
        for tensor, extras in self.prompts:
            contexts = read_joined(engine, tensor, extras)
            kept = {key: value for key, value in extras.items() if key != UNPROCESSED}
            joined.append((torch.cat((contexts.video, contexts.audio), dim=-1), kept))
        return joined


def script_of(
    engine: Engine, positive: Conditioning, negative: Conditioning | None = None, long: LongClipPlan | None = None
) -> Script:
    """Return the contexts of a prompt, of the segments of a long clip, and of a negative prompt."""
    first, other = GraphPrompt(positive), None if negative is None else GraphPrompt(negative)
    later = [(start, GraphPrompt(each)) for start, each in (long.segments if long else ())]
    for each in filter(None, (other, *(part for _, part in later))):
        check_same_guides(first.extras, each.extras)
    contexts = tuple((start, each.contexts(engine)) for start, each in ((0.0, first), *later))
    return Script(contexts, None if other is None else other.contexts(engine))


def latent_of(content: AVLatent, extras: Mapping[str, Any]) -> Latent:
    """Return ``content`` as a LATENT, with ``extras`` beside it."""
    return {**extras, "samples": tuple(content.streams().values())}


def _streams(value: Any) -> Sequence[Tensor]:
    """The streams of samples or of a noise mask."""
    if isinstance(value, tuple):
        return value
    return value.unbind() if value.is_nested else (value,)


def latent_of_take(take: Take) -> Latent:
    """Return the LATENT that a file keeps."""
    mask = tuple(each for each in take.masks if each is not None) or None
    drawn, times = take.drawn or None, None if take.times == 1 else take.times
    video = take.content.video
    shown = None if take.shown is None or video is None else (tuple(video.shape[3:]), take.shown)
    extras = {
        "fps": take.fps, "noise_mask": mask, KEYFRAMES: take.content.keyframes, LAST_STEP: take.last,
        SEAMS: take.seams, DRAWN: drawn, TIMES: times, MADE_BY: take.made_by, SHOWN: shown,
    }  # fmt: skip
    return latent_of(take.content, {name: value for name, value in extras.items() if value is not None})


def _fps(latent: Latent, chosen: float, otherwise: float | Fraction | None) -> Fraction:
    for fps in (chosen, latent.get("fps"), otherwise):
        if fps:
            return exact_fps(fps)
    _log.info("This LATENT does not say its frame rate; it is taken as %s frames per second.", DEFAULT_FPS)
    return DEFAULT_FPS
