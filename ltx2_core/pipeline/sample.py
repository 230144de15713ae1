"""From noise to a latent: the transformer, step by step, for a clip at once or window by window."""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .. import latents
from ..conditioning import AVState, LatentCondition, State, apply_conditions, seed_slots
from ..conditioning.state import WORDS
from ..disk_cache import NOWHERE, DiskCache, fingerprint
from ..errors import SettingError
from ..geometry import pixel_frames
from ..health import check_finite, latent_findings
from ..latents import AVLatent
from ..lora import Stack
from ..lora.stack import stack_identity
from ..memory.machine import Machine
from ..memory.placement import SMALLER, Room, StageNeed, fitting_share, least_bytes
from ..sampling import (
    SAMPLERS,
    Denoiser,
    Step,
    StreamGuidance,
    TiledNetwork,
    Tiles,
    check_prompts,
    count_runs,
    in_walks,
    one_by_one,
    passes_needed,
    schedules,
)
from ..sampling.denoiser import ManyNetworks
from ..sampling.samplers import Sampler
from ..sampling.windows import Window, Windowing
from ..seeds import Seeds
from ..settings import SamplingSettings
from ..text import Contexts
from ..transformer import Network, SequenceParallel
from .engine import Engine
from .long import SampleInputs, Script, sample_long
from .needs.blueprint import Blueprint
from .needs.cached_text import cached_text_bytes, describe_cached_text, is_mostly_text, keep_text
from .needs.passes import cached_bytes, count_prompts, in_turns, need_of_passes, skipped_step
from .needs.products import describe_products
from .stage import NO_LOAD, TRANSFORMER, LatentSize, Load, Stage, need_of

_log = logging.getLogger(__name__)

NO_STEP_CACHE = "A step cache knows neither tiles nor several devices: set step_cache to 0, or sample without them."


@dataclass(frozen=True)
class Sampling:
    """How a latent is denoised.

    Attributes:
        sigmas: the noise levels to walk through, from at most 1 down.
        guidance: of both streams.
        settings: sampler, seed and noise.
        tiles: in which the picture is made; None in one piece.
        together: whether tiles are blended in every step, or each is sampled to its end by itself.
        drawn: sizes of the draws of random numbers in the stages before this one.
        window: the number of the window of a long clip.
        solver: in place of the sampler that the settings name.

    Raises SettingError for noise levels that no sampler can follow.
    """

    sigmas: tuple[float, ...]
    guidance: StreamGuidance = StreamGuidance()
    settings: SamplingSettings = SamplingSettings()
    tiles: Tiles | None = None
    together: bool = True
    drawn: tuple[int, ...] = ()
    window: int = 0
    solver: Sampler | None = None

    def __post_init__(self) -> None:
        schedules.check_sigmas(self.sigmas)

    @property
    def seeds(self) -> Seeds:
        """Where the random numbers of this stage start."""
        fixed = self.sampler.noise_seed if self.settings.step_noise == "official" else None
        return Seeds(self.settings.seed, self.drawn, fixed).window(self.window)

    def noise(self, state: AVState, tile: int | None = None, *, dtype: torch.dtype) -> AVLatent:
        """Draw the first noise of ``state``, rounded to ``dtype``; of a ``tile`` that is a clip by itself, its own."""
        seeds = self.seeds if tile is None else self.seeds.tile(tile)
        noise = latents.Noise(seeds.first, self.settings.noise_order, drawn=seeds.drawn, appended=state.appended[1])
        return noise(state.map(lambda each: each.latent).to(dtype)).to(torch.float32)

    def step_noise(self, state: AVState) -> latents.Noise:
        """Return the generator of the fresh noise of stochastic samplers."""
        seed = self.seeds.step_noise(self.settings.start_step)
        return latents.Noise(seed, self.settings.noise_order, appended=state.appended[1])

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.sigmas) - 1

    @property
    def sampler(self) -> Sampler:
        """The solver, or the row of the sampler; euler where none is named."""
        return self.solver or SAMPLERS[self.settings.sampler or "euler"].with_eta(self.settings.eta)

    @property
    def needs_negative(self) -> bool:
        """Whether a negative prompt is needed."""
        return self.guidance.needs_negative(self.sampler)

    @property
    def reason_for_negative(self) -> str:
        """What asks for a negative prompt, as the beginning of a sentence."""
        if self.sampler.needs_negative:
            return f"The sampler {self.settings.sampler} looks at the negative prompt"
        scale = max(row.text_scale for row in self.guidance.rows)
        return f"A text scale is {scale:g}" if scale > 1 else "A NAG scale is not 1"

    def for_streams(self, free: Collection[str]) -> "Sampling":
        """Return the same with neutral guidance for streams of which nothing is generated."""
        return replace(self, guidance=self.guidance.for_streams(free))

    def passes(self, both_streams: bool, reference_sound: bool = False) -> tuple[str, ...]:
        """Return the passes that a step needs at most."""
        streams = self.guidance.video, self.guidance.audio
        return tuple(passes_needed(streams, both_streams, self.sampler.needs_negative, reference_sound))

    def passes_of(self, size: LatentSize) -> tuple[str, ...]:
        """Return the passes that a step over a latent of ``size`` needs at most."""
        return self.passes(size.video is not None and size.audio is not None, size.appended[1] > 0)


