"""What a clip is sampled from: prompts by time, and what is given in it; of a long clip window by window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..conditioning import AVState, LatentCondition, State, apply_conditions
from ..disk_cache import DiskCache, fingerprint
from ..errors import SettingError, counted
from ..latents import AVLatent
from ..sampling import Step
from ..sampling.windows import (
    Segment,
    StreamSpan,
    Window,
    Windowing,
    prompts_in,
    sample_windows,
    slice_window,
    texts_in,
)
from ..text import Contexts, relay_prompts
from .stage import LatentSize


@dataclass(frozen=True, eq=False)
class Script:
    """The prompts of a clip.

    Attributes:
        parts: when each begins, in seconds, and its contexts; the first holds before all others.
        negative: contexts of the negative prompt; None where nothing asks for one.
    """

    parts: tuple[tuple[float, Contexts], ...]
    negative: Contexts | None = None

    @classmethod
    def of(cls, contexts: Contexts, negative: Contexts | None = None) -> Script:
        """Write one prompt for the whole clip."""
        return cls(((0.0, contexts),), negative)

    @classmethod
    def of_prompts(cls, segments: Sequence[Segment], contexts: Mapping[str, Contexts], negative: str) -> Script:
        """Look up the contexts of every segment's prompt, and of the negative prompt if there are any."""
        return cls(tuple((float(each.start), contexts[each.prompt]) for each in segments), contexts.get(negative))

    def check_batch(self, latent: AVLatent) -> None:
        """Raise SettingError unless every prompt is one for all clips of ``latent``, or one for each."""
        clips = max(map(len, latent.streams().values()))
        for contexts in self.all_contexts:
            if len(contexts.video) not in (1, clips):
                raise SettingError(
                    f"{counted(len(contexts.video), 'prompt')} came for {counted(clips, 'clip')}: give one for all, "
                    "or one for each clip."
                )

    def check_masks(self) -> None:
        """Raise SettingError for prompts whose mask or area changes in time, which windows cannot follow."""
        for contexts in self.all_contexts:
            if any(each.changes for each in contexts.weights):
                raise SettingError(
                    "The mask or area of a prompt changes from frame to frame, which windows cannot follow: give one "
                    "picture as its mask, or another prompt from a moment on with LTX-2 Segment."
                )

    @property
    def all_contexts(self) -> list[Contexts]:
        """Those of every prompt, the negative one among them."""
        return [each for each in (*(part for _, part in self.parts), self.negative) if each is not None]

    @property
    def first(self) -> Contexts:
        """The prompt that the clip begins with."""
        return self.parts[0][1]

    def of_window(self, window: Window, transition: float = 0.0) -> Contexts:
        """Return what ``window`` reads.

        Args:
            window: reads the prompt that holds in the middle of what is new in it.
            transition: seconds in which prompts fade over; above 0 the window reads all that hold in it.

        Raises:
            SettingError: prompts that cannot fade over.
        """
        held = self._held(window, transition)
        if transition > 0:
            begin = float(window.frames.start / window.fps)
            return relay_prompts([contexts for _, contexts in held], [start - begin for start, _ in held], transition)
        return held[0][1]

    def unread(self, windows: Sequence[Window], transition: float = 0.0) -> list[str]:
        """Say which prompts none of ``windows`` reads; the same text read elsewhere counts for it."""
        read = {id(contexts) for window in windows for _, contexts in self._held(window, transition)}
        return describe_unread([start for start, contexts in self.parts if id(contexts) not in read], windows)

    def _held(self, window: Window, transition: float) -> list[tuple[float, Contexts]]:
        """The prompts that ``window`` reads, with the moments from which they count."""
        return [self.parts[number] for number in prompts_in([start for start, _ in self.parts], window, transition)]


def describe_unread(starts: Sequence[float], windows: Sequence[Window]) -> list[str]:
    """Say why prompts that begin at ``starts``, in seconds, are read by none of ``windows``."""
    end = float(windows[-1].frames.stop / windows[-1].fps) if windows else 0.0
    late = [start for start in starts if start >= end]
    hidden = [start for start in starts if start < end]
    reasons = (
        (late, f"the clip ends at {end:.4g} s. Let it begin earlier, or make the clip longer."),
        (
            hidden,
            "a window has the one that holds in the middle of what is new in it. Let it begin elsewhere, or choose "
            "shorter windows or a transition.",
        ),
    )
    return [f"{_prompt_from(each)} is not read: {reason}" for each, reason in reasons if each]


def _prompt_from(starts: Sequence[float]) -> str:
    others = f" (and {counted(len(starts) - 1, 'other')})" if starts[1:] else ""
    return f"The prompt from {starts[0]:g} s on{others}"


