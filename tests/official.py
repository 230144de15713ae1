"""The official transformer and ours with the same random weights and the same inputs."""

import math
from dataclasses import replace

import golden
import pytest
import torch

from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.layers import Visibility
from ltx2_core.transformer import Perturbation, StreamInput, Transformer, TransformerConfig
from ltx2_core.transformer.model import StreamIO
from ltx2_core.transformer.modulation import Modulation

PERTURBATIONS = {
    "skip_video_self": Perturbation(video_values_only=frozenset({1})),
    "skip_audio_self": Perturbation(audio_values_only=frozenset({0})),
    "skip_a2v": Perturbation(audio_to_video=False),
    "skip_v2a": Perturbation(video_to_audio=False),
    "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
}


def tiny_section(version: str, **changes) -> dict:
    small = {
        "num_layers": 2, "num_attention_heads": 2, "audio_num_attention_heads": 2, "attention_head_dim": 16,
        "audio_attention_head_dim": 8, "in_channels": 8, "out_channels": 8, "audio_in_channels": 8,
        "audio_out_channels": 8, "cross_attention_dim": 32, "audio_cross_attention_dim": 16, "caption_channels": 24,
    }  # fmt: skip
    return golden.config(version)["transformer"] | small | changes


def official(section: dict, seed: int = 0):
    """The official model with random weights, and ours with the same."""
    configurator = pytest.importorskip("ltx_core.model.transformer.model_configurator")
    theirs = configurator.LTXModelConfigurator.from_config({"transformer": section}).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + ("norm" in name))
    ours = Transformer(TransformerConfig.from_json(section))
    ours.load_state_dict({TRANSFORMER.ours(key, ""): value for key, value in theirs.state_dict().items()})
    return theirs, ours


def use_rule_of_1_0_0(monkeypatch) -> None:
    """Scale and shift between the streams follow the other stream's sigma, as in ltx-core 1.0.0.

    See ltx2_core/transformer/README.md, "Modulation between the streams".
    """

    noise_levels = StreamIO.noise_levels

    def by_other_sigma(self: StreamIO, sigma, timesteps, other_sigma, dtype, shares=None):
        levels = noise_levels(self, sigma, timesteps, other_sigma, dtype, shares)
        if other_sigma is None:
            return levels
        _, rows = self.modulate_cross(other_sigma * self.config.sigma_scale, dtype)
        return replace(levels, cross_modulation=Modulation(rows, torch.arange(len(other_sigma))[:, None]))

    monkeypatch.setattr(StreamIO, "noise_levels", by_other_sigma)


def video_positions(frames=2, height=2, width=2, fps=24.0) -> torch.Tensor:
    axes = []
    for f in range(frames):
        start, end = max(0, 8 * f - 7) / fps, max(0, 8 * f + 1) / fps
        for h in range(height):
            for w in range(width):
                axes.append([[start, end], [32 * h, 32 * h + 32], [32 * w, 32 * w + 32]])
    return torch.tensor(axes, dtype=torch.float32).transpose(0, 1)[None]


def audio_positions(length=5) -> torch.Tensor:
    bounds = [[max(0, 4 * t - 3) * 0.01, (4 * t + 1) * 0.01] for t in range(length)]
    return torch.tensor(bounds, dtype=torch.float32)[None, None]


def inputs(section: dict, sigma=(0.7, 0.7), first_frame=None, batch=1) -> tuple[StreamInput, StreamInput]:
    """Both streams at random; ``first_frame`` is the noise level of the first four video tokens."""
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    captions = section["caption_channels"] if "caption_proj_before_connector" not in section else None
    timesteps = None
    if first_frame is not None:
        timesteps = torch.full((batch, 8), sigma[0])
        timesteps[:, :4] = first_frame
    video = StreamInput(
        draw(batch, 8, 8), torch.full((batch,), sigma[0]), video_positions().expand(batch, -1, -1, -1),
        draw(batch, 6, captions or 32), timesteps,
    )  # fmt: skip
    audio = StreamInput(
        draw(batch, 5, 8), torch.full((batch,), sigma[1]), audio_positions().expand(batch, -1, -1, -1),
        draw(batch, 6, captions or 16),
    )  # fmt: skip
    return video, audio


def matrix(visibility: Visibility | None) -> torch.Tensor | None:
    """How strongly each token sees each other one, (1, N, N)."""
    if visibility is None:
        return None

    def strength(a: int, b: int) -> float:
        groups = int(visibility.group[a]), int(visibility.group[b])
        if groups[0] == groups[1]:
            return 1.0
        return 0.0 if all(groups) else float(visibility.weight[a if groups[0] else b])

    every = range(len(visibility.group))
    return torch.tensor([[[strength(a, b) for b in every] for a in every]])


def official_velocity(theirs, video: StreamInput | None, audio: StreamInput | None, perturbation=None):
    modality = pytest.importorskip("ltx_core.model.transformer.modality").Modality
    guidance = pytest.importorskip("ltx_core.guidance.perturbations")
    kinds, perturbation = guidance.PerturbationType, perturbation or Perturbation()
    skipped = [
        guidance.Perturbation(kinds.SKIP_VIDEO_SELF_ATTN, list(perturbation.video_values_only)),
        guidance.Perturbation(kinds.SKIP_AUDIO_SELF_ATTN, list(perturbation.audio_values_only)),
    ]
    if not perturbation.audio_to_video:
        skipped.append(guidance.Perturbation(kinds.SKIP_A2V_CROSS_ATTN, None))
    if not perturbation.video_to_audio:
        skipped.append(guidance.Perturbation(kinds.SKIP_V2A_CROSS_ATTN, None))

    def convert(stream: StreamInput | None):
        if stream is None:
            return None
        timesteps = stream.timesteps
        if timesteps is None:
            timesteps = stream.sigma[:, None].expand(stream.tokens.shape[:2])
        return modality(
            latent=stream.tokens, sigma=stream.sigma, timesteps=timesteps, positions=stream.positions,
            context=stream.context, context_mask=None, attention_mask=matrix(stream.visibility),
        )  # fmt: skip

    batch = len((video or audio).tokens)
    return theirs(
        convert(video), convert(audio),
        guidance.BatchedPerturbationConfig([guidance.PerturbationConfig(skipped)] * batch),
    )  # fmt: skip
