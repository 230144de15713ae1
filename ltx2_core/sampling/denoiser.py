"""From a noisy latent to its guided estimate: the passes of one step, and what is given and stays."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from .. import geometry
from ..latents import AVLatent
from ..transformer import UNPERTURBED, Perturbation, StreamInput
from .guidance import NEUTRAL, Guidance

Network = Callable[
    [StreamInput | None, StreamInput | None, Perturbation, Callable[[], None] | None],
    tuple[Tensor | None, Tensor | None],
]


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
    to generate everything. ``negative`` may be None if no text guidance is asked for. A pass runs only if the scale
    that needs it is not neutral.
    """

    network: Network
    fps: Fraction
    contexts: Contexts
    negative: Contexts | None = None
    video: Guidance = NEUTRAL
    audio: Guidance = NEUTRAL
    clean: AVLatent | None = None
    mask: AVLatent | None = None
    dtype: torch.dtype = torch.float32  # the network's
    between_blocks: Callable[[], None] | None = None

    def passes(self, latent: AVLatent) -> dict[str, tuple[Contexts, Perturbation]]:
        """The passes that this guidance needs for the streams of ``latent``, in the official order."""
        scales = [getattr(self, name) for name in latent.streams()]
        needed: dict[str, tuple[Contexts, Perturbation]] = {"cond": (self.contexts, UNPERTURBED)}
        if any(scale.needs_negative for scale in scales):
            if self.negative is None:
                raise ValueError(
                    "The text scale is not 1, but there is no negative prompt; connect one, or set it to 1."
                )
            needed["negative"] = (self.negative, UNPERTURBED)
        if any(scale.needs_perturbed for scale in scales):
            blocks = {name: frozenset(s.stg_blocks if s.needs_perturbed else ()) for name, s in self._guidance.items()}
            needed["perturbed"] = (self.contexts, Perturbation(blocks["video"], blocks["audio"]))
        if len(scales) == 2 and any(scale.needs_isolated for scale in scales):
            needed["isolated"] = (self.contexts, Perturbation(audio_to_video=False, video_to_audio=False))
        return needed

    def __call__(self, latent: AVLatent, sigma: float) -> AVLatent:
        results = {name: self._predict(latent, sigma, *how) for name, how in self.passes(latent).items()}
        guided = AVLatent(
            **{
                name: self._guidance[name].combine(**{which: getattr(x0, name) for which, x0 in results.items()})
                if getattr(latent, name) is not None
                else None
                for name in ("video", "audio")
            }
        )
        if self.mask is None or self.clean is None:
            return guided
        return guided.map(lambda x0, m, clean: x0 * m + clean.to(x0) * (1 - m), self.mask, self.clean)

    @property
    def _guidance(self) -> dict[str, Guidance]:
        return {"video": self.video, "audio": self.audio}

    def _predict(self, latent: AVLatent, sigma: float, contexts: Contexts, perturbation: Perturbation) -> AVLatent:
        """x0 of one pass: x - velocity * sigma of each token, in float32."""
        video, audio = self._video_input(latent, sigma, contexts), self._audio_input(latent, sigma, contexts)
        video_velocity, audio_velocity = self.network(video, audio, perturbation, self.between_blocks)
        video_x0 = audio_x0 = None
        if latent.video is not None and video is not None and video_velocity is not None:
            shape = latent.video.shape[2:]
            velocity = geometry.video_latent(video_velocity.float() * _levels(video), (shape[0], shape[1], shape[2]))
            video_x0 = (latent.video.float() - velocity).to(latent.video.dtype)
        if latent.audio is not None and audio is not None and audio_velocity is not None:
            velocity = geometry.audio_latent(audio_velocity.float() * _levels(audio), latent.audio.shape[-1])
            audio_x0 = (latent.audio.float() - velocity).to(latent.audio.dtype)
        return AVLatent(video_x0, audio_x0)

    def _video_input(self, latent: AVLatent, sigma: float, contexts: Contexts) -> StreamInput | None:
        if latent.video is None:
            return None
        frames, height, width = latent.video.shape[2:]
        positions = geometry.video_positions((frames, height, width), self.fps, latent.video.device)
        mask = None if self.mask is None or self.mask.video is None else geometry.video_tokens(self.mask.video)
        return self._input(geometry.video_tokens(latent.video), positions, contexts.video, sigma, mask)

    def _audio_input(self, latent: AVLatent, sigma: float, contexts: Contexts) -> StreamInput | None:
        if latent.audio is None:
            return None
        positions = geometry.audio_positions(latent.audio.shape[2], latent.audio.device)
        mask = None if self.mask is None or self.mask.audio is None else geometry.audio_tokens(self.mask.audio)
        return self._input(geometry.audio_tokens(latent.audio), positions, contexts.audio, sigma, mask)

    def _input(
        self, tokens: Tensor, positions: Tensor, context: Tensor, sigma: float, mask: Tensor | None
    ) -> StreamInput:
        batch = len(tokens)
        level = torch.full((batch,), sigma, device=tokens.device)
        timesteps = None
        if mask is not None:
            timesteps = (mask.float()[..., 0] * sigma).expand(batch, -1)
            if not timesteps.any():
                level = torch.zeros_like(level)  # a stream that is given as a whole is clean
        return StreamInput(
            tokens=tokens.to(self.dtype),
            sigma=level,
            positions=positions.expand(batch, -1, -1, -1),
            context=context.to(tokens.device, self.dtype).expand(batch, -1, -1),
            timesteps=timesteps,
        )


def _levels(stream: StreamInput) -> Tensor:
    """The noise level of each token, (B, N or 1, 1)."""
    return (stream.sigma[:, None] if stream.timesteps is None else stream.timesteps)[..., None]
