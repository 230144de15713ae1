"""A clip whose frame rate was doubled is refined in windows between its keyframes: a round of DFR."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..conditioning import Frozen, Keyframe, KeyframeSlots, LatentCondition, apply_conditions
from ..errors import SettingError
from ..geometry import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    AUDIO_RATE,
    TIME_SCALE,
    VIDEO_CHANNELS,
    ClipShape,
    Keyframes,
    audio_latents,
    frame_number,
    pixel_frames,
)
from ..health import latent_findings
from ..latents import AVLatent
from ..lora import Stack
from ..memory.placement import StageNeed
from ..sampling.rounds import (
    ANCHOR_STRENGTH,
    MOST_TRAINED_FPS,
    ROUND_SIGMAS,
    TOLD_FPS,
    RoundWindow,
    join_keyframes,
    join_round,
    round_sampler,
    split_round,
)
from ..settings import SamplingSettings
from .encode_conditions import check_marker
from .engine import Engine
from .long import SampleInputs, Script, sampled_size
from .needs.blueprint import Blueprint
from .needs.passes import need_of_passes
from .sample import Sampling, hooks_of, sample
from .stage import TRANSFORMER, LatentSize, Stage

NO_KEYFRAMES = (
    "The frame rate is raised between keyframes, and this latent has none: connect LTX-2 Generated Keyframes to the "
    "sampler, and turn on keep_keyframes in the second stage."
)


@dataclass(frozen=True)
class RaiseRate(Stage):
    """Refine a clip that has twice the frames of the one before it.

    Attributes:
        number: of the round, counted from 1; each has twice as many windows.
        windows: in the order in which they are refined.
        size: the largest window.
        draws: sizes of the draws of random numbers in each window.
        seed: of the clip.
        drawn: sizes of the draws of random numbers in the stages before.
        loras: in place of those of the model.
    """

    number: int
    windows: tuple[RoundWindow, ...]
    size: LatentSize
    draws: tuple[tuple[int, ...], ...]
    seed: int = 0
    drawn: tuple[int, ...] = ()
    loras: Stack | None = None
    networks = (TRANSFORMER,)

    @classmethod
    def of(
        cls,
        latent: AVLatent,
        fps: Fraction,
        number: int,
        conditions: Sequence[LatentCondition] = (),
        seed: int = 0,
        drawn: tuple[int, ...] = (),
        loras: Stack | None = None,
    ) -> "RaiseRate":
        """Lay out a round.

        Args:
            latent: with keyframes; its frames are those of the higher rate already.
            fps: that rate.
            number: of the round, counted from 1.
            conditions: what is given in the clip.
            seed: of the clip.
            drawn: sizes of the draws of random numbers in the stages before.
            loras: in place of those of the model.

        Raises:
            SettingError: without picture or keyframes, and for keyframes or conditions that windows cannot follow.
        """
        check_known_keyframes(latent)
        assert latent.video is not None and latent.keyframes is not None
        if other := [each for each in conditions if not isinstance(each, Keyframe)]:
            raise SettingError(
                "Raising the frame rate follows pictures alone, and this clip is given more "
                f"({type(other[0]).__name__}): leave it out here."
            )
        windows = tuple(split_round(latent.keyframes.frames, pixel_frames(latent.video.shape[2]), 2**number))
        told = told_fps(fps)
        states = [
            apply_conditions(part_of(latent, each, fps, told), told, items_of(each, latent, conditions))
            for each in windows
        ]
        largest = max((sampled_size(state, ()) for state in states), key=lambda size: size.tokens[0] or 0)
        return cls(number, windows, largest, tuple(state.draws for state in states), seed, drawn, loras)

    @property
    def name(self) -> str:
        """Such as "raising the frame rate, round 1"."""
        return f"raising the frame rate, round {self.number}"

    @property
    def made_frames(self) -> tuple[int, ...]:
        """The keyframes that there are when it is over."""
        return tuple(sorted({frame for each in self.windows for frame in (*each.anchors, *each.slots)}))

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure all windows as if they were as large as the largest one.

        Raises SettingError for a transformer that does not mark keyframes.
        """
        check_marker(blueprint)
        steps = (len(ROUND_SIGMAS) - 1) * len(self.windows)
        return need_of_passes(blueprint, self.size, ("cond",), steps, name=self.name)

    def run(
        self,
        engine: Engine,
        latent: AVLatent,
        fps: Fraction,
        script: Script,
        conditions: Sequence[LatentCondition] = (),
    ) -> AVLatent:
        """Return the refined latent with its keyframes, those that the round has made among them.

        Args:
            engine: runs the transformer.
            latent: with keyframes; its sound is heard and stays.
            fps: frames per second, of the higher rate.
            script: contexts of the prompt.
            conditions: pictures at frames of the clip.
        """
        script.check_batch(latent)
        whole, told = latent.to(engine.device(TRANSFORMER)), told_fps(fps)
        check_known_keyframes(whole)
        pieces, made = [], []
        with engine.use(self, self.loras) as networks:
            for number, window in enumerate(self.windows):
                begin = part_of(whole, window, fps, told)
                inputs = SampleInputs(begin, told, script.first, None, items_of(window, whole, conditions))
                hooks = hooks_of(engine, self.name, number, len(self.windows))
                dtype = engine.dtype(TRANSFORMER)
                found = sample(networks[TRANSFORMER], inputs, self._sampling(number), dtype, hooks)
                assert found.video is not None and found.keyframes is not None
                pieces.append(found.video)
                made.append(found.keyframes.moved(window.first))
        assert whole.keyframes is not None
        keyframes = join_keyframes(whole.keyframes, made)
        result = replace(whole, video=join_round(pieces, self.windows), keyframes=keyframes)
        engine.events.report_findings(latent_findings(result, self.name))
        return result

    def _sampling(self, number: int) -> Sampling:
        """How the window of this number is sampled."""
        drawn = tuple(count for each in (self.drawn, *self.draws[:number]) for count in each)
        solver = round_sampler(self.seed, self.number, number)
        return Sampling(tuple(ROUND_SIGMAS), settings=SamplingSettings(seed=self.seed), drawn=drawn, solver=solver)


