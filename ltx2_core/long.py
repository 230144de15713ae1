"""Long clips: what is given for the whole of it, window by window."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .checkpoint.files import TensorFile
from .checkpoint.text_cache import TextCache
from .conditioning import AVState, LatentCondition, State, apply_conditions
from .latents import AVLatent
from .memory.stages import Extent
from .sampling.windows import Segment, StreamSpan, Window, Windowing, prompt_of, sample_windows
from .seeds import Seeds
from .text import Contexts

SampleWindow = Callable[[Window, AVLatent, list[LatentCondition]], AVLatent]


class WindowCache(TextCache):
    """Finished windows on disk, so that a run that was interrupted goes on where it was."""

    found = "This window was made before: %s is read instead."


def sample_clip(
    make: Callable[..., AVLatent],
    begin: AVLatent,
    items: Sequence[LatentCondition],
    fps: Fraction,
    script: Sequence[Segment],
    contexts: Mapping[str, Contexts],
    seed: int,
    watch: Callable[[int], Any],
    windowing: Windowing | None = None,
    windows: Sequence[Window] = (),
    store: WindowCache | None = None,
) -> AVLatent:
    """The clip at once, with the first prompt of ``script``; or window by window, each with the prompt of its segment
    and a seed of its own.

    ``make`` is ``generate.sample`` with all that windows share; ``watch(number)`` is told the steps of a window;
    ``contexts`` are those of the prompts.
    """
    if windowing is None:
        return make(begin, contexts=contexts[script[0].prompt], seed=seed, items=items, on_step=watch(0))

    def context(window: Window) -> Contexts:
        return contexts[prompt_of(window, script)]

    def one(window: Window, begin: AVLatent, items: list[LatentCondition]) -> AVLatent:
        number = window.number
        return make(
            begin, contexts=context(window), seed=Seeds(seed).window(number), items=items, on_step=watch(number)
        )

    given = apply_conditions(begin, fps, items)
    return sample_long(one, given, windowing, windows, store, lambda window: fingerprint(context(window)))


def sample_long(
    sample: SampleWindow,
    given: AVState,
    windowing: Windowing,
    windows: Sequence[Window],
    store: WindowCache | None = None,
    settings: Callable[[Window], str] = lambda window: "",
) -> AVLatent:
    """Sample the clip of ``given`` in ``windows``; ``sample(window, begin, items)`` makes one that has anything new.

    Finished windows are kept in ``store``, and found there if ``settings(window)`` and what is given there are the
    same.
    """

    def here(
        window: Window, begin: AVLatent, items: Sequence[LatentCondition] = ()
    ) -> tuple[AVState, list[LatentCondition]]:
        items = [*items, *(Within(name, state, window) for name, state in given.streams.items())]
        return apply_conditions(begin, window.fps, items), items

    def one(window: Window, begin: AVLatent, items: list[LatentCondition]) -> AVLatent:
        begin = begin.map(lambda x, state: x.to(state.latent.device), given)
        state, items = here(window, begin, items)
        return sample(window, begin, items) if state.free else begin.map(Tensor.contiguous)

    def all_settings(window: Window) -> str:
        begin = whole.map(lambda x, part: x[:, :, part.start : part.stop], window)
        return fingerprint(settings(window), here(window, begin)[0])

    whole = given.map(lambda state: state.unpacked(state.clean))
    return sample_windows(
        one,
        whole,
        windows,
        overlap_strength=windowing.overlap_strength,
        drift_control=windowing.drift_control,
        store=store,
        settings=all_settings,
    )


@dataclass(frozen=True, eq=False)
class Within:
    """What is given in a whole clip, as it is given in one of its windows."""

    stream: str
    whole: State
    window: Window

    def __call__(self, state: State) -> State:
        part: StreamSpan = getattr(self.window, self.stream)
        start, end = (float(frame / state.fps) for frame in (self.window.frames.start, self.window.frames.stop))
        times = self.whole.positions[0, 0, self.whole.count :]
        voice = times[:, 1] <= 0  # from before any clip
        seen = voice | ((times[:, 1] > start) & (times[:, 0] < end))
        own = torch.arange(self.whole.count, device=times.device).view(self.whole.shape[1], -1)[part.start : part.stop]
        which = torch.cat((own.flatten(), self.whole.count + seen.nonzero().flatten()))
        here = self.whole.select(which, state.shape)
        positions = here.positions.clone()
        positions[:, :, : here.count] = state.positions
        positions[:, 0, here.count :] -= torch.where(voice, 0, start)[seen, None]
        return replace(
            here,
            latent=here.with_own(here.latent, state.latent),
            clean=here.with_own(here.clean, state.clean),
            mask=here.with_own(here.mask, here.own(here.mask) * state.mask),
            positions=positions,
        )


def extent(given: AVState, windows: Sequence[Window]) -> Extent:
    """The largest that is sampled at once: the whole clip where there are no ``windows``."""
    states = given.streams
    if not windows:
        return _extent(states, given.appended)
    whole = given.map(lambda state: state.unpacked(state.clean))
    found = []
    for window in windows:
        begin = whole.map(lambda x, part: x[:, :, part.start : part.stop], window)
        items = [Within(name, state, window) for name, state in states.items()]
        state = apply_conditions(begin, window.fps, items)
        found.append(_extent(state.streams, state.appended))
    return max(found, key=lambda each: sum(count or 0 for count in each.tokens))


def _extent(states: dict[str, State], appended: tuple[int, int]) -> Extent:
    video, audio = states.get("video"), states.get("audio")
    return Extent(
        None if video is None else (video.shape[1], video.shape[2], video.shape[3]),
        None if audio is None else audio.shape[1],
        max(len(state.latent) for state in states.values()),
        appended,
    )


def fingerprint(*values: Any) -> str:
    """What differs where any of these values does: numbers, words, tensors, and whatever is made of them."""
    sha256 = hashlib.sha256()
    for value in values:
        if isinstance(value, TensorFile):
            value = value.path.name, (stat := value.path.stat()).st_size, stat.st_mtime_ns
        if isinstance(value, Tensor):
            sha256.update(f"{value.dtype} {tuple(value.shape)}".encode())
            sha256.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            sha256.update(fingerprint(*value.keys(), *value.values()).encode())
        elif isinstance(value, (list, tuple)):
            sha256.update(fingerprint(*value).encode())
        elif is_dataclass(value):
            sha256.update(fingerprint(type(value).__name__, *(getattr(value, f.name) for f in fields(value))).encode())
        else:
            sha256.update(repr(value).encode("utf-8", "surrogatepass"))
        sha256.update(b"\0")
    return sha256.hexdigest()
