"""The official transformer and those of diffusers and ComfyUI, with the same weights and inputs as ours.

None is a part of this project; what is imported here is only measured against.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltx2_core.geometry import AUDIO_CHANNELS
from ltx2_core.transformer import StreamInput

Forward = Callable[[], tuple[Tensor, Tensor]]
State = dict[str, Tensor]  # by the names of the official file, without prefix

_SAME = (
    "num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "audio_num_attention_heads",
    "audio_attention_head_dim", "audio_cross_attention_dim", "caption_channels",
)  # fmt: skip
_CHANNELS = ("in_channels", "out_channels", "audio_in_channels", "audio_out_channels")


def bare(state: State) -> State:
    """Return the tensors of the transformer in an official ``state``, without their prefix."""
    prefix = "model.diffusion_model."
    found = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return {key: tensor for key, tensor in found.items() if "_embeddings_connector." not in key}


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


def find_comfy() -> bool:
    """Make ComfyUI importable, if there is one: COMFYUI_PATH, else ~/comfy/ComfyUI."""
    folder = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
    if not (folder / "comfy").is_dir():
        return False
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        given, sys.argv = sys.argv, ["main.py", "--cpu", "--use-pytorch-cross-attention"]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.model_management

        comfy.model_management.in_training = False
        sys.argv = given
    return True


def comfy(section: dict[str, Any], state: State) -> nn.Module:
    """Build ComfyUI's own transformer that ``section`` of a config describes; it shares ``state``."""
    import comfy.ops
    from comfy.ldm.lightricks.av_model import LTXAVModel

    with torch.device("meta"):
        network = LTXAVModel(**section, operations=comfy.ops.disable_weight_init)
    network.video_embeddings_connector = network.audio_embeddings_connector = nn.Identity()
    network.load_state_dict(state, assign=True)
    return network.eval()


def of_comfy(network: nn.Module, video: StreamInput, audio: StreamInput, size: tuple[int, int, int]) -> Forward:
    """Return one pass of ComfyUI's transformer over a clip of ``size`` (frames, height, width), ready to be called."""
    clip = video.tokens.mT.unflatten(2, size)
    sound = audio.tokens.unflatten(2, (AUDIO_CHANNELS, -1)).transpose(1, 2)
    context = torch.cat((video.context, audio.context), dim=-1)
    levels = video.sigma[:, None] if video.timesteps is None else video.timesteps

    def forward() -> tuple[Tensor, Tensor]:
        # With a tensor of its own each, since this network writes into what it is given.
        pictures, sounds = network([clip.clone(), sound.clone()], (levels, audio.sigma[:, None]), context, None, 24.0)
        return pictures.flatten(2).mT, sounds.transpose(1, 2).flatten(2)

    return forward
