"""What the ``config.json`` of a component of diffusers says, in the words of an official checkpoint's config."""

from collections.abc import Mapping
from typing import Any

from .files import TensorFile, read_json

# By the class that a file names: its words and ours, all of our section ``transformer``. What is not listed is the same
# in every LTX-2, or seen in the tensors.
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
}


def transformer_section(file: TensorFile) -> dict[str, Any]:
    """Return what the ``config.json`` beside a component of diffusers adds to the section ``transformer``.

    Args:
        file: The component, or one of its shards; its own header counts more.

    Raises:
        CheckpointError: The file is not valid JSON.
    """
    path = (file.path if file.path.is_dir() else file.path.parent) / "config.json"
    if file.config or not _is_of_diffusers(file) or not path.is_file():
        return {}
    content = read_json(path)
    words = _WORDS.get(str(content.get("_class_name")), {})
    return {ours: content[theirs] for theirs, ours in words.items() if theirs in content}


def _is_of_diffusers(file: TensorFile) -> bool:
    return any(name != key for name, key in file.official_names.items())
