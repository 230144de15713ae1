"""Files without the official prefixes, and those of diffusers: what the official single file calls their tensors.

Each layout is a table of two columns, the file's name and the official one (see ../README.md, "Layouts").
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce

from ...quantization import join_companion, split_companion
from .audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from .table import WEIGHTS, Keys, prefix_before, under
from .text import AUDIO_CONNECTOR, DURATION_HEAD, TEXT_FEATURES, VIDEO_CONNECTOR
from .transformer import TRANSFORMER
from .video_vae import DIFFUSION_DECODER, VIDEO_DECODER, VIDEO_ENCODER
from .vocoder import VOCODER

# Parts of names that diffusers changed.
DIFFUSERS = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "video_embeddings_connector": "video_connector",
    "audio_embeddings_connector": "audio_connector",
    "transformer_1d_blocks": "transformer_blocks",
    "text_embedding_projection": "",
    "aggregate_embed": "text_proj_in",
    "video_aggregate_embed": "video_text_proj_in",
    "audio_aggregate_embed": "audio_text_proj_in",
}

# What diffusers changed in names of the vocoders.
VOCODER_WORDS = {
    "conv_pre": "conv_in",
    "ups": "upsamplers",
    "resblocks": "resnets",
    "conv_post": "conv_out",
    "act_post": "act_out",
    "lowpass": "",
}

# What diffusers changed in names of the diffusion decoder and of the duration head. Queries, keys and values, which are
# one matrix in official files, are joined before (``joined``).
_DIFFUSERS_DECODER = {
    ".attn.proj.": ".attn.to_out.0.",
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
    ".mlp.0.": ".timestep_embedder.linear_1.",
    ".mlp.2.": ".timestep_embedder.linear_2.",
}
_DIFFUSERS_HEAD = {".cross_attn.out_proj.": ".to_out.", ".cross_attn.in_proj_": ".qkv."}

# Statistics of diffusers' VAEs.
_LATENTS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}

_MOST_LEVELS = 8  # of a video VAE
_LEVEL = re.compile(r"(?:.*\.)?encoder\.down_blocks\.(\d+)\.")
_PROJECTED = re.compile(r"(?:.*\.)?decoder\.up_blocks\.(\d)\.conv_in\.")
_RESAMPLING = under("conv.conv", "conv.conv", WEIGHTS)
_RESIDUALS = {
    **under("resnets.{}.conv1.conv", "res_blocks.{}.conv1.conv", WEIGHTS),
    **under("resnets.{}.conv2.conv", "res_blocks.{}.conv2.conv", WEIGHTS),
}

# Stands before a module that PyTorch has compiled, shared or wrapped: before a network, each of its blocks, or all that
# was saved.
_WRAPPED = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.|^module\.")


def unwrapped(name: str) -> str:
    """Return the name of a tensor without what PyTorch writes before modules that it has wrapped."""
    return _WRAPPED.sub("", name) if "_mod" in name or name.startswith("module.") else name


def diffusers_name(name: str, parts: Mapping[str, str] = DIFFUSERS) -> str:
    """Return what diffusers calls the tensor that is ``name`` in the official file, prefixes left away."""
    return ".".join(filter(None, (parts.get(part, part) for part in name.split("."))))


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of a component otherwise than the official single file does.

    Of several prefixes in one file the shortest counts.
    """

    marks: tuple[str, ...]  # one of these is in every such file, behind the prefix
    keys: Keys  # on our side: the official names
    anywhere: bool = False  # whether anything may stand before its names, as what holds the network in a program

    def prefix_in(self, keys: Mapping[str, object]) -> str | None:
        """Return what stands before the names of this layout among ``keys``; None if they are not in it."""
        known = (prefix for prefix in self.keys.prefixes for mark in self.marks if prefix + mark in keys)
        if (prefix := next(known, None)) is not None or not self.anywhere:
            return prefix
        found = ((mark, prefix) for mark in self.marks if (prefix := prefix_before(mark, keys)) is not None)
        mark, prefix = next(found, ("", None))
        return None if prefix and self.keys.ours(prefix + mark, prefix) == prefix + mark else prefix  # official names


def _rows(tables: Iterable[Keys], rename: Callable[[str], str] = str) -> dict[str, str | None]:
    """What ``rename`` makes of the official names without their prefix, and the official names."""
    return {rename(name): keys.prefixes[0] + name for keys in tables for name in keys.rows}


