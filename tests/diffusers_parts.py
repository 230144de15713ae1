"""Networks of diffusers at full size, as shapes, whose names of tensors ours are compared with."""

import pytest
import torch
from torch import nn


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
