"""The audio autoencoder: an encoder that is written down, a decoder that is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...audio_vae import AudioDecoder, AudioEncoder, AudioVAEConfig, log_mel
from ...geometry import AUDIO_RATE
from .. import world
from .config import AUDIO_CHANNELS, CONFIG, new
from .stage import LOG_VARIANCE, Stage, keep, rounded, start_linear

ARCHITECTURE = AudioVAEConfig.from_json(CONFIG["audio_vae"])
FRAMES = round(world.DURATION * AUDIO_RATE)  # of a latent
WIDTH = 32  # of the decoder while it is trained; then its channels are repeated
SCENES = 3000
BATCH = 8
NOISE = 0.2  # the most that is added to latents, which the decoder learns to forgive

MIDDLE, HALF = -5.5, 3.0  # of log mels, which lie between -11.5 (silence) and 1: they become -2 .. 2
SIDES = 6.0  # how much more the difference of both sides counts than their mean, which varies more
STEADY = 16.0  # of a channel that keeps the norm before the last layer nearly the same, whatever the sound


@torch.no_grad()
def write_encoder(work: Path, minutes: float, device: str, seed: int) -> None:
    """Write an encoder whose latents hold two means of 4 x 4 cells of the mel: how loud, and how much more left.

    Both travel twice, as x and -x, because silu(x) - silu(-x) = x.
    """
    encoder = new("audio_encoder")
    for parameter in encoder.parameters():
        parameter.zero_()  # residual layers do nothing
    left, right = encoder.conv_in.weight[:, 0, -1, 1], encoder.conv_in.weight[:, 1, -1, 1]  # of the present cell
    left[:4] = torch.tensor([0.5, -0.5, SIDES, -SIDES]) / HALF
    right[:4] = torch.tensor([0.5, -0.5, -SIDES, SIDES]) / HALF
    encoder.conv_in.bias[:2] = torch.tensor([-1.0, 1.0]) * MIDDLE / HALF
    for level in encoder.levels[:2]:
        for channel in range(4):
            level.resize.weight[channel, channel, 1:, :2] = 0.25  # two frames, two bins
    encoder.levels[1].resize.bias[4] = STEADY
    norm = STEADY / ARCHITECTURE.channels**0.5
    for channel in range(AUDIO_CHANNELS):
        encoder.conv_out.weight[channel, 2 * channel : 2 * channel + 2, -1, 1] = torch.tensor([norm, -norm])
    encoder.conv_out.bias[ARCHITECTURE.latent_channels :] = LOG_VARIANCE
    keep({"encoder": rounded(encoder)}, work / "audio-encoder.pt")


def load_encoder(work: Path, device: str) -> AudioEncoder:
    """Load the encoder, with neutral statistics."""
    encoder = new("audio_encoder")
    encoder.load_state_dict(torch.load(work / "audio-encoder.pt", weights_only=True, map_location="cpu")["encoder"])
    return encoder.requires_grad_(False).eval().to(device)


def mel_of(scene: world.Scene) -> Tensor:
    """Return what ``scene`` sounds like, (1, 2, T, 64)."""
    sound = torch.from_numpy(world.render_audio(scene, ARCHITECTURE.sample_rate))
    return log_mel(sound[None], ARCHITECTURE.sample_rate, ARCHITECTURE)


def encode(encoder: AudioEncoder, mel: Tensor) -> Tensor:
    """Encode a mel (B, 2, T, 64) to a latent (B, 8, FRAMES, 16)."""
    return encoder(mel)[:, :, :FRAMES]


def train_decoder(work: Path, minutes: float, device: str, seed: int, scenes: int = SCENES) -> None:
    """Learn to tell the mel from latents, also from those that are somewhat off."""
    decoder: Any = AudioDecoder(replace(ARCHITECTURE, channels=WIDTH))
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Conv2d):
            start_linear(module, open=not name.endswith("conv2"))
    decoder.conv_out.bias.data.fill_(-8.0)  # between silence and sound
    stage = Stage(work / "audio-decoder.pt", minutes, 2e-3, {"decoder": decoder.to(device)})
    rng, encoder = np.random.default_rng([seed, 3, stage.step]), load_encoder(work, device)
    mels = torch.cat([mel_of(world.sample_scene(rng)) for _ in range(scenes)])
    latents = torch.cat([encode(encoder, some.to(device)) for some in mels.split(16)])
    mels = mels[:, :, : 4 * FRAMES - 3]
    stage.restart()
    for _ in stage:
        chosen = torch.from_numpy(rng.integers(0, scenes, BATCH))
        mel, latent = mels[chosen].to(device), latents[chosen.to(device)]
        noise = NOISE * torch.rand(len(latent), 1, 1, 1, device=device) * torch.randn_like(latent)
        noise[:, AUDIO_CHANNELS:] = 0
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            made = decoder(latent + noise)
        error, loud = made.float() - mel, mel > -6
        loss = ((1 + 4 * loud) * error.square()).mean()  # tones are rare: silence must not outvote them
        distance = error.detach().abs()
        stage.descend(loss, l1=distance.mean(), loud=distance[loud].mean())


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a decoder of WIDTH channels as one of the official width that computes the same.

    Every channel stands there several times. A norm over channels does not notice; a layer that reads them takes as
    much less of each.
    """
    times = ARCHITECTURE.channels // WIDTH
    wide = {}
    for name, value in state.items():
        if name.startswith("statistics."):
            wide[name] = value
            continue
        reads = value.ndim > 1 and not name.startswith("conv_in.")
        if not name.startswith("conv_out."):
            value = value.repeat(times, *[1] * (value.ndim - 1))
        wide[name] = value.repeat(1, times, 1, 1) / times if reads else value
    return wide


def narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``widened``."""
    narrow = {}
    for name, value in state.items():
        if value.ndim > 1 and not name.startswith("conv_in."):
            value = value[:, :WIDTH] * (ARCHITECTURE.channels // WIDTH)
        hidden = not name.startswith(("conv_out.", "statistics."))
        narrow[name] = value[:WIDTH].clone() if hidden else value.clone()
    return narrow
