"""Names of the tensors between Gemma and the transformer (see ../README.md, "Keys")."""

from .table import Keys, under
from .transformer import ATTENTION, FEED_FORWARD, LINEAR

CONNECTOR = {
    "learnable_registers": "registers",
    **under("transformer_1d_blocks.{}.attn1", "blocks.{}.attention", ATTENTION),
    **under("transformer_1d_blocks.{}.ff", "blocks.{}.feed_forward", FEED_FORWARD),
}

TEXT_FEATURES = Keys(
    {
        "text_embedding_projection.aggregate_embed.weight": "both.weight",
        **under("text_embedding_projection.video_aggregate_embed", "video", LINEAR),
        **under("text_embedding_projection.audio_aggregate_embed", "audio", LINEAR),
    }
)

VIDEO_CONNECTOR = Keys(under("video_embeddings_connector", "", CONNECTOR), prefixes=("model.diffusion_model.", ""))
AUDIO_CONNECTOR = Keys(under("audio_embeddings_connector", "", CONNECTOR), prefixes=("model.diffusion_model.", ""))

DURATION_HEAD = Keys(
    {
        **under("video_input_proj", "project_video", LINEAR),
        **under("audio_input_proj", "project_audio", LINEAR),
        "video_modality_emb": "video_mark",
        "audio_modality_emb": "audio_mark",
        "attention_pooler.query_tokens": "query",
        "attention_pooler.cross_attn.in_proj_weight": "query_key_value.weight",
        "attention_pooler.cross_attn.in_proj_bias": "query_key_value.bias",
        **under("attention_pooler.cross_attn.out_proj", "project_out", LINEAR),
        **under("mlp_hidden", "hidden", LINEAR),
        **under("mlp_out", "out", LINEAR),
    },
    prefixes=("duration_head.",),
)
