"""Names of the transformer's tensors (see ../README.md, "Keys")."""

from .table import IN_MODEL, WEIGHTS, Keys, under

ATTENTION = {
    **under("to_q", "q", WEIGHTS),
    **under("to_k", "k", WEIGHTS),
    **under("to_v", "v", WEIGHTS),
    **under("to_out.0", "out", WEIGHTS),
    **under("to_gate_logits", "gate", WEIGHTS),
    "q_norm.weight": "q_norm.weight",
    "k_norm.weight": "k_norm.weight",
}

FEED_FORWARD = {
    **under("net.0.proj", "up", WEIGHTS),
    **under("net.2", "down", WEIGHTS),
}

ADALN = {
    **under("emb.timestep_embedder.linear_1", "embed_in", WEIGHTS),
    **under("emb.timestep_embedder.linear_2", "embed_out", WEIGHTS),
    **under("linear", "project", WEIGHTS),
}

CAPTION = {
    **under("linear_1", "up", WEIGHTS),
    **under("linear_2", "out", WEIGHTS),
}

BLOCK = {
    **under("attn1", "video.self_attn", ATTENTION),
    **under("attn2", "video.text_attn", ATTENTION),
    **under("ff", "video.feed_forward", FEED_FORWARD),
    "scale_shift_table": "video.modulation",
    "prompt_scale_shift_table": "video.text_modulation",
    "scale_shift_table_a2v_ca_video": "video.cross_modulation",
    **under("audio_attn1", "audio.self_attn", ATTENTION),
    **under("audio_attn2", "audio.text_attn", ATTENTION),
    **under("audio_ff", "audio.feed_forward", FEED_FORWARD),
    "audio_scale_shift_table": "audio.modulation",
    "audio_prompt_scale_shift_table": "audio.text_modulation",
    "scale_shift_table_a2v_ca_audio": "audio.cross_modulation",
    **under("audio_to_video_attn", "audio_to_video.attn", ATTENTION),
    **under("video_to_audio_attn", "video_to_audio.attn", ATTENTION),
}

TRANSFORMER = Keys(
    prefixes=(IN_MODEL,),
    rows={
        **under("patchify_proj", "video.project_in", WEIGHTS),
        "keyframes_abs_pos_embedding": "video.keyframe_mark",
        **under("adaln_single", "video.modulate", ADALN),
        **under("prompt_adaln_single", "video.modulate_text", ADALN),
        **under("av_ca_video_scale_shift_adaln_single", "video.modulate_cross", ADALN),
        **under("av_ca_a2v_gate_adaln_single", "video.gate_cross", ADALN),
        **under("caption_projection", "video.caption", CAPTION),
        "scale_shift_table": "video.modulation",
        **under("proj_out", "video.project_out", WEIGHTS),
        **under("audio_patchify_proj", "audio.project_in", WEIGHTS),
        **under("audio_adaln_single", "audio.modulate", ADALN),
        **under("audio_prompt_adaln_single", "audio.modulate_text", ADALN),
        **under("av_ca_audio_scale_shift_adaln_single", "audio.modulate_cross", ADALN),
        **under("av_ca_v2a_gate_adaln_single", "audio.gate_cross", ADALN),
        **under("audio_caption_projection", "audio.caption", CAPTION),
        "audio_scale_shift_table": "audio.modulation",
        **under("audio_proj_out", "audio.project_out", WEIGHTS),
        **under("transformer_blocks.{}", "blocks.{}", BLOCK),
    },
)
