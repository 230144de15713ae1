"""The official transformer and that of diffusers, with the same weights and inputs as ours.

Neither is a part of this project; what is imported here is only measured against.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ltx2_core.transformer import StreamInput

Forward = Callable[[], tuple[Tensor, Tensor]]
State = dict[str, Tensor]  # by the names of the official file, without prefix

_SAME = (
    "num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "audio_num_attention_heads",
    "audio_attention_head_dim", "audio_cross_attention_dim", "caption_channels",
)  # fmt: skip
_CHANNELS = ("in_channels", "out_channels", "audio_in_channels", "audio_out_channels")


def ltx_core(section: dict[str, Any], state: State) -> nn.Module:
    """Build the transformer of ltx-core that ``section`` of a config describes; it shares ``state``."""
    from ltx_core.model.transformer.model_configurator import LTXModelConfigurator

    with torch.device("meta"):
        network = LTXModelConfigurator.from_config({"transformer": section})
    network.load_state_dict(state, assign=True)
    return network.eval()


def of_ltx_core(network: nn.Module, *streams: StreamInput) -> Forward:
    """Return one pass of the transformer of ltx-core over ``streams``, ready to be called."""
    from ltx_core.guidance.perturbations import BatchedPerturbationConfig, PerturbationConfig
    from ltx_core.model.transformer.modality import Modality

    modalities = [
        Modality(
            latent=s.tokens, sigma=s.sigma, timesteps=s.sigma[:, None] if s.timesteps is None else s.timesteps,
            positions=s.positions, context=s.context,
        )
        for s in streams
    ]  # fmt: skip
    return lambda: network(*modalities, BatchedPerturbationConfig([PerturbationConfig([])]))


def diffusers(section: dict[str, Any], state: State) -> nn.Module:
    """Build the transformer of diffusers that ``section`` of a config describes; it shares ``state``."""
    from diffusers.loaders.single_file_utils import convert_ltx2_transformer_to_diffusers
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    gated, modulated = section.get("apply_gated_attention", False), section.get("cross_attention_adaln", False)
    with torch.device("meta"):
        network = LTX2VideoTransformer3DModel(
            **{key: section[key] for key in _SAME}, **{key: section.get(key, 128) for key in _CHANNELS},
            rope_type="split", gated_attn=gated, audio_gated_attn=gated,
            cross_attn_mod=modulated, audio_cross_attn_mod=modulated,
            use_prompt_embeddings="caption_proj_before_connector" not in section,
        )  # fmt: skip
    state = convert_ltx2_transformer_to_diffusers(dict(state))
    for old, new in ("prompt_adaln_single", "prompt_adaln"), ("audio_prompt_adaln_single", "audio_prompt_adaln"):
        state = {key.replace(f"{old}.", f"{new}.") if key.startswith(old) else key: v for key, v in state.items()}
    network.load_state_dict(state, assign=True)
    return network.eval()


def of_diffusers(network: nn.Module, video: StreamInput, audio: StreamInput) -> Forward:
    """Return one pass of the transformer of diffusers, ready to be called."""
    levels = video.sigma if video.timesteps is None else video.timesteps
    arguments = {
        "hidden_states": video.tokens, "encoder_hidden_states": video.context, "video_coords": video.positions,
        "timestep": levels * 1000, "sigma": video.sigma * 1000,
        "audio_hidden_states": audio.tokens, "audio_encoder_hidden_states": audio.context,
        "audio_timestep": audio.sigma * 1000, "audio_sigma": audio.sigma * 1000, "audio_coords": audio.positions,
        "use_cross_timestep": True, "return_dict": False,
    }  # fmt: skip
    return lambda: network(**arguments)
