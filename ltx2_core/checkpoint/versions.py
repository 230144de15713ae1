"""What a checkpoint's JSON does not say about a release, or what is known of it when the JSON is missing."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..video_vae.diffusion_config import RELEASED
from .keys.table import IN_MODEL

Shapes = Mapping[str, tuple[int, ...]]

_PLAIN_VERSION = re.compile(r"v?\d{1,3}(?:[.-]\d{1,3})*(?:[.-]?(?:rc|dev|alpha|beta|a|b)\d{0,3})?")
_WITHOUT_POINT = re.compile(r"^v?2([035])$")
_NO_VERSION = re.compile(r"v?2|\d+b")  # that it is LTX-2, and how many parameters it has


_TRANSFORMER_2_0 = {
    "caption_channels": 3840,
    "av_ca_timestep_scale_multiplier": 1000,
    "frequencies_precision": "float64",
    "rope_type": "split",
    "connector_positional_embedding_max_pos": [4096],
}
_TRANSFORMER_2_3 = _TRANSFORMER_2_0 | {
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_proj_input_norm": False,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "connector_apply_gated_attention": True,
    "connector_num_layers": 8,
    "connector_num_attention_heads": 32,
    "connector_attention_head_dim": 128,
    "audio_connector_num_attention_heads": 32,
    "audio_connector_attention_head_dim": 64,
}
_TRANSFORMER_2_5 = _TRANSFORMER_2_3 | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}


def _residuals(count: int) -> list:
    return ["res_x", {"num_layers": count}]


def _resample(kind: str, multiplier: int, **more: bool) -> list:
    return [kind, {"multiplier": multiplier, **more}]


_VAE = {
    "latent_channels": 128, "encoder_base_channels": 128, "decoder_base_channels": 128, "patch_size": 4,
    "latent_log_var": "uniform", "norm_layer": "pixel_norm", "causal_decoder": False, "timestep_conditioning": False,
}  # fmt: skip
_VAE_2_0 = _VAE | {
    "encoder_blocks": [
        _residuals(4), _resample("compress_space_res", 2),
        _residuals(6), _resample("compress_time_res", 2),
        _residuals(6), _resample("compress_all_res", 2),
        _residuals(2), _resample("compress_all_res", 2),
        _residuals(2),
    ],
    "decoder_blocks": [
        _residuals(5), _resample("compress_all", 2, residual=True),
        _residuals(5), _resample("compress_all", 2, residual=True),
        _residuals(5), _resample("compress_all", 2, residual=True),
        _residuals(5),
    ],
}  # fmt: skip
_VAE_2_3 = _VAE | {
    "spatial_padding_mode": "zeros",
    "encoder_blocks": [
        _residuals(4), _resample("compress_space_res", 2),
        _residuals(6), _resample("compress_time_res", 2),
        _residuals(4), _resample("compress_all_res", 2),
        _residuals(2), _resample("compress_all_res", 1),
        _residuals(2),
    ],
    "decoder_blocks": [
        _residuals(4), _resample("compress_space", 2),
        _residuals(6), _resample("compress_time", 2),
        _residuals(4), _resample("compress_all", 1),
        _residuals(2), _resample("compress_all", 2),
        _residuals(2),
    ],
}  # fmt: skip

_AUDIO_VAE = {
    "model": {"params": {"sampling_rate": 16000, "ddconfig": {
        "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2, "z_channels": 8, "double_z": True, "in_channels": 2,
        "out_ch": 2, "mel_bins": 64, "resolution": 256, "attn_resolutions": [], "mid_block_add_attention": False,
        "norm_type": "pixel", "causality_axis": "height", "dropout": 0.0,
    }}},
    "preprocessing": {
        "audio": {"sampling_rate": 16000, "stereo": True},
        "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
    },
}  # fmt: skip

_RESBLOCKS = {"resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "stereo": True}
_VOCODER_2_0 = _RESBLOCKS | {
    "resblock": "1", "upsample_initial_channel": 1024,
    "upsample_rates": [6, 5, 2, 2, 2], "upsample_kernel_sizes": [16, 15, 8, 4, 4],
}  # fmt: skip
_SNAKE = _RESBLOCKS | {
    "resblock": "AMP1", "activation": "snakebeta", "use_bias_at_final": False, "use_tanh_at_final": False
}  # fmt: skip
_VOCODER_2_3 = {
    "vocoder": _SNAKE | {
        "upsample_initial_channel": 1536,
        "upsample_rates": [5, 2, 2, 2, 2, 2], "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
    },
    "bwe": _SNAKE | {
        "upsample_initial_channel": 512, "apply_final_activation": False,
        "upsample_rates": [6, 5, 2, 2, 2], "upsample_kernel_sizes": [12, 11, 4, 4, 4],
        "input_sampling_rate": 16000, "output_sampling_rate": 48000, "hop_length": 80, "n_fft": 512, "win_size": 512,
        "num_mels": 64,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Version:
    """One generation of LTX-2."""

    config: dict[str, Any]  # sections as in the metadata of the official file; used where a file has none
    steps: int  # of the dev model
    stg_block: int  # whose self-attention the perturbed pass leaves out
    image_crf: int  # how strongly given pictures are compressed before they are encoded
    encoder: str  # which text encoder it reads prompts with, a title in ``text_encoder.ENCODERS``
    text_encoder: str  # what people must download beside it
    upscaler: str  # the official name of its spatial upscaler, with * for what differs and {} for the scale
    latents: str  # the version whose latents it makes and reads
    light: str | None = None  # the space in which it sees HDR, a key of MODEL_SPACES of ``conditioning.light``


_GEMMA = (
    "Gemma 3",
    "Gemma 3 12B (gemma-3-12b-it-qat-q4_0-unquantized as a folder, or gemma_3_12B_it.safetensors)",
)

VERSIONS = {
    "2.0": Version(
        {"transformer": _TRANSFORMER_2_0, "vae": _VAE_2_0, "audio_vae": _AUDIO_VAE, "vocoder": _VOCODER_2_0},
        40,
        29,
        33,
        *_GEMMA,
        "ltx-2-spatial-upscaler-x{:g}-*.safetensors",
        "2.0",
    ),
    "2.3": Version(
        {"transformer": _TRANSFORMER_2_3, "vae": _VAE_2_3, "audio_vae": _AUDIO_VAE, "vocoder": _VOCODER_2_3},
        30,
        28,
        33,
        *_GEMMA,
        "ltx-2.3-spatial-upscaler-x{:g}-*.safetensors",
        "2.3",
    ),
    "2.5": Version(
        {"transformer": _TRANSFORMER_2_5, "vae": _VAE_2_3 | RELEASED, "audio_vae": _AUDIO_VAE, "vocoder": _VOCODER_2_3},
        30,
        28,
        18,
        "Gemma 4",
        "LTX-2.5's own Gemma 4 12B (gemma4-12b-with-proj-ltx-2.5-bf16.safetensors of "
        "huggingface.co/Lightricks/LTX-2.5, where its licence is accepted first)",
        "ltx-2.5-latent-spatial-upscaler-x{:g}-*.safetensors",
        "2.3",
        "acescct",
    ),
}


def version_numbers(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the first two numbers of the version that a file states; None if it states none.

    Converters write it as text, as text in quotes, or as a number, where 2.30 is 2.3, and so is 23.
    """
    stated = _WITHOUT_POINT.sub(r"2.\1", str(metadata.get("model_version", "")).strip().strip("\"'").lower())
    # Merges state names of files, such as "ltx-2-19b", whose numbers are not all of a version.
    if not _PLAIN_VERSION.fullmatch(stated) or _NO_VERSION.fullmatch(stated):
        return None
    numbers = re.findall(r"\d+", stated)[:2]
    return int(numbers[0]), int(numbers[1].rstrip("0") or 0) if len(numbers) > 1 else 0


