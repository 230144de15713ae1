"""Both streams of one sample as a single vector, its noise, and what is given in it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import geometry
from .geometry import ClipShape


@dataclass(frozen=True)
class AVLatent:
    """Both streams of one sample; to a sampler they are a single vector, and an absent stream stays absent."""

    video: Tensor | None  # (B, C, F, H, W)
    audio: Tensor | None  # (B, C, T, M)

    def map(self, function: Callable[..., Tensor], *others: "AVLatent") -> "AVLatent":
        """``function`` of the tensors of each stream that is present."""

        def apply(name: str) -> Tensor | None:
            own = getattr(self, name)
            return None if own is None else function(own, *(getattr(other, name) for other in others))

        return AVLatent(apply("video"), apply("audio"))

    def __add__(self, other: "AVLatent") -> "AVLatent":
        return self.map(torch.add, other)

    def __sub__(self, other: "AVLatent") -> "AVLatent":
        return self.map(torch.sub, other)

    def __mul__(self, factor: "float | AVLatent") -> "AVLatent":
        if isinstance(factor, AVLatent):
            return self.map(torch.mul, factor)
        return self.map(lambda x: x * factor)

    __rmul__ = __mul__

    def to(self, *args, **kwargs) -> "AVLatent":
        return self.map(lambda x: x.to(*args, **kwargs))

    def streams(self) -> dict[str, Tensor]:
        """The streams that are present, by name."""
        return {name: x for name, x in (("video", self.video), ("audio", self.audio)) if x is not None}


def empty(shape: ClipShape, batch: int = 1) -> AVLatent:
    """Zeros of the size of a clip, on the CPU, float32."""
    return AVLatent(
        video=torch.zeros(batch, geometry.VIDEO_CHANNELS, *shape.video_latent),
        audio=torch.zeros(batch, geometry.AUDIO_CHANNELS, shape.audio_latents, geometry.AUDIO_BINS),
    )


NOISE_ORDERS = ("official", "comfyui")


class Noise:
    """Gaussian noise from one generator, draw after draw, each time video before audio.

    The "official" order draws each stream in token layout (spec: sampling.md, section 5), "comfyui" in that of the
    latent, as ComfyUI's own nodes do, so that a seed of theirs gives the same clip. ``device`` is where the numbers are
    drawn; a CPU and a CUDA generator give different ones. They are drawn in float32 and rounded to the latent's dtype,
    because bfloat16 draws on a CPU differ from machine to machine; for a float64 latent they are drawn in float64.
    """

    def __init__(self, seed: int, order: str = "official", device: torch.device | str = "cpu"):
        if order not in NOISE_ORDERS:
            raise ValueError(f"noise order is {order!r}; it must be one of {', '.join(NOISE_ORDERS)}.")
        self.seed, self.order, self.device = seed, order, device
        self._generator = torch.Generator(device).manual_seed(seed % 2**64)

    def __call__(self, latent: AVLatent) -> AVLatent:
        """The next draw, of the size, dtype and device of ``latent``."""
        if self.order == "comfyui":
            return latent.map(self._draw)
        video = audio = None
        if latent.video is not None:
            frames, height, width = latent.video.shape[2:]
            video = geometry.video_latent(self._draw(geometry.video_tokens(latent.video)), (frames, height, width))
        if latent.audio is not None:
            audio = geometry.audio_latent(self._draw(geometry.audio_tokens(latent.audio)), latent.audio.shape[-1])
        return AVLatent(video, audio)

    def fork(self, offset: int) -> "Noise":
        """Noise of the same kind from the start of another seed, ``offset`` further on."""
        return Noise(self.seed + offset, self.order, self.device)

    def _draw(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.randn(x.shape, generator=self._generator, device=self.device, dtype=dtype).to(x)


def noise_like(latent: AVLatent, seed: int, order: str = "official", device: torch.device | str = "cpu") -> AVLatent:
    """The first draw of Noise(seed)."""
    return Noise(seed, order, device)(latent)


def add_noise(clean: AVLatent, noise: AVLatent, sigma: float, mask: AVLatent | None = None) -> AVLatent:
    """(1 - sigma) clean + sigma noise where ``mask`` is 1, and ``clean`` where it is 0 (float32 inside)."""

    def mix(x: Tensor, n: Tensor, m: Tensor | None = None) -> Tensor:
        noisy = torch.lerp(x.float(), n.float(), sigma)
        return (noisy if m is None else torch.lerp(x.float(), noisy, m.float())).to(x.dtype)

    return clean.map(mix, noise) if mask is None else clean.map(mix, noise, mask)