@dataclass(frozen=True)
class Hooks:
    """Whom to tell while a latent is sampled.

    Attributes:
        on_step: called with the steps done, all steps, and what the sampler made of the latest one.
        check: called between blocks; it may raise to interrupt.
        on_evaluate: called with sigma and step before the network is asked.
    """

    on_step: Callable[[int, int, Step], None] | None = None
    check: Callable[[], None] | None = None
    on_evaluate: Callable[[float, int], None] | None = None


def sample(
    network: Network,
    inputs: SampleInputs,
    sampling: Sampling,
    dtype: torch.dtype = torch.float32,
    hooks: Hooks = Hooks(),
    caches_text: bool = False,
    most_passes: int | None = None,
) -> AVLatent:
    """Denoise a latent from seeded noise at the first sigma to the last one.

    Args:
        network: the transformer, where the latent lies.
        inputs: what it is made from.
        sampling: how.
        dtype: what the network computes in.
        hooks: whom to tell.
        caches_text: what the network makes of prompts at every noise level alike is kept, where one device computes.
        most_passes: how many passes of a step go through the network together; None is all.

    Returns:
        The latent, float32; what is given in it stays. One that is still noisy is divided by 1 - sigma.

    Raises:
        SettingError: for tiles or settings that do not go together.
        NotANumberError: as soon as a step produces something that is not a number.
    """
    sigmas = sampling.sigmas
    apart = None if sampling.together else sampling.tiles
    caches_text = caches_text and not isinstance(network, ManyNetworks | SequenceParallel)
    fps = sampling.settings.told_fps(inputs.fps)
    state = apply_conditions(inputs.latent, fps, seed_slots(inputs.conditions, inputs.latent.keyframes))
    _check_together(network, sampling)
    check_possible(sampling, state, list(filter(None, (inputs.contexts, inputs.negative))))
    noise = sampling.noise(state, dtype=dtype)
    if sampling.tiles and sampling.together:
        network = TiledNetwork(network, state, sampling.tiles)
    total = (len(sigmas) - 1) * (count_runs(state, apart) if apart else 1)
    solver = _Solver(network, inputs, sampling, dtype, hooks, total, caches_text, most_passes)
    draw = partial(sampling.noise, dtype=dtype)
    result = one_by_one(solver, state, noise, apart, draw) if apart else solver(state, noise)
    return state.finished(state.map(lambda each, x: each.hand_out(x, sigmas[-1]), result))


def _check_together(network: Network, sampling: Sampling) -> None:
    """SettingError where settings do not go together with tiles or devices."""
    if sampling.tiles and not sampling.together and not sampling.settings.add_noise:
        raise SettingError("Tiles that are sampled one by one begin with noise: add it, or sample them together.")
    if sampling.settings.step_cache and (sampling.tiles or isinstance(network, ManyNetworks | SequenceParallel)):
        raise SettingError(NO_STEP_CACHE)