def check_known_keyframes(latent: AVLatent) -> None:
    """Raise SettingError for a latent without picture or keyframes."""
    if latent.video is None or latent.keyframes is None:
        raise SettingError(NO_KEYFRAMES)


def placeholder(shape: ClipShape, audio_latents: int, frames: tuple[int, ...], batch: int) -> AVLatent:
    """Return zeros in the place of a clip with keyframes, which take no memory."""
    count, height, width = shape.video_latent
    video = torch.zeros(1).expand(batch, VIDEO_CHANNELS, count, height, width)
    audio = torch.zeros(1).expand(batch, AUDIO_CHANNELS, audio_latents, AUDIO_BINS)
    return AVLatent(video, audio, Keyframes(video[:, :, : len(frames)], frames))


def told_fps(fps: Fraction) -> Fraction:
    """Return the frame rate by which positions count: far above those of training, motion would stall at latents."""
    return Fraction(TOLD_FPS) if fps > MOST_TRAINED_FPS else fps


def part_of(latent: AVLatent, window: RoundWindow, fps: Fraction, told: Fraction) -> AVLatent:
    """Return the picture of ``window``, and its sound drawn out to as long as the model is ``told`` that it lasts."""
    assert latent.video is not None
    video = latent.video[:, :, window.latents]
    if latent.audio is None:
        return AVLatent(video, None)
    frames = window.last - window.first + 1
    begin, end = (float(frame / fps * AUDIO_RATE) for frame in (window.first, window.first + frames))
    return AVLatent(video, _resampled(latent.audio, begin, end, audio_latents(frames, told)))


def items_of(window: RoundWindow, latent: AVLatent, conditions: Sequence[LatentCondition]) -> list[LatentCondition]:
    """Return what is given in ``window``: pictures in it, keyframes that are known, and room for those in between."""
    assert latent.video is not None and latent.keyframes is not None
    items: list[LatentCondition] = []
    for each in conditions:
        if isinstance(each, Keyframe):
            frame = frame_number(each.frame, pixel_frames(latent.video.shape[2]))
            if window.first <= frame <= window.last:
                items.append(replace(each, frame=frame - window.first))
    for frame in window.anchors:
        number = latent.keyframes.frames.index(frame)
        known = latent.keyframes.latent[:, :, number : number + 1]
        items.append(Keyframe(known, frame - window.first, ANCHOR_STRENGTH, append=True))
    slots, own = tuple(frame - window.first for frame in window.slots), latent.video[:, :, window.latents]
    nearest = [min(round(frame / TIME_SCALE), own.shape[2] - 1) for frame in slots]
    items.append(KeyframeSlots(slots, own[:, :, nearest]))
    return items if latent.audio is None else [*items, Frozen("audio")]


def _resampled(audio: Tensor, begin: float, end: float, count: int) -> Tensor:
    """Return ``count`` latents of (B, C, T, M), evenly from ``begin`` on until before ``end``, linearly between two.

    As in diffusers 0.42.1, whose temporal refinement of DFR is that of later official releases.
    """
    last = audio.shape[2] - 1
    places = (begin + (end - begin) / count * torch.arange(count, device=audio.device)).clamp(0, last)
    before = places.long()
    return torch.lerp(audio[:, :, before], audio[:, :, (before + 1).clamp(max=last)], (places - before)[:, None])