@dataclass(frozen=True, eq=False)
class SampleInputs:
    """What a latent is made from.

    Attributes:
        latent: (B, C, F, H, W) and (B, C, T, M); what it begins as. One that is still noisy is as a sampler hands it
            out, here or in ComfyUI: divided by 1 - sigma.
        fps: frames per second.
        contexts: of the prompt.
        negative: of the negative prompt; None where nothing asks for it.
        conditions: what is given, in the order in which it applies.
        last: the last step of an earlier call that this one continues.
    """

    latent: AVLatent
    fps: Fraction
    contexts: Contexts
    negative: Contexts | None = None
    conditions: Sequence[LatentCondition] = ()
    last: Step | None = None


def texts_at_once(starts: Sequence[float], windows: Sequence[Window], transition: float) -> int:
    """Return how many prompts a window reads at most, for the plan; arguments as for ``texts_in``."""
    if not transition:
        return 1
    return max((len(texts_in(sorted(starts), window, transition)) for window in windows), default=1)


def sample_long(
    sample: Callable[[SampleInputs, int], AVLatent],
    inputs: SampleInputs,
    script: Script,
    windows: Sequence[Window],
    windowing: Windowing,
    cache: DiskCache,
) -> AVLatent:
    """Sample a clip window by window, each with the prompt of its segment.

    Finished windows are kept, and found again by all that they depend on: their number, from which their seed follows,
    what they read, and what they begin with and are given.

    Args:
        sample: samples one window, by its number.
        inputs: of the whole clip.
        script: contexts of the prompts.
        windows: in the order in which they are sampled.
        windowing: how they are joined.
        cache: where finished windows are kept.
    """
    whole = apply_conditions(inputs.latent, inputs.fps, inputs.conditions)

    def sample_one(window: Window, begin: AVLatent, items: list[LatentCondition]) -> AVLatent:
        begin = begin.map(lambda x, state: x.to(state.latent.device), whole)
        given = [*items, *_within(whole, window)]
        state, contexts = apply_conditions(begin, window.fps, given), script.of_window(window, windowing.transition)
        if state.is_given:
            return begin.map(Tensor.contiguous)
        key = fingerprint(window.number, contexts, state)
        if (kept := cache.find(key)) is not None:
            return AVLatent(kept.get("video"), kept.get("audio"))
        made = sample(replace(inputs, latent=begin, contexts=contexts, conditions=given), window.number)
        cache.keep(key, **made.streams())
        return made

    return sample_windows(sample_one, whole.map(lambda state: state.unpacked(state.clean)), windows, windowing)


@dataclass(frozen=True, eq=False)
class WithinWindow:
    """What is given in a whole clip, as it is given in one of its windows."""

    stream: str
    whole: State
    window: Window

    def __call__(self, state: State) -> State:
        """Apply to the window's own ``state`` what the whole clip's says."""
        span: StreamSpan = getattr(self.window, self.stream)
        start, end = (float(frame / state.fps) for frame in (self.window.frames.start, self.window.frames.stop))
        times = self.whole.positions[0, 0, self.whole.count :]
        before_clip = times[:, 1] <= 0  # a reference voice
        visible = before_clip | ((times[:, 1] > start) & (times[:, 0] < end))
        numbers = torch.arange(self.whole.count, device=times.device).view(self.whole.shape[1], -1)
        own = numbers[span.start : span.stop].flatten()
        here = self.whole.select(torch.cat((own, self.whole.count + visible.nonzero().flatten())), state.shape)
        positions = here.positions.clone()
        positions[:, :, : here.count] = state.positions
        positions[:, 0, here.count :] -= torch.where(before_clip, 0, start)[visible, None]
        before, marks = here.keyframes, state.keyframes
        return replace(
            here,
            latent=here.with_own(here.latent, state.latent),
            clean=here.with_own(here.clean, state.clean),
            mask=here.with_own(here.mask, here.own(here.mask) * state.mask),
            positions=positions,
            keyframes=None if before is None or marks is None else here.with_own(before, marks),
        )


def _within(whole: AVState, window: Window) -> list[LatentCondition]:
    """What is given in a whole clip, as it is given in a window."""
    return [WithinWindow(name, state, window) for name, state in whole.streams().items()]


def sampled_size(state: AVState, windows: Sequence[Window]) -> LatentSize:
    """Return the largest latent that is sampled at once: the whole clip where there are no ``windows``."""
    if not windows:
        return _size_of(state)
    clean = state.map(lambda each: each.unpacked(each.clean))
    sizes = []
    for window in windows:
        given = _within(state, window)
        sizes.append(_size_of(apply_conditions(slice_window(clean, window), window.fps, given)))
    return max(sizes, key=lambda size: sum(count or 0 for count in size.tokens))


def _size_of(state: AVState) -> LatentSize:
    video, audio = state.video, state.audio
    return LatentSize(
        None if video is None else (video.shape[1], video.shape[2], video.shape[3]),
        None if audio is None else audio.shape[1],
        max(len(each.latent) for each in state.streams().values()),
        state.appended,
        state.groups,
    )
