"""Networks of diffusers: at full size, as shapes, whose names of tensors ours are compared with; and a tiny 2.5."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from ltx2_core import tiny
from ltx2_core.checkpoint.models import MINIATURE


def transformer_and_connectors(version: str) -> dict[str, nn.Module]:
    """Return the transformer and the connectors of a release on the meta device; skips without diffusers."""
    transformers = pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
    connectors = pytest.importorskip("diffusers.pipelines.ltx2.connectors")
    new = version != "2.0"
    of_blocks = {f"{stream}{what}": new for stream in ("", "audio_") for what in ("gated_attn", "cross_attn_mod")}
    of_connectors = {
        "per_modality_projections": True, "proj_bias": True, "video_gated_attn": True, "audio_gated_attn": True,
        "video_connector_num_layers": 8, "audio_connector_num_layers": 8, "video_connector_num_attention_heads": 32,
        "audio_connector_num_attention_heads": 32, "audio_connector_attention_head_dim": 64,
    }  # fmt: skip
    if version == "2.5":
        of_blocks |= {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    with torch.device("meta"):
        return {
            "transformer": transformers.LTX2VideoTransformer3DModel(**of_blocks, use_prompt_embeddings=not new),
            "connectors": connectors.LTX2TextConnectors(**of_connectors if new else {}),
        }


WIDTHS = {
    "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 32,
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "num_layers": 2,
}  # fmt: skip
SINCE_2_3 = {"gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True, "audio_cross_attn_mod": True}
OF_2_5 = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True, "use_prompt_embeddings": False}
CONNECTORS = {
    "caption_channels": 32, "text_proj_in_factor": 3, "video_hidden_dim": 32, "audio_hidden_dim": 16,
    "video_connector_num_attention_heads": 2, "video_connector_attention_head_dim": 16,
    "audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 8, "video_gated_attn": True,
    "video_connector_num_layers": 1, "audio_connector_num_layers": 1, "audio_gated_attn": True,
    "per_modality_projections": True, "proj_bias": True, "rope_type": "split",
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 128, 128, 128), "decoder_block_out_channels": (16, 32, 32, 64),
    "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "decoder_spatio_temporal_scaling": (True,) * 4, "decoder_inject_noise": (False,) * 5,
    "upsample_residual": (False,) * 4, "upsample_factor": (2, 2, 1, 2), "decoder_spatial_padding_mode": "zeros",
}  # fmt: skip
DECODER = {
    "decoder_head_dim": 16, "decoder_stage_channels": (64, 32, 16, 16, 16), "decoder_stage_depths": (1, 1, 1, 1, 1),
    "decoder_stage_kernels": ((3, 3, 3),) * 4, "decoder_stage5_kernel": (3, 3, 3), "decoder_t_emb_dim": 24,
    "decoder_upsample_channel_reductions": (2, 2, 1, 1),
}  # fmt: skip
HEAD = {"video_cross_attention_dim": 32, "audio_cross_attention_dim": 16, "pooler_hidden_dim": 16, "num_queries": 2,
        "num_pooler_heads": 2, "mlp_hidden_dim": 20}  # fmt: skip


def _networks() -> dict[str, nn.Module]:
    """Every part of the folder with random weights, by the name of its subfolder."""
    diffusers = pytest.importorskip("diffusers")
    duration = pytest.importorskip("diffusers.pipelines.ltx2.duration_head")
    decoder = pytest.importorskip("diffusers.models.autoencoders.ltx2_diffusion_decoder")
    from diffusers.pipelines.ltx2 import connectors, vocoder

    torch.manual_seed(0)
    sizes = WIDTHS | SINCE_2_3 | OF_2_5 | {"rope_type": "split"}
    made = {
        "transformer": diffusers.LTX2VideoTransformer3DModel(**sizes),
        "transformer_full": diffusers.LTX2VideoTransformer3DModel(**sizes),
        "connectors": connectors.LTX2TextConnectors(**CONNECTORS),
        "vae": diffusers.AutoencoderKLLTX2Video(decoder_causal=False, **VAE),
        "diffusion_decoder": decoder.LTX2VideoDiffusionDecoderModel(**DECODER),
        "audio_vae": diffusers.AutoencoderKLLTX2Audio(ch_mult=(1, 1, 1), num_res_blocks=1),
        "vocoder": vocoder.LTX2VocoderWithBWE(hidden_channels=64, bwe_hidden_channels=64, final_act_fn="clamp"),
        "duration_head": duration.LTX2DurationHead(**HEAD),
    }
    mean, std = torch.randn(128), torch.rand(128) + 0.5  # of latents, which both VAEs have
    for name in ("vae", "diffusion_decoder"):
        made[name].latents_mean.copy_(mean)
        made[name].latents_std.copy_(std)
    return {name: network.eval() for name, network in made.items()}


def _gemma() -> nn.Module:
    configuration = pytest.importorskip("transformers.models.gemma4_unified.configuration_gemma4_unified")
    modeling = pytest.importorskip("transformers.models.gemma4_unified.modeling_gemma4_unified")
    torch.manual_seed(1)
    sizes = configuration.Gemma4UnifiedConfig(text_config=tiny._GEMMA["Gemma 4"].to_json())
    return modeling.Gemma4UnifiedForConditionalGeneration(sizes).eval()


def folder_of_2_5() -> dict[str, nn.Module]:
    """Every part of a folder of 2.5 with random weights, by the name of its subfolder; skips without diffusers."""
    return _networks() | {"text_encoder": _gemma()}


def write_folder(place: Path, networks: dict[str, nn.Module]) -> Path:
    """Let each network save itself into ``place``, with a tokenizer beside them; return ``place``."""
    for name, network in networks.items():
        network.save_pretrained(place / name)
    (place / "tokenizer").mkdir()
    shutil.copy(MINIATURE / "gemma-mini" / "tokenizer.json", place / "tokenizer")
    (place / "model_index.json").write_text("{}")
    return place
