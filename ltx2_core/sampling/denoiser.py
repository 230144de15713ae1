"""From a noisy latent to its guided estimate: the passes of one step, and what is given and stays."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import geometry
from ..latents import AVLatent
from ..transformer import UNPERTURBED, Nag, Pass, Perturbation, StreamInput
from .guidance import NEUTRAL, AnyGuidance, Guidance, passes_needed

Velocities = tuple[Tensor | None, Tensor | None]


class Network(Protocol):
    """The transformer: the velocities (B, N, C) of all passes of a step."""

    def sweep(
        self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None
    ) -> Sequence[Velocities]: ...


class Contexts(Protocol):
    """The text contexts of both streams, (B, L, D) each."""

    @property
    def video(self) -> Tensor: ...

    @property
    def audio(self) -> Tensor: ...


@dataclass
class Denoiser:
    """x0 = denoise(latent, sigma) for any sampler (spec: sampling.md, sections 3 and 6).

    ``mask`` is 1 where content is generated and 0 where ``clean`` is kept: (B, 1, F, H, W) and (B, 1, T, 1), or None
    to generate everything. ``negative`` may be None if nothing asks for it. A pass runs only if the scale that needs it
    is not neutral. A stream that skips steps reuses its last estimate, so make one Denoiser for each run, and set
    ``step`` to the number of each step.
    """

    network: Network
    fps: Fraction
    contexts: Contexts
    negative: Contexts | None = None
    video: AnyGuidance = NEUTRAL
    audio: AnyGuidance = NEUTRAL
    clean: AVLatent | None = None
    mask: AVLatent | None = None
    dtype: torch.dtype = torch.float32  # the network's
    always_negative: bool = False  # for samplers that use the negative pass by itself
    batched: bool = False  # conditional and negative pass as one batch: faster for few tokens, more memory
    between_blocks: Callable[[], None] | None = None
    step: int = 0
    _places: dict[tuple, Tensor] = field(default_factory=dict, init=False)
    _last: tuple[AVLatent, AVLatent] | None = field(default=None, init=False)

    def __call__(self, latent: AVLatent, sigma: float) -> AVLatent:
        """The guided estimate of what ``latent`` at noise level ``sigma`` will become."""
        return self.both(latent, sigma)[0]

    def both(self, latent: AVLatent, sigma: float) -> tuple[AVLatent, AVLatent]:
        """The guided estimate, and that of the negative pass alone (the conditional one if none is needed)."""
        guidance = {name: getattr(self, name).at(sigma) for name in latent.streams()}
        active = {n: each for n, each in guidance.items() if self._last is None or not each.skips(self.step)}
        if active or self._last is None:
            guided, plain = self._estimate(latent, sigma, active)
            last_guided, last_plain = self._last or (guided, plain)
            self._last = _filled(guided, last_guided), _filled(plain, last_plain)
        return self._last

    def passes(self, latent: AVLatent, guidance: Iterable[Guidance]) -> list[str]:
        """The passes that ``guidance`` needs for the streams of ``latent``, in the official order."""
        return passes_needed(guidance, len(latent.streams()) == 2, self.always_negative)

    def _estimate(self, latent: AVLatent, sigma: float, active: dict[str, Guidance]) -> tuple[AVLatent, AVLatent]:
        names = self.passes(latent, active.values())
        blocks = {n: frozenset(each.stg_blocks if each.needs_perturbed else ()) for n, each in active.items()}
        perturbations = {
            "perturbed": Perturbation(blocks.get("video", frozenset()), blocks.get("audio", frozenset())),
            "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
        }
        positive = self._inputs(latent, sigma, self.contexts, active, with_nag=True)
        inputs = dict.fromkeys(names, positive)
        if "negative" in names:
            inputs["negative"] = self._inputs(latent, sigma, self._given_negative(), active)
        velocities = self._sweep({name: Pass(*inputs[name], perturbations.get(name, UNPERTURBED)) for name in names})
        x0 = {name: _x0(latent, inputs[name], velocities[name]) for name in names}
        guided = {
            stream: each.combine(**{name: getattr(estimate, stream) for name, estimate in x0.items()})
            for stream, each in active.items()
        }
        plain = x0.get("negative", x0["cond"])
        return self.hold(AVLatent(guided.get("video"), guided.get("audio"))), self.hold(plain)

    def _sweep(self, passes: dict[str, Pass]) -> dict[str, Velocities]:
        """The velocities of all passes, in one walk over the blocks."""
        alone = dict(passes)
        pair = _batch(alone, "cond", "negative") if self.batched else None
        if pair is not None:
            del alone["cond"], alone["negative"]
        results = self.network.sweep([*([pair] if pair else []), *alone.values()], self.between_blocks)
        if pair is None:
            return dict(zip(alone, results))
        halves = [(None, None) if each is None else each.chunk(2) for each in results[0]]
        both = {"cond": (halves[0][0], halves[1][0]), "negative": (halves[0][1], halves[1][1])}
        return both | dict(zip(alone, results[1:]))

    def _positions(self, stream: str, x: Tensor) -> Tensor:
        """Where the tokens of ``x`` lie, (B, axes, N, 2): one tensor for all steps, since rotations are kept by it."""
        key = (stream, x.shape, x.device)
        if key not in self._places:
            if stream == "video":
                positions = geometry.video_positions((x.shape[2], x.shape[3], x.shape[4]), self.fps, x.device)
            else:
                positions = geometry.audio_positions(x.shape[2], x.device)
            self._places[key] = positions.expand(len(x), -1, -1, -1)
        return self._places[key]

    def hold(self, x0: AVLatent) -> AVLatent:
        """What is given stays."""
        if self.mask is None or self.clean is None:
            return x0
        return x0.map(lambda x, m, clean: x * m + clean.to(x) * (1 - m), self.mask, self.clean)

    def _given_negative(self) -> Contexts:
        if self.negative is None:
            raise ValueError(
                "There is no negative prompt, which a text scale or NAG scale other than 1 needs, and so do CFG++ "
                "samplers; give one, or set the scales to 1 and choose another sampler."
            )
        return self.negative

    def _inputs(
        self, latent: AVLatent, sigma: float, contexts: Contexts, active: dict[str, Guidance], with_nag: bool = False
    ) -> tuple[StreamInput | None, StreamInput | None]:
        """What both streams of a pass put into the transformer."""

        def stream(name: str, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> StreamInput:
            level, timesteps = torch.full((len(tokens),), sigma, device=tokens.device), None
            if mask is not None:
                timesteps = (mask.to(tokens.device).float()[..., 0] * sigma).expand(len(tokens), -1)
                if not timesteps.any():
                    level = torch.zeros_like(level)  # a stream that is given as a whole is clean
            nag, each = None, active.get(name, NEUTRAL)
            if with_nag and each.nag_scale != 1:
                context = fit(getattr(self._given_negative(), name), tokens)
                nag = Nag(context, each.nag_scale, each.nag_limit, each.nag_blend)
            return StreamInput(
                tokens=tokens.to(self.dtype),
                sigma=level,
                positions=positions,
                context=fit(getattr(contexts, name), tokens),
                timesteps=timesteps,
                nag=nag,
                updated=name in active,
            )

        def fit(context: Tensor, tokens: Tensor) -> Tensor:
            return context.to(tokens.device, self.dtype).expand(len(tokens), -1, -1)

        video = audio = None
        if latent.video is not None:
            positions = self._positions("video", latent.video)
            mask = None if self.mask is None or self.mask.video is None else geometry.video_tokens(self.mask.video)
            video = stream("video", geometry.video_tokens(latent.video), positions, mask)
        if latent.audio is not None:
            positions = self._positions("audio", latent.audio)
            mask = None if self.mask is None or self.mask.audio is None else geometry.audio_tokens(self.mask.audio)
            audio = stream("audio", geometry.audio_tokens(latent.audio), positions, mask)
        return video, audio


def _x0(latent: AVLatent, inputs: tuple[StreamInput | None, StreamInput | None], velocities: Velocities) -> AVLatent:
    """x - velocity * noise level of each token, in float32."""

    def estimate(x: Tensor, stream: StreamInput, velocity: Tensor, to_latent: Callable[[Tensor], Tensor]) -> Tensor:
        levels = stream.sigma[:, None] if stream.timesteps is None else stream.timesteps
        return (x.float() - to_latent(velocity.float() * levels[..., None])).to(x.dtype)

    video = audio = None
    if latent.video is not None and inputs[0] is not None and velocities[0] is not None:
        frames, height, width = latent.video.shape[2:]
        video = estimate(
            latent.video, inputs[0], velocities[0], lambda v: geometry.video_latent(v, (frames, height, width))
        )
    if latent.audio is not None and inputs[1] is not None and velocities[1] is not None:
        bins = latent.audio.shape[-1]
        audio = estimate(latent.audio, inputs[1], velocities[1], lambda v: geometry.audio_latent(v, bins))
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
        elif a.nag is not None or a.context.shape[1] != b.context.shape[1]:
            return None
        else:
            both: dict[str, Any] = {
                f.name: torch.cat((getattr(a, f.name), getattr(b, f.name)))
                for f in fields(StreamInput)
                if isinstance(getattr(a, f.name), Tensor)
            }
            streams.append(replace(a, **both))
    return Pass(streams[0], streams[1], UNPERTURBED)
