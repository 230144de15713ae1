"""What the ``config.json`` of a component of diffusers says, in the words of an official checkpoint's config."""

from collections.abc import Mapping
from typing import Any

from ..errors.foreign import Fields, shown
from .files import TensorFile, read_json

_GENERATOR = {
    "hidden_channels": "upsample_initial_channel",
    "upsample_factors": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "resnet_kernel_sizes": "resblock_kernel_sizes",
    "resnet_dilations": "resblock_dilation_sizes",
    "final_bias": "use_bias_at_final",
}
# By the class that a file names: its words, and ours in the section of that class, with dots between levels. What is
# not listed is the same in every LTX-2, or seen in the tensors.
_WORDS: Mapping[str, Mapping[str, str]] = {
    "LTX2VideoTransformer3DModel": {
        "num_layers": "num_layers",
        "in_channels": "in_channels",
        "out_channels": "out_channels",
        "num_attention_heads": "num_attention_heads",
        "attention_head_dim": "attention_head_dim",
        "cross_attention_dim": "cross_attention_dim",
        "audio_in_channels": "audio_in_channels",
        "audio_out_channels": "audio_out_channels",
        "audio_num_attention_heads": "audio_num_attention_heads",
        "audio_attention_head_dim": "audio_attention_head_dim",
        "audio_cross_attention_dim": "audio_cross_attention_dim",
        "caption_channels": "caption_channels",
        "activation_fn": "activation_fn",
        "attention_bias": "attention_bias",
        "norm_elementwise_affine": "norm_elementwise_affine",
        "norm_eps": "norm_eps",
        "gated_attn": "apply_gated_attention",
        "cross_attn_mod": "cross_attention_adaln",
        "rope_theta": "positional_embedding_theta",
        "rope_type": "rope_type",
        "timestep_scale_multiplier": "timestep_scale_multiplier",
        "cross_attn_timestep_scale_multiplier": "av_ca_timestep_scale_multiplier",
        "ff_bias": "ff_bias",
        "audio_ff_bias": "audio_ff_bias",
        "use_keyframes_abs_pos_embedding": "use_keyframes_abs_pos_embedding",
    },
    "LTX2TextConnectors": {
        "video_connector_num_attention_heads": "connector_num_attention_heads",
        "video_connector_attention_head_dim": "connector_attention_head_dim",
        "video_connector_num_layers": "connector_num_layers",
        "video_connector_num_learnable_registers": "connector_num_learnable_registers",
        "video_gated_attn": "connector_apply_gated_attention",
        "audio_connector_num_attention_heads": "audio_connector_num_attention_heads",
        "audio_connector_attention_head_dim": "audio_connector_attention_head_dim",
        "audio_connector_num_layers": "audio_connector_num_layers",
        "audio_connector_num_learnable_registers": "audio_connector_num_learnable_registers",
    },
    "AutoencoderKLLTX2Video": {
        "in_channels": "in_channels",
        "out_channels": "out_channels",
        "latent_channels": "latent_channels",
        "patch_size": "patch_size",
        "decoder_causal": "causal_decoder",
    },
    "LTX2VideoDiffusionDecoderModel": {
        "decoder_model_output_type": "model_output_type",
        "latent_channels": "decoder.in_channels",
        "out_channels": "decoder.out_channels",
        "patch_size": "decoder.patch_size",
        "decoder_head_dim": "decoder.head_dim",
        "decoder_t_emb_dim": "decoder.t_emb_dim",
        "decoder_stage_channels": "decoder.stage_channels",
        "decoder_stage_depths": "decoder.stage_depths",
        "decoder_stage5_kernel": "decoder.stage5_kernel",
        "decoder_timestep_scale_multiplier": "decoder.timestep_scale_multiplier",
        "decoder_num_inference_steps": "decoder.default_num_inference_steps",
    },
    "LTX2DurationHead": {"num_pooler_heads": "num_pooler_heads"},
    "AutoencoderKLLTX2Audio": {
        "base_channels": "model.params.ddconfig.ch",
        "ch_mult": "model.params.ddconfig.ch_mult",
        "num_res_blocks": "model.params.ddconfig.num_res_blocks",
        "attn_resolutions": "model.params.ddconfig.attn_resolutions",
        "mid_block_add_attention": "model.params.ddconfig.mid_block_add_attention",
        "in_channels": "model.params.ddconfig.in_channels",
        "output_channels": "model.params.ddconfig.out_ch",
        "latent_channels": "model.params.ddconfig.z_channels",
        "norm_type": "model.params.ddconfig.norm_type",
        "causality_axis": "model.params.ddconfig.causality_axis",
        "double_z": "model.params.ddconfig.double_z",
        "mel_bins": "model.params.ddconfig.mel_bins",
        "sample_rate": "model.params.sampling_rate",
        "mel_hop_length": "preprocessing.stft.hop_length",
    },
    "LTX2Vocoder": _GENERATOR | {"output_sampling_rate": "output_sampling_rate"},
    "LTX2VocoderWithBWE": {
        **{theirs: f"vocoder.{ours}" for theirs, ours in _GENERATOR.items()},
        **{f"bwe_{theirs}": f"bwe.{ours}" for theirs, ours in _GENERATOR.items()},
        "filter_length": "bwe.n_fft",
        "hop_length": "bwe.hop_length",
        "window_length": "bwe.win_size",
        "num_mel_channels": "bwe.num_mels",
        "input_sampling_rate": "bwe.input_sampling_rate",
        "output_sampling_rate": "bwe.output_sampling_rate",
    },
}
_SECTIONS = {
    "LTX2VideoTransformer3DModel": "transformer",
    "LTX2TextConnectors": "transformer",
    "AutoencoderKLLTX2Video": "vae",
    "LTX2VideoDiffusionDecoderModel": "vae",
    "LTX2DurationHead": "duration_head",
    "AutoencoderKLLTX2Audio": "audio_vae",
    "LTX2Vocoder": "vocoder",
    "LTX2VocoderWithBWE": "vocoder",
}
# What a class can be told otherwise, alone or for each level, but no LTX-2 is.
_SNAKES: Mapping[str, object] = {
    "act_fn": "snakebeta",
    "antialias": True,
    "antialias_ratio": 2,
    "antialias_kernel_size": 12,
}
_FIXED: Mapping[str, Mapping[str, object]] = {
    "AutoencoderKLLTX2Video": {
        "spatio_temporal_scaling": True,
        "decoder_spatio_temporal_scaling": True,
        "decoder_inject_noise": False,
        "timestep_conditioning": False,
        "patch_size_t": 1,
        "encoder_causal": True,
    },
    "LTX2VideoDiffusionDecoderModel": {"scaling_factor": 1.0},
    "AutoencoderKLLTX2Audio": {"is_causal": True},
    "LTX2Vocoder": {
        "act_fn": "leaky_relu",
        "leaky_relu_negative_slope": 0.1,
        "antialias": False,
        "final_act_fn": "tanh",
    },
    "LTX2VocoderWithBWE": {**_SNAKES, **{f"bwe_{name}": value for name, value in _SNAKES.items()}},
}
_AXES = {"spatial": "space", "temporal": "time", "spatiotemporal": "all"}
_WIDEST, _MOST_LAYERS, _MOST_TIMES = 2**14, 64, 16


