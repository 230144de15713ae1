"""What a file is that was given where it does not belong, and where it does belong."""

import re
from collections.abc import Iterable

from .loading import shorten_list

LTX_PART = "is a part of an LTX model: choose it in LTX-2 Load Model, or give it with --checkpoint"

DURATION_HEAD = (
    "is the duration head of LTX-2.5: choose it in LTX-2 Load Model, or give it with --checkpoint and the rest"
)

LORA_FILE = "is a LoRA: choose it in LTX-2 Load LoRA, or give it with --lora"

OTHER_ADAPTER = (
    "is an adapter of a kind that is not read here (IA3, VeRA ...), where LoRA, DoRA, LoHa, LoKr, GLoRA, OFT and BOFT "
    "are"
)

# What marks the names of tensors; the first row that more than a few of a file's names match tells what it is.
_CONTENTS = (
    (
        r"\.(?:ia3_|vera_lambda|oft_diag|on_input$|set_weight$|oft_R.*\.(?:clipped_oft|cans_oft)$|dora_log_multiplier$)",
        OTHER_ADAPTER,
    ),
    (
        r"[._]lora[._](?:linear_layer[._])?(?:A|B|up|down)\b|\.hada_w|\.lokr_w|\.dora_scale$|\.lora_magnitude"
        r"|\.diff(?:_b)?$|\.[wb]_norm$|\.oft_blocks$|\.b?oft_R\b|\.[ab][12]\.weight$",
        LORA_FILE,
    ),
    (r"^base_model\.model\.", OTHER_ADAPTER),  # of PEFT, which has many
    (r"^(?:duration_head|attention_pooler)\.", DURATION_HEAD),
    (
        r"post_feedforward_layernorm|pre_feedforward_layernorm",
        "is a Gemma text encoder: choose it in LTX-2 Load Gemma, or give it with --text-encoder",
    ),
    (
        r"^(?:post_upsample_res_blocks|initial_conv|upsampler)\.",
        "is a latent upscaler: choose it in LTX-2 Load Upscaler, or give it with --upscaler",
    ),
    (
        r"^(?:en|de)coder\.(?:up|down|mid)(?:_blocks?)?\..*(?:conv[12]|nin_shortcut|conv_shortcut)\.(?:weight|bias)$"
        r"|^(?:en|de)coder\.(?:middle|upsamples|downsamples)\.\d+\.residual\.",
        "is a VAE of another model, such as SDXL, Flux or Wan; LTX-2 has one of its own",
    ),
    (
        r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.)?(?:transformer_blocks\.\d+\.(?:audio_)?attn1"
        r"|adaln_single|time_embed)\.|audio_embeddings_connector|text_embedding_projection|^(?:vae|audio_vae)\."
        r"(?:en|de)coder\.|^(?:en|de)coder\.(?:up_blocks|down_blocks|mid_block|mid|up|down|det_stages|diff_blocks)\.",
        LTX_PART,
    ),
    (r"double_blocks\.\d+\.img_|single_transformer_blocks\.", "is a model of the Flux kind, not of LTX-2"),
    (
        r"(?:input|output)_blocks\.\d+\.|(?:^|\.)(?:up|down)_blocks\.\d+\.attentions\.|joint_blocks\.\d+\.",
        "is a Stable Diffusion model, not LTX-2",
    ),
    (r"blocks\.\d+\.cross_attn\.(?:q|k|v|o)\.", "is a Wan model, not one of LTX-2"),
    (r"\.SelfAttention\.", "is a T5 text encoder; LTX-2 reads prompts with Gemma"),
    (r"text_model\.encoder\.layers\.", "is a CLIP text encoder; LTX-2 reads prompts with Gemma"),
    (r"model\.layers\.\d+\.self_attn\.", "is a language model; LTX-2 reads prompts with Gemma"),
    (
        r"^(?:video|audio|latent_tensor)$",
        "is a latent, or what was kept of a prompt or of a window, and no weights; LTX-2 Load AV Latent and --latent "
        "take latents",
    ),
)
_SHARE = 3  # percent of a file's names that have to match

# How files begin that are none of weights, and what they are; the first row that fits counts.
_STARTS = (
    (rb"$", "but empty: its download has not begun, or broke off"),
    (rb"\x00{9}", "but begins with zeros, as a download does that is not complete: wait for it, or download it again"),
    (
        rb"PK\x03\x04",
        "but a zip archive, as .ckpt, .pt and .pth files of PyTorch are; if a model is packed in it, unpack it first",
    ),
    (rb"\x80[\x02-\x05]", "but a pickle, as old .ckpt, .pt and .bin files of PyTorch are"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd", "but a packed archive: unpack it first"),
    (
        rb"(?:\xef\xbb\xbf)?\s*<",
        "but a web page, which sites send in place of a file that needs a login or is not there: download it again",
    ),
    (rb"\x00\x05\x16\x07", "but what macOS notes beside a file: choose the one whose name has no ._ before it"),
    (rb"version h|# xet ", "but a pointer to a file that was not downloaded: download the file itself"),
    (rb"[\t\n\r\x20-\x7e]{1,9}$", "but a text, such as a config, or what sites answer in place of a file"),
)
START_BYTES = 9  # that tell it


def describe_start(start: bytes) -> str:
    """Say what a file without weights is that begins with these START_BYTES, or is shorter; empty if nothing tells.

    The words stand in a sentence behind what it is not.
    """
    return next((sentence for pattern, sentence in _STARTS if re.match(pattern, start)), "")


def describe_contents(keys: Iterable[str]) -> str | None:
    """Say what a file with tensors of these names is and where it belongs; None if nothing tells."""
    keys = list(keys)
    for pattern, sentence in _CONTENTS:
        if sum(re.search(pattern, key) is not None for key in keys) * 100 > len(keys) * _SHARE:
            return sentence
    return None


def tell_contents(keys: Iterable[str], expected: str = "") -> str:
    """Say what a file is, as ``describe_contents`` does, and some of the names in it; the end of a sentence.

    Args:
        keys: the names of its tensors.
        expected: words for what the file was found not to be. Contents that look like it anyway are called a part of
            one, or one of another generation.
    """
    keys = sorted(keys)
    what = describe_contents(keys)
    if expected and what is not None and expected in what:
        what = "looks like a part of one, or like one of another generation"
    return f"{f'it {what}. It' if what else 'it'} has {shorten_list(keys) or 'nothing'}"