def _with_words(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that puts other ``words`` into a name."""
    return lambda name: reduce(lambda made, word: made.replace(*word), words.items(), name)


@lru_cache
def _diffusers_video_vae(encoder_levels: int, projected: frozenset[int]) -> Layout:
    """The names of diffusers' video VAE: levels of residual blocks and a resampling, and one more level in the middle.

    In the official file both kinds count as blocks; the middle ends an encoder and begins a decoder. Levels of the
    decoder that are ``projected`` begin with one more block.
    """
    rows = under("", "vae", _LATENTS)
    for half in ("encoder", "decoder"):
        for layer in ("conv_in.conv", "conv_out.conv"):
            rows |= under(f"{half}.{layer}", f"vae.{half}.{layer}", WEIGHTS)
    rows |= under("encoder.mid_block", f"vae.encoder.down_blocks.{2 * encoder_levels}", _RESIDUALS)
    rows |= under("decoder.mid_block", "vae.decoder.up_blocks.0", _RESIDUALS)
    block = 1  # of the official decoder
    for level in range(_MOST_LEVELS):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        rows |= under(down, f"vae.encoder.down_blocks.{2 * level}", _RESIDUALS)
        rows |= under(f"{down}.downsamplers.0", f"vae.encoder.down_blocks.{2 * level + 1}", _RESAMPLING)
        if level in projected:
            for layer in ("conv1.conv", "conv2.conv", "norm3", "conv_shortcut"):
                rows |= under(f"{up}.conv_in.{layer}", f"vae.decoder.up_blocks.{block}.{layer}", WEIGHTS)
            block += 1
        rows |= under(f"{up}.upsamplers.0", f"vae.decoder.up_blocks.{block}", _RESAMPLING)
        rows |= under(up, f"vae.decoder.up_blocks.{block + 1}", _RESIDUALS)
        block += 2
    marks = "encoder.mid_block.resnets.0.conv1.conv.bias", "decoder.mid_block.resnets.0.conv1.conv.bias"
    return Layout(marks, Keys(rows), anywhere=True)


_TEXT = (TEXT_FEATURES, VIDEO_CONNECTOR, AUDIO_CONNECTOR)
_AUDIO = _rows((AUDIO_ENCODER, AUDIO_DECODER)) | under("", "audio_vae", _LATENTS)
_VIDEO = _rows((VIDEO_ENCODER, VIDEO_DECODER, DIFFUSION_DECODER))
_DECODER = _rows((DIFFUSION_DECODER,), _with_words(_DIFFUSERS_DECODER)) | under("", "vae", _LATENTS)
_OF_DIFFUSERS = "", "transformer."
_PROJECTION = {name.removeprefix("text_embedding_projection."): name for name in TEXT_FEATURES.rows}

LAYOUTS = (
    Layout(("adaln_single.linear.bias",), Keys(_rows((TRANSFORMER, *_TEXT))), anywhere=True),
    Layout(
        ("video_embeddings_connector.learnable_registers",), Keys(_rows(_TEXT), ("diffusion_model.", "transformer."))
    ),
    Layout(("time_embed.linear.bias",), Keys(_rows((TRANSFORMER,), diffusers_name), _OF_DIFFUSERS), anywhere=True),
    Layout(("video_connector.learnable_registers",), Keys(_rows(_TEXT, diffusers_name), _OF_DIFFUSERS)),
    Layout(("aggregate_embed.weight", "video_aggregate_embed.weight"), Keys(_PROJECTION)),
    Layout(
        (
            "decoder.up_blocks.0.res_blocks.0.conv1.conv.bias",
            "encoder.down_blocks.0.res_blocks.0.conv1.conv.bias",
            "decoder.t_embedder.mlp.0.bias",
        ),
        Keys(_VIDEO),
        anywhere=True,
    ),
    Layout(("decoder.mid.block_1.conv1.conv.bias", "encoder.mid.block_1.conv1.conv.bias"), Keys(_AUDIO), anywhere=True),
    Layout(("conv_pre.bias", "bwe_generator.conv_pre.bias"), Keys(_rows((VOCODER,)))),
    Layout(("decoder.t_embedder.timestep_embedder.linear_1.bias",), Keys(_DECODER)),
    Layout(("attention_pooler.query_tokens",), Keys(_rows((DURATION_HEAD,), _with_words(_DIFFUSERS_HEAD)))),
    Layout(
        ("upsamplers.0.bias", "bwe_generator.upsamplers.0.bias"),
        Keys(_rows((VOCODER,), lambda name: diffusers_name(name, VOCODER_WORDS))),
    ),
)


def official_names(keys: Mapping[str, object]) -> dict[str, str]:
    """Return the official name of every tensor in a file, with its key there; what no layout knows keeps its name."""
    found = {unwrapped(key): key for key in keys}
    levels = len({level[1] for name in found if (level := _LEVEL.match(name))})
    projected = {int(level[1]) for name in found if (level := _PROJECTED.match(name))}
    known = [*LAYOUTS, _diffusers_video_vae(min(max(levels, 1), _MOST_LEVELS), frozenset(projected))]
    layouts = [(layout, prefix) for layout in known if (prefix := layout.prefix_in(found)) is not None]
    names: dict[str, str] = {}
    for plain, key in found.items():
        name = _official(plain, layouts)
        # A file may hold a tensor under both of its names; then the official one counts.
        names[plain if name in names or (name != plain and name in found) else name] = key
    return names


def _official(key: str, layouts: list[tuple[Layout, str]]) -> str:
    weight, suffix = split_companion(key)
    for layout, prefix in layouts:
        if name := layout.keys.ours(weight, prefix):
            return join_companion(name, suffix)
    return key