def check_possible(sampling: Sampling, state: AVState, prompts: Sequence[Contexts]) -> None:
    """Raise SettingError where these ``prompts`` or what is given in ``state`` cannot be sampled so."""
    _check_batch(sampling, state)
    apart = sampling.tiles is not None and not sampling.together
    for contexts in prompts:
        if apart and any(each.has_place for each in contexts.weights):
            raise SettingError("Tiles that are sampled one by one know no masks of prompts: sample them together.")
        check_prompts(contexts, state, sampling.sigmas[:-1])


def _check_batch(sampling: Sampling, state: AVState) -> None:
    """SettingError where some clips keep a stream that others make, with guidance, which is one for all."""
    guided = sampling.sampler.needs_negative or any(row.passes or row.uses_nag for row in sampling.guidance.rows)
    for name, each in state.streams().items() if guided else ():
        if each.is_mixed:
            raise SettingError(
                f"One clip of the batch keeps its whole {WORDS[name]} and another makes it, which guidance cannot tell "
                "apart: make them in runs of their own, or set all scales to 1 and STG to 0."
            )


@dataclass
class _Solver:
    """Walks down the sigmas; with tiles that are made one by one, once for each."""

    network: Network
    inputs: SampleInputs
    sampling: Sampling
    dtype: torch.dtype
    hooks: Hooks
    total: int  # steps
    caches_text: bool
    most_passes: int | None
    done: int = field(default=0, init=False)

    def __call__(self, state: AVState, noise: AVLatent) -> AVLatent:
        """Return the tokens of ``state`` at the last sigma."""
        inputs, settings, sigmas = self.inputs, self.sampling.settings, list(self.sampling.sigmas)
        start = state.map(lambda each, x: each.noised(x, sigmas[0]), noise)

        def pack(latent: AVLatent) -> AVLatent:
            return state.map(State.packed, latent, start)

        sampler = self.sampling.sampler
        denoise = Denoiser(
            self.network,
            state,
            inputs.contexts,
            inputs.negative,
            self.sampling.guidance.video,
            self.sampling.guidance.audio,
            noise=noise,
            dtype=self.dtype,
            always_negative=sampler.needs_negative,
            batched=settings.batched_passes,
            most_passes=self.most_passes,
            between_blocks=self.hooks.check,
            on_evaluate=self.hooks.on_evaluate,
            step=settings.start_step,
            step_cache=settings.step_cache,
            caches_text=self.caches_text,
        )
        last = None if inputs.last is None else inputs.last.map(pack)
        noisy = start if settings.add_noise else self._take_up(state, pack(inputs.latent), last)
        fresh = self.sampling.step_noise(state)
        for number, step in enumerate(sampler(denoise, noisy, sigmas, fresh, last), 1):
            denoise.step, self.done = settings.start_step + number, self.done + 1
            check_finite(step.latent, f"step {number} of sampling")
            if self.hooks.on_step is not None:
                unpacked = step.map(lambda tokens: state.map(State.unpacked, tokens))
                self.hooks.on_step(self.done, self.total, unpacked)
            noisy = step.latent
        return noisy

    def _take_up(self, state: AVState, latent: AVLatent, last: Step | None) -> AVLatent:
        """Return the tokens that an earlier call ended with; to the bit, where its ``last`` step is known."""
        sigma = self.sampling.sigmas[0]
        if last is not None:
            handed = state.map(lambda each, x: each.hand_out(x, sigma), last.latent)
            if all(torch.equal(each.own(a), each.own(b)) for each, a, b in _pairs(state, handed, latent)):
                return state.map(lambda each, x: each.with_slots(x, each.take_up(each.latent, sigma)), last.latent)

        def take_up(each: State, x: Tensor) -> Tensor:
            own = each.with_own(x, each.own(each.take_up(x, sigma)))
            return each.with_slots(own, each.take_up(each.latent, sigma))

        return state.map(take_up, latent)


