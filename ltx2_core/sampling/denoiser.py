"""From a noisy latent to its guided estimate: the passes of one step, and the content that is kept."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..conditioning import AVState, State
from ..errors import SettingError
from ..latents import AVLatent
from ..text import Contexts, PromptWeight
from ..transformer import (
    UNPERTURBED,
    Network,
    Pass,
    Perturbation,
    StepCache,
    StreamInput,
    TextCache,
    Transformer,
    Velocities,
)
from .blend import blended, shares
from .guidance import NEUTRAL, PASSES, AnyGuidance, Guidance, PassKind, in_walks, passes_needed

Inputs = tuple[StreamInput | None, StreamInput | None]


@runtime_checkable
class ManyNetworks(Network, Protocol):
    """A transformer that answers several questions at once, as on several devices."""

    def sweep_each(
        self, groups: Sequence[Sequence[Pass]], between_blocks: Callable[[], None] | None = None
    ) -> Iterator[Sequence[Velocities]]:
        """Yield what ``sweep`` would return for each group of passes, in their order."""


@dataclass
class Denoiser:
    """x0 = denoise(latent, sigma) for any sampler (``README.md``, "One estimate").

    A pass runs only if a term that needs it is not neutral, and the guidance of a frozen stream counts as neutral. A
    stream that skips steps reuses its last estimate, so make one Denoiser for each run, and set ``step`` to the number
    of each step.

    Args:
        network: The transformer.
        state: The states of both streams: where the tokens (B, N, C) of a latent lie, and which of them are kept.
        contexts: The text contexts of the prompt.
        negative: Those of the negative prompt; None if nothing needs them.
        video: The guidance of the video.
        audio: The guidance of the audio.
        noise: Noise of which a frozen stream may be shown a part.
        dtype: That of the network.
        always_negative: The sampler uses the negative pass by itself.
        batched: Conditional and negative pass are computed as one batch: faster for few tokens, more memory.
        most_passes: How many passes go together through the blocks; None is all: faster, more memory.
        between_blocks: Called between two blocks of the network; may raise to interrupt.
        on_evaluate: Called with sigma and step before the network is evaluated.
        step: The number of the step, counted from 0.
        step_cache: The limit of ``StepCache``, for passes that all go together; 0 is without.
        caches_text: What the network makes of prompts at every noise level alike is kept; its weights must not change.
    """

    network: Network
    state: AVState
    contexts: Contexts
    negative: Contexts | None = None
    video: AnyGuidance = NEUTRAL
    audio: AnyGuidance = NEUTRAL
    noise: AVLatent | None = None
    dtype: torch.dtype = torch.float32
    always_negative: bool = False
    batched: bool = False
    most_passes: int | None = None
    between_blocks: Callable[[], None] | None = None
    on_evaluate: Callable[[float, int], None] | None = None
    step: int = 0
    step_cache: float = 0.0
    caches_text: bool = False
    _caches: dict[int, StepCache] = field(default_factory=dict, init=False)  # by the number of the prompt
    _texts: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary, init=False)  # caches by context
    _last: tuple[AVLatent, AVLatent] | None = field(default=None, init=False)
    _sigma: float = field(default=1.0, init=False)  # that is evaluated
    _asked: tuple[int, int] = field(default=(0, -1), init=False)  # the step, and how often in it before

    def __call__(self, latent: AVLatent, sigma: float) -> AVLatent:
        """Estimate, with guidance, what ``latent`` at noise level ``sigma`` will become."""
        return self.both(latent, sigma)[0]

    def both(self, latent: AVLatent, sigma: float) -> tuple[AVLatent, AVLatent]:
        """Estimate with guidance, and by the negative pass alone (the conditional one if that is not needed).

        Content that is kept in part is put back into the first alone (ltx-pipelines 1.2.0, euler_cfg_pp loop).
        """
        frozen = {name for name in latent.streams() if getattr(self.state, name).is_frozen}
        guidance = {n: NEUTRAL if n in frozen else getattr(self, n).at(sigma) for n in latent.streams()}
        step = self._count()
        active = {n: each for n, each in guidance.items() if self._last is None or not each.skips(step)}
        if active.keys() - frozen or self._last is None:
            guided, plain = self._estimate(latent, sigma, active)
            last_guided, last_plain = self._last or (guided, plain)
            self._last = _filled(guided, last_guided), _filled(plain, last_plain)
        return self._last

    def _count(self) -> int:
        """The number of the step by which streams skip.

        The second estimate of a step is never skipped, and a third one counts to the next step (ltx-pipelines 1.2.0,
        the res_2s loop).
        """
        step, before = self._asked
        again = before + 1 if step == self.step else 0
        self._asked = self.step, again
        if again == 1:
            return 0  # which no stream skips
        return self.step + 1 if again else self.step

    def passes(self, latent: AVLatent, guidance: Iterable[Guidance]) -> list[str]:
        """List the passes that ``guidance`` needs for the streams of ``latent``, in the official order."""
        return passes_needed(guidance, len(latent.streams()) == 2, self.always_negative, self.state.appended[1] > 0)

    def _estimate(self, latent: AVLatent, sigma: float, active: dict[str, Guidance]) -> tuple[AVLatent, AVLatent]:
        if self.on_evaluate is not None:
            self.on_evaluate(sigma, self.step)
        self._sigma = sigma
        names = self.passes(latent, active.values())
        video, audio = active.get("video", NEUTRAL), active.get("audio", NEUTRAL)
        perturbations = {name: PASSES[name].leaves_out(video, audio) for name in names}
        inputs = self._inputs(latent, sigma, active)
        velocities = self._velocities(inputs, perturbations)
        x0 = {name: _x0(latent, inputs, velocities[name]) for name in names}
        guided = {
            stream: each.combine({name: getattr(estimate, stream) for name, estimate in x0.items()})
            for stream, each in active.items()
        }
        # What comes of a stream that the blocks left as it was is no estimate.
        plain = {stream: getattr(x0.get("negative", x0["cond"]), stream) for stream in active}
        made, unguided = (AVLatent(each.get("video"), each.get("audio")) for each in (guided, plain))
        return self.hold(made), self._hold_frozen(unguided)

    def _velocities(self, inputs: Inputs, perturbations: dict[str, Perturbation]) -> dict[str, Velocities]:
        """The velocity of each pass; where several prompts hold, each has a sweep, and the mean of them is taken."""
        prompts = {name: self._prompts(PASSES[name].reads_negative) for name in perturbations}
        made: dict[str, list[Velocities]] = {name: [] for name in perturbations}
        for number in range(max(map(len, prompts.values()))):
            here = {name: PASSES[name] for name in perturbations if number < len(prompts[name])}
            asked = {each.reads_negative for each in here.values()}
            reads = {negative: self._reads(inputs, negative, number) for negative in asked}
            passes = {
                name: Pass(*self._heard(reads[kind.reads_negative], kind), perturbations[name])
                for name, kind in here.items()
            }
            swept = self._sweep(passes, number)
            for name, velocities in swept.items():
                made[name].append(self._for_all_tokens(velocities, swept.get("cond", velocities)))
        return {name: self._mean([weight for _, weight in prompts[name]], made[name]) for name in perturbations}

    def _prompts(self, negative: bool) -> Sequence[tuple[Contexts, PromptWeight]]:
        """The prompts that hold, each with its weight."""
        contexts = self._needed_negative() if negative else self.contexts
        return contexts.parts_at(self._sigma)

    def _reads(self, inputs: Inputs, negative: bool, number: int) -> Inputs:
        """The inputs with prompt ``number`` of those that hold; the first of the conditional pass is there already."""
        if not negative and number == 0:
            return inputs
        return self._reading(inputs, self._prompts(negative)[number][0], nag=not negative)

    def _heard(self, inputs: Inputs, kind: PassKind) -> Inputs:
        """The inputs of a pass of ``kind``: the same objects, or without the reference sound."""
        video, audio = inputs
        if kind.hears_reference or audio is None or self.state.audio is None:
            return inputs
        own = self.state.audio.without_appended
        audio = replace(audio, tokens=own.own(audio.tokens), positions=own.positions)
        if audio.timesteps is None:
            return video, audio
        return video, replace(audio, timesteps=own.own(audio.timesteps), levels=own.levels)

    def _for_all_tokens(self, velocities: Velocities, cond: Velocities) -> Velocities:
        """Those of a pass without the reference sound have no rows for it, and get the ones of ``cond``."""
        (video, audio), (_, whole) = velocities, cond
        if audio is None or whole is None or self.state.audio is None or audio.shape == whole.shape:
            return velocities
        return video, self.state.audio.with_own(whole, audio)

    def _mean(self, weights: Sequence[PromptWeight], velocities: list[Velocities]) -> Velocities:
        if len(velocities) == 1:
            return velocities[0]
        parts = shares(weights, self.state)

        def of(number: int, name: str) -> Tensor | None:
            known = [each[number] for each in velocities]
            estimates = [each for each in known if each is not None]
            return blended(estimates, [getattr(part, name) for part in parts]) if estimates else None

        return of(0, "video"), of(1, "audio")

    def _sweep(self, passes: dict[str, Pass], number: int) -> dict[str, Velocities]:
        """The velocities of all passes with prompt ``number``, as many at once as may go together."""
        swept: dict[str, Velocities] = {}
        for names in in_walks(passes, self.most_passes):
            swept |= self._walk({name: passes[name] for name in names}, number)
        return swept

    def _walk(self, passes: dict[str, Pass], number: int) -> dict[str, Velocities]:
        """The velocities of ``passes`` with prompt ``number``, in one walk over the blocks."""
        alone = dict(passes)
        pair = _batch(alone, "cond", "negative") if self.batched else None
        if pair is not None:
            del alone["cond"], alone["negative"]
        asked = [*([pair] if pair else []), *alone.values()]
        results: Sequence[Velocities]
        if self.step_cache:
            cache = self._caches.setdefault(number, StepCache(self.step_cache))
            results = cast(Transformer, self.network).sweep(asked, self.between_blocks, cache)
        else:
            results = self.network.sweep(asked, self.between_blocks)
        if pair is None:
            return dict(zip(alone, results))
        halves = [(None, None) if each is None else each.chunk(2) for each in results[0]]
        both = {"cond": (halves[0][0], halves[1][0]), "negative": (halves[0][1], halves[1][1])}
        return both | dict(zip(alone, results[1:]))

    def hold(self, x0: AVLatent) -> AVLatent:
        """Put the kept content back into ``x0``."""
        return x0.map(lambda x, state: state.hold(x), self.state)

    def _hold_frozen(self, x0: AVLatent) -> AVLatent:
        """Keep a stream that is given whole, which may be shown noisy."""
        return x0.map(lambda x, state: state.hold(x) if state.is_frozen else x, self.state)

    def _needed_negative(self) -> Contexts:
        if self.negative is None:
            raise SettingError(
                "There is no negative prompt, which a text scale or NAG scale other than 1 needs, and so do CFG++ "
                "samplers; give one, or set the scales to 1 and choose another sampler."
            )
        return self.negative

    def _only_negative(self) -> Contexts:
        """The negative prompt for NAG, which has room for one."""
        (contexts, _), *others = self._prompts(negative=True)
        if others:
            raise SettingError("NAG reads one negative prompt at a time: take ConditioningCombine out behind it.")
        return contexts

    def _inputs(self, latent: AVLatent, sigma: float, active: dict[str, Guidance]) -> Inputs:
        """The inputs of both streams in the conditional pass."""

        def stream(name: str, x: Tensor) -> StreamInput:
            state: State = getattr(self.state, name)
            level, each = sigma, active.get(name, NEUTRAL)
            timesteps = levels = nag = None
            if state.is_frozen:
                level = state.shown_noise
                x = x if level == 0 else torch.lerp(x, getattr(self.noise, name), level)
            elif not state.is_free:
                timesteps, levels = state.mask[..., 0] * sigma, None if state.is_mixed else state.levels
            contexts = self.contexts.at(sigma)
            if each.uses_nag:
                nag = each.nag(self._fit(getattr(self._only_negative(), name), x))
            return StreamInput(
                tokens=x.to(self.dtype),
                sigma=level * state.generates if state.is_mixed else torch.full((len(x),), level, device=x.device),
                positions=state.positions,
                context=self._fit(getattr(contexts, name), x),
                schedule=contexts.schedule(name, state.positions),
                timesteps=timesteps,
                visibility=state.visibility,
                keyframes=state.keyframes,
                nag=nag,
                updated=name in active,
                levels=levels,
                text_cache=self._text_cache(getattr(contexts, name)),
            )

        inputs = {name: stream(name, x) for name, x in latent.streams().items()}
        return inputs.get("video"), inputs.get("audio")

    def _reading(self, inputs: Inputs, contexts: Contexts, nag: bool) -> Inputs:
        """The same, reading other contexts; all else is shared, so the transformer computes it once.

        A frozen sound keeps its own in the negative pass: the official audio-to-video pipeline has no negative prompt
        for it. ``nag`` keeps that, too, for another prompt of the conditional pass.
        """
        frozen = not nag and self.state.audio is not None and self.state.audio.is_frozen
        read = {"video": contexts, "audio": self.contexts.at(self._sigma) if frozen else contexts}
        video, audio = (
            None
            if each is None
            else replace(
                each,
                context=self._fit(getattr(read[name], name), each.tokens),
                text_cache=self._text_cache(getattr(read[name], name)),
                schedule=read[name].schedule(name, each.positions),
                nag=each.nag if nag else None,
            )
            for name, each in zip(("video", "audio"), inputs)
        )
        return video, audio

    def _text_cache(self, context: Tensor) -> TextCache | None:
        """Where all steps keep what the network makes of ``context``."""
        return self._texts.setdefault(context, TextCache()) if self.caches_text else None

    def _fit(self, context: Tensor, x: Tensor) -> Tensor:
        return context.to(x.device, self.dtype).expand(len(x), -1, -1)


def _x0(latent: AVLatent, inputs: Inputs, velocities: Velocities) -> AVLatent:
    """x - velocity * noise level of each token, in float32."""

    def estimate(x: Tensor | None, stream: StreamInput | None, velocity: Tensor | None) -> Tensor | None:
        if x is None or stream is None or velocity is None:
            return None
        levels = stream.sigma[:, None] if stream.timesteps is None else stream.timesteps
        return (x.float() - velocity.float() * levels[..., None]).to(x.dtype)

    video, audio = map(estimate, (latent.video, latent.audio), inputs, velocities)
    return AVLatent(video, audio)


def _filled(new: AVLatent, last: AVLatent) -> AVLatent:
    """``new``, and of ``last`` what it lacks."""
    return AVLatent(last.video if new.video is None else new.video, last.audio if new.audio is None else new.audio)


def _batch(passes: dict[str, Pass], first: str, second: str) -> Pass | None:
    """Two passes as one of twice the batch; None where they differ in more than what they read."""
    if first not in passes or second not in passes:
        return None
    streams: list[StreamInput | None] = []
    for a, b in zip((passes[first].video, passes[first].audio), (passes[second].video, passes[second].audio)):
        if a is None or b is None:
            streams.append(None)
        elif a.nag is not None or a.schedule is not b.schedule or a.context.shape[1] != b.context.shape[1]:
            return None
        else:
            both: dict[str, Any] = {
                f.name: torch.cat((getattr(a, f.name), getattr(b, f.name)))
                for f in fields(StreamInput)
                if isinstance(getattr(a, f.name), Tensor)
            }
            streams.append(replace(a, **both, levels=None if a.levels is None else a.levels.doubled, text_cache=None))
    return Pass(streams[0], streams[1], UNPERTURBED)
