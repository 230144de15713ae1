"""Names of the tensors between Gemma and the transformer (see ../README.md, "Keys")."""

from .table import IN_MODEL, WEIGHTS, Keys, under
from .transformer import ATTENTION, FEED_FORWARD

CONNECTOR = {
    "learnable_registers": "registers",
    **under("transformer_1d_blocks.{}.attn1", "blocks.{}.attention", ATTENTION),
    **under("transformer_1d_blocks.{}.ff", "blocks.{}.feed_forward", FEED_FORWARD),
}

TEXT_FEATURES = Keys(
    {
        "text_embedding_projection.aggregate_embed.weight": "both.weight",
        **under("text_embedding_projection.video_aggregate_embed", "video", WEIGHTS),
        **under("text_embedding_projection.audio_aggregate_embed", "audio", WEIGHTS),
    }
)

VIDEO_CONNECTOR = Keys(under("video_embeddings_connector", "", CONNECTOR), prefixes=(IN_MODEL, ""))
AUDIO_CONNECTOR = Keys(under("audio_embeddings_connector", "", CONNECTOR), prefixes=(IN_MODEL, ""))

DURATION_HEAD = Keys(
    {
        **under("video_input_proj", "project_video", WEIGHTS),
        **under("audio_input_proj", "project_audio", WEIGHTS),
        "video_modality_emb": "video_mark",
        "audio_modality_emb": "audio_mark",
        "attention_pooler.query_tokens": "query",
        "attention_pooler.cross_attn.in_proj_weight": "query_key_value.weight",
        "attention_pooler.cross_attn.in_proj_bias": "query_key_value.bias",
        **under("attention_pooler.cross_attn.out_proj", "project_out", WEIGHTS),
        **under("mlp_hidden", "hidden", WEIGHTS),
        **under("mlp_out", "out", WEIGHTS),
    },
    prefixes=("duration_head.",),
)