def stated_sections(file: TensorFile) -> dict[str, Any]:
    """Return what the ``config.json`` beside a component of diffusers says, as sections of an official config.

    Args:
        file: The component, or one of its shards; its own header counts more.

    Returns:
        The section, with no more in it than is said; empty if nothing is.

    Raises:
        CheckpointError: The file is not valid JSON, or describes a network that no LTX-2 is.
    """
    path = (file.path if file.path.is_dir() else file.path.parent) / "config.json"
    if file.config or not _is_of_diffusers(file) or not path.is_file():
        return {}
    fields = Fields.of(read_json(path), str(path))
    kind = str(fields.content.get("_class_name"))
    if kind not in _SECTIONS:
        return {}
    for name, only in _FIXED.get(kind, {}).items():
        if name in fields and not _is_all(fields.content[name], only):
            raise fields.refusal(name, shown(only))
    section: dict[str, Any] = {}
    for theirs, ours in _WORDS[kind].items():
        if theirs in fields:
            section = overlay(section, _nested(ours, fields.content[theirs]))
    return {_SECTIONS[kind]: overlay(section, _derived(kind, fields))}


def overlay(config: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` with what is ``stated`` in its place, level by level."""
    merged = dict(config)
    for name, value in stated.items():
        below = merged.get(name)
        merged[name] = overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _derived(kind: str, fields: Fields) -> dict[str, Any]:
    """What several fields say together."""
    if kind == "AutoencoderKLLTX2Video":
        return _encoder(fields) | _decoder(fields) | _padding(fields)
    if kind == "LTX2VideoDiffusionDecoderModel":
        return {"decoder": _windows(fields) | _upsamples(fields)}
    return {}


def _is_of_diffusers(file: TensorFile) -> bool:
    return any(name != key for name, key in file.official_names.items())


def _is_all(value: object, only: object) -> bool:
    """Whether a value, or each of a list, is ``only``."""
    return all(each == only for each in value) if isinstance(value, list) else value == only


def _nested(path: str, value: object) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}


def _encoder(fields: Fields) -> dict[str, Any]:
    """The encoder's blocks in the order in which they run: each level is residual layers, then a change of size."""
    if "layers_per_block" not in fields:
        return {}
    layers = fields.wholes("layers_per_block", least=0, most=_MOST_LAYERS)
    widths = fields.wholes("block_out_channels", most=_WIDEST)
    axes = _axes(fields, "downsample_type", len(layers) - 1)
    before = (fields.whole("latent_channels", 128, most=_WIDEST), *widths)
    if len(widths) != len(axes) or any(width % narrow for narrow, width in zip(before, widths)):
        raise fields.refusal("block_out_channels", f"{len(axes)} numbers, each a multiple of the one before,")
    blocks = [["res_x", {"num_layers": layers[0]}]]
    for axis, narrow, width, count in zip(axes, before, widths, layers[1:]):
        blocks += [[f"compress_{axis}_res", {"multiplier": width // narrow}], ["res_x", {"num_layers": count}]]
    return {"encoder_blocks": blocks}


def _decoder(fields: Fields) -> dict[str, Any]:
    """The decoder's blocks against the order in which they run, in which diffusers has only the axes."""
    if "decoder_layers_per_block" not in fields:
        return {}
    layers = fields.wholes("decoder_layers_per_block", least=0, most=_MOST_LAYERS)
    axes = _axes(fields, "upsample_type", len(layers) - 1)[::-1]
    factors = fields.wholes("upsample_factor", (2,) * len(axes), most=_MOST_TIMES)
    widths = fields.wholes("decoder_block_out_channels", most=_WIDEST)
    stated = fields.content.get("upsample_residual", True)
    residual = stated if isinstance(stated, list) else [stated] * len(axes)
    for name, values in (("upsample_factor", factors), ("upsample_residual", residual)):
        if len(values) != len(axes):
            raise fields.refusal(name, f"a list of {len(axes)}")
    blocks: list[Any] = [["res_x", {"num_layers": layers[0]}]]
    for axis, factor, also, count in zip(axes, factors, residual, layers[1:]):
        blocks += [
            [f"compress_{axis}", {"multiplier": factor, "residual": also}],
            ["res_x", {"num_layers": count}],
        ]
    return {"decoder_blocks": blocks, "decoder_base_channels": widths[0] // factors[0]}


def _windows(fields: Fields) -> dict[str, Any]:
    """The windows of all stages of a diffusion decoder, of which diffusers has the last one by itself."""
    if "decoder_stage_kernels" not in fields:
        return {}
    return {"stage_kernels": [*fields.items("decoder_stage_kernels"), fields.content.get("decoder_stage5_kernel")]}


def _upsamples(fields: Fields) -> dict[str, Any]:
    """The strides and divisors between its stages, as pairs."""
    if "decoder_upsample_strides" not in fields:
        return {}
    strides = fields.items("decoder_upsample_strides")
    divisors = fields.wholes("decoder_upsample_channel_reductions", most=_MOST_TIMES)
    if len(strides) != len(divisors):
        raise fields.refusal("decoder_upsample_channel_reductions", f"a list of {len(strides)}")
    return {"upsamples": [list(pair) for pair in zip(strides, divisors)]}


def _axes(fields: Fields, name: str, count: int) -> list[str]:
    """What each of ``count`` levels changes: space, time or all."""
    found = [_AXES.get(str(each), "") for each in fields.items(name)]
    if len(found) != count or not all(found):
        raise fields.refusal(name, f"a list of {count}, each {' or '.join(_AXES)},")
    return found


def _padding(fields: Fields) -> dict[str, Any]:
    """Our word for the padding of both halves, or of the encoder alone while the decoder reflects."""
    if "decoder_spatial_padding_mode" not in fields:
        return {}
    encoder, decoder = (fields.word(f"{half}_spatial_padding_mode", "zeros") for half in ("encoder", "decoder"))
    if decoder not in (encoder, "reflect"):
        raise fields.refusal("decoder_spatial_padding_mode", f"reflect, or {encoder} as in the encoder,")
    return {
        "encoder_spatial_padding_mode": encoder,
        "spatial_padding_mode": encoder if encoder == decoder else None,
    }