def _pairs(state: AVState, a: AVLatent, b: AVLatent) -> list[tuple[State, Tensor, Tensor]]:
    """Each stream's state with its tokens in ``a`` and ``b``."""
    return [(each, a.streams()[name], b.streams()[name]) for name, each in state.streams().items()]


@dataclass(frozen=True)
class Sample(Stage):
    """Sample a clip, at once or in ``windows``.

    Attributes:
        sampling: how.
        size: the largest latent that is sampled at once.
        windows: of a long clip; empty for one that is made at once.
        windowing: how these windows are joined.
        loras: in place of those of the model.
        caches_text: whether what is made of the prompts stays from step to step; of a stage that was fitted.
        most_passes: how many passes of a step go through the blocks together; None is all. Of a stage that was fitted.
    """

    sampling: Sampling
    size: LatentSize
    windows: tuple[Window, ...] = ()
    windowing: Windowing | None = None
    loras: Stack | None = None
    caches_text: bool = False
    most_passes: int | None = None
    name = "sampling"
    networks = (TRANSFORMER,)

    def fit(self, blueprint: Blueprint, room: Room, load: Load = NO_LOAD) -> "Sample":
        """Keep what is made of the prompts from step to step, where it is most of the work and everything fits; let as
        many passes of a step go together as fit."""
        settings = self.sampling.settings
        if settings.batched_passes:
            return self
        keeping = replace(self, caches_text=is_mostly_text(blueprint, self.size))
        if room.budget is None or (keeping.caches_text and need_of(keeping, blueprint).peak <= room.budget):
            return keeping
        if settings.step_cache or blueprint.devices * blueprint.processes > 1:
            return self
        stage, passes = self, len(self._passes)
        for most in sorted({math.ceil(passes / walks) for walks in range(1, passes + 1)}, reverse=True):
            stage = replace(self, most_passes=most if most < passes else None)
            if least_bytes(load(stage, need_of(stage, blueprint))) <= room.budget:
                break
        return stage

    def remarks(self, blueprint: Blueprint, machine: Machine) -> Sequence[str]:
        """Say in which formats it multiplies, what it costs to expand others, and what stays from step to step."""
        need = need_of(self, blueprint)
        each = len(self._passes) / need.walks
        products = describe_products(blueprint, need, each, machine, self.caches_text)
        if self.caches_text:
            products += (describe_cached_text(self.name, self._cached_text(blueprint)),)
        if need.walks > 1:
            products += (self._describe_turns(),)
        if not self.sampling.settings.step_cache or self.size.video is None:
            return products
        skipped, whole = machine.seconds(skipped_step(blueprint, self.size, self._passes)), machine.seconds(need.cost)
        said = f"{self.name}: a step that the step cache leaves out takes {skipped:.2f} s, not {whole:.2f} s"
        return (*products, f"{said}; up to every other one may be.")

    def _describe_turns(self) -> str:
        *others, last = (" and ".join(names) for names in in_walks(self._passes, self.most_passes))
        return (
            f"{self.name}: the passes of a step do not fit together, and go through the blocks in {len(others) + 1} "
            f"turns ({', '.join(others)}, then {last}), for each of which weights that are not resident come again."
        )

    @property
    def _passes(self) -> tuple[str, ...]:
        return self.sampling.passes_of(self.size)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure all steps; of batched passes, as if all were as large as the one for both prompts.

        Raises SettingError for a step cache where several devices share the work.
        """
        if self.sampling.settings.step_cache and blueprint.devices * blueprint.processes > 1:
            raise SettingError(NO_STEP_CACHE)
        passes, size = self._passes, self.size
        if self.sampling.settings.batched_passes and "negative" in passes:
            passes = tuple(name for name in passes if name != "negative")
            size = replace(size, batch=2 * size.batch)
        steps = self.sampling.steps * self.sampling.sampler.calls * max(1, len(self.windows))
        first, kept = self.sampling.guidance.first_stg_block, 0
        if self.caches_text:
            kept += self._cached_text(blueprint)
        if self.sampling.settings.step_cache:
            kept += cached_bytes(blueprint, size, len(passes))

        def measure(names: tuple[str, ...]) -> StageNeed:
            return need_of_passes(blueprint, size, names, steps, first, self.name, self.caches_text)

        need = measure(passes)
        if self.most_passes is not None:
            need = in_turns(need, [measure(names) for names in in_walks(passes, self.most_passes)])
        return need.with_inputs(kept)

    def _cached_text(self, blueprint: Blueprint) -> int:
        return cached_text_bytes(blueprint, self.size, count_prompts(self._passes))

    def advise(self, need: StageNeed, budget: int) -> str:
        """Say how long a clip of this size may be."""
        frames = 0 if self.size.video is None else int(0.97 * fitting_share(need, budget) * self.size.video[0])
        return f"About {pixel_frames(frames)} frames of this size would fit." if frames > 0 else SMALLER

    def run(
        self,
        engine: Engine,
        latent: AVLatent,
        fps: Fraction,
        script: Script,
        conditions: Sequence[LatentCondition] = (),
        *,
        cache: DiskCache = NOWHERE,
        last: Step | None = None,
    ) -> AVLatent:
        """Return the sampled latent, where the transformer is.

        Args:
            engine: runs the transformer.
            latent: what the clip begins as.
            fps: frames per second.
            script: contexts of the prompts.
            conditions: what is given.
            cache: where finished windows are kept.
            last: the last step of an earlier call that this one continues.
        """
        script.check_batch(latent)
        if self.windowing is not None:
            script.check_masks()
        device = engine.device(TRANSFORMER)
        inputs = SampleInputs(
            latent.to(device),
            fps,
            script.first,
            script.negative if self.sampling.needs_negative else None,
            conditions,
            None if last is None else last.to(device),
        )
        loras = engine.loras if self.loras is None else self.loras
        fitted = engine.fit(self)
        keeps = fitted.caches_text and keep_text(self.name, loras)
        stage = replace(self, caches_text=keeps, most_passes=fitted.most_passes)
        if stage.most_passes is not None:
            _log.info("%s", stage._describe_turns())
        with engine.use(stage, self.loras) as networks:
            run = partial(stage._sample, engine, networks[TRANSFORMER])
            if self.windowing is None:
                result = run(inputs)
            else:
                result = sample_long(run, inputs, script, self.windows, self.windowing, cache)
        if self.sampling.sigmas[-1] == 0:
            engine.events.report_findings(latent_findings(result, self.name))
        return result

    def window_cache(self, engine: Engine, folder: str | Path | None, negative: Contexts | None) -> DiskCache:
        """Return where the finished windows of a clip are kept.

        They can be used again as long as nothing else has changed than the prompts of other windows.

        Args:
            engine: whose files, LoRAs and attention the windows depend on.
            folder: None keeps nothing.
            negative: contexts of the negative prompt, if anything asks for one.
        """
        loras = stack_identity(engine.loras if self.loras is None else self.loras)
        wanted = negative if self.sampling.needs_negative else None
        weights = engine.models.files, engine.blueprint.title, engine.dtype(TRANSFORMER)
        how = engine.resources.attention, engine.resources.fold_loras
        return DiskCache(folder, fingerprint(weights, how, self.sampling, loras, wanted), "window")

    def _sample(self, engine: Engine, network: Network, inputs: SampleInputs, number: int = 0) -> AVLatent:
        """Sample window ``number``, with a seed of its own; a clip without windows is the first of them."""
        sampling, hooks = replace(self.sampling, window=number), hooks_of(engine, self.name, number, len(self.windows))
        return sample(network, inputs, sampling, engine.dtype(TRANSFORMER), hooks, self.caches_text, self.most_passes)


def hooks_of(engine: Engine, name: str, window: int = 0, windows: int = 1) -> Hooks:
    """Return hooks that tell the events of ``engine`` how far the stage ``name`` is.

    ``window`` is the number of the one that is sampled, of so many ``windows`` of as many steps each.
    """

    def on_step(done: int, total: int, step: Step) -> None:
        done, total = window * total + done, max(1, windows) * total
        engine.events.on_progress(name, done, total)
        engine.events.on_step(done, total, step)

    return Hooks(on_step, engine.events.check, engine.set_moment)