def stated_version(metadata: Mapping[str, str]) -> str | None:
    """Return the version that a file states, a key of VERSIONS. Raises CheckpointError for one that we do not run."""
    if (numbers := version_numbers(metadata)) is None:
        return None
    stated = "2.0" if numbers < (2, 3) else f"{numbers[0]}.{numbers[1]}"
    if stated not in VERSIONS:
        raise CheckpointError(
            f"This is an LTX {stated} model; this version of the pack runs LTX-{', LTX-'.join(VERSIONS)}."
        )
    return stated


def possible_versions(shapes: Shapes) -> tuple[str, ...]:
    """Return the versions that names and shapes may be of (see README.md, "Versions"); () if nothing of LTX-2 is there.

    Raises CheckpointError for video-only models.
    """
    transformer = {key.removeprefix(IN_MODEL) for key in shapes}
    if "adaln_single.linear.weight" in transformer:
        return (_version_of_transformer(transformer),)
    for mark, versions in _MARKS.items():
        if any(key.startswith(mark) for key in shapes):
            return versions
    upsamplers = [key for key in shapes if re.search(r"decoder\.up_blocks\.\d+\.conv\.conv\.weight", key)]
    return {3: ("2.0",), 4: _SINCE_2_3}.get(len(upsamplers), ())


_SINCE_2_3 = ("2.3", "2.5")  # which have most networks in common

# Beginnings of names, and which versions have such tensors; the first that is found counts.
_MARKS = {
    "text_embedding_projection.video_aggregate_embed.": _SINCE_2_3,
    "text_embedding_projection.aggregate_embed.": ("2.0",),
    "vocoder.bwe_generator.": _SINCE_2_3,
    "vocoder.conv_pre.": ("2.0",),
    "duration_head.": ("2.5",),
    "decoder.conv_in_x_t.": ("2.5",),
    "vae.decoder.conv_in_x_t.": ("2.5",),
}


def _version_of_transformer(keys: Set[str]) -> str:
    """The version of a transformer with these tensors."""
    if "audio_adaln_single.linear.weight" not in keys:
        raise CheckpointError(
            "This is a video-only LTX-Video transformer without an audio stream; choose an LTX-2 checkpoint, for "
            "example ltx-2-19b-dev.safetensors."
        )
    if "caption_projection.linear_1.weight" in keys:
        return "2.0"
    return "2.3" if "transformer_blocks.0.ff.net.0.proj.bias" in keys else "2.5"


def known_config(version: str, shapes: Shapes) -> dict[str, Any]:
    """Return the config of ``version`` for a file without one; depth is counted in its tensors."""
    config = dict(VERSIONS[version].config)
    layers = {m.group(1) for key in shapes if (m := re.search(r"transformer_blocks\.(\d+)\.", key))}
    if layers:
        config["transformer"] = config["transformer"] | {"num_layers": len(layers)}
    return config
