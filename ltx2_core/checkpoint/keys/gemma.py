"""Names of the tensors of Gemma 3 and 4 (see ../README.md, "Text encoders"), as transformers' text models have them."""

from .table import Keys, same, under

LAYER = same(
    f"{name}.weight"
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "self_attn.q_norm",
        "self_attn.k_norm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
)

# What ComfyUI writes before a text encoder that it saves, alone or with the model that it is of.
_SAVED = ("text_encoders.gemma3_12b.", "gemma3_12b.")
_SAVED_MODEL = tuple(f"{prefix}transformer.model." for prefix in _SAVED)

GEMMA = Keys(
    prefixes=("language_model.model.", "model.language_model.", "model.", *_SAVED_MODEL),
    rows={
        "embed_tokens.weight": "model.embed_tokens.weight",
        **under("layers.{}", "model.layers.{}", LAYER),
        "norm.weight": "model.norm.weight",
    },
)

# llama.cpp's names in GGUF files, and those of Hugging Face; its norms hold other numbers (see ../README.md, "GGUF").
_LLAMA_CPP_LAYER: dict[str, str | None] = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "layer_output_scale.weight": "layer_scalar",  # of Gemma 4
}
LLAMA_CPP = Keys(
    {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        **under("blk.{}", "model.layers.{}", _LLAMA_CPP_LAYER),
    }
)

# The first prefix is that of the packed file of 2.5, the second that of Hugging Face.
GEMMA4 = Keys(
    prefixes=("model.", "model.language_model.", "language_model.model.", *_SAVED_MODEL),
    rows={
        "embed_tokens.weight": "model.embed_tokens.weight",
        **under("layers.{}", "model.layers.{}", LAYER | same(["layer_scalar"])),
        "norm.weight": "model.norm.weight",
    },
)

# The part of Gemma 3 for pictures. Files give it one of several places, and some of them two.
_VISION_LAYER = same(
    f"{module}.{leaf}"
    for module in (
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
    )
    for leaf in ("weight", "bias")
)
_TOWER: dict[str, str | None] = {
    "embeddings.patch_embedding.weight": "patch_embedding.weight",
    "embeddings.patch_embedding.bias": "patch_embedding.bias",
    "embeddings.position_embedding.weight": "positions",
    **under("encoder.layers.{}", "layers.{}", _VISION_LAYER),
    "post_layernorm.weight": "post_layernorm.weight",
    "post_layernorm.bias": "post_layernorm.bias",
}
_PROJECTOR: dict[str, str | None] = {
    "mm_input_projection_weight": "projection",
    "mm_soft_emb_norm.weight": "norm.weight",
}
VISION_TOWERS = "vision_tower.vision_model", "vision_model", "vision_tower"  # of Google, of ComfyUI, of transformers 5
VISION = Keys(
    {
        f"{root}{file_name}": ours
        for root in ("", "model.")
        for tower in VISION_TOWERS
        for file_name, ours in (under(tower, "", _TOWER) | under("multi_modal_projector", "", _PROJECTOR)).items()
    }
)

PROJECTION = "text_embedding_projection."  # a component of the model

# A text encoder's file may also hold the picture part, the output layer, a tokenizer and the projection. As weights of
# the text model none of these is read.
NOT_THE_TEXT_MODEL = (
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.vision_model.",
    "model.multi_modal_projector.",
    "lm_head.",
    "rope_freqs.",
    "language_model.lm_head.",
    "spiece_model",
    "tokenizer_json",
    "text_encoders.",
    *_SAVED,
    PROJECTION,
)

# The packed file of 2.5 also holds what is heard and seen, and small files as bytes.
NOT_GEMMA4 = (
    *NOT_THE_TEXT_MODEL,
    "audio_projector.",
    "model.vision_embedder.",
    "model.embed_vision.",
    "model.embed_audio.",
    "model.audio_projector.",
    "hf_asset__",
)
