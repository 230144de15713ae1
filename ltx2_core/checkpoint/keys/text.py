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
